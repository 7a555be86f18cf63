//! Random numbers from entropy that was handed in.

use ring::hmac;

/// A stream of numbers that nobody can foresee without the entropy it was made from.
#[derive(Debug)]
pub(super) struct Draw {
    key: hmac::Key,
    count: u64,
}

impl Draw {
    pub(super) fn new(entropy: &[u8; 32]) -> Self {
        Draw { key: hmac::Key::new(hmac::HMAC_SHA256, entropy), count: 0 }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.count += 1;
        let block = hmac::sign(&self.key, &self.count.to_be_bytes());
        block.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A number below `bound`, which is above 0 and far below 2⁶⁴, so that the remainder's bias is nothing.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }
}
