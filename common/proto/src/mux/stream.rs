//! One stream of a multiplexed connection: what waits to be sent, and what waits to be read.

use super::{RoundTrip, Violation};
use crate::limits::MAX_FRAME;
use crate::wire::yamux::{ACK, FIN, Header, Kind, RST};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Window of every stream to begin with, in both directions, as the specification of yamux has it.
pub(super) const FIRST_WINDOW: u32 = 256 * 1024;

/// Window that a stream may grow to: what a session stream may have unacknowledged, with its frames' headers.
pub(super) const MOST_WINDOW: u32 = 32 * 1024 * 1024;

/// What a round trip counts for at least, for a stream whose user does not bound by itself what is in flight. On a shorter way
/// it is programs that take turns on processors, and bytes that wait for company, that its window has to bridge; with 1 ms,
/// a relayed stream fills two thirds of a line of 1 Gbit/s.
const ROOMY: Duration = Duration::from_millis(10);

/// Bytes that may wait to be sent before the writer has to wait. What is added last may go beyond.
const QUEUE: usize = MAX_FRAME;

#[derive(Debug)]
pub(super) struct Stream<T> {
    /// Whoever has to be told of news.
    pub(super) owner: T,
    /// Somebody holds the stream; otherwise it is only here until the rest of it is sent.
    pub(super) held: bool,
    /// It is among those that have something to send.
    pub(super) queued: bool,
    /// What the first frame says beside what it carries: that the stream begins, or that it is known.
    greeting: u16,
    /// The peer may have heard of the stream, or opened it.
    known: bool,
    out: VecDeque<Bytes>,
    out_len: usize,
    /// Bytes that the peer takes.
    credit: u32,
    end: End,
    /// The stream is aborted on this side, and the peer does not know.
    abort: bool,
    inbox: VecDeque<Bytes>,
    /// Bytes that the peer may still send.
    window: u32,
    /// The same, when all is read.
    pub(super) most: u32,
    /// Bytes read since the peer was last granted some.
    taken: u32,
    /// Bytes to grant.
    grant: u32,
    granted: Instant,
    /// What a round trip counts for at least.
    least_round_trip: Duration,
    /// The peer has ended its half.
    ended: bool,
    /// The peer has aborted the stream.
    pub(super) reset: bool,
}

/// This side's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Due,
    Sent,
}

/// What can be read of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next bytes.
    Chunk(Bytes),
    /// Nothing yet.
    Nothing,
    /// All there is has been read: the peer has ended its half.
    End,
    /// The peer has aborted the stream.
    Reset,
}

/// A frame to send: `header`, then `payload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The header.
    pub header: Header,
    /// As many bytes as the header says, if it is one of data.
    pub payload: Bytes,
}

impl<T> Stream<T> {
    /// A stream that this side opens, or the peer; `greeting` is accordingly `SYN` or [`ACK`].
    pub(super) fn new(owner: T, greeting: u16, now: Instant) -> Self {
        Stream {
            owner,
            held: true,
            queued: false,
            greeting,
            known: greeting == ACK,
            out: VecDeque::new(),
            out_len: 0,
            credit: FIRST_WINDOW,
            end: End::Open,
            abort: false,
            inbox: VecDeque::new(),
            window: FIRST_WINDOW,
            most: FIRST_WINDOW,
            taken: 0,
            grant: 0,
            granted: now,
            least_round_trip: ROOMY,
            ended: false,
            reset: false,
        }
    }

    // --- the side that writes and reads ---

