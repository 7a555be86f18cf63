//! A channel's place on one link.

use super::{DatagramEnd, DatagramSink};
use crate::link::{Link, LinkStream, OwnDatagram, Wait};
use crate::session::Session;
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::sync::mpsc;
use tun_proto::limits::{DATA_HEADROOM, MAX_DATA};
use tun_proto::wire::datagram::{ACCEPTED, put_frame, tagged, tagged_len, take_frame};

/// Frames are gathered up to this many bytes, a full frame of the multiplexer, before they are written.
const GATHER: usize = MAX_DATA + DATA_HEADROOM;

/// The link's own datagrams that are passed on in one go.
const OWN_TURNS: usize = 64;

/// Chunks below this size do not make a stream count as active.
const SMALL: usize = 2 * 1024;

pub(super) struct Attached {
    pub(super) epoch: u64,
    pub(super) link: Link,
    channel: u64,
    io: LinkStream,
    /// Arrived and not decoded.
    inbox: Bytes,
    /// To be written; it ends with a whole frame.
    out: Bytes,
    /// The peer is known to know the channel.
    answered: bool,
    /// The link's own datagrams for this channel.
    own: Option<mpsc::Receiver<OwnDatagram>>,
    /// A datagram that waits for room in the link.
    waiting: Option<Wait>,
    closed: bool,
    /// See [`Activity`](crate::link::Activity).
    counted: u32,
    // Goes after the multiplexed stream, so that the session sees an empty link as empty.
    _place: Place,
}

/// A link that is to be retired may have waited for the channel alone.
struct Place(Session);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.close_empty_links();
    }
}

impl Attached {
    /// A channel's new place, where `out` is written first. `answered` tells that the peer knows the channel.
    pub(super) fn new(
        session: &Session,
        channel: u64,
        epoch: u64,
        (link, io): (Link, LinkStream),
        out: Bytes,
        answered: bool,
    ) -> Self {
        let own = link.own_datagrams(channel);
        Attached {
            epoch,
            link,
            channel,
            io,
            inbox: Bytes::new(),
            out,
            answered,
            own,
            waiting: None,
            closed: false,
            counted: 0,
            _place: Place(session.clone()),
        }
    }

    /// Takes in what was read together with the opening.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        if self.inbox.is_empty() {
            self.inbox = chunk;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.inbox.len() + chunk.len());
        joined.extend_from_slice(&self.inbox);
        joined.extend_from_slice(&chunk);
        self.inbox = joined.freeze();
    }

    /// Passes on what has arrived; `Pending` when there is nothing more. An error is the end of this place.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        sink: &dyn DatagramSink,
    ) -> Poll<io::Result<()>> {
        self.deliver(sink)?;
        let own = self.poll_own(cx, sink);
        let chunk = match self.io.poll_read_chunk(cx) {
            Poll::Pending if own.is_ready() => return Poll::Ready(Ok(())),
            read => ready!(read)?.ok_or(io::ErrorKind::UnexpectedEof)?,
        };
        self.note(chunk.len());
        self.feed(chunk);
        self.deliver(sink)?;
        Poll::Ready(Ok(()))
    }

    /// Passes on what has arrived in the link's own datagrams; ready if there may be more, of which nobody is told.
    fn poll_own(&mut self, cx: &mut Context<'_>, sink: &dyn DatagramSink) -> Poll<()> {
        let Some(own) = &mut self.own else { return Poll::Pending };
        for _ in 0..OWN_TURNS {
            match ready!(own.poll_recv(cx)) {
                Some(OwnDatagram { flow, payload }) => sink.deliver(flow, payload),
                // A later place on the same link has them now.
                None => {
                    self.own = None;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }

    fn deliver(&mut self, sink: &dyn DatagramSink) -> io::Result<()> {
        if !self.answered && self.inbox.has_remaining() {
            if self.inbox.get_u8() != ACCEPTED {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            self.answered = true;
        }
        while let Some((flow, payload)) = take_frame(&mut self.inbox).map_err(io::Error::other)? {
            sink.deliver(flow, payload);
        }
        if self.inbox.is_empty() {
            // An empty slice would still hold the memory of its chunk.
            self.inbox = Bytes::new();
        }
        Ok(())
    }

    /// Sends what waits in the queue. `Pending` when the link takes no more, or there is nothing more.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, end: &DatagramEnd) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?;
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
        let now = Instant::now();
        let mut frames = BytesMut::new();
        let mut sent = 0;
        while sent < GATHER {
            let Poll::Ready((flow, payload)) = end.queue.poll_next(cx, now) else { break };
            sent += payload.len() + 1;
            if self.fits(flow, payload.len()) {
                self.waiting = self.link.send_datagram(tagged(self.channel, flow, &payload));
                if self.waiting.is_some() {
                    break;
                }
            } else {
                put_frame(flow, &payload, &mut frames);
            }
        }
        if sent == 0 {
            return Poll::Pending;
        }
        self.note(sent);
        self.out = frames.freeze();
        Poll::Ready(Ok(()))
    }

    /// Ends this side, since the channel has a better place, when what was begun is written.
    pub(super) fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?;
        if !self.closed {
            ready!(self.io.poll_close(cx))?;
            self.closed = true;
        }
        Poll::Pending
    }

    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            ready!(self.io.poll_write_chunk(cx, &mut self.out))?;
        }
        self.out = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// True if the link's own datagrams can carry this.
    fn fits(&self, flow: u64, len: usize) -> bool {
        self.answered
            && self.link.max_datagram().is_some_and(|max| tagged_len(self.channel, flow, len) <= max)
    }

    fn note(&mut self, bytes: usize) {
        if bytes >= SMALL {
            self.link.activity().note(&mut self.counted);
        }
    }
}
