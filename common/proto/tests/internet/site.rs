//! Sites: what lies between a host and the internet.

use super::nat::Dependence::{Address, AddressAndPort, Endpoint};
use super::nat::{Nat, Ports, Router};
use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Kinds of sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Public,
    FullCone,
    AddressRestricted,
    PortRestricted,
    /// Port-restricted behind port-restricted.
    CarrierGrade,
    Random,
    Sequential,
    Blocked,
    /// IPv6 behind a stateful firewall, and IPv4 behind a NAT that nobody gets through.
    Ipv6,
}

pub(crate) struct Site {
    /// From the host outwards.
    pub(crate) routers: Vec<Router>,
    pub(crate) routers6: Vec<Router>,
    /// One way, from the host to the middle of the internet.
    pub(crate) delay: Duration,
    pub(crate) outer: Ipv4Addr,
}

/// Addresses of a host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    pub(crate) site: usize,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Option<Ipv6Addr>,
}

/// Site number `number` with a host.
pub(crate) fn build(kind: Kind, number: usize, poisonable: bool, delay: Duration, seed: u64) -> (Site, Host) {
    let n = number as u8;
    let outer = Ipv4Addr::new(203, 0, 113, 1 + n);
    let nat = |wan, mapping, filtering, ports| {
        let nat = Nat::new(wan, mapping, filtering, ports, seed ^ u64::from(n) << 32);
        Router::Nat(if poisonable { nat.poisonable() } else { nat })
    };
    let restricted = |wan| nat(wan, Endpoint, AddressAndPort, Ports::Preserved);
    let routers = match kind {
        Kind::Public => vec![],
        Kind::FullCone => vec![nat(outer, Endpoint, Endpoint, Ports::Preserved)],
        Kind::AddressRestricted => vec![nat(outer, Endpoint, Address, Ports::Preserved)],
        Kind::PortRestricted => vec![restricted(outer)],
        Kind::CarrierGrade => vec![restricted(Ipv4Addr::new(100, 64, 0, 1 + n)), restricted(outer)],
        Kind::Random | Kind::Ipv6 => vec![nat(outer, AddressAndPort, AddressAndPort, Ports::Random)],
        Kind::Sequential => vec![nat(outer, AddressAndPort, AddressAndPort, Ports::Sequential(1))],
        Kind::Blocked => vec![Router::Block],
    };
    let is_ipv6 = kind == Kind::Ipv6;
    let routers6 = if is_ipv6 { vec![Router::Firewall(HashSet::new())] } else { vec![] };
    let v4 = if kind == Kind::Public { outer } else { Ipv4Addr::new(192, 168, 1, 10 + n) };
    let v6 = is_ipv6.then(|| Ipv6Addr::new(0x2001, 0xdb8, number as u16, 0, 0, 0, 0, 7));
    (Site { routers, routers6, delay, outer }, Host { site: number, v4, v6 })
}
