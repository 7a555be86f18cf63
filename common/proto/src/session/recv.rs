//! The receiving half of a stream: bytes put back in order, and when to acknowledge them.

use crate::limits::{ACK_DELAY, CHUNK_OVERHEAD, MAX_DATA, MAX_WINDOW};
use crate::wire::stream::ResetCode;
use bytes::{Buf, Bytes};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// What the peer's half ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PeerEnd {
    Fin(u64),
    Reset(u64, ResetCode),
}

impl PeerEnd {
    fn at(self) -> u64 {
        match self {
            PeerEnd::Fin(at) | PeerEnd::Reset(at, _) => at,
        }
    }

    /// What the end counts in acknowledgements, as [`super::send::End::weight`].
    fn weight(self) -> u64 {
        match self {
            PeerEnd::Fin(_) => 1,
            PeerEnd::Reset(..) => 2,
        }
    }
}

/// The peer sent more than it may, or contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the stream protocol: {0}")]
pub struct Violation(pub &'static str);

/// What the application gets next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// The peer has sent all it will.
    Fin,
    /// The peer aborted the stream.
    Reset(ResetCode),
}

/// Bytes in one piece, and whether their sender wants to know at once that they are delivered.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    prompt: bool,
}

impl Piece {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Received bytes that are not delivered yet.
#[derive(Debug, Default)]
pub struct RecvHalf {
    /// In order, ready for the application.
    ready: VecDeque<Piece>,
    /// Ahead of a gap, by offset; never overlapping each other.
    early: BTreeMap<u64, Piece>,
    /// Bytes in `ready` and `early`.
    held: u64,
    /// Offset behind the last byte received in order.
    received: u64,
    /// Bytes taken by the application; its end counts as one more.
    delivered: u64,
    end: Option<PeerEnd>,
    end_delivered: bool,
    /// When delivered bytes must be acknowledged if nothing carries it earlier.
    ack_at: Option<Instant>,
}

impl RecvHalf {
    /// How far the half has received in order: where the peer may resume. The end counts, as in an
    /// acknowledgement, once all before it is there.
    pub fn received(&self) -> u64 {
        self.received + self.end.filter(|end| end.at() <= self.received).map_or(0, PeerEnd::weight)
    }

    /// What the last acknowledgement says when everything is delivered.
    pub fn final_ack(&self) -> u64 {
        self.delivered
    }

    /// Bytes held.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// True once the peer's end was delivered.
    pub fn is_done(&self) -> bool {
        self.end_delivered
    }

    /// True if the peer aborted the stream, delivered or not.
    pub fn is_reset(&self) -> bool {
        matches!(self.end, Some(PeerEnd::Reset(..)))
    }

    /// Takes bytes that arrived over any link, in any order, any number of times. `prompt`: they are to be acknowledged
    /// as soon as they are delivered.
    ///
    /// # Errors
    /// [`Violation`] if they lie beyond what an honest sender would send.
    pub fn handle_data(&mut self, offset: u64, payload: Bytes, prompt: bool) -> Result<(), Violation> {
        let end = offset.checked_add(payload.len() as u64).ok_or(Violation("an offset beyond 64 bits"))?;
        if end > self.delivered + MAX_WINDOW + MAX_DATA as u64 {
            return Err(Violation("more unacknowledged bytes than the window allows"));
        }
        if self.end.is_some_and(|known| end > known.at()) {
            return Err(Violation("bytes beyond the end"));
        }
        if end <= self.received || self.end_delivered {
            return Ok(());
        }
        // Tiny pieces cost far more than their bytes; an honest sender has charged itself for that, too.
        let pieces = (self.ready.len() + self.early.len()) as u64;
        if self.held + pieces * CHUNK_OVERHEAD > MAX_WINDOW + MAX_DATA as u64 {
            return Err(Violation("more pieces than the window allows"));
        }
        let mut piece = Piece { bytes: payload, prompt };
        if offset <= self.received {
            piece.bytes.advance((self.received - offset) as usize);
            self.accept(piece);
            self.drain_early();
        } else {
            self.insert_early(offset, piece);
        }
        Ok(())
    }

    /// The peer's half ends after `offset` bytes.
    ///
    /// # Errors
    /// [`Violation`] if that contradicts what was received.
    pub fn handle_fin(&mut self, offset: u64) -> Result<(), Violation> {
        self.handle_end(PeerEnd::Fin(offset), offset)
    }

    /// The peer aborted the stream after `offset` bytes.
    ///
    /// # Errors
    /// [`Violation`] if that contradicts what was received.
    pub fn handle_reset(&mut self, offset: u64, code: ResetCode) -> Result<(), Violation> {
        self.handle_end(PeerEnd::Reset(offset, code), offset)
    }

