//! The sending half of a stream: what is not acknowledged yet, and how much of that there may be.
//!
//! Chunks are kept as they were read, with room for their frame header in front, so that the first transmission
//! of a chunk copies nothing. Acknowledged bytes are dropped at once.
//!
//! # The window
//! A stream may hold `window` unacknowledged bytes. It doubles, up to [`MAX_WINDOW`], when all of these hold: the
//! window was what held the stream back, a whole window has been acknowledged since it last grew, and
//! acknowledgements take no longer than twice the shortest latency seen on this path (plus a slack for noise on
//! fast networks). The last condition is the one of delay-based congestion control (Brakmo and Peterson, "TCP
//! Vegas", 1995): when latency has doubled, more bytes in flight only stand in a queue. So a slow reader or a thin
//! line keeps the small window, and a long fat one grows to what it can carry.
//!
//! # Acknowledgements
//! Only the sender knows how much it may have unacknowledged, so it says when it wants to hear: every quarter of that,
//! and every [`ACK_EVERY`] at least, one chunk asks for a prompt acknowledgement. What does not ask is acknowledged
//! with the next that does, or when the receiver has waited long enough for something to ride along with.

use super::budget::{Budget, Share};
use crate::limits::{
    ACK_EVERY, CHUNK_OVERHEAD, DATA_HEADROOM, INITIAL_WINDOW, MAX_DATA, MAX_WINDOW, QUEUEING_SLACK,
    WINDOW_FLOOR,
};
use crate::wire::stream::{ResetCode, put_data_header};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How the sending half ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All bytes were sent.
    Fin,
    /// The stream was aborted.
    Reset(ResetCode),
}

impl End {
    /// What an end counts in acknowledgements: an abort may follow an orderly end and is told from it.
    pub fn weight(self) -> u64 {
        match self {
            End::Fin => 1,
            End::Reset(_) => 2,
        }
    }
}

/// Unacknowledged bytes and the end of one direction.
#[derive(Debug)]
pub struct SendHalf {
    chunks: VecDeque<Chunk>,
    /// Everything before is acknowledged.
    acked: u64,
    /// Number of bytes written by the application so far.
    end: u64,
    ending: Option<End>,
    /// The end itself is acknowledged.
    ended: bool,
    /// The peer aborted the stream.
    abandoned: bool,
    share: Share,
    window: Window,
    /// Cost of the chunks since the last one that asks for an acknowledgement.
    unasked: u64,
}

#[derive(Debug)]
struct Chunk {
    offset: u64,
    /// Frame header and payload; `start` is where the header begins.
    frame: Bytes,
    start: u8,
}

impl Chunk {
    fn len(&self) -> u64 {
        (self.frame.len() - DATA_HEADROOM) as u64
    }

    fn end(&self) -> u64 {
        self.offset + self.len()
    }

    fn cost(&self) -> u64 {
        self.len() + CHUNK_OVERHEAD
    }
}

/// Bytes to send: either a frame that is complete, header included, or a payload that still needs its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A data frame as it goes over the wire, and the offset behind it.
    Frame(Bytes, u64),
    /// The rest of a chunk, from this offset on.
    Part(u64, Bytes),
}

impl SendHalf {
    /// An empty half that draws on `budget`.
    pub fn new(budget: Arc<Budget>) -> Self {
        SendHalf {
            chunks: VecDeque::new(),
            acked: 0,
            end: 0,
            ending: None,
            ended: false,
            abandoned: false,
            share: Share::new(budget),
            window: Window::new(),
            unasked: 0,
        }
    }

    /// Offset before which everything is acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Number of bytes written by the application.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How the half ends, if the application has said so.
    pub fn ending(&self) -> Option<End> {
        self.ending
    }

    /// True once everything, the end included, is acknowledged.
    pub fn is_done(&self) -> bool {
        self.ended
    }

