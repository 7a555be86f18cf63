//! When a link's buffer is not worth its memory any more.

/// Less than this is what an idle link moves: heartbeats.
const LITTLE: usize = 4 * 1024;

/// Counts how often in a row little was moved.
#[derive(Debug, Default)]
pub(super) struct Idleness(u8);

impl Idleness {
    /// Moves of little in a row after which a link is idle.
    pub(super) const PATIENCE: u8 = 8;

    /// So many bytes were moved at once.
    pub(super) fn note(&mut self, bytes: usize) {
        self.0 = if bytes >= LITTLE { 0 } else { self.0.saturating_add(1) };
    }

    /// True if buffers should go.
    pub(super) fn is_idle(&self) -> bool {
        self.0 >= Self::PATIENCE
    }
}
