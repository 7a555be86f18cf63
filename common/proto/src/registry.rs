//! Who owns which proxy name and public port.
//!
//! The registry decides; binding the port is the caller's. A claim therefore has two steps: [`Registry::claim`] says
//! which ports may be tried, and [`Registry::bound`] records the one that worked. Port numbers that the server chose
//! are kept for their proxy, so that it gets the same one again after an absence.

use crate::wire::login::Id;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// How long a port that the server chose is kept for a proxy that is away.
pub const RESERVATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Reservations kept at most; beyond, the oldest is forgotten.
const MAX_RESERVATIONS: usize = 16 * 1024;

/// Ports that are tried for a proxy without a fixed one.
const ATTEMPTS: usize = 32;

/// Where ports are chosen when every port is allowed: below the range from which operating systems take the ports
/// of outgoing connections (Linux: 32768 and up), so that a kept port is not taken by chance.
const CHOICE: RangeInclusive<u16> = 10_000..=32_767;

/// Names and ports in use.
#[derive(Debug)]
pub struct Registry {
    allowed: Vec<RangeInclusive<u16>>,
    /// 0: unlimited.
    max_per_client: u32,
    proxies: HashMap<String, Proxy>,
    ports: HashMap<(Transport, u16), String>,
    reserved: HashMap<String, (u16, Instant)>,
}

/// What a public port is one of. The same number may be had for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

#[derive(Debug)]
struct Proxy {
    identity: String,
    session: Id,
    transport: Transport,
    /// 0 for a proxy without a public port.
    port: u16,
}

/// How a claim can be satisfied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The name's port is bound already, by an earlier session of this identity: take it over.
    TakeOver {
        /// The port.
        port: u16,
    },
    /// Bind the first of these that works.
    Bind {
        /// In order of preference.
        ports: Vec<u16>,
    },
}

/// Why a claim is refused; worded for the client's user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The name belongs to another client.
    #[error("the proxy name is in use by client \"{0}\": choose another name, or set `user`")]
    NameTaken(String),
    /// The port belongs to another proxy.
    #[error("port {port} is in use by proxy \"{proxy}\" of client \"{identity}\"")]
    PortTaken {
        /// The port wanted.
        port: u16,
        /// The proxy that has it.
        proxy: String,
        /// The client of that proxy.
        identity: String,
    },
    /// The server's operator does not allow the port.
    #[error("port {port} is not allowed by the server, allowPorts has {allowed}")]
    NotAllowed {
        /// The port wanted.
        port: u16,
        /// What is allowed.
        allowed: String,
    },
    /// The client has as many ports as it may.
    #[error("the client has {0} ports already, more are not allowed by the server (maxPortsPerClient)")]
    TooMany(u32),
    /// No port is left to choose from.
    #[error("no allowed port is free")]
    Exhausted,
}

impl Registry {
    /// A registry that allows these ports (all if empty) and this many for each client (any number if 0).
    pub fn new(allowed: Vec<RangeInclusive<u16>>, max_per_client: u32) -> Self {
        Registry {
            allowed,
            max_per_client,
            proxies: HashMap::new(),
            ports: HashMap::new(),
            reserved: HashMap::new(),
        }
    }

