//! Flows: kept while something passes, forgotten when idle, and bounded in number.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Flows by their key, the one that has been idle for longest known at all times.
///
/// At its own cap, or when the budget that it shares with others is used up, a new flow takes the place of the one
/// that has been idle for longest.
#[derive(Debug)]
pub struct Flows<K, V> {
    idle: Duration,
    cap: usize,
    budget: Arc<FlowBudget>,
    flows: HashMap<K, Flow<V>>,
    /// Each flow once, under a time at or before its last use; put right only when it comes to the front.
    queue: BinaryHeap<Reverse<(Instant, K)>>,
}

#[derive(Debug)]
struct Flow<V> {
    value: V,
    used: Instant,
}

impl<K: Copy + Eq + Hash + Ord, V> Flows<K, V> {
    /// No flows yet; each may be `idle` for this long, and there may be `cap` of them.
    pub fn new(idle: Duration, cap: usize, budget: Arc<FlowBudget>) -> Self {
        Flows { idle, cap, budget, flows: HashMap::new(), queue: BinaryHeap::new() }
    }

    /// The flow of this key, which is in use now.
    pub fn touch(&mut self, key: K, now: Instant) -> Option<&mut V> {
        let flow = self.flows.get_mut(&key)?;
        flow.used = flow.used.max(now);
        Some(&mut flow.value)
    }

    /// Adds a flow, in the place of the oldest if there are too many. Returns what had to go, or the new value itself
    /// if there is no place for it at all.
    pub fn insert(&mut self, key: K, value: V, now: Instant) -> Option<(K, V)> {
        let evicted = match self.flows.contains_key(&key) {
            true => self.remove(key).map(|value| (key, value)),
            false if self.flows.len() >= self.cap => self.evict(),
            false => None,
        };
        let evicted = if self.budget.take() {
            evicted
        } else {
            // Others hold the rest of the budget.
            let Some(oldest) = self.evict() else { return Some((key, value)) };
            self.budget.take();
            Some(oldest)
        };
        self.flows.insert(key, Flow { value, used: now });
        self.queue.push(Reverse((now, key)));
        evicted
    }

    /// Removes a flow.
    pub fn remove(&mut self, key: K) -> Option<V> {
        let flow = self.flows.remove(&key)?;
        self.budget.give_back();
        self.queue.retain(|Reverse((_, other))| *other != key);
        Some(flow.value)
    }

    /// Removes a flow that has been idle for too long; call it until there is none.
    pub fn expire(&mut self, now: Instant) -> Option<(K, V)> {
        let used = self.oldest()?;
        if now.saturating_duration_since(used) < self.idle { None } else { self.evict() }
    }

    /// When a flow may have been idle for too long, at the earliest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((since, _))| *since + self.idle)
    }

    /// Number of flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Takes out the flow that has been idle for longest.
    fn evict(&mut self) -> Option<(K, V)> {
        self.oldest()?;
        let Reverse((_, key)) = self.queue.pop()?;
        let flow = self.flows.remove(&key)?;
        self.budget.give_back();
        Some((key, flow.value))
    }

    /// Puts the flow that has been idle for longest at the front; returns its last use.
    fn oldest(&mut self) -> Option<Instant> {
        loop {
            let Reverse((since, key)) = *self.queue.peek()?;
            let used = self.flows.get(&key)?.used;
            if used == since {
                return Some(used);
            }
            self.queue.pop();
            self.queue.push(Reverse((used, key)));
        }
    }
}

impl<K, V> Drop for Flows<K, V> {
    fn drop(&mut self) {
        for _ in 0..self.flows.len() {
            self.budget.give_back();
        }
    }
}

/// The numbers of sources. A number is never used again, so that a late answer cannot reach somebody else.
#[derive(Debug)]
pub struct Sources<A> {
    flows: Flows<u64, A>,
    numbers: HashMap<A, u64>,
    next: u64,
}

impl<A: Copy + Eq + Hash> Sources<A> {
    /// No source yet; as for [`Flows::new`].
    pub fn new(idle: Duration, cap: usize, budget: Arc<FlowBudget>) -> Self {
        Sources { flows: Flows::new(idle, cap, budget), numbers: HashMap::new(), next: 0 }
    }

    /// The flow of a source that sent something; a new one if it has none. `None` if there is no place for it.
    pub fn flow_of(&mut self, source: A, now: Instant) -> Option<u64> {
        match self.numbers.entry(source) {
            Entry::Occupied(entry) => {
                let flow = *entry.get();
                self.flows.touch(flow, now);
                Some(flow)
            }
            Entry::Vacant(entry) => {
                let flow = self.next;
                self.next += 1;
                entry.insert(flow);
                if let Some((_, gone)) = self.flows.insert(flow, source, now) {
                    self.numbers.remove(&gone);
                }
                self.numbers.contains_key(&source).then_some(flow)
            }
        }
    }

