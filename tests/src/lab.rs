//! A small internet in network namespaces, with NATs of every kind.
//!
//! The internet itself is this process ([`Internet`]): it connects a server with two public addresses and any number of
//! sites, with a delay, and fails on command. A site is a host, alone with a public address or behind a router of its own
//! that translates. Everything else lies in namespaces: nothing of it is seen from outside, and labs do not meet, whoever
//! runs tests beside.
//!
//! Namespaces are named after the process that made them and go with the lab; those of a process that did not come to
//! its end are swept by the next one. It needs root, `ip`, `nft`, `conntrack` and TUN devices; where they are missing,
//! [`Lab::start`] says so.

mod internet;
mod nat;
pub mod probe;
mod space;

pub use internet::{Carried, Cut, Datagram, End, Internet, Tap, Traffic};
pub use nat::Nat;
pub(crate) use space::within;
pub use space::{Space, find, leave, names, sweep};

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use internet::Net;
use nat::Translation;

/// The two addresses of the server.
pub const SERVER: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2)];

/// The server's IPv6 address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Says that the running test does not test here.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not by a macro, whose output a passing test would swallow.
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").ok();
}

/// A network of namespaces.
#[derive(Debug)]
pub struct Lab {
    // Before the spaces, whose devices it holds.
    net: Net,
    prefix: String,
    server: Space,
    server_end: End,
    sites: u8,
}

/// How a site is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    nat: Nat,
    v6: bool,
    poisoned: bool,
}

/// One host or more on one network, and what stands between them and the internet.
#[derive(Debug)]
pub struct Site {
    access: Access,
    number: u8,
    /// How often it got another public address.
    moved: u8,
    end: End,
    hosts: Vec<Space>,
    /// From the hosts outwards.
    routers: Vec<Space>,
    public: Ipv4Addr,
}

impl Access {
    /// Behind a NAT of some kind, without IPv6.
    pub fn behind(nat: Nat) -> Self {
        Self { nat, v6: false, poisoned: false }
    }

    /// With IPv6, behind a stateful firewall where there is a router.
    pub fn with_v6(self) -> Self {
        Self { v6: true, ..self }
    }

    /// With a router that accepts what nobody has asked for, and then gives a mapping that clashes with it another port.
    pub fn poisoned(self) -> Self {
        Self { poisoned: true, ..self }
    }
}

impl From<Nat> for Access {
    fn from(nat: Nat) -> Self {
        Self::behind(nat)
    }
}

impl Lab {
    /// A lab with its server and no delay; `None`, with a word about it, where there can be none.
    pub fn start() -> Option<Self> {
        Self::start_with(Internet::NEAR)
    }