    /// Judges a client's wish for a port (0: any) under `name`. `previous` is a port it had from the server before,
    /// `entropy` spreads the server's choice.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn claim(
        &self,
        identity: &str,
        name: &str,
        (transport, port): (Transport, u16),
        previous: Option<u16>,
        entropy: u64,
    ) -> Result<Claim, ClaimError> {
        if let Some(proxy) = self.proxies.get(name) {
            if proxy.identity != identity {
                return Err(ClaimError::NameTaken(proxy.identity.clone()));
            }
            if proxy.port != 0 && proxy.transport == transport && (port == 0 || port == proxy.port) {
                return Ok(Claim::TakeOver { port: proxy.port });
            }
        }
        let held = self
            .proxies
            .iter()
            .filter(|(other, proxy)| proxy.identity == identity && proxy.port != 0 && *other != name);
        if self.max_per_client > 0 && held.count() >= self.max_per_client as usize {
            return Err(ClaimError::TooMany(self.max_per_client));
        }
        if port != 0 {
            return self.claim_fixed(name, transport, port);
        }
        let reserved = self.reserved.get(name).map(|(port, _)| *port);
        let kept = [reserved, previous].into_iter().flatten().filter(|port| *port != 0);
        let mut ports: Vec<u16> =
            kept.filter(|port| self.is_free(transport, *port) && self.is_allowed(*port)).collect();
        ports.extend(self.choices(transport, entropy));
        ports.dedup();
        if ports.is_empty() { Err(ClaimError::Exhausted) } else { Ok(Claim::Bind { ports }) }
    }

    /// Judges a client's wish for `name` without a port; record it with [`Registry::bound`] and port 0.
    ///
    /// # Errors
    /// [`ClaimError::NameTaken`].
    pub fn claim_name(&self, identity: &str, name: &str) -> Result<(), ClaimError> {
        match self.proxies.get(name) {
            Some(proxy) if proxy.identity != identity => Err(ClaimError::NameTaken(proxy.identity.clone())),
            _ => Ok(()),
        }
    }

    /// Records that `name` is served on a port (0: none) by `session`; `chosen` if the server chose the port.
    pub fn bound(
        &mut self,
        identity: &str,
        name: &str,
        session: Id,
        (transport, port): (Transport, u16),
        chosen: bool,
        now: Instant,
    ) {
        let proxy = Proxy { identity: identity.to_owned(), session, transport, port };
        if let Some(before) = self.proxies.insert(name.to_owned(), proxy)
            && (before.transport, before.port) != (transport, port)
        {
            self.ports.remove(&(before.transport, before.port));
        }
        if port != 0 {
            self.ports.insert((transport, port), name.to_owned());
        }
        if chosen {
            self.reserve(name, port, now);
        }
    }

    /// The session that serves `name`.
    pub fn session_of(&self, name: &str) -> Option<Id> {
        self.proxies.get(name).map(|proxy| proxy.session)
    }

    /// The public port of `name`.
    pub fn port_of(&self, name: &str) -> Option<u16> {
        self.proxies.get(name).map(|proxy| proxy.port).filter(|port| *port != 0)
    }

    /// The names that `session` serves.
    pub fn names_of(&self, session: Id) -> Vec<String> {
        let served = self.proxies.iter().filter(|(_, proxy)| proxy.session == session);
        served.map(|(name, _)| name.clone()).collect()
    }

    /// The port of `name` is closed, unless another session serves it by now. Returns whether it was released.
    pub fn release(&mut self, name: &str, session: Id, now: Instant) -> bool {
        if self.session_of(name) != Some(session) {
            return false;
        }
        if let Some(proxy) = self.proxies.remove(name) {
            self.ports.remove(&(proxy.transport, proxy.port));
            if let Some((port, since)) = self.reserved.get_mut(name)
                && *port == proxy.port
            {
                *since = now;
            }
        }
        true
    }

    /// Forgets reservations that nobody came back for.
    pub fn expire(&mut self, now: Instant) {
        let proxies = &self.proxies;
        self.reserved.retain(|name, (_, since)| {
            proxies.contains_key(name) || now.saturating_duration_since(*since) < RESERVATION
        });
    }

    fn claim_fixed(&self, name: &str, transport: Transport, port: u16) -> Result<Claim, ClaimError> {
        if !self.is_allowed(port) {
            return Err(ClaimError::NotAllowed { port, allowed: self.describe_allowed() });
        }
        match self.ports.get(&(transport, port)) {
            Some(other) if other != name => {
                let identity = self.proxies.get(other).map(|p| p.identity.clone()).unwrap_or_default();
                Err(ClaimError::PortTaken { port, proxy: other.clone(), identity })
            }
            _ => Ok(Claim::Bind { ports: vec![port] }),
        }
    }

    fn reserve(&mut self, name: &str, port: u16, now: Instant) {
        if self.reserved.len() >= MAX_RESERVATIONS && !self.reserved.contains_key(name) {
            let oldest =
                self.reserved.iter().min_by_key(|(_, (_, since))| *since).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| self.reserved.remove(&oldest));
        }
        self.reserved.insert(name.to_owned(), (port, now));
    }

    fn choices(&self, transport: Transport, entropy: u64) -> Vec<u16> {
        let everything = [CHOICE];
        let ranges = if self.allowed.is_empty() { &everything[..] } else { &self.allowed[..] };
        let size = |range: &RangeInclusive<u16>| u64::from(*range.end()) + 1 - u64::from(*range.start());
        let total: u64 = ranges.iter().map(size).sum();
        if total == 0 {
            return Vec::new();
        }
        let nth = |mut n: u64| {
            for range in ranges {
                if n < size(range) {
                    return range.start() + n as u16;
                }
                n -= size(range);
            }
            *ranges[0].start()
        };
        // A step that is coprime to most totals visits each port once before it repeats.
        let step = if total.is_multiple_of(7919) { 1 } else { 7919 };
        let start = entropy % total;
        let visited = (0..total.min(1 << 16)).map(|i| nth((start + i * step) % total));
        let reserved: std::collections::HashSet<u16> =
            self.reserved.values().map(|(port, _)| *port).collect();
        let (unreserved, others): (Vec<u16>, Vec<u16>) = visited
            .filter(|port| *port != 0 && self.is_free(transport, *port))
            .partition(|port| !reserved.contains(port));
        unreserved.into_iter().chain(others).take(ATTEMPTS).collect()
    }

    fn is_free(&self, transport: Transport, port: u16) -> bool {
        !self.ports.contains_key(&(transport, port))
    }

    fn is_allowed(&self, port: u16) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|range| range.contains(&port))
    }

    fn describe_allowed(&self) -> String {
        let ranges = self.allowed.iter().map(|range| match (range.start(), range.end()) {
            (start, end) if start == end => start.to_string(),
            (start, end) => format!("{start}-{end}"),
        });
        ranges.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the origin of clocks that only these tests turn")]
mod tests {
    use super::Transport::{Tcp, Udp};
    use super::*;

    const S1: Id = Id([1; 16]);
    const S2: Id = Id([2; 16]);

    #[test]
    fn a_port_that_the_server_chose_is_kept_for_its_proxy() {
        let now = Instant::now();
        let mut registry = Registry::new(vec![], 0);
        let Claim::Bind { ports } = registry.claim("home", "web", (Tcp, 0), None, 77).unwrap() else {
            panic!()
        };
        assert!(ports.iter().all(|port| CHOICE.contains(port)));
        registry.bound("home", "web", S1, (Tcp, ports[0]), true, now);
        assert!(registry.release("web", S1, now));
        let Claim::Bind { ports: again } = registry.claim("home", "web", (Tcp, 0), None, 12345).unwrap()
        else {
            panic!()
        };
        assert_eq!(again[0], ports[0]);
        let Claim::Bind { ports: other } = registry.claim("home", "ssh", (Tcp, 0), None, 77).unwrap() else {
            panic!()
        };
        assert_ne!(other[0], ports[0], "a kept port is the last choice for others");
        registry.expire(now + RESERVATION);
        assert!(registry.reserved.is_empty());
    }

    #[test]
    fn a_port_known_to_the_client_survives_a_server_that_forgot_it() {
        let registry = Registry::new(vec![], 0);
        let Claim::Bind { ports } = registry.claim("home", "web", (Tcp, 0), Some(12_000), 5).unwrap() else {
            panic!()
        };
        assert_eq!(ports[0], 12_000);
        let strict = Registry::new(vec![20_000..=20_001], 0);
        let Claim::Bind { ports } = strict.claim("home", "web", (Tcp, 0), Some(12_000), 5).unwrap() else {
            panic!()
        };
        assert_eq!(ports.len(), 2);
        assert!(!ports.contains(&12_000), "a port that is no longer allowed is not kept");
    }

    #[test]
    fn a_new_session_of_an_identity_takes_its_ports_over_and_another_identity_does_not() {
        let now = Instant::now();
        let mut registry = Registry::new(vec![], 0);
        registry.bound("home", "web", S1, (Tcp, 6000), false, now);
        assert_eq!(registry.claim("home", "web", (Tcp, 6000), None, 0), Ok(Claim::TakeOver { port: 6000 }));
        assert!(matches!(registry.claim("work", "web", (Tcp, 6000), None, 0), Err(ClaimError::NameTaken(_))));
        assert!(matches!(
            registry.claim("work", "w", (Tcp, 6000), None, 0),
            Err(ClaimError::PortTaken { .. })
        ));
        registry.bound("home", "web", S2, (Tcp, 6000), false, now);
        assert!(!registry.release("web", S1, now), "the old session has nothing to release");
        assert_eq!(registry.session_of("web"), Some(S2));
    }

    #[test]
    fn what_the_operator_forbids_is_refused_with_what_he_allows() {
        let mut registry = Registry::new(vec![2000..=2010, 3000..=3000], 1);
        let error = registry.claim("home", "web", (Tcp, 2011), None, 0).unwrap_err();
        assert!(error.to_string().contains("2000-2010, 3000"), "{error}");
        registry.bound("home", "web", S1, (Tcp, 2000), false, Instant::now());
        assert_eq!(registry.claim("home", "ssh", (Tcp, 2001), None, 0), Err(ClaimError::TooMany(1)));
        assert!(registry.claim("work", "ssh", (Tcp, 2001), None, 0).is_ok());
    }

    #[test]
    fn small_ranges_are_used_to_the_last_port() {
        let mut registry = Registry::new(vec![5000..=5003], 0);
        for i in 0..4 {
            let name = format!("p{i}");
            let Claim::Bind { ports } = registry.claim("home", &name, (Tcp, 0), None, 9).unwrap() else {
                panic!()
            };
            registry.bound("home", &name, S1, (Tcp, ports[0]), true, Instant::now());
        }
        assert_eq!(registry.claim("home", "p4", (Tcp, 0), None, 9), Err(ClaimError::Exhausted));
    }

    #[test]
    fn a_number_may_be_had_for_tcp_and_for_udp() {
        let now = Instant::now();
        let mut registry = Registry::new(vec![], 0);
        registry.bound("home", "dns-tcp", S1, (Tcp, 53), false, now);
        let claim = registry.claim("work", "dns-udp", (Udp, 53), None, 0);
        assert_eq!(claim, Ok(Claim::Bind { ports: vec![53] }));
        registry.bound("work", "dns-udp", S2, (Udp, 53), false, now);
        assert!(registry.release("dns-tcp", S1, now));
        assert!(matches!(registry.claim("home", "d", (Udp, 53), None, 0), Err(ClaimError::PortTaken { .. })));
        assert!(registry.claim("home", "d", (Tcp, 53), None, 0).is_ok());
        let changed = registry.claim("work", "dns-udp", (Tcp, 53), None, 0);
        assert_eq!(changed, Ok(Claim::Bind { ports: vec![53] }), "another kind of port is not taken over");
    }
}
