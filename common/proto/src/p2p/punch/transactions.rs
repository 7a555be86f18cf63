//! Which pings are out, so that each answer counts once and for the path it was sent on.

use super::SocketId;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

/// Pings remembered: all of a spray, and the pairs' beside it.
const MAX_OUTSTANDING: usize = 2048;

/// A ping that may be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ping {
    pub(super) socket: SocketId,
    pub(super) to: SocketAddr,
    pub(super) at: Instant,
    pub(super) nominates: bool,
}

/// The pings that are out.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    pings: HashMap<u64, Ping>,
    order: VecDeque<u64>,
}

impl Transactions {
    pub(super) fn insert(&mut self, transaction: u64, ping: Ping) {
        if self.order.len() >= MAX_OUTSTANDING
            && let Some(oldest) = self.order.pop_front()
        {
            self.pings.remove(&oldest);
        }
        self.order.push_back(transaction);
        self.pings.insert(transaction, ping);
    }

    pub(super) fn take(&mut self, transaction: u64) -> Option<Ping> {
        self.pings.remove(&transaction)
    }

    pub(super) fn clear(&mut self) {
        self.pings.clear();
        self.order.clear();
    }
}
