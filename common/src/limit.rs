//! How often somebody may fail to prove a secret, or ask without one; below, how many bytes may be moved. Nothing else
//! knows the rate limiter.

mod account;
mod bandwidth;

pub use bandwidth::{Bandwidth, Turn};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tun_proto::admission::network;
use tun_proto::limits::{LOGIN_FAILURE_BURST, LOGIN_FAILURE_REFILL};

/// Keys remembered as blocked; beyond, all are forgotten, which costs an attacker with so many addresses more than it
/// gains him.
const MAX_BLOCKED: usize = 64 * 1024;

/// Counts failures by key.
pub struct Failures<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    blocked: Mutex<HashMap<K, Instant>>,
}

impl<K: Hash + Eq + Clone> Failures<K> {
    /// Forgives `burst` failures at once, and one more for every `refill`.
    pub fn new(burst: u32, refill: Duration) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(refill).unwrap_or(Quota::per_minute(burst)).allow_burst(burst);
        Failures {
            limiter: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            blocked: Mutex::default(),
        }
    }

    /// How long `key` has to wait before it may try again; `None` if it may now.
    pub fn blocked(&self, key: &K) -> Option<Duration> {
        let until = *self.lock().get(key)?;
        until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    /// Counts a failure.
    pub fn note(&self, key: &K) {
        let Err(refused) = self.limiter.check_key(key) else { return };
        let until = Instant::now() + refused.wait_time_from(self.clock.now());
        let mut blocked = self.lock();
        if blocked.len() >= MAX_BLOCKED {
            blocked.clear();
        }
        blocked.insert(key.clone(), until);
    }

    /// Forgets keys that have behaved for a while; to be called now and then, or the memory grows with every key that
    /// ever failed.
    pub fn tidy(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
        let now = Instant::now();
        self.lock().retain(|_, until| *until > now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Instant>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts failed logins by address (IPv6: by /64).
pub struct LoginFailures(Failures<IpAddr>);

impl Default for LoginFailures {
    fn default() -> Self {
        LoginFailures(Failures::new(LOGIN_FAILURE_BURST, LOGIN_FAILURE_REFILL))
    }
}

impl LoginFailures {
    /// How long the address has to wait before it may try again; `None` if it may now.
    pub fn blocked(&self, address: IpAddr) -> Option<Duration> {
        self.0.blocked(&network(address))
    }

    /// Counts a failed login.
    pub fn note(&self, address: IpAddr) {
        self.0.note(&network(address));
    }

    /// As [`Failures::tidy`].
    pub fn tidy(&self) {
        self.0.tidy();
    }
}

/// Sources are counted in this many places, so that forged ones cannot fill the memory. Two sources share a place by
/// chance only: who shares with whom is different in every process.
const PLACES: u64 = 64 * 1024;

/// Lets each source (IPv6: each /64) do something so often.
pub struct SourceRate {
    limiter: DefaultKeyedRateLimiter<u64>,
    places: RandomState,
}

impl SourceRate {
    /// Up to `burst` times at once, and once more in every `refill`.
    pub fn new(burst: NonZeroU32, refill: Duration) -> Self {
        let quota = Quota::with_period(refill).unwrap_or(Quota::per_second(burst)).allow_burst(burst);
        SourceRate { limiter: RateLimiter::keyed(quota), places: RandomState::new() }
    }

    /// Counts, and says whether it may be.
    pub fn allows(&self, source: IpAddr) -> bool {
        let place = self.places.hash_one(network(source)) % PLACES;
        self.limiter.check_key(&place).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_asks_too_often_is_stopped_and_others_are_not() {
        let rate = SourceRate::new(NonZeroU32::new(3).expect("three"), Duration::from_secs(60));
        let (greedy, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert_eq!([(); 5].map(|()| rate.allows(greedy)), [true, true, true, false, false]);
        assert!(rate.allows(other));
    }

    #[test]
    fn an_address_that_keeps_failing_is_blocked_and_its_neighbours_are_not() {
        let failures = LoginFailures::default();
        let (bad, good) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..LOGIN_FAILURE_BURST {
            failures.note(bad);
            assert_eq!(failures.blocked(bad), None, "a few failures are forgiven");
        }
        failures.note(bad);
        let wait = failures.blocked(bad).expect("one too many");
        assert!(wait <= LOGIN_FAILURE_REFILL);
        assert_eq!(failures.blocked(good), None);
    }
}
