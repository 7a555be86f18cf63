//! Candidates: transport addresses at which an end may be reached (RFC 8445 §2).

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

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