    /// Memory held, chunk overhead included.
    pub fn held(&self) -> u64 {
        self.share.held()
    }

    /// Payload bytes that the application may write now; 0 once it has ended the half.
    pub fn room(&mut self) -> usize {
        if self.ending.is_some() {
            return 0;
        }
        let own = self.window.size.saturating_sub(self.share.held());
        let shared = self.share.available(WINDOW_FLOOR);
        let room = own.min(shared).saturating_sub(CHUNK_OVERHEAD);
        if own <= CHUNK_OVERHEAD {
            self.window.limited = true;
        }
        (room as usize).min(MAX_DATA)
    }

    /// Takes bytes from the application: `frame` is [`DATA_HEADROOM`] free bytes and a payload of at most
    /// [`SendHalf::room`] bytes.
    pub fn push(&mut self, mut frame: BytesMut) {
        let Some(len) = frame.len().checked_sub(DATA_HEADROOM).filter(|len| (1..=MAX_DATA).contains(len))
        else {
            debug_assert!(
                frame.len() == DATA_HEADROOM,
                "a chunk needs its headroom and at most MAX_DATA bytes"
            );
            return;
        };
        let prompt = self.wants_ack(len as u64 + CHUNK_OVERHEAD);
        let mut start = DATA_HEADROOM;
        if let Some(headroom) = frame.first_chunk_mut::<DATA_HEADROOM>() {
            start = put_data_header(headroom, self.end, len, prompt);
        }
        let chunk = Chunk { offset: self.end, frame: frame.freeze(), start: start as u8 };
        self.end = chunk.end();
        self.share.reserve(chunk.cost());
        self.chunks.push_back(chunk);
    }

    /// The application has written all it will, or aborts: also after an orderly end.
    ///
    /// `transmitted` is the highest offset that left for any link: an abort takes back what lies behind.
    pub fn finish(&mut self, end: End, transmitted: u64) {
        match (self.ending, end) {
            _ if self.abandoned => {}
            (None, End::Fin) => self.ending = Some(end),
            (None | Some(End::Fin), End::Reset(_)) => {
                self.ending = Some(end);
                self.ended = false;
                self.take_back(transmitted);
            }
            (Some(_), _) => {}
        }
    }

    /// The bytes at `offset`, which is at or after [`SendHalf::acked`]; `None` at the end.
    pub fn piece(&self, offset: u64) -> Option<Piece> {
        let at = match self.chunks.back() {
            Some(last) if last.offset == offset => self.chunks.len() - 1,
            _ => self.chunks.partition_point(|chunk| chunk.end() <= offset),
        };
        let chunk = self.chunks.get(at)?;
        if chunk.offset == offset {
            let mut frame = chunk.frame.clone();
            frame.advance(usize::from(chunk.start));
            return Some(Piece::Frame(frame, chunk.end()));
        }
        let skip = offset.checked_sub(chunk.offset)? as usize;
        Some(Piece::Part(offset, chunk.frame.slice(DATA_HEADROOM + skip..)))
    }

    /// The peer has delivered everything before `offset`; the end counts as one byte.
    ///
    /// Returns false if it cannot have: then the peer broke the protocol.
    #[must_use]
    pub fn handle_ack(&mut self, offset: u64, now: Instant) -> bool {
        let most = self.end + self.ending.map_or(0, End::weight);
        if offset > most {
            return false;
        }
        if offset == most && self.ending.is_some() {
            self.ended = true;
            self.release_all();
        }
        let offset = offset.min(self.end);
        if offset <= self.acked {
            return true;
        }
        self.window.handle_ack(self.acked, offset, now);
        self.acked = offset;
        while let Some(chunk) = self.chunks.front().filter(|chunk| chunk.end() <= offset) {
            let cost = chunk.cost();
            self.share.release(cost);
            self.chunks.pop_front();
        }
        true
    }

