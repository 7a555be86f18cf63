//! When to try again.

use std::time::Duration;

/// A schedule of growing, jittered pauses.
///
/// The first pause is short because most failures are momentary; the longest is what bounds how long after a
/// server's return its clients are back. Jitter keeps a thousand clients from returning in the same millisecond.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempt: u32,
    seed: u64,
}

impl Backoff {
    /// A schedule that doubles from `first` to `longest`; `seed` makes it differ from that of other clients.
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Backoff { first, longest, attempt: 0, seed }
    }

    /// The next pause: between half of the step and all of it.
    pub fn next_pause(&mut self) -> Duration {
        let step = self.first.saturating_mul(1 << self.attempt.min(20)).min(self.longest);
        self.attempt = self.attempt.saturating_add(1);
        // SplitMix64 (Steele, Lea, Flood 2014): even for consecutive seeds.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let fraction = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        step.div_f64(2.0) + step.mul_f64(fraction / 2.0)
    }

    /// Begins the schedule anew after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Number of pauses since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_between_clients() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut one = Backoff::new(first, longest, 1);
        let mut other = Backoff::new(first, longest, 2);
        let mut differ = 0;
        for attempt in 0..40 {
            let step = first.saturating_mul(1 << attempt.min(10)).min(longest);
            let (a, b) = (one.next_pause(), other.next_pause());
            assert!(a >= step / 2 && a <= step, "attempt {attempt}: {a:?}");
            differ += usize::from(a != b);
        }
        assert!(differ > 30);
        one.reset();
        assert!(one.next_pause() <= first);
    }
}
