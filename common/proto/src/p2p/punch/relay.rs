//! The round trip of the messages between the two ends, which tells when both start at the same time.

use std::time::{Duration, Instant};

/// Most echoes of one attempt.
const MAX_ECHOES: u32 = 4;

/// Longest round trip that is waited for; beyond, the ends start apart.
pub(super) const MAX_ROUND_TRIP: Duration = Duration::from_secs(2);

/// Echoes and what they measured.
#[derive(Debug, Default)]
pub(super) struct RelayClock {
    sent: Vec<Instant>,
    /// The first echo that was sent when the peer was known to listen.
    trusted_from: Option<u32>,
    best: Option<Duration>,
    trusted: bool,
}

impl RelayClock {
    /// The id of an echo to send now. An echo sent before anything came from the peer may wait for it to begin.
    pub(super) fn echo(&mut self, peer_listens: bool, now: Instant) -> Option<u32> {
        let id = u32::try_from(self.sent.len()).ok().filter(|id| *id < MAX_ECHOES)?;
        self.sent.push(now);
        if peer_listens && self.trusted_from.is_none() {
            self.trusted_from = Some(id);
        }
        Some(id)
    }

    /// A reply came.
    pub(super) fn handle_reply(&mut self, id: u32, now: Instant) {
        let Some(sent) = self.sent.get(id as usize) else { return };
        let sample = now.saturating_duration_since(*sent).min(MAX_ROUND_TRIP);
        self.best = Some(self.best.map_or(sample, |best| best.min(sample)));
        self.trusted |= self.trusted_from.is_some_and(|from| id >= from);
    }

    /// The round trip, once it is certain that it holds no waiting for the peer to begin.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.best.filter(|_| self.trusted)
    }
}
