//! Bytes that can be made again: a pseudo-random sequence that depends on a seed only.

use std::fmt::Write as _;
use std::io;

use sha2::{Digest, Sha256};

/// The sequence of one seed, endless, the same whatever sizes it is taken in.
#[derive(Debug, Clone)]
pub struct Pattern {
    state: u64,
    rest: [u8; 8],
    rest_len: usize,
}

impl Pattern {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, rest: [0; 8], rest_len: 0 }
    }

    /// Writes the next bytes of the sequence over the whole of `out`.
    pub fn fill(&mut self, out: &mut [u8]) {
        let (left, out) = out.split_at_mut(self.rest_len.min(out.len()));
        left.copy_from_slice(&self.rest[8 - self.rest_len..][..left.len()]);
        self.rest_len -= left.len();
        let mut words = out.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word().to_le_bytes());
        }
        let tail = words.into_remainder();
        if !tail.is_empty() {
            self.rest = self.word().to_le_bytes();
            self.rest_len = 8 - tail.len();
            tail.copy_from_slice(&self.rest[..tail.len()]);
        }
    }

    /// The next eight bytes, as one number. SplitMix64: three multiplications and no state but a counter.
    pub fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The first `len` bytes of a seed's sequence.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    Pattern::new(seed).fill(&mut out);
    out
}

/// SHA-256 of what is fed to it, as hexadecimal digits.
#[derive(Debug, Clone, Default)]
pub struct Hash(Sha256);

impl Hash {
    /// Takes the next bytes in.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest, 64 digits.
    pub fn digits(self) -> String {
        self.0.finalize().iter().fold(String::with_capacity(64), |mut digits, byte| {
            // Writing to a string cannot fail.
            let _ = write!(digits, "{byte:02x}");
            digits
        })
    }

    /// The digest of all that a reader gives.
    pub fn of(mut reader: impl io::Read) -> Self {
        let mut hash = Self::default();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match reader.read(&mut buffer).expect("the file can be read") {
                0 => return hash,
                n => hash.feed(&buffer[..n]),
            }
        }
    }
}

/// SHA-256 of the first `len` bytes of a seed's sequence.
pub fn digits_of(seed: u64, len: u64) -> String {
    let (mut pattern, mut hash) = (Pattern::new(seed), Hash::default());
    let mut buffer = vec![0; 1 << 18];
    let mut left = len;
    while left > 0 {
        let n = left.min(buffer.len() as u64) as usize;
        pattern.fill(&mut buffer[..n]);
        hash.feed(&buffer[..n]);
        left -= n as u64;
    }
    hash.digits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_does_not_depend_on_the_sizes_it_is_taken_in() {
        let whole = bytes(7, 1000);
        let mut pattern = Pattern::new(7);
        let mut parts = Vec::new();
        for size in [1, 7, 8, 9, 64, 3, 0, 5].into_iter().cycle() {
            if parts.len() + size > whole.len() {
                break;
            }
            let start = parts.len();
            parts.resize(start + size, 0);
            pattern.fill(&mut parts[start..]);
        }
        assert_eq!(parts, whole[..parts.len()]);
    }

    #[test]
    fn a_digest_is_the_one_everybody_knows() {
        let mut hash = Hash::default();
        hash.feed(b"abc");
        assert_eq!(hash.digits(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digits_of(3, 100_000), Hash::of(&bytes(3, 100_000)[..]).digits());
    }
}
