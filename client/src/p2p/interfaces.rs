//! This machine's own addresses, and the router behind which it stands.

use netdev::Interface;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Most addresses of this machine that are told to a peer: one has a handful, and every further one multiplies the pairs
/// that have to be tried (RFC 8445 §6.1.2.5 bounds these at 100).
pub(crate) const MAX_HOST_ADDRESSES: usize = 16;

/// Beginnings of the names of interfaces that lead to containers, to virtual machines, or through a tunnel: a peer does not
/// reach what is behind them, or would be reached through somebody else's tunnel.
const VIRTUAL: &[&str] = &[
    "docker",
    "br-",
    "veth",
    "virbr",
    "vnet",
    "vmnet",
    "vboxnet",
    "cni",
    "flannel",
    "cali",
    "cilium",
    "kube",
    "lxc",
    "lxd",
    "podman",
    "tun",
    "tap",
    "utun",
    "wg",
    "tailscale",
    "zt",
    "nebula",
    "ipsec",
    "sit",
    "gre",
];

/// The router on the way to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gateway {
    /// Its address in our network.
    pub(crate) address: Ipv4Addr,
    /// Ours, from which packets to it leave.
    pub(crate) local: Ipv4Addr,
}

/// Addresses at which peers may reach this machine without help: those of the interface with the default route first, and
/// first of these the one that packets to the internet carry. None of loopback, of the link alone, of containers and
/// tunnels, none that is deprecated or not yet usable. At most [`MAX_HOST_ADDRESSES`].
///
/// It reads the kernel's tables, which takes about a millisecond.
pub(crate) fn host_addresses() -> Vec<IpAddr> {
    select(&netdev::get_interfaces(), &sources())
}

/// The IPv4 router that the default route leads to; `None` where there is no such route, or one without a router.
pub(crate) fn gateway() -> Option<Gateway> {
    let IpAddr::V4(local) = source_address(anywhere(true)).ok()? else { return None };
    let interfaces = netdev::get_interfaces();
    let interface = interfaces.iter().find(|interface| holds(interface, local.into()))?;
    let address = *interface.gateway.as_ref()?.ipv4.first()?;
    Some(Gateway { address, local })
}

