//! The memory that all streams of a session share for bytes not yet acknowledged.

use crate::limits::{MAX_DATA, SESSION_BUDGET, WINDOW_FLOOR};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with a cap, shared by the streams of a session.
///
/// The cap is soft by one floor per stream: [`Share::reserve`] grants what is within the stream's floor even when
/// the budget is spent, so that the memory of a session is at most `cap + floor × streams` and no stream starves.
#[derive(Debug)]
pub struct Budget {
    cap: u64,
    used: AtomicU64,
    /// Bytes received and not delivered.
    inbound: AtomicU64,
    streams: AtomicU64,
}

impl Budget {
    /// A budget of `cap` bytes.
    pub fn new(cap: u64) -> Arc<Self> {
        Arc::new(Budget {
            cap,
            used: AtomicU64::new(0),
            inbound: AtomicU64::new(0),
            streams: AtomicU64::new(0),
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// What one stream has received and not delivered, counted against what an honest peer may have in flight: the budget
/// is a constant of the protocol, so the receiver can hold its peer to it.
#[derive(Debug)]
pub struct Inbound {
    budget: Arc<Budget>,
    held: u64,
}

impl Inbound {
    /// A stream that holds nothing.
    pub fn new(budget: Arc<Budget>) -> Self {
        budget.streams.fetch_add(1, Ordering::Relaxed);
        Inbound { budget, held: 0 }
    }

    /// The stream holds `held` bytes now. False if all streams together hold more than the peer may have sent.
    #[must_use]
    pub fn set(&mut self, held: u64) -> bool {
        let before = std::mem::replace(&mut self.held, held);
        let inbound = &self.budget.inbound;
        if held <= before {
            inbound.fetch_sub(before - held, Ordering::Relaxed);
            return true;
        }
        let total = inbound.fetch_add(held - before, Ordering::Relaxed) + held - before;
        let streams = self.budget.streams.load(Ordering::Relaxed);
        // Counters of many streams are read one after the other: a quarter more is not worth an abort.
        total <= SESSION_BUDGET + SESSION_BUDGET / 4 + streams * (WINDOW_FLOOR + MAX_DATA as u64)
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.budget.inbound.fetch_sub(self.held, Ordering::Relaxed);
        self.budget.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one stream holds of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    held: u64,
}

impl Share {
    /// An empty share of `budget`.
    pub fn new(budget: Arc<Budget>) -> Self {
        Share { budget, held: 0 }
    }

    /// Bytes held.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Most bytes that [`Share::reserve`] would grant now, if `floor` bytes are the stream's in any case.
    pub fn available(&self, floor: u64) -> u64 {
        let free = self.budget.cap.saturating_sub(self.budget.used());
        free.max(floor.saturating_sub(self.held))
    }

    /// Takes `bytes`, which [`Share::available`] allowed.
    pub fn reserve(&mut self, bytes: u64) {
        self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.held += bytes;
    }

    /// Gives `bytes` back.
    pub fn release(&mut self, bytes: u64) {
        let bytes = bytes.min(self.held);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        self.held -= bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_WINDOW;

    #[test]
    fn a_peer_that_sends_more_than_its_budget_is_caught_across_streams() {
        let budget = Budget::new(0);
        let mut streams: Vec<_> = (0..6).map(|_| Inbound::new(budget.clone())).collect();
        assert!(streams[..5].iter_mut().all(|stream| stream.set(MAX_WINDOW)));
        assert!(!streams[5].set(MAX_WINDOW), "96 MiB in all");
        streams.truncate(1);
        assert!(streams[0].set(MAX_WINDOW) && streams[0].set(0));
        assert_eq!(budget.inbound.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_spent_budget_still_leaves_each_stream_its_floor() {
        let budget = Budget::new(100);
        let mut greedy = Share::new(budget.clone());
        greedy.reserve(greedy.available(10));
        assert_eq!((greedy.held(), budget.used()), (100, 100));
        assert_eq!(greedy.available(10), 0);
        let mut late = Share::new(budget.clone());
        assert_eq!(late.available(10), 10);
        late.reserve(10);
        assert_eq!(late.available(10), 0);
        drop(greedy);
        assert_eq!(budget.used(), 10);
        assert_eq!(late.available(10), 90);
    }
}
