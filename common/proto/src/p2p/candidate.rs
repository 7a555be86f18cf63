//! Candidates: transport addresses at which an end may be reached (RFC 8445 §2).

use super::nat::is_private;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Most candidates that an end offers. A laptop with two interfaces, both families and a mapped port has nine.
pub const MAX_OWN: usize = 16;

/// Most candidates of a peer that are remembered, whatever it sends.
pub const MAX_REMOTE: usize = 32;

/// Most host addresses among them, so that they cannot crowd out the addresses that work from elsewhere.
const MAX_HOST: usize = 10;

/// A transport address, and how it was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// The address.
    pub address: SocketAddr,
    /// How it was learned.
    pub kind: CandidateKind,
}

/// How an address was learned (RFC 8445 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CandidateKind {
    /// An address of the host's own interfaces.
    Host,
    /// What a STUN server saw.
    #[serde(rename = "srflx")]
    ServerReflexive,
    /// What the peer saw: learned from an authenticated probe.
    #[serde(rename = "prflx")]
    PeerReflexive,
    /// What a router granted by PCP, NAT-PMP or UPnP.
    Mapped,
    /// What the user configured.
    Configured,
}

impl Candidate {
    /// Where it stands among the others, the best first.
    pub(crate) fn preference(&self) -> u8 {
        match self.kind {
            CandidateKind::Host if is_private(self.address.ip()) => 0,
            CandidateKind::Host if self.address.is_ipv6() => 1,
            CandidateKind::Host => 2,
            _ if self.address.is_ipv6() => 3,
            CandidateKind::Mapped | CandidateKind::Configured => 4,
            CandidateKind::ServerReflexive => 5,
            CandidateKind::PeerReflexive => 6,
        }
    }
}

/// The candidates worth having, each address once, best first and at most `most` of them.
///
/// The best are addresses in the same network, then IPv6, then what was mapped or configured, then what a server saw.
/// An address that was learned in two ways counts as learned in the better one.
pub fn select(candidates: impl IntoIterator<Item = Candidate>, most: usize) -> Vec<Candidate> {
    // What is more than this is hostile; it is not even sorted.
    let mut all: Vec<Candidate> = candidates
        .into_iter()
        .take(4 * MAX_REMOTE)
        .map(|candidate| Candidate { address: canonical(candidate.address), ..candidate })
        .filter(|candidate| is_usable(candidate.address))
        .collect();
    all.sort_by_key(Candidate::preference);
    let mut selected: Vec<Candidate> = Vec::new();
    let mut hosts = 0;
    for candidate in all {
        let is_host = candidate.kind == CandidateKind::Host;
        if selected.len() >= most
            || (is_host && hosts >= MAX_HOST)
            || selected.iter().any(|other| other.address == candidate.address)
        {
            continue;
        }
        hosts += usize::from(is_host);
        selected.push(candidate);
    }
    selected
}

/// True for addresses at which a peer may be: no loopback, multicast, broadcast or unspecified address, no IPv6 address
/// that means something else on every link, no port 0.
pub fn is_usable(address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    if address.port() == 0 || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return false;
    }
    match ip {
        IpAddr::V4(v4) => !v4.is_broadcast() && v4.octets()[0] != 0,
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// The address without what means nothing elsewhere: IPv4 in IPv6 form, flow label, scope.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(address: &str, kind: CandidateKind) -> Candidate {
        Candidate { address: address.parse().unwrap(), kind }
    }

    #[test]
    fn the_same_network_comes_first_and_what_a_server_saw_last() {
        let given = [
            candidate("203.0.113.7:4000", CandidateKind::ServerReflexive),
            candidate("198.51.100.1:5000", CandidateKind::Mapped),
            candidate("[2001:db8::7]:4000", CandidateKind::Host),
            candidate("192.168.1.7:4000", CandidateKind::Host),
        ];
        let order: Vec<u16> = select(given, 16).iter().map(|c| c.address.ip().is_ipv6() as u16).collect();
        assert_eq!(order, [0, 1, 0, 0]);
        assert_eq!(select(given, 16).last().unwrap().kind, CandidateKind::ServerReflexive);
    }

    #[test]
    fn an_address_counts_once_in_whatever_form() {
        let given = [
            candidate("203.0.113.7:4000", CandidateKind::ServerReflexive),
            candidate("[::ffff:203.0.113.7]:4000", CandidateKind::Host),
        ];
        assert_eq!(select(given, 16), [candidate("203.0.113.7:4000", CandidateKind::Host)]);
    }

    #[test]
    fn addresses_that_mean_nothing_elsewhere_are_refused() {
        for address in [
            "127.0.0.1:1",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[::1]:1",
            "[::]:1",
            "[fe80::1]:1",
            "[ff02::1]:1",
            "192.168.1.1:0",
            "[::ffff:127.0.0.1]:1",
            "0.1.2.3:9",
        ] {
            assert!(!is_usable(address.parse().unwrap()), "{address}");
        }
        assert!(is_usable("192.168.1.1:9".parse().unwrap()));
    }

    #[test]
    fn a_flood_of_addresses_is_cut_and_leaves_room_for_the_useful_ones() {
        let hosts = (0..100).map(|n| candidate(&format!("10.0.0.{n}:4000"), CandidateKind::Host));
        let seen = candidate("203.0.113.7:4000", CandidateKind::ServerReflexive);
        let selected = select([seen].into_iter().chain(hosts), MAX_OWN);
        assert_eq!(selected.len(), MAX_HOST + 1);
        assert!(selected.contains(&seen));
    }
}
