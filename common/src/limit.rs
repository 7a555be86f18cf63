//! How often an address may fail to log in. This is the only file that knows the rate limiter.

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tun_proto::admission::network;
use tun_proto::limits::{LOGIN_FAILURE_BURST, LOGIN_FAILURE_REFILL};

/// Addresses remembered as blocked; beyond, those whose time is over are forgotten first.
const MAX_BLOCKED: usize = 64 * 1024;

/// Counts failed logins by address (IPv6: by /64).
pub struct LoginFailures {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    clock: DefaultClock,
    blocked: Mutex<HashMap<IpAddr, Instant>>,
}

impl Default for LoginFailures {
    fn default() -> Self {
        let burst = NonZeroU32::new(LOGIN_FAILURE_BURST).unwrap_or(NonZeroU32::MIN);
        let quota =
            Quota::with_period(LOGIN_FAILURE_REFILL).unwrap_or(Quota::per_minute(burst)).allow_burst(burst);
        LoginFailures {
            limiter: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            blocked: Mutex::default(),
        }
    }
}

impl LoginFailures {
    /// How long the address has to wait before it may try again; `None` if it may now.
    pub fn blocked(&self, address: IpAddr) -> Option<Duration> {
        let until = *self.lock().get(&network(address))?;
        until.checked_duration_since(Instant::now()).filter(|wait| !wait.is_zero())
    }

    /// Counts a failed login.
    pub fn note(&self, address: IpAddr) {
        let key = network(address);
        let Err(refused) = self.limiter.check_key(&key) else { return };
        let until = Instant::now() + refused.wait_time_from(self.clock.now());
        let mut blocked = self.lock();
        if blocked.len() >= MAX_BLOCKED {
            blocked.clear();
        }
        blocked.insert(key, until);
    }

    /// Forgets addresses that have behaved for a while; to be called now and then, or the memory grows with every
    /// address that ever failed.
    pub fn tidy(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
        let now = Instant::now();
        self.lock().retain(|_, until| *until > now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
