//! What lies between a client and its server, on whatever way, and fails on command.

use std::net::SocketAddr;
use std::time::Instant;

use crate::datagram_forwarder::{DatagramFault, DatagramForwarder};
use crate::forwarder::{Direction, Fault, Forwarder, Pending};
use crate::way::Way;

/// A forwarder of what a way consists of. Of a way that consists of datagrams, flows stand for connections here.
#[derive(Debug)]
pub enum Network {
    /// Of connections.
    Streams(Forwarder),
    /// Of datagrams.
    Datagrams(DatagramForwarder),
}

impl Network {
    /// Forwards what comes to `listen` on this way to `target`.
    pub async fn start(way: Way, listen: SocketAddr, target: SocketAddr) -> Self {
        match way.has_connections() {
            true => Self::Streams(Forwarder::start(listen, target).await),
            false => Self::Datagrams(DatagramForwarder::start(listen, target)),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Streams(streams) => streams.addr(),
            Self::Datagrams(datagrams) => datagrams.addr(),
        }
    }

    /// Lets `fault` happen now.
    pub fn fail(&self, fault: Fault) {
        match self {
            Self::Streams(streams) => streams.fail(fault),
            Self::Datagrams(datagrams) => datagrams.fail(DatagramFault::from(fault)),
        }
    }

    /// Lets `fault` happen as soon as `bytes` more have passed in a direction.
    pub fn fail_after(&self, direction: Direction, bytes: u64, fault: Fault) -> Pending {
        match self {
            Self::Streams(streams) => streams.fail_after(direction, bytes, fault),
            Self::Datagrams(datagrams) => datagrams.fail_after(direction, bytes, DatagramFault::from(fault)),
        }
    }

    /// Lets connections that arrive from now on work again.
    pub fn heal(&self) {
        match self {
            Self::Streams(streams) => streams.heal(),
            Self::Datagrams(datagrams) => datagrams.heal(),
        }
    }

    /// Limits each connection to so many bytes per second and direction.
    pub fn limit(&self, bytes_per_second: u64) {
        match self {
            Self::Streams(streams) => streams.limit(bytes_per_second),
            Self::Datagrams(datagrams) => datagrams.limit(bytes_per_second),
        }
    }

    /// Bytes that have passed in a direction.
    pub fn passed(&self, direction: Direction) -> u64 {
        match self {
            Self::Streams(streams) => streams.passed(direction),
            Self::Datagrams(datagrams) => datagrams.passed(direction),
        }
    }

    /// How many connections have come to it.
    pub fn accepted(&self) -> usize {
        match self {
            Self::Streams(streams) => streams.accepted(),
            Self::Datagrams(datagrams) => datagrams.begun(),
        }
    }

    /// Waits for its `n`-th connection, and says when that was.
    pub async fn nth_accepted(&self, n: usize) -> Instant {
        match self {
            Self::Streams(streams) => streams.nth_accepted(n).await,
            Self::Datagrams(datagrams) => datagrams.nth_begun(n).await,
        }
    }

    /// Waits for a connection that came after `moment`, and says when it came.
    pub async fn accepted_after(&self, moment: Instant) -> Instant {
        match self {
            Self::Streams(streams) => streams.accepted_after(moment).await,
            Self::Datagrams(datagrams) => datagrams.begun_after(moment).await,
        }
    }

    /// The forwarder of connections, on a way that consists of some.
    pub fn streams(&self) -> &Forwarder {
        match self {
            Self::Streams(streams) => streams,
            Self::Datagrams(_) => panic!("this way consists of datagrams"),
        }
    }

    /// The forwarder of datagrams, on a way that consists of some.
    pub fn datagrams(&self) -> &DatagramForwarder {
        match self {
            Self::Streams(_) => panic!("this way consists of connections"),
            Self::Datagrams(datagrams) => datagrams,
        }
    }
}
