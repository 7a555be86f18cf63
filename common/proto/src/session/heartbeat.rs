//! When to ask a link for a sign of life, and when to give it up.
//!
//! Any byte that arrives is a sign of life: a link that moves data is never suspected for a late answer. The side
//! that pings asks after `interval` of silence; half of the remaining time later it calls the link suspect, so that
//! a replacement can be prepared while there is still hope; at `timeout` it is dead.

use std::time::{Duration, Instant};

/// The state of one link's heart.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// `None` on the side that only listens.
    interval: Option<Duration>,
    timeout: Duration,
    heard: Instant,
    pinged: Option<Instant>,
    suspected: bool,
    /// There is a reason for doubt: an answer is expected sooner.
    doubted: bool,
}

/// How soon a link answers that there is a reason to doubt: a round trip around the world, and as much again.
const URGENT: Duration = Duration::from_millis(700);

/// What the driver should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a ping.
    Ping,
    /// The link has been silent for longer than it should: prepare another.
    Suspect,
    /// The link is dead.
    Dead,
}

impl Heartbeat {
    /// A heart that asks: after `interval` without a sign of life, dead after `timeout`.
    pub fn asking(interval: Duration, timeout: Duration, now: Instant) -> Self {
        let timeout = timeout.max(interval + Duration::from_millis(500));
        Heartbeat {
            interval: Some(interval),
            timeout,
            heard: now,
            pinged: None,
            suspected: false,
            doubted: false,
        }
    }

    /// A heart that listens to a peer which asks every `promised`: dead after `timeout`, or after three of the
    /// peer's intervals if that is longer.
    pub fn listening(promised: Duration, timeout: Duration, now: Instant) -> Self {
        let timeout = timeout.max(3 * promised);
        Heartbeat { interval: None, timeout, heard: now, pinged: None, suspected: false, doubted: false }
    }

    /// Something arrived over the link, at `at`.
    pub fn handle_heard(&mut self, at: Instant) {
        if at > self.heard {
            self.heard = at;
            self.pinged = None;
            self.suspected = false;
            self.doubted = false;
        }
    }

    /// Something else says that the network may have changed: asks now, and suspects the link soon if it does not answer.
    pub fn handle_doubt(&mut self, now: Instant) {
        if self.interval.is_some() && !self.suspected {
            // The link has to answer after this moment, whatever was heard before.
            self.heard = now;
            self.pinged = None;
            self.doubted = true;
        }
    }

    /// What to do at `now`.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if now >= self.heard + self.timeout {
            return Some(Action::Dead);
        }
        let interval = self.interval?;
        if self.pinged.is_none() && (self.doubted || now >= self.heard + interval) {
            self.pinged = Some(now);
            return Some(Action::Ping);
        }
        if !self.suspected && now >= self.suspect_at(interval) {
            self.suspected = true;
            return Some(Action::Suspect);
        }
        None
    }

    /// When [`Heartbeat::poll`] has something to say at the latest.
    pub fn poll_timeout(&self) -> Instant {
        let dead = self.heard + self.timeout;
        match self.interval {
            None => dead,
            Some(_) if self.pinged.is_none() && self.doubted => self.heard,
            Some(interval) if self.pinged.is_none() => dead.min(self.heard + interval),
            Some(interval) if !self.suspected => dead.min(self.suspect_at(interval)),
            Some(_) => dead,
        }
    }

    fn suspect_at(&self, interval: Duration) -> Instant {
        match self.doubted {
            true => self.heard + URGENT,
            false => self.heard + interval + (self.timeout - interval) / 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the origin of a clock that only this test turns")]
    fn silence_leads_from_a_ping_over_suspicion_to_death_and_any_byte_leads_back() {
        let start = Instant::now();
        let mut heart = Heartbeat::asking(3 * SECOND, 9 * SECOND, start);
        assert_eq!(heart.poll(start + 2 * SECOND), None);
        assert_eq!(heart.poll(start + 3 * SECOND), Some(Action::Ping));
        assert_eq!(heart.poll(start + 4 * SECOND), None);
        assert_eq!(heart.poll(start + 5 * SECOND), Some(Action::Suspect));
        heart.handle_heard(start + 6 * SECOND);
        assert_eq!(heart.poll(start + 8 * SECOND), None);
        assert_eq!(heart.poll(start + 9 * SECOND), Some(Action::Ping));
        assert_eq!(heart.poll(start + 15 * SECOND), Some(Action::Dead));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the origin of a clock that only this test turns")]
    fn a_doubt_asks_at_once_and_shortens_the_patience() {
        let start = Instant::now();
        let mut heart = Heartbeat::asking(3 * SECOND, 9 * SECOND, start);
        heart.handle_doubt(start + SECOND);
        assert_eq!(heart.poll_timeout(), start + SECOND);
        assert_eq!(heart.poll(start + SECOND), Some(Action::Ping));
        assert_eq!(heart.poll_timeout(), start + SECOND + URGENT);
        let mut silent = heart.clone();
        assert_eq!(silent.poll(start + SECOND + URGENT), Some(Action::Suspect));
        heart.handle_heard(start + SECOND + URGENT / 2);
        assert_eq!(heart.poll(start + SECOND + URGENT), None);
        assert_eq!(heart.poll_timeout(), start + SECOND + URGENT / 2 + 3 * SECOND);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the origin of a clock that only this test turns")]
    fn a_listener_grants_three_of_the_peers_intervals() {
        let start = Instant::now();
        let mut heart = Heartbeat::listening(30 * SECOND, 9 * SECOND, start);
        assert_eq!(heart.poll_timeout(), start + 90 * SECOND);
        assert_eq!(heart.poll(start + 89 * SECOND), None);
        assert_eq!(heart.poll(start + 90 * SECOND), Some(Action::Dead));
    }
}
