//! The task of one stream: moves bytes between a local connection and the links the stream is attached to.
//!
//! One future, polled by whatever it touches, does everything in turn: commands of the session, frames in, bytes to
//! the local connection, bytes from it, frames out. It owns its sockets alone, so there is nothing to lock, and it
//! holds no buffer while nothing moves. Every decision is [`Stream`]'s.

use super::local::{self, Local};
use super::mailbox::{Command, Mailbox};
use super::reader::Reader;
use super::{Session, mode_of_move};
use crate::link::{Link, LinkKind, LinkStream};
use bytes::{BufMut, Bytes, BytesMut};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::time::Sleep;
use tun_proto::limits::{DATA_HEADROOM, MAX_DATA};
use tun_proto::session::recv::Next;
use tun_proto::session::stream::{Stream, Transmit};
use tun_proto::wire::stream::{AttachMode, ResetCode};

/// Turns of the loop before other tasks of the worker get theirs.
const TURNS: usize = 32;

/// Bytes asked for by the first read; grows to a full frame while reads fill it.
const FIRST_READ: usize = 4 * 1024;

/// Data frames below this size are gathered with their neighbours into one write.
const SMALL: usize = 2 * 1024;

/// Gathered bytes that leave at the latest.
const GATHER: usize = 16 * 1024;

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that the local side sent.
    pub sent: u64,
    /// Bytes that the local side was given.
    pub received: u64,
    /// How it ended, if not in order.
    pub reset: Option<ResetCode>,
}

type Opening = Pin<Box<dyn Future<Output = Option<(Link, LinkStream)>> + Send>>;

pub(super) struct Pump {
    stream: Stream,
    session: Session,
    mailbox: Arc<Mailbox>,
    local: Box<dyn Local>,
    attached: Vec<Attached>,
    /// Multiplexed streams that only have to be closed in order.
    closing: Vec<Attached>,
    opening: Option<Opening>,
    /// There was no link to attach to; wait for news.
    linkless: bool,
    /// There may be a better link than that of the current attachment.
    moving: bool,
    /// The current attachment is a hedge against a link in doubt.
    hedged: bool,
    /// When an unanswered stream is given up.
    deadline: Option<Instant>,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    reading: bool,
    read_size: usize,
    reset: Option<ResetCode>,
}

/// An attachment's multiplexed stream.
struct Attached {
    epoch: u32,
    link: Link,
    io: LinkStream,
    reader: Reader,
    /// Being written.
    out: Bytes,
    /// To be written after `out`.
    next: Bytes,
    /// See [`Activity`](crate::link::Activity).
    counted: u32,
}

/// How far a turn got.
#[derive(PartialEq, Eq)]
enum Turn {
    Progress,
    Stuck,
}

