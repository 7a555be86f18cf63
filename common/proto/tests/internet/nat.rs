//! Routers: NATs of every kind (RFC 4787), carrier-grade ones in a row, stateful firewalls.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What a mapping, or a filter, depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dependence {
    Endpoint,
    Address,
    AddressAndPort,
}

/// How external ports are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ports {
    Preserved,
    Sequential(u16),
    Random,
}

/// A router on the way out.
pub(crate) enum Router {
    Nat(Nat),
    /// Lets in what was asked for.
    Firewall(HashSet<(SocketAddr, SocketAddr)>),
    /// Lets no UDP pass.
    Block,
}

/// An address translator.
pub(crate) struct Nat {
    pub(crate) wan: Ipv4Addr,
    mapping: Dependence,
    filtering: Dependence,
    ports: Ports,
    /// An unsolicited packet takes a place in the table, and an own flow that would need this place gets another port.
    is_poisonable: bool,
    poisoned: HashSet<(SocketAddr, u16)>,
    /// (inner, peer) → external port.
    flows: HashMap<(SocketAddr, SocketAddr), u16>,
    mappings: HashMap<(SocketAddr, Option<IpAddr>, Option<u16>), u16>,
    next: u16,
    random: u64,
}

impl Nat {
    pub(crate) fn new(
        wan: Ipv4Addr,
        mapping: Dependence,
        filtering: Dependence,
        ports: Ports,
        seed: u64,
    ) -> Self {
        Nat {
            wan,
            mapping,
            filtering,
            ports,
            is_poisonable: false,
            poisoned: HashSet::new(),
            flows: HashMap::new(),
            mappings: HashMap::new(),
            next: 20_000,
            random: seed,
        }
    }

    pub(crate) fn poisonable(self) -> Self {
        Nat { is_poisonable: true, ..self }
    }

    fn outbound(&mut self, inner: SocketAddr, peer: SocketAddr) -> SocketAddr {
        let port = match self.flows.get(&(inner, peer)) {
            Some(port) => *port,
            None => {
                let key = match self.mapping {
                    Dependence::Endpoint => (inner, None, None),
                    Dependence::Address => (inner, Some(peer.ip()), None),
                    Dependence::AddressAndPort => (inner, Some(peer.ip()), Some(peer.port())),
                };
                let mut port = match self.mappings.get(&key) {
                    Some(port) => *port,
                    None => self.choose(inner.port()),
                };
                self.mappings.entry(key).or_insert(port);
                if self.poisoned.contains(&(peer, port)) {
                    port = self.draw();
                }
                self.flows.insert((inner, peer), port);
                port
            }
        };
        SocketAddr::from((self.wan, port))
    }

    fn inbound(&mut self, peer: SocketAddr, port: u16) -> Option<SocketAddr> {
        let passes = |to: &SocketAddr| match self.filtering {
            Dependence::Endpoint => true,
            Dependence::Address => to.ip() == peer.ip(),
            Dependence::AddressAndPort => *to == peer,
        };
        let inner =
            self.flows.iter().find(|((_, to), mapped)| **mapped == port && passes(to)).map(|(key, _)| key.0);
        match inner {
            Some(inner) => {
                self.flows.entry((inner, peer)).or_insert(port);
            }
            None if self.is_poisonable => {
                self.poisoned.insert((peer, port));
            }
            None => {}
        }
        inner
    }

    fn choose(&mut self, inner: u16) -> u16 {
        match self.ports {
            Ports::Preserved if !self.is_used(inner) => inner,
            Ports::Sequential(step) => {
                self.next += step;
                self.next
            }
            _ => self.draw(),
        }
    }

    fn draw(&mut self) -> u16 {
        loop {
            self.random =
                self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let port = 1024 + ((self.random >> 33) % 64_512) as u16;
            if !self.is_used(port) {
                return port;
            }
        }
    }

    fn is_used(&self, port: u16) -> bool {
        self.mappings.values().any(|used| *used == port) || self.flows.values().any(|used| *used == port)
    }
}

impl Router {
    /// The source of a packet behind the router, if it passes.
    pub(crate) fn outbound(&mut self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        match self {
            Router::Nat(nat) => Some(nat.outbound(from, to)),
            Router::Firewall(asked) => {
                asked.insert((from, to));
                Some(from)
            }
            Router::Block => None,
        }
    }

    /// The destination of a packet behind the router, if it passes.
    pub(crate) fn inbound(&mut self, from: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        match self {
            Router::Nat(nat) if to.ip() == IpAddr::V4(nat.wan) => nat.inbound(from, to.port()),
            Router::Nat(_) | Router::Block => None,
            Router::Firewall(asked) => asked.contains(&(to, from)).then_some(to),
        }
    }
}