    /// Notes that bytes up to `end` left for a link at `now`, to learn how long their acknowledgement takes.
    pub fn handle_sent(&mut self, end: u64, now: Instant) {
        if self.window.sample.is_none() && end > self.acked {
            self.window.sample = Some((end, now));
        }
    }

    /// The stream goes on over another path, whose latency is not known.
    pub fn handle_path_change(&mut self) {
        self.window.sample = None;
        self.window.shortest = None;
    }

    /// The peer aborted the stream: nothing of this half matters any more.
    pub fn abandon(&mut self) {
        self.ended = true;
        self.abandoned = true;
        self.ending.get_or_insert(End::Fin);
        self.release_all();
    }

    /// True if a chunk of this cost, about to be queued, is to ask for an acknowledgement.
    fn wants_ack(&mut self, cost: u64) -> bool {
        self.unasked += cost;
        let shared = self.share.held() + self.share.available(WINDOW_FLOOR);
        let wanted = self.unasked >= (self.window.size.min(shared) / 4).min(ACK_EVERY);
        if wanted {
            self.unasked = 0;
        }
        wanted
    }

    fn take_back(&mut self, transmitted: u64) {
        while let Some(chunk) = self.chunks.back().filter(|chunk| chunk.end() > transmitted) {
            let (offset, cost) = (chunk.offset, chunk.cost());
            if offset < transmitted {
                break;
            }
            self.share.release(cost);
            self.chunks.pop_back();
            self.end = offset;
        }
    }

    fn release_all(&mut self) {
        self.chunks = VecDeque::new();
        self.share.release(self.share.held());
    }
}

/// How many bytes may be unacknowledged, and the measurements that decide when it grows.
#[derive(Debug)]
struct Window {
    size: u64,
    /// The window was full at some time since it last grew.
    limited: bool,
    /// Bytes acknowledged since it last grew.
    acked: u64,
    /// An offset whose acknowledgement is being timed, and since when.
    sample: Option<(u64, Instant)>,
    shortest: Option<Duration>,
}

impl Window {
    fn new() -> Self {
        Window { size: INITIAL_WINDOW, limited: false, acked: 0, sample: None, shortest: None }
    }