/// The address of this machine from which packets to `peer` leave. Sends nothing.
///
/// # Errors
/// When there is no route.
pub(crate) fn source_address(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

/// Some public address, for the sake of the route to it.
pub(crate) fn anywhere(v4: bool) -> SocketAddr {
    if v4 {
        SocketAddr::from(([8, 0, 0, 1], 9))
    } else {
        SocketAddr::from(([0x2000, 0, 0, 0, 0, 0, 0, 1], 9))
    }
}

/// The addresses that packets to the internet carry.
fn sources() -> Vec<IpAddr> {
    [true, false].into_iter().filter_map(|v4| source_address(anywhere(v4)).ok()).collect()
}

fn select(interfaces: &[Interface], sources: &[IpAddr]) -> Vec<IpAddr> {
    let mut ranked: Vec<(usize, &Interface)> = interfaces
        .iter()
        .map(|interface| {
            (sources.iter().position(|source| holds(interface, *source)).unwrap_or(usize::MAX), interface)
        })
        .filter(|(rank, interface)| {
            let works = interface.is_up() && interface.is_running() && !interface.is_loopback();
            works && (*rank < usize::MAX || !is_virtual(&interface.name))
        })
        .collect();
    ranked.sort_by_key(|(rank, interface)| (*rank, interface.index));
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (_, interface) in ranked {
        let mut own: Vec<IpAddr> = usable(interface).collect();
        own.sort_by_key(|address| sources.iter().position(|source| source == address).unwrap_or(usize::MAX));
        for address in own {
            if addresses.len() < MAX_HOST_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses
}

fn usable(interface: &Interface) -> impl Iterator<Item = IpAddr> {
    let v4 = interface.ipv4.iter().map(|net| net.addr()).filter(|address| {
        !address.is_loopback()
            && !address.is_link_local()
            && !address.is_unspecified()
            && !address.is_multicast()
    });
    let v6 = interface.ipv6.iter().enumerate().filter_map(|(index, net)| {
        let address = net.addr();
        let flags = interface.ipv6_addr_flags.get(index).copied().unwrap_or_default();
        let unusable = flags.deprecated || flags.tentative || flags.duplicated;
        let elsewhere = address.is_loopback()
            || address.is_unicast_link_local()
            || address.is_unspecified()
            || address.is_multicast()
            || address.to_ipv4_mapped().is_some();
        (!unusable && !elsewhere).then_some(address)
    });
    v4.map(IpAddr::V4).chain(v6.map(IpAddr::V6))
}

fn holds(interface: &Interface, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => interface.ipv4.iter().any(|net| net.addr() == address),
        IpAddr::V6(address) => interface.ipv6.iter().any(|net| net.addr() == address),
    }
}

fn is_virtual(name: &str) -> bool {
    VIRTUAL.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netdev::ipnet::{Ipv4Net, Ipv6Net};

    /// Up and running, as Linux writes it.
    const UP: u32 = 0x1 | 0x40;

    fn interface(index: u32, name: &str, addresses: &[&str]) -> Interface {
        let mut interface = Interface::dummy();
        (interface.index, interface.name, interface.flags) = (index, name.to_owned(), UP);
        for address in addresses {
            match address.parse().unwrap() {
                IpAddr::V4(v4) => interface.ipv4.push(Ipv4Net::new(v4, 24).unwrap()),
                IpAddr::V6(v6) => {
                    interface.ipv6.push(Ipv6Net::new(v6, 64).unwrap());
                    interface.ipv6_addr_flags.push(Default::default());
                }
            }
        }
        interface
    }

    fn selected(interfaces: &[Interface], sources: &[&str]) -> Vec<String> {
        let sources: Vec<IpAddr> = sources.iter().map(|source| source.parse().unwrap()).collect();
        select(interfaces, &sources).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_interface_with_the_default_route_comes_first_and_the_address_in_use_first_of_it() {
        let interfaces = [
            interface(7, "eth1", &["192.168.7.2"]),
            interface(3, "eth2", &["192.168.3.2"]),
            interface(9, "eth0", &["192.168.9.2", "2001:db8::9", "2001:db8::a"]),
        ];
        assert_eq!(
            selected(&interfaces, &["192.168.9.2", "2001:db8::a"]),
            ["192.168.9.2", "2001:db8::a", "2001:db8::9", "192.168.3.2", "192.168.7.2"]
        );
    }

    #[test]
    fn containers_and_tunnels_are_left_out_unless_the_default_route_leads_there() {
        let interfaces = [
            interface(1, "docker0", &["172.17.0.1"]),
            interface(2, "br-0a1b", &["172.18.0.1"]),
            interface(3, "veth12", &["172.19.0.1"]),
            interface(4, "wg0", &["10.8.0.2"]),
            interface(5, "tailscale0", &["100.100.0.1"]),
            interface(6, "br0", &["192.168.1.2"]),
            interface(8, "eth0", &["192.168.2.2"]),
        ];
        assert_eq!(selected(&interfaces, &["192.168.1.2"]), ["192.168.1.2", "192.168.2.2"]);
        assert_eq!(selected(&interfaces, &["10.8.0.2"]), ["10.8.0.2", "192.168.1.2", "192.168.2.2"]);
    }

    #[test]
    fn addresses_that_a_peer_cannot_use_are_left_out_and_those_of_a_private_network_are_not() {
        let mut old = interface(1, "eth0", &["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"]);
        old.ipv6_addr_flags[0].deprecated = true;
        old.ipv6_addr_flags[1].tentative = true;
        old.ipv6_addr_flags[2].duplicated = true;
        old.ipv6_addr_flags[3].temporary = true;
        let mut down = interface(2, "eth1", &["192.168.1.2"]);
        down.flags = 0;
        let local =
            interface(3, "eth2", &["127.0.0.1", "169.254.1.1", "fe80::1", "::1", "fd00::1", "10.0.0.1"]);
        assert_eq!(selected(&[old, down, local], &[]), ["2001:db8::4", "10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn there_is_a_cap() {
        let many: Vec<String> = (1..=40).map(|n| format!("192.168.1.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let interfaces = [interface(1, "eth0", &many), interface(2, "wan", &["203.0.113.9"])];
        let selected = selected(&interfaces, &["203.0.113.9"]);
        assert_eq!((selected.len(), selected[0].as_str()), (MAX_HOST_ADDRESSES, "203.0.113.9"));
    }

    #[test]
    fn this_machine_has_no_address_twice() {
        let mut addresses = host_addresses();
        let count = addresses.len();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), count);
        assert!(!addresses.iter().any(IpAddr::is_loopback));
    }
}
