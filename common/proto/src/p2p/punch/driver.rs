//! What an attempt and its driver say to each other.

use super::{Failure, PunchMessage};
use crate::p2p::candidate::Candidate;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// A socket, as the driver calls it.
pub type SocketId = u32;

/// The two ends of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Decides when rounds begin and end, and which path is used. The visitor.
    Initiator,
    /// The other.
    Responder,
}

/// What an attempt needs to know.
#[derive(Clone)]
pub struct Config {
    /// Which end this is.
    pub role: Role,
    /// Known to the two ends alone, and fresh: probes are sealed with keys made from it.
    pub secret: [u8; 32],
    /// Whether many ports may be tried.
    pub spray: bool,
    /// Fresh and random, this end's own.
    pub entropy: [u8; 32],
}

/// A socket, and what was found out about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered {
    /// The socket.
    pub socket: SocketId,
    /// Where it is bound; its family decides what it may probe.
    pub local: SocketAddr,
    /// Where it may be reached. What servers saw need not be repeated here.
    pub candidates: Vec<Candidate>,
    /// What the server's first port saw, its second, and so on; empty if none answered.
    pub reflexive: Vec<SocketAddr>,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Bind fresh sockets, ask the server's ports how they are seen, and report with [`super::Punch::handle_gathered`]. Nothing
    /// is expected of earlier sockets any more.
    Gather {
        /// The round they are for.
        round: u32,
    },
    /// Bind more IPv4 sockets, without asking any server, and report with [`super::Punch::handle_bound`].
    Bind {
        /// How many.
        count: u16,
    },
    /// Send a datagram. Errors are to be treated as loss.
    Send {
        /// From this socket.
        socket: SocketId,
        /// To this address.
        to: SocketAddr,
        /// The datagram.
        datagram: Bytes,
        /// With this TTL (hop limit), for this one; otherwise with the socket's own.
        ttl: Option<u32>,
    },
    /// Bring a message to the peer.
    Tell(PunchMessage),
    /// Close sockets that are not needed any more.
    Close {
        /// Which.
        sockets: Vec<SocketId>,
    },
    /// The attempt has found a path; all other sockets are closed. The responder must go on feeding datagrams until the
    /// first that is no probe arrives: the initiator may not have its answer yet.
    Found(Found),
    /// The attempt is over; all sockets are closed.
    Failed(Failure),
}

/// A path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Own socket.
    pub socket: SocketId,
    /// Where the peer is, seen from it.
    pub remote: SocketAddr,
    /// Round trip of a probe.
    pub round_trip: Duration,
}