impl Pump {
    pub(super) fn new(
        stream: Stream,
        session: Session,
        mailbox: Arc<Mailbox>,
        local: Box<dyn Local>,
        deadline: Option<Instant>,
    ) -> Self {
        if !local.is_connection() {
            session.note_channel(stream.id());
        }
        Pump {
            stream,
            session,
            mailbox,
            local,
            attached: Vec::with_capacity(1),
            closing: Vec::new(),
            opening: None,
            linkless: false,
            moving: false,
            hedged: false,
            deadline,
            timer: None,
            reading: true,
            read_size: FIRST_READ,
            reset: None,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let mut progress = self.poll_commands(cx, now);
        progress |= self.poll_opening(cx);
        progress |= self.poll_frames_in(cx, now);
        progress |= self.poll_deliver(cx, now);
        progress |= self.poll_local_read(cx, now);
        progress |= self.poll_frames_out(cx, now);
        if progress { Turn::Progress } else { Turn::Stuck }
    }

    fn poll_commands(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let commands = self.mailbox.take(cx);
        let progress = !commands.is_empty();
        for command in commands {
            match command {
                Command::Attached { attach, link, stream, reader } => {
                    match self.stream.handle_attach(&attach, now) {
                        Ok(epoch) => self.attached.push(Attached::new(epoch, link, stream, reader)),
                        Err(error) => {
                            tracing::debug!(stream = %self.stream.id(), %error, "attachment refused")
                        }
                    }
                }
                Command::LinksChanged => {
                    self.linkless = false;
                    self.moving = self.stream.is_opener();
                }
                Command::Fail(code) => self.fail(code),
            }
        }
        progress
    }

    fn poll_opening(&mut self, cx: &mut Context<'_>) -> bool {
        let wanted = self.stream.wants_attachment() || self.wants_to_move();
        if !wanted || self.linkless {
            self.opening = None;
            return false;
        }
        let session = &self.session;
        let opening = self.opening.get_or_insert_with(|| Box::pin(session.clone().attach()));
        let Poll::Ready(opened) = opening.as_mut().poll(cx) else { return false };
        self.opening = None;
        match opened {
            None => self.linkless = true,
            Some((link, io)) => {
                let current = self.current().map(|attached| &attached.link);
                let doubted = current.is_some_and(Link::is_suspect);
                // A hedge may be slow, and stuck as well: back on the better link, nobody waits for what it carries.
                let mode = if self.hedged { AttachMode::Resend } else { mode_of_move(current) };
                self.hedged = doubted;
                let epoch = self.stream.attach(mode);
                self.attached.push(Attached::new(epoch, link, io, Reader::default()));
                self.moving = false;
            }
        }
        true
    }

    /// True if the stream should leave the link of its current attachment now.
    fn wants_to_move(&mut self) -> bool {
        if !self.moving || self.stream.is_closed() {
            return false;
        }
        let Some(current) = self.current() else { return false };
        let (better, doubted) = (self.session.has_better(&current.link), current.link.is_suspect());
        self.moving = better;
        // The peer must have followed to one place before it is led to the next, unless all is sent again there.
        better && (doubted || self.hedged || self.stream.is_settled())
    }

    fn poll_frames_in(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        let mut index = 0;
        while index < self.attached.len() {
            match self.attached[index].poll_receive(cx, &mut self.stream, now) {
                Poll::Pending => index += 1,
                Poll::Ready(Ok(true)) => {
                    progress = true;
                    index += 1;
                }
                Poll::Ready(Ok(false)) => {
                    progress = true;
                    let lost = self.attached.remove(index);
                    self.stream.handle_lost(lost.epoch);
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(stream = %self.stream.id(), peer = %self.attached[index].link.peer(), %error,
                        "stream aborted");
                    self.abort(ResetCode::Protocol, now);
                    return true;
                }
            }
        }
        progress
    }

    fn poll_deliver(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        loop {
            match self.stream.next(now) {
                None => return progress,
                Some(Next::Data(data)) => match self.local.poll_write(cx, data) {
                    Poll::Pending => return progress,
                    Poll::Ready(Ok(n)) if n > 0 => self.stream.consume(n, now),
                    Poll::Ready(_) => {
                        self.abort(self.local.failure(), now);
                        return true;
                    }
                },
                Some(Next::Fin) => match self.local.poll_shutdown(cx) {
                    Poll::Pending => return progress,
                    // A local side that is gone already needs no end; its own fate shows when it is read.
                    Poll::Ready(_) => self.stream.consume_end(now),
                },
                Some(Next::Reset(code)) => {
                    if self.reset.is_some() {
                        return progress;
                    }
                    self.reset = Some(code);
                    self.drop_local(code);
                    self.stream.consume_end(now);
                }
            }
            progress = true;
        }
    }

    fn poll_local_read(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        if !self.reading || self.stream.is_ended() {
            return false;
        }
        let room = self.stream.room();
        if room == 0 || self.local.poll_readable(cx).is_pending() {
            return false;
        }
        let size = self.read_size.min(room);
        let mut chunk = BytesMut::with_capacity(DATA_HEADROOM + size);
        chunk.put_bytes(0, DATA_HEADROOM);
        let Poll::Ready(read) = self.local.poll_read(cx, &mut (&mut chunk).limit(size)) else { return false };
        match read {
            Ok(0) => {
                self.reading = false;
                self.stream.finish();
            }
            Ok(n) => {
                self.read_size = match n {
                    _ if n == self.read_size => MAX_DATA,
                    _ if n < self.read_size / 4 => FIRST_READ,
                    _ => self.read_size,
                };
                // A chunk lives until it is acknowledged: it must not hold much more memory than bytes.
                let fits = n >= size / 2;
                self.stream.push(if fits { chunk } else { BytesMut::from(&chunk[..]) });
            }
            Err(_) => self.abort(self.local.failure(), now),
        }
        true
    }

    fn poll_frames_out(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut progress = false;
        let mut index = 0;
        while index < self.attached.len() {
            let attached = &mut self.attached[index];
            match attached.poll_send(cx, &mut self.stream, now) {
                Ok(sent) => {
                    progress |= sent;
                    index += 1;
                }
                Err(_) => {
                    progress = true;
                    let lost = self.attached.remove(index);
                    self.stream.handle_lost(lost.epoch);
                }
            }
        }
        while let Some(epoch) = self.stream.poll_detached() {
            progress = true;
            if let Some(index) = self.attached.iter().position(|attached| attached.epoch == epoch) {
                self.closing.push(self.attached.remove(index));
            }
        }
        self.closing.retain_mut(|attached| attached.poll_close(cx).is_pending());
        progress
    }

    /// The local side aborted, or the peer broke the rules: tell the peer.
    fn abort(&mut self, code: ResetCode, now: Instant) {
        self.reset.get_or_insert(code);
        self.drop_local(code);
        self.stream.abort(code, now);
    }

    /// There is no peer any more.
    fn fail(&mut self, code: ResetCode) {
        if !self.stream.is_closed() {
            self.reset.get_or_insert(code);
            self.drop_local(code);
        }
        self.reading = false;
        self.stream.fail(code);
        self.attached.clear();
    }

    /// Resets the local connection at once; telling the peer may take longer.
    fn drop_local(&mut self, code: ResetCode) {
        self.reading = false;
        self.local.reset();
        self.local = local::none(code);
    }

    fn current(&self) -> Option<&Attached> {
        let epoch = self.stream.current()?;
        self.attached.iter().find(|attached| attached.epoch == epoch)
    }

    /// Arms the timer; true if it has fired already.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let patience = self.deadline.filter(|_| !self.stream.is_answered());
        let writable = self.current().is_none_or(|attached| attached.out.is_empty());
        let Some(at) = [self.stream.poll_timeout(writable), patience].into_iter().flatten().min() else {
            return false;
        };
        match &mut self.timer {
            // An alarm that comes too early is cheaper than setting it anew for every acknowledgement.
            Some((armed, _)) if *armed <= at => {}
            Some((armed, sleep)) => {
                *armed = at;
                sleep.as_mut().reset(at.into());
            }
            None => self.timer = Some((at, Box::pin(tokio::time::sleep_until(at.into())))),
        }
        let fired = self.timer.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
        if fired {
            self.timer = None;
        }
        fired
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.closing.append(&mut self.attached);
        self.closing.retain_mut(|attached| attached.poll_close(cx).is_pending());
        if !self.closing.is_empty() {
            return Poll::Pending;
        }
        let (sent, received) = self.stream.progress();
        Poll::Ready(Outcome { sent, received, reset: self.reset })
    }
}

