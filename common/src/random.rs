//! Randomness from the operating system.

use ring::rand::{SecureRandom, SystemRandom};
use tun_proto::wire::login::Id;

/// `N` unpredictable bytes.
///
/// # Panics
/// Never on a system whose random number generator works; without one, nothing here could be trusted.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    #[allow(
        clippy::expect_used,
        reason = "without randomness no secret is one, and no answer is better than that"
    )]
    SystemRandom::new().fill(&mut out).expect("the operating system has no random numbers");
    out
}

/// A fresh identifier.
pub fn id() -> Id {
    Id(bytes())
}
