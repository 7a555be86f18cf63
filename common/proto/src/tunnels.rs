//! How many data tunnels a client holds, and which one a new stream takes.
//!
//! # The policy
//! A client begins with one tunnel. Once a second both ends look at what each tunnel carried in the last second. If
//! every tunnel is *busy*, the client adds one (the server asks it to), up to its own and the server's limit; one at a
//! time, because a new tunnel changes the load of the others. A tunnel is busy when at least two streams had a part
//! (one stream stays on its tunnel, so a second tunnel would not help it) in moving [`BUSY_BYTES`] or in waiting for
//! the socket most of the time; or when it holds [`CROWDED`] streams. After
//! [`CALM`] in which one tunnel fewer would have done, the youngest is retired: its streams switch to the others
//! without a pause, then it is closed.

use std::time::{Duration, Instant};

/// Bytes a second above which a tunnel with several active streams is busy: far more than an interactive load, and
/// little enough that a second core is put to use early.
pub const BUSY_BYTES: u64 = 32 * 1024 * 1024;

/// Streams on one tunnel above which another is added.
pub const CROWDED: usize = 4096;

/// How long the load must be low before a tunnel is retired.
pub const CALM: Duration = Duration::from_secs(30);

/// What one tunnel carried in the last second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes in both directions.
    pub bytes: u64,
    /// Streams that moved more than a few bytes.
    pub active: usize,
    /// Streams attached now.
    pub streams: usize,
    /// This end waited for the socket to take more for most of the time.
    pub congested: bool,
}

/// What to do about the number of tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Nothing.
    Keep,
    /// Dial one more.
    Add,
    /// Retire the youngest.
    Retire,
}

/// The policy's memory.
#[derive(Debug)]
pub struct Tunnels {
    at_least: usize,
    at_most: usize,
    calm_since: Option<Instant>,
}

impl Tunnels {
    /// A policy between `at_least` (from the start, whatever the load) and `at_most` tunnels.
    pub fn new(at_least: usize, at_most: usize) -> Self {
        let at_most = at_most.max(1);
        Tunnels { at_least: at_least.clamp(1, at_most), at_most, calm_since: None }
    }

    /// Most tunnels there may be.
    pub fn most(&self) -> usize {
        self.at_most
    }

    /// Judges the last second.
    pub fn advise(&mut self, loads: &[Load], now: Instant) -> Advice {
        if loads.is_empty() {
            return Advice::Keep;
        }
        if loads.len() < self.at_least {
            return Advice::Add;
        }
        if loads.iter().all(|load| load.is_busy()) {
            self.calm_since = None;
            return if loads.len() < self.at_most { Advice::Add } else { Advice::Keep };
        }
        let streams: usize = loads.iter().map(|load| load.streams).sum();
        let bytes: u64 = loads.iter().map(|load| load.bytes).sum();
        let fewer = loads.len() - 1;
        let enough = fewer >= self.at_least
            && !loads.iter().any(|load| load.congested)
            && streams <= fewer * CROWDED / 2
            && bytes <= fewer as u64 * BUSY_BYTES / 2;
        if !enough {
            self.calm_since = None;
            return Advice::Keep;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.saturating_duration_since(since) < CALM {
            return Advice::Keep;
        }
        self.calm_since = None;
        Advice::Retire
    }
}

impl Load {
    /// True if another tunnel would help.
    pub fn is_busy(self) -> bool {
        self.streams >= CROWDED || (self.active >= 2 && (self.bytes >= BUSY_BYTES || self.congested))
    }

    /// How attractive a tunnel is for a new stream: the lower the better.
    ///
    /// Bytes of the last second count most; among idle tunnels the number of streams decides.
    pub fn rank(self) -> (u64, usize) {
        (self.bytes / (BUSY_BYTES / 64), self.streams)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the origin of clocks that only these tests turn")]
mod tests {
    use super::*;

    const IDLE: Load = Load { bytes: 0, active: 0, streams: 3, congested: false };
    const BUSY: Load = Load { bytes: BUSY_BYTES, active: 2, streams: 2, congested: false };

    #[test]
    fn tunnels_are_added_one_at_a_time_while_all_are_busy_and_never_beyond_the_limit() {
        let now = Instant::now();
        let mut tunnels = Tunnels::new(1, 3);
        assert_eq!(tunnels.advise(&[IDLE], now), Advice::Keep);
        assert_eq!(tunnels.advise(&[BUSY], now), Advice::Add);
        assert_eq!(tunnels.advise(&[BUSY, IDLE], now), Advice::Keep);
        assert_eq!(tunnels.advise(&[BUSY, BUSY], now), Advice::Add);
        assert_eq!(tunnels.advise(&[BUSY, BUSY, BUSY], now), Advice::Keep);
        let lone = Load { bytes: 10 * BUSY_BYTES, active: 1, streams: 9, congested: true };
        assert_eq!(
            tunnels.advise(&[lone], now),
            Advice::Keep,
            "one stream gains nothing from a second tunnel"
        );
        let slow = Load { congested: true, active: 2, ..IDLE };
        assert_eq!(tunnels.advise(&[slow], now), Advice::Add, "a slow path is busy with few bytes");
        assert_eq!(tunnels.advise(&[Load { streams: CROWDED, ..IDLE }], now), Advice::Add);
    }

    #[test]
    fn a_tunnel_is_retired_only_after_a_long_calm() {
        let now = Instant::now();
        let mut tunnels = Tunnels::new(1, 4);
        assert_eq!(tunnels.advise(&[IDLE, IDLE], now), Advice::Keep);
        assert_eq!(tunnels.advise(&[BUSY, IDLE], now + CALM / 2), Advice::Keep);
        assert_eq!(tunnels.advise(&[IDLE, IDLE], now + CALM), Advice::Keep);
        assert_eq!(tunnels.advise(&[IDLE, IDLE], now + 2 * CALM), Advice::Retire);
        assert_eq!(tunnels.advise(&[IDLE], now + 4 * CALM), Advice::Keep);
    }

    #[test]
    fn without_multiplexing_preference_all_tunnels_are_opened_at_once() {
        let now = Instant::now();
        let mut tunnels = Tunnels::new(4, 4);
        assert_eq!(tunnels.advise(&[IDLE], now), Advice::Add);
        assert_eq!(tunnels.advise(&[IDLE; 4], now), Advice::Keep);
    }
}
