//! Datagrams that wait for a link: each flow gets its turn, and the one that has most waiting loses first.

use crate::limits::{DATAGRAM_AGE, DATAGRAM_OVERHEAD};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

/// A bounded queue, fair between flows.
///
/// When it is full, the flow with most bytes in it loses its oldest datagram: what is oldest is of least use to those who
/// speak in datagrams, and a flow that floods harms only itself. What has waited for [`DATAGRAM_AGE`] is dropped as
/// well.
#[derive(Debug)]
pub struct FairQueue {
    most: usize,
    bytes: usize,
    flows: HashMap<u64, Waiting>,
    /// Flows with something waiting, the next to be served first.
    turns: VecDeque<u64>,
    /// The same by what they have waiting.
    sizes: BTreeSet<(usize, u64)>,
    dropped: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<(Instant, Bytes)>,
    bytes: usize,
}

impl FairQueue {
    /// An empty queue for this many bytes, each datagram's own cost included.
    pub fn new(most: usize) -> Self {
        FairQueue {
            most,
            bytes: 0,
            flows: HashMap::new(),
            turns: VecDeque::new(),
            sizes: BTreeSet::new(),
            dropped: 0,
        }
    }

    /// Adds a datagram.
    pub fn push(&mut self, flow: u64, payload: Bytes, now: Instant) {
        let size = cost(&payload);
        let waiting = self.flows.entry(flow).or_default();
        if waiting.datagrams.is_empty() {
            self.turns.push_back(flow);
        }
        self.sizes.remove(&(waiting.bytes, flow));
        waiting.datagrams.push_back((now, payload));
        waiting.bytes += size;
        self.sizes.insert((waiting.bytes, flow));
        self.bytes += size;
        while self.bytes > self.most {
            let Some(&(_, longest)) = self.sizes.last() else { return };
            self.take(longest);
            self.dropped += 1;
        }
    }

    /// Takes out the next datagram.
    pub fn pop(&mut self, now: Instant) -> Option<(u64, Bytes)> {
        loop {
            let flow = *self.turns.front()?;
            let (since, payload) = self.take(flow)?;
            if now.saturating_duration_since(since) >= DATAGRAM_AGE {
                self.dropped += 1;
                continue;
            }
            // Its next turn comes after everybody else's.
            if self.flows.contains_key(&flow) {
                self.turns.rotate_left(1);
            }
            return Some((flow, payload));
        }
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Bytes that wait, each datagram's own cost included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Datagrams dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes out a flow's oldest datagram. A flow without any is forgotten, and has no turn.
    fn take(&mut self, flow: u64) -> Option<(Instant, Bytes)> {
        let waiting = self.flows.get_mut(&flow)?;
        let datagram = waiting.datagrams.pop_front()?;
        self.sizes.remove(&(waiting.bytes, flow));
        let size = cost(&datagram.1);
        waiting.bytes -= size;
        self.bytes -= size;
        if waiting.datagrams.is_empty() {
            self.flows.remove(&flow);
            match self.turns.front() == Some(&flow) {
                true => drop(self.turns.pop_front()),
                false => self.turns.retain(|other| *other != flow),
            }
        } else {
            self.sizes.insert((waiting.bytes, flow));
        }
        Some(datagram)
    }
}

fn cost(payload: &Bytes) -> usize {
    payload.len() + DATAGRAM_OVERHEAD
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the origin of clocks that only these tests turn")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram(n: u64) -> Bytes {
        Bytes::copy_from_slice(&n.to_be_bytes())
    }

    #[test]
    fn flows_take_turns_and_each_keeps_its_order() {
        let now = Instant::now();
        let mut queue = FairQueue::new(1 << 20);
        for n in 0..3 {
            queue.push(1, datagram(n), now);
        }
        queue.push(2, datagram(10), now);
        queue.push(3, datagram(20), now);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(now)).collect();
        let expected = [(1, 0), (2, 10), (3, 20), (1, 1), (1, 2)];
        assert_eq!(order, expected.map(|(flow, n)| (flow, datagram(n))));
        assert!(queue.is_empty());
        assert_eq!((queue.bytes(), queue.turns.len(), queue.sizes.len()), (0, 0, 0));
    }

    #[test]
    fn a_flood_loses_its_own_oldest_datagrams_and_nobody_elses() {
        let now = Instant::now();
        let mut queue = FairQueue::new(64 * (8 + DATAGRAM_OVERHEAD));
        queue.push(7, datagram(0), now);
        for n in 0..10_000 {
            queue.push(1, datagram(n), now);
        }
        assert_eq!(queue.dropped(), 10_001 - 64);
        assert_eq!(queue.pop(now), Some((7, datagram(0))));
        assert_eq!(queue.pop(now), Some((1, datagram(10_000 - 63))));
    }

    #[test]
    fn what_has_waited_for_too_long_is_not_sent_any_more() {
        let start = Instant::now();
        let mut queue = FairQueue::new(1 << 20);
        queue.push(1, datagram(1), start);
        queue.push(1, datagram(2), start + DATAGRAM_AGE / 2);
        assert_eq!(queue.pop(start + DATAGRAM_AGE), Some((1, datagram(2))));
        assert_eq!((queue.pop(start), queue.dropped()), (None, 1));
    }

    proptest! {
        #[test]
        fn nothing_is_repeated_reordered_or_counted_wrong(
            steps in proptest::collection::vec((0u64..5, 0usize..300, any::<bool>()), 1..300),
        ) {
            let now = Instant::now();
            let mut queue = FairQueue::new(2000);
            let (mut pushed, mut popped) = (0u64, 0u64);
            let mut last: HashMap<u64, u64> = HashMap::new();
            let mut check = |flow: u64, payload: Bytes| {
                let number = u64::from_be_bytes(*payload.first_chunk().unwrap());
                last.insert(flow, number).is_none_or(|before| before < number)
            };
            for (flow, len, takes) in steps {
                let mut payload = pushed.to_be_bytes().to_vec();
                payload.resize(8 + len, 0);
                queue.push(flow, payload.into(), now);
                pushed += 1;
                prop_assert!(queue.bytes() <= 2000);
                if takes && let Some((flow, payload)) = queue.pop(now) {
                    popped += 1;
                    prop_assert!(check(flow, payload));
                }
            }
            while let Some((flow, payload)) = queue.pop(now) {
                popped += 1;
                prop_assert!(check(flow, payload));
            }
            prop_assert_eq!(pushed, popped + queue.dropped());
            prop_assert_eq!((queue.bytes(), queue.turns.len(), queue.sizes.len()), (0, 0, 0));
        }
    }
}
