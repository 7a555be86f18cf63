//! Where a schedule takes its decisions from: a seed, or a tape of decisions that were recorded or made up.

/// A source of decisions that remembers what it decided.
pub(crate) struct Choices {
    source: Source,
    /// What was decided so far: a tape that repeats this run.
    pub(crate) taken: Vec<u32>,
}

enum Source {
    Seed(u64),
    Tape(std::vec::IntoIter<u32>),
}

impl Choices {
    /// Decisions drawn from `seed`, without end.
    pub(crate) fn seeded(seed: u64) -> Self {
        // Neighbouring seeds must not give neighbouring schedules.
        Choices { source: Source::Seed(mix(seed ^ 0x7475_6e00)), taken: Vec::new() }
    }

    /// Decisions read from `tape`; behind its end come the first, and simplest, of all alternatives.
    pub(crate) fn taped(tape: Vec<u32>) -> Self {
        Choices { source: Source::Tape(tape.into_iter()), taken: Vec::new() }
    }

    /// True if a tape has come to its end.
    pub(crate) fn is_exhausted(&self) -> bool {
        matches!(&self.source, Source::Tape(tape) if tape.len() == 0)
    }

    /// A number below `bound`, or 0 if there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        if bound <= 1 {
            return 0;
        }
        let raw = match &mut self.source {
            Source::Seed(state) => draw(state),
            Source::Tape(tape) => tape.next().unwrap_or(0),
        };
        self.taken.push(raw);
        raw as usize % bound
    }

    /// True once in `of` times.
    pub(crate) fn once_in(&mut self, of: usize) -> bool {
        self.below(of) == of.saturating_sub(1)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// One of `items`.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        items.get(self.below(items.len())).copied()
    }

    /// The index of a weight, as often as it weighs.
    pub(crate) fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut at = self.below(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if at < *weight {
                return index;
            }
            at -= weight;
        }
        0
    }
}

/// SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
fn draw(state: &mut u64) -> u32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    (mix(*state) >> 32) as u32
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
