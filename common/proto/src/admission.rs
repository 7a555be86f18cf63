//! Which unauthenticated connections may wait, and which must go.
//!
//! A connection is *pending* from its acceptance to its login. Pending ones are capped, in all and per address. At
//! the cap the oldest is shown out and not the newcomer: a stalled handshake grows old, an honest one is over in a
//! few round trips, so flooding the server with connections that say nothing keeps nobody out.

use crate::limits::{MAX_PENDING_HANDSHAKES, MAX_PENDING_PER_ADDRESS, UNPROVEN_HANDSHAKES};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};

/// The pending connections.
#[derive(Debug, Default)]
pub struct Admission {
    /// By ticket, which grows with time.
    pending: BTreeMap<u64, IpAddr>,
    by_address: HashMap<IpAddr, BTreeMap<u64, ()>>,
    next: u64,
}

/// A newcomer's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Names the connection until [`Admission::leave`].
    pub ticket: u64,
    /// The connection that must go in exchange.
    pub evicted: Option<u64>,
}

impl Admission {
    /// Takes in a connection from `address`.
    pub fn enter(&mut self, address: IpAddr) -> Admitted {
        let key = network(address);
        let of_address = self.by_address.get(&key);
        let evicted = if of_address.is_some_and(|tickets| tickets.len() >= MAX_PENDING_PER_ADDRESS) {
            of_address.and_then(|tickets| tickets.first_key_value()).map(|(ticket, ())| *ticket)
        } else if self.pending.len() >= MAX_PENDING_HANDSHAKES {
            self.pending.first_key_value().map(|(ticket, _)| *ticket)
        } else {
            None
        };
        if let Some(ticket) = evicted {
            self.leave(ticket);
        }
        let ticket = self.next;
        self.next += 1;
        self.pending.insert(ticket, key);
        self.by_address.entry(key).or_default().insert(ticket, ());
        Admitted { ticket, evicted }
    }

    /// Whether a newcomer whose address may be forged has to prove it before it gets a place: otherwise a few forged
    /// packets would take places, and those of somebody else.
    pub fn is_crowded(&self, address: IpAddr) -> bool {
        let (of_address, in_all) = UNPROVEN_HANDSHAKES;
        let waiting = self.by_address.get(&network(address)).map_or(0, BTreeMap::len);
        waiting >= of_address || self.pending.len() >= in_all
    }

    /// A connection logged in, gave up or was shown out.
    pub fn leave(&mut self, ticket: u64) {
        let Some(key) = self.pending.remove(&ticket) else { return };
        if let Some(tickets) = self.by_address.get_mut(&key) {
            tickets.remove(&ticket);
            if tickets.is_empty() {
                self.by_address.remove(&key);
            }
        }
    }

    /// Connections pending.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// True if none is.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

/// The address that stands for whoever is behind it: an IPv6 host commands at least a /64 (RFC 6177).
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + last).into())
    }

    #[test]
    fn the_oldest_of_a_greedy_address_goes_and_others_stay() {
        let mut admission = Admission::default();
        let honest = admission.enter(v4(1)).ticket;
        let mut oldest = None;
        for i in 0..MAX_PENDING_PER_ADDRESS {
            let admitted = admission.enter(v4(2));
            assert_eq!(admitted.evicted, None, "{i}");
            oldest.get_or_insert(admitted.ticket);
        }
        assert_eq!(admission.enter(v4(2)).evicted, oldest);
        assert_eq!(admission.len(), MAX_PENDING_PER_ADDRESS + 1);
        admission.leave(honest);
        admission.leave(honest);
        assert_eq!(admission.len(), MAX_PENDING_PER_ADDRESS);
    }

    #[test]
    fn many_addresses_together_stay_below_the_cap() {
        let mut admission = Admission::default();
        for i in 0..3 * MAX_PENDING_HANDSHAKES as u32 {
            admission.enter(v4(i));
            assert!(admission.len() <= MAX_PENDING_HANDSHAKES);
        }
        for ticket in 0..3 * MAX_PENDING_HANDSHAKES as u64 {
            admission.leave(ticket);
        }
        assert!(admission.is_empty() && admission.by_address.is_empty());
    }

    #[test]
    fn addresses_are_doubted_where_many_wait() {
        let (of_address, in_all) = UNPROVEN_HANDSHAKES;
        let mut admission = Admission::default();
        let tickets: Vec<_> = (0..of_address).map(|_| admission.enter(v4(1)).ticket).collect();
        assert!(admission.is_crowded(v4(1)) && !admission.is_crowded(v4(2)));
        admission.leave(tickets[0]);
        assert!(!admission.is_crowded(v4(1)));
        for i in 0..in_all as u32 {
            admission.enter(v4(100 + i));
        }
        assert!(admission.is_crowded(v4(2)));
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let one: IpAddr = "2001:db8:1:2:aaaa::1".parse().unwrap();
        let two: IpAddr = "2001:db8:1:2:bbbb::2".parse().unwrap();
        assert_eq!(network(one), network(two));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), v4(1));
    }
}
