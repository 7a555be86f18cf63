//! Many streams over one connection, in the frames of [yamux](crate::wire::yamux).
//!
//! Sans-IO. The caller feeds what arrives to [`Multiplexer::receive`], sends what [`Multiplexer::transmit`] hands out, and
//! tells the owners of streams what [`Multiplexer::poll_event`] reports.
//!
//! # What is sent when
//! A stream costs no frame of its own: it is opened by the flags of the first frame it has something in, and ended by those
//! of its last. Streams with something to send take turns, one frame each. A window grows while its reader is quick,
//! compared with the round trip, which each end measures by a ping behind its first frame and when windows might grow.
//!
//! # Memory
//! A stream holds what its window promised to the peer, and one frame that waits to be sent. All windows together grow by
//! [`GROWTH`] at most beyond what each has to begin with. A peer that breaks these rules loses the connection.

mod stream;
#[cfg(test)]
mod tests;

pub use stream::{Outgoing, Read};

use crate::limits::{LINK_STREAM_LIMIT, MAX_FRAME};
use crate::wire::WireError;
use crate::wire::yamux::{ACK, FIN, HEADER, Header, Kind, RST, SYN};
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};
use stream::{FIRST_WINDOW, Stream};

/// What windows may grow by, all streams of a connection together. Windows are promises, not memory: the session above
/// acknowledges what it delivered, and never has more in flight than that.
pub const GROWTH: usize = 512 * 1024 * 1024;

/// Streams that are refused or gone, of which the peer has not been told yet: more than it can have. One that uses them
/// faster than it reads is told of fewer.
const MOST_REFUSALS: usize = 2 * LINK_STREAM_LIMIT;

/// How old a round trip has to be to be measured again.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// One end of a multiplexed connection. `T` is what its user remembers with each stream.
#[derive(Debug)]
pub struct Multiplexer<T> {
    streams: HashMap<u32, Stream<T>>,
    /// Number of the next stream that this side opens.
    next: u32,
    /// Streams with something to send, in the order of their turns.
    ready: VecDeque<u32>,
    refusals: VecDeque<u32>,
    pong: Option<u32>,
    round_trip: RoundTrip,
    events: VecDeque<Event>,
    input: Input,
    /// What windows may grow by yet.
    spare: usize,
    /// When something last arrived.
    now: Instant,
    /// Something waits that should leave soon.
    urgent: bool,
}

/// What the owners of streams have to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The peer opened this stream.
    Opened(u32),
    /// There may be something new to read.
    Readable(u32),
    /// More may be written, or the stream was aborted.
    Writable(u32),
}