    /// What the application gets next; `None` until more arrives.
    pub fn next(&self) -> Option<Next<'_>> {
        if let Some(front) = self.ready.front() {
            return Some(Next::Data(&front.bytes));
        }
        match self.end? {
            _ if self.end_delivered => None,
            PeerEnd::Fin(at) => (at == self.received).then_some(Next::Fin),
            PeerEnd::Reset(at, code) => (at == self.received).then_some(Next::Reset(code)),
        }
    }

    /// The reset that the peer sent, although bytes before it are missing or untaken.
    pub fn early_reset(&self) -> Option<ResetCode> {
        match self.end {
            Some(PeerEnd::Reset(_, code)) if !self.end_delivered => Some(code),
            _ => None,
        }
    }

    /// The application took `len` bytes of what [`RecvHalf::next`] showed.
    pub fn consume(&mut self, len: usize, now: Instant) {
        let Some(front) = self.ready.front_mut() else { return };
        let len = len.min(front.bytes.len());
        front.bytes.advance(len);
        let prompt = front.prompt && front.bytes.is_empty();
        if front.bytes.is_empty() {
            self.ready.pop_front();
            if self.ready.is_empty() && self.ready.capacity() > 8 {
                self.ready = VecDeque::new();
            }
        }
        self.held -= len as u64;
        self.delivered += len as u64;
        let due = if prompt { now } else { now + ACK_DELAY };
        self.ack_at = Some(self.ack_at.map_or(due, |at| at.min(due)));
    }

    /// The application took the end that [`RecvHalf::next`] showed, or is made to take a reset early. `last`: nothing
    /// follows from this side that the acknowledgement of an orderly end could ride along with.
    pub fn consume_end(&mut self, now: Instant, last: bool) {
        let Some(end) = self.end else { return };
        self.end_delivered = true;
        self.discard();
        self.received = end.at();
        self.delivered = end.at() + end.weight();
        let due = if last || self.is_reset() { now } else { now + ACK_DELAY };
        self.ack_at = Some(self.ack_at.map_or(due, |at| at.min(due)));
    }

    /// The application takes nothing any more: what is held is dropped.
    pub fn discard(&mut self) {
        self.ready = VecDeque::new();
        self.early = BTreeMap::new();
        self.held = 0;
    }

    /// The acknowledgement to send, if it is due at `now` or if something `departs` that it can ride along with.
    pub fn take_ack(&mut self, departs: bool, now: Instant) -> Option<u64> {
        let due = self.ack_at.is_some_and(|at| departs || at <= now);
        due.then(|| {
            self.ack_at = None;
            self.delivered
        })
    }

    /// When [`RecvHalf::take_ack`] has something to say at the latest.
    pub fn ack_deadline(&self) -> Option<Instant> {
        self.ack_at
    }

    /// The last acknowledgement may have been lost with its link: it is due again.
    pub fn repeat_ack(&mut self, now: Instant) {
        if self.delivered > 0 {
            self.ack_at = Some(now);
        }
    }

    /// True if an acknowledgement waits to be sent.
    pub fn owes_ack(&self) -> bool {
        self.ack_at.is_some()
    }

    fn handle_end(&mut self, end: PeerEnd, at: u64) -> Result<(), Violation> {
        match (self.end, end) {
            (None, _) => {}
            (Some(known), _) if known.at() != at => return Err(Violation("two different ends")),
            // An abort may follow an orderly end, never the other way round.
            (Some(PeerEnd::Fin(_)), PeerEnd::Reset(..)) => {
                self.end = Some(end);
                self.end_delivered = false;
                return Ok(());
            }
            (Some(_), _) => return Ok(()),
        }
        let farthest = self.early.last_key_value().map_or(0, |(offset, piece)| offset + piece.len());
        if at < self.received.max(farthest) {
            return Err(Violation("an end before bytes that were received"));
        }
        if at > self.delivered + MAX_WINDOW + MAX_DATA as u64 {
            return Err(Violation("an end beyond the window"));
        }
        self.end = Some(end);
        Ok(())
    }

    fn accept(&mut self, piece: Piece) {
        self.received += piece.len();
        self.held += piece.len();
        self.ready.push_back(piece);
    }

