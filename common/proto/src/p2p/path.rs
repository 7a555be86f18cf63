//! When a direct path is looked for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Pauses after failures in a row; the last one repeats.
const BACKOFF: [Duration; 4] =
    [Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(600), Duration::from_secs(1800)];

/// The same where a direct path has been before: what is broken there is likely to be mended soon.
const PROVEN: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
];

/// Least time between the beginnings of two attempts, however often a peer says that its network changed.
const MIN_INTERVAL: Duration = Duration::from_millis(500);

const HOUR: Duration = Duration::from_secs(3600);

/// Attempts of the last hour that are remembered.
const MAX_RECENT: usize = 64;

/// A path that lived at least this long was good: losing it is no failure.
const STABLE: Duration = Duration::from_secs(10);

/// Two ages are the same if they differ by at most this fraction of the larger.
const SAME_AGE: f64 = 0.2;

/// The part of a known age after which the next path is made.
const RENEW_AT: f64 = 0.7;

/// Ages remembered.
const MAX_AGES: usize = 4;

/// How often an attempt is repeated that has never succeeded between these networks.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// Attempts in an hour, at most.
    pub per_hour: u32,
    /// Least pause after a failure.
    pub interval: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { per_hour: u32::MAX, interval: BACKOFF[0] }
    }
}

/// That an attempt is to begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartAttempt {
    /// A direct path exists and is expected to die soon: it stays in use until the new one is there.
    pub renews: bool,
}

/// Decides when the next attempt begins.
///
/// At once at first and after a path was lost, then after growing pauses. A network change begins anew. Some NATs end
/// every mapping at a certain age, whatever passes: once two paths died at the same age, the next is made before.
#[derive(Debug, Default)]
pub struct PathFinder {
    retries: Retries,
    /// When the attempts of the last hour began.
    recent: VecDeque<Instant>,
    is_wanted: bool,
    is_attempting: bool,
    up_since: Option<Instant>,
    failures: usize,
    /// There has been a path between these networks.
    is_proven: bool,
    /// When the last attempt began.
    started: Option<Instant>,
    /// The next attempt, if one is planned.
    next: Option<Instant>,
    /// At what age the last paths died.
    ages: VecDeque<Duration>,
    /// When this path is to be replaced.
    renew: Option<Instant>,
}

impl PathFinder {
    /// Nothing is wanted yet.
    pub fn new(retries: Retries) -> Self {
        PathFinder { retries, ..PathFinder::default() }
    }

    /// Whether a direct path is wanted.
    pub fn handle_wanted(&mut self, wanted: bool, now: Instant) {
        if wanted && !self.is_wanted && self.up_since.is_none() && self.next.is_none() {
            self.next = Some(now);
        }
        self.is_wanted = wanted;
    }

    /// A direct link is up. It may replace another.
    pub fn handle_link_up(&mut self, now: Instant) {
        self.is_attempting = false;
        self.is_proven = true;
        self.next = None;
        self.up_since = Some(now);
        self.renew = self.regular_age().map(|age| now + age.mul_f64(RENEW_AT));
    }

    /// The last direct link is down. Not to be called for one that was replaced or closed on purpose.
    pub fn handle_link_down(&mut self, now: Instant) {
        let Some(since) = self.up_since.take() else { return };
        self.renew = None;
        let age = now.saturating_duration_since(since);
        if self.ages.len() == MAX_AGES {
            self.ages.pop_front();
        }
        if age >= STABLE {
            self.ages.push_back(age);
            self.failures = 0;
            self.next = Some(now);
        } else {
            // A path that dies young would be made and lost without end.
            self.retreat(now);
        }
    }

    /// An attempt, or the link over the path it found, failed.
    pub fn handle_failed(&mut self, now: Instant) {
        self.is_attempting = false;
        self.retreat(now);
    }

    /// The network of this end or of the peer changed: what was learned is worth nothing. An attempt that was under
    /// way is void, and a path that is there may lead nowhere.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.is_attempting = false;
        self.failures = 0;
        self.ages.clear();
        let soon = self.started.map_or(now, |started| now.max(started + MIN_INTERVAL));
        match self.up_since {
            Some(_) => self.renew = Some(soon),
            None => self.next = Some(soon),
        }
    }

    /// The attempt that is to begin now, once.
    pub fn poll(&mut self, now: Instant) -> Option<StartAttempt> {
        let at = self.planned()?;
        if now < at {
            return None;
        }
        self.next = None;
        self.renew = None;
        self.is_attempting = true;
        self.started = Some(now);
        self.recent.retain(|began| now.saturating_duration_since(*began) < HOUR);
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        Some(StartAttempt { renews: self.up_since.is_some() })
    }

    /// When [`PathFinder::poll`] is to be asked again.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.planned()
    }

    fn planned(&self) -> Option<Instant> {
        let planned = match self.up_since {
            Some(_) => self.renew,
            None => self.next,
        };
        planned.filter(|_| self.is_wanted && !self.is_attempting)
    }

    fn retreat(&mut self, now: Instant) {
        let proven: &[Duration] = if self.is_proven { &PROVEN } else { &[] };
        let mut pauses = proven.iter().chain(&BACKOFF).skip(self.failures);
        let mut pause = pauses.next().copied().unwrap_or(BACKOFF[BACKOFF.len() - 1]);
        if !self.is_proven {
            let most = usize::try_from(self.retries.per_hour).unwrap_or(usize::MAX).min(MAX_RECENT);
            let oldest = self.recent.len().checked_sub(most).and_then(|index| self.recent.get(index));
            let quota = oldest.map_or(Duration::ZERO, |began| (*began + HOUR).saturating_duration_since(now));
            pause = pause.max(self.retries.interval).max(quota);
        }
        self.failures += 1;
        match self.up_since {
            Some(_) => self.renew = Some(now + pause),
            None => self.next = Some(now + pause),
        }
    }

    /// The age at which paths die, if the last two died at the same.
    fn regular_age(&self) -> Option<Duration> {
        let mut last = self.ages.iter().rev();
        let (one, other) = (*last.next()?, *last.next()?);
        let (least, most) = (one.min(other), one.max(other));
        (least.as_secs_f64() >= most.as_secs_f64() * (1.0 - SAME_AGE)).then_some(least)
    }
}

#[cfg(test)]
#[path = "path/tests.rs"]
mod tests;