    fn handle_ack(&mut self, from: u64, to: u64, now: Instant) {
        self.acked += to - from;
        let Some((offset, since)) = self.sample else { return };
        if to < offset {
            return;
        }
        self.sample = None;
        let latency = now.saturating_duration_since(since);
        let shortest = *self.shortest.insert(self.shortest.map_or(latency, |s| s.min(latency)));
        let unqueued = latency <= 2 * shortest + QUEUEING_SLACK;
        if self.limited && unqueued && self.acked >= self.size {
            self.size = (2 * self.size).min(MAX_WINDOW);
            self.limited = false;
            self.acked = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_clock;
    use super::*;

    fn chunk(payload: &[u8]) -> BytesMut {
        let mut frame = BytesMut::zeroed(DATA_HEADROOM);
        frame.extend_from_slice(payload);
        frame
    }

    fn fill(half: &mut SendHalf) -> u64 {
        let mut written = 0;
        loop {
            let room = half.room();
            if room == 0 {
                return written;
            }
            half.push(chunk(&vec![1; room]));
            written += room as u64;
        }
    }

    #[test]
    fn acknowledged_bytes_are_freed_and_the_rest_can_be_sent_again_from_any_offset() {
        let now = test_clock();
        let budget = Budget::new(1 << 20);
        let mut half = SendHalf::new(budget.clone());
        half.push(chunk(b"hello"));
        half.push(chunk(b"world"));
        assert!(matches!(half.piece(5), Some(Piece::Frame(_, 10))));
        assert_eq!(half.piece(7), Some(Piece::Part(7, Bytes::from_static(b"rld"))));
        assert!(half.handle_ack(5, now));
        assert_eq!(budget.used(), 5 + CHUNK_OVERHEAD);
        half.finish(End::Fin, 10);
        assert!(!half.handle_ack(12, now), "one beyond the end was never sent");
        assert!(half.handle_ack(10, now));
        assert!(!half.is_done(), "the end is not acknowledged yet");
        assert!(half.handle_ack(11, now));
        assert!(half.is_done());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn an_abort_takes_back_what_never_left_and_is_told_from_an_orderly_end() {
        let now = test_clock();
        let budget = Budget::new(1 << 20);
        let mut half = SendHalf::new(budget.clone());
        half.push(chunk(b"hello"));
        half.push(chunk(b"world"));
        half.finish(End::Fin, 5);
        half.finish(End::Reset(ResetCode::Aborted), 5);
        assert_eq!((half.end(), budget.used()), (5, 5 + CHUNK_OVERHEAD));
        assert!(half.handle_ack(6, now));
        assert!(!half.is_done(), "the orderly end was acknowledged, the abort was not");
        assert!(half.handle_ack(7, now));
        assert!(half.is_done());
    }

    #[test]
    fn a_thin_line_keeps_the_first_window_and_a_long_fat_one_grows_it() {
        let start = test_clock();
        let grow = |latency: &dyn Fn(u32) -> Duration| {
            let mut half = SendHalf::new(Budget::new(1 << 30));
            let mut now = start;
            for round in 0..12 {
                fill(&mut half);
                half.handle_sent(half.end(), now);
                now += latency(round);
                assert!(half.handle_ack(half.end(), now));
            }
            half.window.size
        };
        assert_eq!(grow(&|_| Duration::from_millis(100)), MAX_WINDOW);
        let standing_in_a_queue = |round| Duration::from_millis(if round == 0 { 20 } else { 400 });
        assert_eq!(grow(&standing_in_a_queue), INITIAL_WINDOW);
    }

    /// Costs of the chunks up to each that asks for an acknowledgement, while the application writes all it may.
    fn steps(half: &mut SendHalf, len: usize) -> Vec<u64> {
        let (mut steps, mut cost) = (Vec::new(), 0);
        while half.room() > 0 {
            let len = len.min(half.room());
            half.push(chunk(&vec![1; len]));
            cost += len as u64 + CHUNK_OVERHEAD;
            if half.unasked == 0 {
                steps.push(std::mem::take(&mut cost));
            }
        }
        steps
    }

    #[test]
    fn an_acknowledgement_is_asked_for_long_before_the_window_is_full() {
        for len in [1, 100, 2_000, 15_000, MAX_DATA] {
            let mut half = SendHalf::new(Budget::new(1 << 30));
            let chunk = len as u64 + CHUNK_OVERHEAD;
            let asked = steps(&mut half, len);
            assert!(asked.len() >= 2, "{len}: {asked:?}");
            assert!(asked.iter().all(|&step| step < INITIAL_WINDOW / 4 + chunk), "{len}: {asked:?}");
        }
    }

    #[test]
    fn a_wide_window_is_acknowledged_in_steps_and_one_of_a_spent_budget_often() {
        let mut half = SendHalf::new(Budget::new(1 << 30));
        half.window.size = MAX_WINDOW;
        let asked = steps(&mut half, MAX_DATA);
        let most = ACK_EVERY + MAX_DATA as u64 + CHUNK_OVERHEAD;
        assert!(asked.iter().all(|step| (ACK_EVERY..=most).contains(step)), "{asked:?}");
        let mut late = SendHalf::new(Budget::new(0));
        assert_eq!(steps(&mut late, MAX_DATA), [WINDOW_FLOOR], "the only chunk asks");
    }

    #[test]
    fn one_byte_writes_cannot_hold_more_memory_than_the_window() {
        let mut half = SendHalf::new(Budget::new(1 << 30));
        while half.room() > 0 {
            half.push(chunk(b"x"));
        }
        assert!(half.held() <= INITIAL_WINDOW);
    }
}