    fn insert_early(&mut self, offset: u64, mut piece: Piece) {
        let mut at = offset;
        if let Some((&before, known)) = self.early.range(..=offset).next_back() {
            let covered = (before + known.len()).saturating_sub(offset);
            if covered >= piece.len() {
                return;
            }
            piece.bytes.advance(covered as usize);
            at += covered;
        }
        // Nothing covers the payload at its front; what it covers itself is replaced.
        while let Some((&after, known)) = self.early.range(at..).next() {
            let end = at + piece.len();
            if after >= end {
                break;
            }
            if after + known.len() > end {
                piece.bytes.truncate((after - at) as usize);
                break;
            }
            self.held -= known.len();
            piece.prompt |= known.prompt;
            self.early.remove(&after);
        }
        if piece.len() > 0 {
            self.held += piece.len();
            self.early.insert(at, piece);
        }
    }

    fn drain_early(&mut self) {
        while let Some(entry) = self.early.first_entry() {
            let offset = *entry.key();
            if offset > self.received {
                return;
            }
            let mut piece = entry.remove();
            self.held -= piece.len();
            let known = self.received - offset;
            if known < piece.len() {
                piece.bytes.advance(known as usize);
                self.accept(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_clock;
    use super::*;

    fn bytes(range: std::ops::Range<u8>) -> Bytes {
        Bytes::from(range.collect::<Vec<_>>())
    }

    fn take_all(half: &mut RecvHalf, now: Instant) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(Next::Data(data)) = half.next() {
            let len = data.len();
            out.extend_from_slice(data);
            half.consume(len, now);
        }
        out
    }

    #[test]
    fn pieces_in_any_order_and_overlap_come_out_once_and_in_order() {
        let now = test_clock();
        let mut half = RecvHalf::default();
        for (offset, range) in [(10, 10..20), (4, 4..6), (5, 5..12), (15, 15..30), (0, 0..2), (25, 25..28)] {
            half.handle_data(offset, bytes(range), false).unwrap();
        }
        assert_eq!(take_all(&mut half, now), [0, 1]);
        half.handle_data(1, bytes(1..5), false).unwrap();
        assert_eq!(take_all(&mut half, now), (2..30).collect::<Vec<u8>>());
        assert_eq!((half.held(), half.received()), (0, 30));
    }

    #[test]
    fn the_end_waits_for_the_bytes_before_it_and_is_acknowledged_as_one_byte() {
        let now = test_clock();
        let mut half = RecvHalf::default();
        half.handle_fin(3).unwrap();
        assert_eq!(half.next(), None);
        half.handle_data(0, bytes(0..3), false).unwrap();
        assert_eq!(take_all(&mut half, now), [0, 1, 2]);
        assert_eq!(half.next(), Some(Next::Fin));
        half.consume_end(now, true);
        assert_eq!(half.take_ack(false, now), Some(4));
        half.handle_fin(3).unwrap();
        assert_eq!(half.next(), None, "a repeated end is delivered once");
    }

    #[test]
    fn an_abort_after_a_delivered_end_is_delivered_too() {
        let now = test_clock();
        let mut half = RecvHalf::default();
        half.handle_fin(0).unwrap();
        half.consume_end(now, true);
        assert!(half.is_done());
        half.handle_reset(0, ResetCode::Aborted).unwrap();
        assert_eq!(half.next(), Some(Next::Reset(ResetCode::Aborted)));
        half.consume_end(now, true);
        assert_eq!(half.take_ack(false, now), Some(2));
    }

    #[test]
    fn what_asks_for_it_is_acknowledged_when_its_last_byte_is_delivered_and_the_rest_after_a_while() {
        let now = test_clock();
        let mut half = RecvHalf::default();
        half.handle_data(0, bytes(0..4), false).unwrap();
        half.consume(4, now);
        assert_eq!(half.take_ack(false, now), None);
        assert_eq!(half.ack_deadline(), Some(now + ACK_DELAY));
        half.handle_data(8, bytes(8..12), true).unwrap();
        half.handle_data(4, bytes(4..9), false).unwrap();
        half.consume(5, now);
        half.consume(2, now);
        assert_eq!(half.take_ack(false, now), None, "its last byte is not delivered");
        half.consume(1, now);
        assert_eq!(half.take_ack(false, now), Some(12));
        assert_eq!(half.take_ack(true, now), None);
    }

    #[test]
    fn a_sender_that_ignores_the_window_or_its_own_end_is_caught() {
        let mut half = RecvHalf::default();
        assert!(half.handle_data(MAX_WINDOW + MAX_DATA as u64, bytes(0..1), false).is_err());
        assert!(half.handle_data(u64::MAX, bytes(0..2), false).is_err());
        half.handle_data(0, bytes(0..9), false).unwrap();
        assert!(half.handle_fin(4).is_err());
        half.handle_fin(9).unwrap();
        assert!(half.handle_data(9, bytes(0..1), false).is_err());
        assert!(half.handle_fin(10).is_err());
        assert!(half.handle_reset(9, ResetCode::Aborted).is_ok(), "an abort may follow an orderly end");
    }
}