    /// The same with such an internet.
    pub fn start_with(internet: Internet) -> Option<Self> {
        static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
        if let Some(obstacle) = OBSTACLE.get_or_init(space::obstacle) {
            skipped(&format!("no network lab here: {obstacle}"));
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = space::prefix(NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Net::new(internet);
        let server = Space::create(&format!("{prefix}-srv"));
        let server_end = net.connect(&server);
        for address in SERVER {
            server.ip(&format!("addr add {address}/32 dev wan"));
            net.announce(address.into(), server_end);
        }
        server.ip(&format!("route add default dev wan src {}", SERVER[0]));
        give_v6(&net, &server, server_end, SERVER_V6);
        Some(Lab { net, prefix, server, server_end, sites: 0 })
    }

    /// The namespace of the server.
    pub fn server(&self) -> &Space {
        &self.server
    }

    /// Where the server meets the internet.
    pub fn server_end(&self) -> End {
        self.server_end
    }

    /// Adds a site with one host.
    pub fn site(&mut self, access: impl Into<Access>) -> Site {
        self.sites += 1;
        let (access, number) = (access.into(), self.sites);
        let public = public_address(number, 0);
        let outermost = match access.nat {
            Nat::Public => format!("{}-h{number}", self.prefix),
            _ => format!("{}-r{number}", self.prefix),
        };
        let outermost = Space::create(&outermost);
        let end = self.net.connect(&outermost);
        outermost
            .ip_batch(&format!("addr add {public}/32 dev wan\nroute add default dev wan src {public}\n"));
        self.net.announce(public.into(), end);
        let mut site = Site { access, number, moved: 0, end, hosts: Vec::new(), routers: Vec::new(), public };
        if access.nat == Nat::Public {
            if access.v6 {
                give_v6(&self.net, &outermost, end, site.v6(0));
            }
            site.hosts.push(outermost);
            return site;
        }
        outermost.forward();
        if access.v6 {
            outermost.ip("-6 route add default dev wan");
        }
        if access.nat == Nat::CarrierGrade {
            site.routers.push(self.home_router(&site, &outermost));
        }
        site.routers.push(outermost);
        site.make_lan();
        site.translate();
        self.add_host(&mut site);
        site
    }

    /// Adds a host to a site that has a router.
    pub fn add_host(&self, site: &mut Site) {
        let router = site.routers.first().expect("a host with a public address is alone");
        let (number, index) = (site.number, site.hosts.len());
        let host = Space::create(&format!("{}-h{number}-{index}", self.prefix));
        let (name, address) = (host.name(), site.lan_address(index));
        router.ip_batch(&format!(
            "link add lan{index} type veth peer name eth0 netns {name}\n\
             link set lan{index} master lan\nlink set lan{index} up\n"
        ));
        host.ip_batch(&format!(
            "addr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via 10.0.{number}.1\n"
        ));
        if site.access.v6 {
            let v6 = site.v6(index);
            host.ip(&format!("-6 addr add {v6}/64 dev eth0 nodad"));
            host.ip("-6 route add default via fe80::1 dev eth0");
            self.net.announce(v6.into(), site.end);
        }
        site.hosts.push(host);
    }

    /// The router in front of the provider's, with an address that is the provider's own business (RFC 6598).
    fn home_router(&self, site: &Site, provider: &Space) -> Space {
        let number = site.number;
        let home = Space::create(&format!("{}-r{number}-0", self.prefix));
        home.forward();
        provider.ip_batch(&format!(
            "link add lan type veth peer name wan netns {}\naddr add 100.64.{number}.1/24 dev lan\nlink set lan up\n",
            home.name()
        ));
        home.ip_batch(&format!(
            "addr add {}/24 dev wan\nlink set wan up\nroute add default via 100.64.{number}.1\n",
            site.middle()
        ));
        if site.access.v6 {
            provider.ip("-6 addr add fe80::1/64 dev lan nodad");
            home.ip("-6 addr add fe80::2/64 dev wan nodad");
            home.ip("-6 route add default via fe80::1 dev wan");
            provider.ip(&format!("-6 route add {}/64 via fe80::2 dev lan", site.v6_network()));
        }
        home
    }

    /// Gives a site another public address; nobody has the old one then, and a router has forgotten all connections.
    pub fn readdress(&self, site: &mut Site) {
        site.moved += 1;
        let (old, new) = (site.public, public_address(site.number, site.moved));
        site.public = new;
        self.net.withdraw(old.into());
        let outermost = site.routers.last().unwrap_or(&site.hosts[0]);
        outermost.ip_batch(&format!(
            "addr add {new}/32 dev wan\naddr del {old}/32 dev wan\nroute replace default dev wan src {new}\n"
        ));
        site.translate();
        site.forget_connections();
        self.net.announce(new.into(), site.end);
    }

    /// Lets nothing of this traffic pass between two ends, either way, until what is returned goes.
    pub fn cut(&self, one: End, other: End, traffic: Traffic) -> Cut {
        self.net.cut(&[(one, other), (other, one)], traffic)
    }

    /// The same one way only.
    pub fn cut_one_way(&self, from: End, to: End, traffic: Traffic) -> Cut {
        self.net.cut(&[(from, to)], traffic)
    }

    /// What has gone from one end to another until now.
    pub fn carried(&self, from: End, to: End) -> Carried {
        self.net.carried(from, to)
    }

    /// Keeps what passes an end from now on, until what is returned goes.
    pub fn tap(&self, end: End) -> Tap {
        self.net.tap(end)
    }

    /// Sets how long packets take between two ends, each way.
    pub fn delay(&self, one: End, other: End, delay: Duration) {
        self.net.delay(one, other, delay);
        self.net.delay(other, one, delay);
    }
}

impl Site {
    /// The namespace of the (first) host.
    pub fn host(&self) -> &Space {
        &self.hosts[0]
    }

    /// The namespaces of all hosts.
    pub fn hosts(&self) -> &[Space] {
        &self.hosts
    }

    /// The namespace of the router that has the public address, if there is one.
    pub fn router(&self) -> Option<&Space> {
        self.routers.last()
    }

    /// The first host's own address.
    pub fn address(&self) -> Ipv4Addr {
        match self.routers.is_empty() {
            true => self.public,
            false => self.lan_address(0),
        }
    }

    /// The address as which the internet knows the site.
    pub fn public(&self) -> Ipv4Addr {
        self.public
    }

    /// The IPv6 address of the `index`-th host, if the site has IPv6.
    pub fn v6(&self, index: usize) -> Ipv6Addr {
        let host = u16::try_from(index).expect("few hosts") + 2;
        Ipv6Addr::from(u128::from(self.v6_network()) | u128::from(host))
    }

    /// Where the site meets the internet.
    pub fn end(&self) -> End {
        self.end
    }

    /// Makes the routers forget all connections and mappings.
    pub fn forget_connections(&self) {
        for router in &self.routers {
            router.forget_connections();
        }
        // Open cones keep a list of their own.
        self.translate();
    }

    /// Sets how long a mapping of UDP lives in the routers without traffic.
    pub fn set_mapping_lifetime(&self, lifetime: Duration) {
        let seconds = u32::try_from(lifetime.as_secs()).expect("a lifetime of a mapping");
        for router in &self.routers {
            router.set("netfilter/nf_conntrack_udp_timeout", seconds);
            router.set("netfilter/nf_conntrack_udp_timeout_stream", seconds);
        }
    }

    /// Makes the network behind the innermost router.
    fn make_lan(&self) {
        let (router, number) = (&self.routers[0], self.number);
        router.spare_bridged();
        router.ip_batch(&format!(
            "link add lan type bridge\naddr add 10.0.{number}.1/24 dev lan\nlink set lan up\n"
        ));
        if self.access.v6 {
            router.ip("-6 addr add fe80::1/64 dev lan nodad");
            router.ip(&format!("-6 route add {}/64 dev lan", self.v6_network()));
        }
    }

    /// Gives the routers their rules.
    fn translate(&self) {
        let (access, number) = (self.access, self.number);
        for (n, router) in self.routers.iter().rev().enumerate() {
            let is_behind = n > 0;
            let public = if is_behind { self.middle() } else { self.public };
            let inside = match is_behind || self.routers.len() == 1 {
                true => format!("10.0.{number}.0/24"),
                false => format!("100.64.{number}.0/24"),
            };
            router.nft(&Translation { access, public, inside: &inside }.rules());
        }
    }

    /// What the provider's router calls the one behind it.
    fn middle(&self) -> Ipv4Addr {
        Ipv4Addr::new(100, 64, self.number, 2)
    }

    fn lan_address(&self, index: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, self.number, u8::try_from(index).expect("few hosts") + 2)
    }

    fn v6_network(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, u16::from(self.number), 0, 0, 0, 0, 0)
    }
}

/// Gives a host that meets the internet itself an IPv6 address.
fn give_v6(net: &Net, host: &Space, end: End, address: Ipv6Addr) {
    host.ip(&format!("-6 addr add {address}/128 dev wan nodad"));
    host.ip(&format!("-6 route add default dev wan src {address}"));
    net.announce(address.into(), end);
}

/// Each site has its own addresses, and another one after each move.
fn public_address(number: u8, moved: u8) -> Ipv4Addr {
    const SITES: u8 = 60;
    assert!(number < SITES && moved < 4, "a lab has {SITES} sites that move three times");
    Ipv4Addr::new(203, 0, 113, number + moved * SITES)
}