/// The peer broke the rules, or speaks something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// What arrived is no frame.
    #[error("the peer sent no valid frame: {0}")]
    Wire(#[from] WireError),
    /// It is one that must not come.
    #[error("the peer broke the multiplexer's rules: {0}")]
    Violation(&'static str),
    /// It says that it is about to close the connection.
    #[error("the peer closed the connection")]
    Closed,
}

/// A rule that the peer broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Violation(&'static str);

impl From<Violation> for MuxError {
    fn from(Violation(what): Violation) -> Self {
        MuxError::Violation(what)
    }
}

/// The shortest round trip that was seen. What is measured under load has waited in queues, which are none of the way.
#[derive(Debug, Default)]
struct RoundTrip {
    shortest: Option<Duration>,
    /// The number of the last ping, and when it left.
    asked: Option<(u32, Instant)>,
    answered: bool,
    wanted: bool,
}

impl RoundTrip {
    /// Something leaves, with which the first ping may go.
    fn want_first(&mut self) {
        self.wanted |= self.asked.is_none();
    }

    /// The shortest, for somebody who would like it up to date.
    fn consult(&mut self, now: Instant) -> Option<Duration> {
        let is_old = |(_, at): (u32, Instant)| now.saturating_duration_since(at) > PING_INTERVAL;
        self.wanted |= self.answered && self.asked.is_some_and(is_old);
        self.shortest
    }

    /// The number of the ping that is to leave now, if one is.
    fn ask(&mut self, now: Instant) -> Option<u32> {
        if !std::mem::take(&mut self.wanted) {
            return None;
        }
        let number = self.asked.map_or(0, |(number, _)| number.wrapping_add(1));
        self.asked = Some((number, now));
        self.answered = false;
        Some(number)
    }

    fn handle_answer(&mut self, to: u32, now: Instant) {
        let Some((number, at)) = self.asked.filter(|_| !self.answered) else { return };
        if number == to {
            let took = now.saturating_duration_since(at);
            self.shortest = Some(self.shortest.map_or(took, |shortest| shortest.min(took)));
            self.answered = true;
        }
    }
}

/// Of a frame that has arrived in part.
#[derive(Debug)]
enum Input {
    Header([u8; HEADER], usize),
    Payload(Header, BytesMut),
}

impl Input {
    const NOTHING: Input = Input::Header([0; HEADER], 0);
}

impl<T: Default> Multiplexer<T> {
    /// One end of a connection; `dialer` differs on both.
    pub fn new(dialer: bool, now: Instant) -> Self {
        Multiplexer {
            streams: HashMap::new(),
            next: if dialer { 1 } else { 2 },
            ready: VecDeque::new(),
            refusals: VecDeque::new(),
            pong: None,
            round_trip: RoundTrip::default(),
            events: VecDeque::new(),
            input: Input::NOTHING,
            spare: GROWTH,
            now,
            urgent: false,
        }
    }

    // --- streams ---

    /// Opens a stream, of which the peer hears when it is used. `None` while there are [`LINK_STREAM_LIMIT`].
    pub fn open(&mut self) -> Option<u32> {
        if self.streams.len() >= LINK_STREAM_LIMIT {
            return None;
        }
        // Numbers come again after two thousand million streams.
        while self.streams.contains_key(&self.next) {
            self.next = following(self.next);
        }
        let stream = self.next;
        self.next = following(stream);
        self.streams.insert(stream, Stream::new(T::default(), SYN, self.now));
        Some(stream)
    }

    /// The owner of a stream that has not been released.
    pub fn owner(&mut self, stream: u32) -> Option<&mut T> {
        self.streams.get_mut(&stream).map(|stream| &mut stream.owner)
    }

    /// The owners of all streams.
    pub fn owners(&mut self) -> impl Iterator<Item = &mut T> {
        self.streams.values_mut().map(|stream| &mut stream.owner)
    }

    /// True if the stream has room for [`Multiplexer::write`]; `None` if nothing can be written any more.
    pub fn has_room(&self, stream: u32) -> Option<bool> {
        self.streams.get(&stream).filter(|stream| stream.is_writable()).map(Stream::has_room)
    }

    /// Takes all of `chunk` for sending. The caller has seen that there is room.
    pub fn write(&mut self, stream: u32, chunk: Bytes) {
        if let Some(found) = self.streams.get_mut(&stream)
            && !chunk.is_empty()
        {
            found.push(chunk);
            self.urgent |= self.enqueue(stream);
        }
    }

    /// Ends this side of the stream behind what was written.
    pub fn close(&mut self, stream: u32) {
        let Some(found) = self.streams.get_mut(&stream) else { return };
        found.close();
        // Nobody waits for the second end.
        let waited_for = !found.is_ended_by_peer();
        let queued = self.enqueue(stream);
        self.urgent |= queued && waited_for;
    }

    /// The next bytes of a stream.
    pub fn read(&mut self, stream: u32) -> Read {
        let Some(found) = self.streams.get_mut(&stream) else { return Read::Reset };
        let read = found.read(self.now, &mut self.round_trip, &mut self.spare);
        if found.has_something_to_send() {
            self.urgent |= self.enqueue(stream);
        }
        read
    }

    /// The user of the stream bounds by itself what is in flight, so that its window need not be larger than what the way
    /// takes: others have to pass what it lets in.
    pub fn tighten(&mut self, stream: u32) {
        if let Some(found) = self.streams.get_mut(&stream) {
            found.tighten();
        }
    }

    /// Nobody holds the stream any more: aborts it, unless it was closed.
    pub fn release(&mut self, stream: u32) {
        let Some(found) = self.streams.get_mut(&stream) else { return };
        if found.release() {
            self.forget(stream);
        } else if found.has_something_to_send() && !found.queued {
            self.urgent |= self.enqueue(stream);
        }
    }

    // --- the connection ---

    /// The next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// True once if something waits that should leave soon. What can wait leaves with it, or with anything else.
    pub fn take_urgent(&mut self) -> bool {
        std::mem::take(&mut self.urgent)
    }

    /// The next frame to send; it leaves at `now`.
    pub fn transmit(&mut self, now: Instant) -> Option<Outgoing> {
        let ping = |flags, length| {
            let header = Header { kind: Kind::Ping, flags, stream: 0, length };
            Some(Outgoing { header, payload: Bytes::new() })
        };
        if let Some(number) = self.pong.take() {
            return ping(ACK, number);
        }
        if let Some(number) = self.round_trip.ask(now) {
            return ping(SYN, number);
        }
        if let Some(stream) = self.refusals.pop_front() {
            let header = Header { kind: Kind::Window, flags: RST, stream, length: 0 };
            return Some(Outgoing { header, payload: Bytes::new() });
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued = false;
            let had_room = stream.has_room();
            let Some(frame) = stream.transmit(id) else { continue };
            if !had_room && stream.has_room() {
                self.events.push_back(Event::Writable(id));
            }
            if stream.has_something_to_send() {
                stream.queued = true;
                self.ready.push_back(id);
            } else if !stream.held && !stream.has_something_left() {
                self.forget(id);
            }
            self.round_trip.want_first();
            return Some(frame);
        }
        None
    }

    /// Takes in bytes that arrived at `now`, cut anywhere.
    ///
    /// # Errors
    /// [`MuxError`]; the connection is of no use any more.
    pub fn receive(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), MuxError> {
        self.now = now;
        while !bytes.is_empty() {
            match &mut self.input {
                Input::Header(header, have) => {
                    let here = bytes.len().min(HEADER - *have);
                    header[*have..*have + here].copy_from_slice(&bytes[..here]);
                    *have += here;
                    bytes = &bytes[here..];
                    if *have == HEADER {
                        let header = Header::decode(*header)?;
                        self.input = Input::NOTHING;
                        self.handle_header(header)?;
                    }
                }
                Input::Payload(header, payload) => {
                    let here = bytes.len().min(header.length as usize - payload.len());
                    payload.extend_from_slice(&bytes[..here]);
                    bytes = &bytes[here..];
                    if payload.len() == header.length as usize {
                        let (header, payload) = (*header, std::mem::take(payload).freeze());
                        self.input = Input::NOTHING;
                        self.handle_stream(header, payload)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// True if a frame has arrived in part.
    pub fn is_amid_frame(&self) -> bool {
        !matches!(self.input, Input::Header(_, 0))
    }

    fn handle_header(&mut self, header: Header) -> Result<(), MuxError> {
        match header.kind {
            Kind::GoAway => Err(MuxError::Closed),
            Kind::Ping => {
                if header.has(SYN) {
                    self.pong = Some(header.length);
                    self.urgent = true;
                } else {
                    self.round_trip.handle_answer(header.length, self.now);
                }
                Ok(())
            }
            Kind::Data if header.length as usize > MAX_FRAME => {
                Err(MuxError::Violation("a frame that is too long"))
            }
            Kind::Data if header.length > 0 => {
                self.input = Input::Payload(header, BytesMut::with_capacity(header.length as usize));
                Ok(())
            }
            Kind::Data | Kind::Window => Ok(self.handle_stream(header, Bytes::new())?),
        }
    }

    fn handle_stream(&mut self, header: Header, payload: Bytes) -> Result<(), Violation> {
        let id = header.stream;
        if header.has(SYN) && !self.accept(id)? {
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            // A peer that goes on sending to a stream that is gone would wait for its window in the end.
            if !payload.is_empty() && !header.has(RST) {
                self.refuse(id);
            }
            return Ok(());
        };
        match header.kind {
            Kind::Window => stream.receive_credit(header.length)?,
            _ => stream.receive(payload)?,
        }
        if header.has(FIN) {
            stream.receive_end();
        }
        if header.has(RST) {
            stream.receive_reset();
        }
        if !stream.held && stream.reset {
            self.forget(id);
        } else if stream.held {
            if header.kind == Kind::Data || header.flags & (FIN | RST) != 0 {
                self.events.push_back(Event::Readable(id));
            }
            if header.has(RST) {
                self.events.push_back(Event::Writable(id));
            }
        }
        self.urgent |= self.enqueue(id);
        Ok(())
    }

    /// The peer opens a stream; false if there are too many.
    fn accept(&mut self, id: u32) -> Result<bool, Violation> {
        if id == 0 || id % 2 == self.next % 2 {
            return Err(Violation("a stream whose number is not the peer's to give"));
        }
        if self.streams.contains_key(&id) {
            return Err(Violation("a stream that was opened twice"));
        }
        if self.streams.len() >= LINK_STREAM_LIMIT {
            self.refuse(id);
            return Ok(false);
        }
        self.streams.insert(id, Stream::new(T::default(), ACK, self.now));
        self.events.push_back(Event::Opened(id));
        Ok(true)
    }

    fn refuse(&mut self, id: u32) {
        if self.refusals.len() < MOST_REFUSALS && self.refusals.back() != Some(&id) {
            self.refusals.push_back(id);
            self.urgent = true;
        }
    }

    /// Gives the stream a turn if it has something to say; true if it has.
    fn enqueue(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.has_something_to_send()) else {
            return false;
        };
        if !std::mem::replace(&mut stream.queued, true) {
            self.ready.push_back(id);
        }
        true
    }

    fn forget(&mut self, id: u32) {
        if let Some(stream) = self.streams.remove(&id) {
            self.spare += (stream.most - FIRST_WINDOW) as usize;
        }
    }
}

/// The number after `stream` of the same side.
fn following(stream: u32) -> u32 {
    stream.checked_add(2).unwrap_or(if stream % 2 == 1 { 1 } else { 2 })
}