    /// The source of a flow to which something is sent; `None` if the flow is forgotten.
    pub fn source_of(&mut self, flow: u64, now: Instant) -> Option<A> {
        self.flows.touch(flow, now).copied()
    }

    /// Forgets the flows that have been idle for too long; returns their number.
    pub fn expire(&mut self, now: Instant) -> usize {
        let mut expired = 0;
        while let Some((_, source)) = self.flows.expire(now) {
            self.numbers.remove(&source);
            expired += 1;
        }
        expired
    }

    /// When a flow may have been idle for too long, at the earliest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.flows.poll_timeout()
    }

    /// Number of flows.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}

/// How many flows several tables may have together.
#[derive(Debug)]
pub struct FlowBudget {
    used: AtomicUsize,
    most: usize,
}

impl FlowBudget {
    /// A budget of which nothing is used yet.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(FlowBudget { used: AtomicUsize::new(0), most })
    }

    /// Flows that there are now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        let more = |used: usize| (used < self.most).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the origin of clocks that only these tests turn")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn sources(cap: usize, most: usize) -> Sources<u16> {
        Sources::new(IDLE, cap, FlowBudget::new(most))
    }

    #[test]
    fn a_source_keeps_its_flow_while_something_passes_in_either_direction() {
        let start = Instant::now();
        let mut sources = sources(8, 8);
        let flow = sources.flow_of(1, start).unwrap();
        let mut now = start;
        for _ in 0..4 {
            now += IDLE / 2;
            assert_eq!(sources.flow_of(1, now), Some(flow));
            now += IDLE / 2;
            assert_eq!(sources.source_of(flow, now), Some(1));
            assert_eq!(sources.expire(now), 0);
        }
        assert_eq!(sources.expire(now + IDLE), 1);
        assert_eq!(sources.source_of(flow, now + IDLE), None, "an answer that comes too late reaches nobody");
        assert_ne!(sources.flow_of(1, now + IDLE), Some(flow));
    }

    #[test]
    fn the_flow_that_was_idle_for_longest_makes_room() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut sources = sources(3, 8);
        let flows: Vec<u64> = (0..3).map(|n| sources.flow_of(n, at(u64::from(n))).unwrap()).collect();
        sources.flow_of(0, at(4));
        sources.flow_of(9, at(5));
        assert_eq!(sources.source_of(flows[1], at(5)), None);
        assert_eq!(sources.source_of(flows[0], at(5)), Some(0));
        assert_eq!(sources.source_of(flows[2], at(5)), Some(2));
        assert_eq!(sources.len(), 3);
    }

    #[test]
    fn tables_with_one_budget_leave_each_other_what_they_hold() {
        let now = Instant::now();
        let budget = FlowBudget::new(3);
        let mut one = Sources::new(IDLE, 8, budget.clone());
        let mut other = Sources::new(IDLE, 8, budget.clone());
        for source in 0..3 {
            one.flow_of(source, now).unwrap();
        }
        assert_eq!(other.flow_of(7, now), None, "it has none of its own to give up");
        assert_eq!(other.len(), 0);
        one.flow_of(3, now).unwrap();
        assert_eq!((one.len(), budget.used()), (3, 3));
        drop(one);
        assert_eq!(budget.used(), 0);
        assert!(other.flow_of(7, now).is_some());
    }

    proptest! {
        #[test]
        fn flows_are_those_of_a_plain_list_in_order_of_use(
            steps in proptest::collection::vec((0u16..12, 0u64..40, any::<bool>()), 1..200),
        ) {
            let mut now = Instant::now();
            let budget = FlowBudget::new(6);
            let mut sources = Sources::new(IDLE, 6, budget.clone());
            // Last used, source, flow; the oldest first.
            let mut model: Vec<(Instant, u16, u64)> = Vec::new();
            for (source, pause, expires) in steps {
                // Never two uses at the same time, so that there is one order.
                now += Duration::from_secs(pause) + Duration::from_nanos(1);
                if expires {
                    let before = model.len();
                    model.retain(|(used, ..)| now - *used < IDLE);
                    prop_assert_eq!(sources.expire(now), before - model.len());
                }
                let flow = sources.flow_of(source, now).unwrap();
                match model.iter().position(|(_, other, _)| *other == source) {
                    Some(index) => {
                        let (_, _, known) = model.remove(index);
                        prop_assert_eq!(known, flow);
                    }
                    None if model.len() == 6 => { model.remove(0); }
                    None => {}
                }
                prop_assert!(model.iter().all(|(_, _, other)| *other != flow));
                model.push((now, source, flow));
                prop_assert_eq!(sources.len(), model.len());
                prop_assert_eq!(budget.used(), model.len());
                prop_assert!(sources.poll_timeout().unwrap() <= model[0].0 + IDLE);
            }
            for (_, source, flow) in model {
                prop_assert_eq!(sources.source_of(flow, now), Some(source));
            }
        }
    }
}