    /// True if bytes can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.out_len < QUEUE
    }

    pub(super) fn is_writable(&self) -> bool {
        !self.reset && self.end == End::Open
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        self.out_len += chunk.len();
        self.out.push_back(chunk);
    }

    pub(super) fn close(&mut self) {
        if self.end == End::Open {
            self.end = End::Due;
        }
    }

    /// Grows the window by what the way takes alone.
    pub(super) fn tighten(&mut self) {
        self.least_round_trip = Duration::ZERO;
    }

    /// True if this side has ended and the peer has, too.
    pub(super) fn is_ended_by_peer(&self) -> bool {
        self.ended
    }

    /// Nobody holds the stream any more. Returns true if there is nothing of it that the peer would have to learn.
    pub(super) fn release(&mut self) -> bool {
        self.held = false;
        self.inbox = VecDeque::new();
        if self.end == End::Open {
            self.out = VecDeque::new();
            self.out_len = 0;
        }
        self.abort_if_waited_for();
        !self.has_something_left()
    }

    /// Of a stream that nobody holds, the peer has to learn that no more is read and written here. Behind an end in order
    /// it does as soon as it sends to a stream that is gone; without any window left, it would wait for one for ever.
    fn abort_if_waited_for(&mut self) {
        let peer_waits = match self.end {
            End::Open => true,
            End::Due => false,
            End::Sent => !self.ended && self.window == 0,
        };
        self.abort = peer_waits && self.known && !self.held && !self.reset;
    }

    /// The next bytes. `spare` is what windows may grow by yet; `round_trip` tells whether this one is worth it.
    pub(super) fn read(&mut self, now: Instant, round_trip: &mut RoundTrip, spare: &mut usize) -> Read {
        let Some(chunk) = self.inbox.pop_front() else {
            // What the peer ended in order is whole, whatever it thinks of the other half.
            return match (self.ended, self.reset) {
                (true, _) => Read::End,
                (_, true) => Read::Reset,
                _ => Read::Nothing,
            };
        };
        if self.inbox.is_empty() && self.inbox.capacity() > 8 {
            self.inbox = VecDeque::new();
        }
        self.taken += chunk.len() as u32;
        if self.taken >= self.most / 2 && !self.ended && !self.reset {
            self.grow(now, round_trip, spare);
            self.grant += self.taken;
            self.taken = 0;
            self.granted = now;
        }
        Read::Chunk(chunk)
    }

    /// Half a window in less than two round trips: the sender waits for grants, or soon will.
    fn grow(&mut self, now: Instant, round_trip: &mut RoundTrip, spare: &mut usize) {
        let Some(round_trip) = round_trip.consult(now) else { return };
        let round_trip = round_trip.max(self.least_round_trip);
        let more = self.most.min(MOST_WINDOW - self.most);
        if now.saturating_duration_since(self.granted) < 2 * round_trip && *spare >= more as usize {
            *spare -= more as usize;
            self.most += more;
            self.grant += more;
        }
    }

    // --- the connection's side ---

    /// True if the next call of [`Stream::transmit`] has something to say.
    pub(super) fn has_something_to_send(&self) -> bool {
        if self.reset {
            return false;
        }
        let data = if self.out.is_empty() { self.end == End::Due } else { self.credit > 0 };
        self.abort || self.grant > 0 || data
    }

    /// True if there will be something to send, now or when the peer takes more.
    pub(super) fn has_something_left(&self) -> bool {
        !self.reset && (self.abort || !self.out.is_empty() || self.end == End::Due)
    }

    pub(super) fn transmit(&mut self, stream: u32) -> Option<Outgoing> {
        if !self.has_something_to_send() {
            return None;
        }
        let mut flags = std::mem::take(&mut self.greeting);
        self.known = true;
        let mut frame = |kind, more, payload: Bytes, length| {
            flags |= more;
            Some(Outgoing { header: Header { kind, flags, stream, length }, payload })
        };
        if std::mem::take(&mut self.abort) {
            return frame(Kind::Window, RST, Bytes::new(), 0);
        }
        let grant = std::mem::take(&mut self.grant);
        if grant > 0 {
            self.window += grant;
            return frame(Kind::Window, 0, Bytes::new(), grant);
        }
        let payload = self.take_payload();
        let last = self.out.is_empty() && self.end == End::Due;
        if last {
            self.end = End::Sent;
            self.abort_if_waited_for();
        }
        let length = payload.len() as u32;
        frame(Kind::Data, if last { FIN } else { 0 }, payload, length)
    }

    fn take_payload(&mut self) -> Bytes {
        let most = MAX_FRAME.min(self.credit as usize);
        let Some(front) = self.out.front_mut() else { return Bytes::new() };
        let payload = front.split_to(front.len().min(most));
        if front.is_empty() {
            self.out.pop_front();
        }
        self.out_len -= payload.len();
        self.credit -= payload.len() as u32;
        payload
    }

    /// The peer sent bytes.
    pub(super) fn receive(&mut self, payload: Bytes) -> Result<(), Violation> {
        let len = payload.len() as u32;
        self.window = self.window.checked_sub(len).ok_or(Violation("more bytes than the stream's window"))?;
        if self.ended && len > 0 {
            return Err(Violation("bytes behind the end of a stream"));
        }
        if self.held && len > 0 {
            self.inbox.push_back(payload);
        }
        Ok(())
    }

    /// The peer ended its half.
    pub(super) fn receive_end(&mut self) {
        self.ended = true;
        self.grant = 0;
    }

    /// The peer aborted the stream.
    pub(super) fn receive_reset(&mut self) {
        self.reset = true;
        self.out = VecDeque::new();
        self.out_len = 0;
    }

    /// The peer takes more.
    pub(super) fn receive_credit(&mut self, more: u32) -> Result<(), Violation> {
        self.credit = self.credit.checked_add(more).ok_or(Violation("a window beyond 32 bits"))?;
        Ok(())
    }
}