impl Future for Pump {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = &mut *self;
        let mut now = Instant::now();
        let mut turns = TURNS;
        loop {
            if this.turn(cx, now) == Turn::Progress {
                turns -= 1;
                if turns == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                continue;
            }
            if this.stream.is_closed() {
                return this.poll_end(cx);
            }
            if !this.poll_timer(cx) {
                return Poll::Pending;
            }
            now = Instant::now();
            if !this.stream.is_answered() && this.deadline.is_some_and(|deadline| deadline <= now) {
                this.fail(ResetCode::SessionOver);
            }
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let epitaph = if self.stream.is_closed() { self.stream.epitaph() } else { None };
        // The multiplexed streams go first, so that the session sees an empty link as empty.
        self.attached.clear();
        self.closing.clear();
        self.session.forget(self.stream.id(), epitaph);
    }
}

impl Attached {
    fn new(epoch: u32, link: Link, mut io: LinkStream, reader: Reader) -> Self {
        // The session has a window of its own. A relayed link's way is longer than its idle round trip tells.
        if link.kind() != LinkKind::Relay {
            io.tighten();
        }
        Attached { epoch, link, io, reader, out: Bytes::new(), next: Bytes::new(), counted: 0 }
    }

    /// Hands the next chunk's frames to the stream; false at the end of the multiplexed stream.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        now: Instant,
    ) -> Poll<Result<bool, Box<dyn std::error::Error>>> {
        let mut progress = self.handle_frames(stream, now)?;
        match self.io.poll_read_chunk(cx) {
            Poll::Ready(Ok(Some(chunk))) => {
                if chunk.len() >= SMALL {
                    self.link.activity().note(&mut self.counted);
                }
                self.reader.feed(chunk);
                self.handle_frames(stream, now)?;
                progress = true;
            }
            Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(Ok(false)),
            Poll::Pending => {}
        }
        if progress { Poll::Ready(Ok(true)) } else { Poll::Pending }
    }

    fn handle_frames(
        &mut self,
        stream: &mut Stream,
        now: Instant,
    ) -> Result<bool, Box<dyn std::error::Error>> {
        let mut progress = false;
        while let Some(frame) = self.reader.next_frame()? {
            stream.handle_frame(self.epoch, frame, now)?;
            progress = true;
        }
        Ok(progress)
    }

    /// Sends what the stream has for this attachment; true if anything left.
    fn poll_send(&mut self, cx: &mut Context<'_>, stream: &mut Stream, now: Instant) -> io::Result<bool> {
        let mut progress = false;
        loop {
            if !self.poll_drain(cx)? {
                return Ok(progress);
            }
            self.gather(stream, now);
            if self.out.is_empty() {
                return Ok(progress);
            }
            progress = true;
        }
    }

    /// Writes what was gathered; false if the link takes no more.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        while !self.out.is_empty() {
            match self.io.poll_write_chunk(cx, &mut self.out) {
                Poll::Ready(written) => written?,
                Poll::Pending => return Ok(false),
            }
            if self.out.is_empty() {
                self.out = std::mem::take(&mut self.next);
            }
        }
        Ok(true)
    }

    /// Collects small frames into one write; a large one follows without being copied.
    fn gather(&mut self, stream: &mut Stream, now: Instant) {
        let mut small = BytesMut::new();
        while small.len() < GATHER {
            match stream.poll_transmit(self.epoch, now) {
                None => break,
                Some(Transmit::Data(frame)) if frame.len() >= SMALL => {
                    self.link.activity().note(&mut self.counted);
                    self.next = frame;
                    break;
                }
                Some(frame) => frame.encode(&mut small),
            }
        }
        self.out = if small.is_empty() { std::mem::take(&mut self.next) } else { small.freeze() };
    }

    /// Closes the multiplexed stream after what was gathered.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_drain(cx) {
            Ok(true) => self.io.poll_close(cx).map(drop),
            Ok(false) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        }
    }
}
