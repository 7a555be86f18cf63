//! The memory that all streams of a session share for bytes not yet acknowledged.

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
}

impl Budget {
    /// A budget of `cap` bytes.
    pub fn new(cap: u64) -> Arc<Self> {
        Arc::new(Budget { cap, used: AtomicU64::new(0) })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
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
