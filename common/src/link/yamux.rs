//! Links over one stream of bytes: the driver that moves the frames of a [`Multiplexer`], and the streams.
//!
//! One task reads the socket and writes to it. Streams are opened, read and written by whoever holds them, under a lock
//! that is held for the copying of a frame at most; the driver is woken when there is something to send.

#[cfg(test)]
mod tests;

use super::outgoing::Outgoing;
use super::{Link, LinkIo, LinkStream, MuxStream, Traffic};
use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::sync::mpsc;
use tun_proto::limits::MAX_FRAME;
use tun_proto::mux::{Event, Multiplexer, MuxError, Read};

/// How long a closing link may take to send what is queued.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// Pieces that are read before something is sent. Each is a record of TLS, or what the socket had.
const READS: usize = 8;

pub(super) struct Driver {
    io: Box<dyn LinkIo>,
    /// Read from `io` before the link began.
    ahead: BytesMut,
    outgoing: Outgoing,
    /// Something was written that may still have to be flushed.
    unflushed: bool,
    link: Link,
    shared: Arc<Shared>,
    accepted: mpsc::Sender<LinkStream>,
    news: News,
}

/// What the driver of a link and its streams share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    driver: AtomicWaker,
}

#[derive(Debug)]
struct State {
    mux: Multiplexer<Waiting>,
    /// The link is gone.
    gone: bool,
}

/// Who waits for a stream.
#[derive(Debug, Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What others have to be told, without the lock.
#[derive(Default)]
struct News {
    opened: Vec<u32>,
    woken: Vec<Waker>,
}

impl Driver {
    pub(super) fn new(
        io: Box<dyn LinkIo>,
        ahead: BytesMut,
        link: Link,
        shared: Arc<Shared>,
        accepted: mpsc::Sender<LinkStream>,
    ) -> Self {
        let (outgoing, news) = (Outgoing::default(), News::default());
        Driver { io, ahead, outgoing, unflushed: false, link, shared, accepted, news }
    }

    /// Moves bytes until the link is closed or breaks.
    pub(super) async fn run(mut self) {
        let link = self.link.clone();
        let mut close = pin!(link.inner.close.cancelled());
        let reason = poll_fn(|cx| {
            if close.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            self.poll(cx).map(Some)
        })
        .await;
        if let Some(reason) = reason {
            link.end(reason);
            return;
        }
        // Frames that streams have queued leave if the socket takes them soon; a peer that does not read is not
        // waited for longer.
        let _ = tokio::time::timeout(CLOSE_DEADLINE, async {
            poll_fn(|cx| self.poll_send(cx)).await?;
            poll_fn(|cx| Pin::new(&mut self.io).poll_shutdown(cx)).await
        })
        .await;
        link.end("closed");
    }

    /// Does all there is to do; resolves to the reason when the link breaks.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.shared.driver.register(cx.waker());
        loop {
            let received = match self.poll_receive(cx) {
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                received => received.is_ready(),
            };
            if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                return Poll::Ready(describe(&error));
            }
            if !received {
                return Poll::Pending;
            }
        }
    }

    /// Takes in some of what has arrived; pending when there is no more.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        if !self.ahead.is_empty() {
            let ahead = std::mem::take(&mut self.ahead);
            self.shared.receive(&ahead, &mut self.news).map_err(|error| error.to_string())?;
            self.tell();
        }
        for _ in 0..READS {
            let available =
                ready!(Pin::new(&mut self.io).poll_fill_buf(cx)).map_err(|error| describe(&error))?;
            let n = available.len();
            if n == 0 {
                let reason = if self.shared.lock().mux.is_amid_frame() { CUT } else { CLOSED };
                return Poll::Ready(Err(reason.into()));
            }
            self.shared.receive(available, &mut self.news).map_err(|error| error.to_string())?;
            Pin::new(&mut self.io).consume(n);
            self.traffic().note_read(n);
            self.tell();
        }
        Poll::Ready(Ok(()))
    }

    /// Sends all there is.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.outgoing.has_room() {
                self.shared.gather(&mut self.outgoing, &mut self.news);
                self.tell();
            }
            if self.outgoing.is_empty() {
                break;
            }
            let Poll::Ready(written) = self.outgoing.poll_write(&mut *self.io, cx) else {
                self.traffic().note_waiting();
                return Poll::Pending;
            };
            self.traffic().note_written(written?);
            self.unflushed = true;
        }
        self.traffic().note_taken();
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn tell(&mut self) {
        for waker in self.news.woken.drain(..) {
            waker.wake();
        }
        for id in self.news.opened.drain(..) {
            let stream = LinkStream::new(Box::new(Stream::new(&self.shared, id)), &self.link);
            // There is room for as many as the multiplexer allows; if nobody takes them any more they are reset.
            let _ = self.accepted.try_send(stream);
        }
    }

    fn traffic(&self) -> &Traffic {
        &self.link.inner.traffic
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.end();
    }
}

const CLOSED: &str = "the peer closed the connection";
const CUT: &str = "the connection was cut";

/// What happened, in words for the log.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => CUT.into(),
        io::ErrorKind::ConnectionReset => "the connection was reset".into(),
        _ => error.to_string(),
    }
}

impl Shared {
    pub(super) fn new(dialer: bool) -> Arc<Self> {
        let mux = Multiplexer::new(dialer, Instant::now());
        let state = Mutex::new(State { mux, gone: false });
        Arc::new(Shared { state, driver: AtomicWaker::new() })
    }

    /// Opens a stream.
    pub(super) fn open(self: &Arc<Self>, link: &Link) -> io::Result<LinkStream> {
        let mut state = self.lock();
        if state.gone {
            return Err(gone());
        }
        let id = state.mux.open().ok_or_else(|| io::Error::other("the link carries too many streams"))?;
        drop(state);
        Ok(LinkStream::new(Box::new(Stream::new(self, id)), link))
    }

    fn receive(&self, bytes: &[u8], news: &mut News) -> Result<(), MuxError> {
        let mut state = self.lock();
        let received = state.mux.receive(bytes, Instant::now());
        news.collect(&mut state.mux);
        received
    }

    fn gather(&self, outgoing: &mut Outgoing, news: &mut News) {
        let now = Instant::now();
        let mut state = self.lock();
        while outgoing.has_room()
            && let Some(frame) = state.mux.transmit(now)
        {
            outgoing.push(frame);
        }
        // All that waited leaves with this.
        state.mux.take_urgent();
        news.collect(&mut state.mux);
    }

    /// The link is gone: nobody needs to wait any more.
    fn end(&self) {
        let mut state = self.lock();
        state.gone = true;
        let waiting: Vec<Waker> = state.mux.owners().flat_map(Waiting::take).collect();
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Does something with the streams, and wakes the driver if that gives it something to do.
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        let urgent = state.mux.take_urgent();
        drop(state);
        if urgent {
            self.driver.wake();
        }
        result
    }

    /// A poisoned lock is left by a panic of somebody who held it, who did not get far.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self) -> impl Iterator<Item = Waker> + use<> {
        [self.reader.take(), self.writer.take()].into_iter().flatten()
    }
}

impl News {
    fn collect(&mut self, mux: &mut Multiplexer<Waiting>) {
        while let Some(event) = mux.poll_event() {
            let waker = match event {
                Event::Opened(id) => {
                    self.opened.push(id);
                    None
                }
                Event::Readable(id) => mux.owner(id).and_then(|waiting| waiting.reader.take()),
                Event::Writable(id) => mux.owner(id).and_then(|waiting| waiting.writer.take()),
            };
            self.woken.extend(waker);
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the link is gone")
}

struct Stream {
    shared: Arc<Shared>,
    id: u32,
    /// This side has ended.
    ended: bool,
}

impl Stream {
    fn new(shared: &Arc<Shared>, id: u32) -> Self {
        Stream { shared: shared.clone(), id, ended: false }
    }

    /// Writes the chunk that `take` makes once there is room.
    fn poll_push(&self, cx: &mut Context<'_>, take: impl FnOnce() -> Bytes) -> Poll<io::Result<()>> {
        self.shared.with(|state| {
            if state.gone {
                return Poll::Ready(Err(gone()));
            }
            match state.mux.has_room(self.id) {
                None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(true) => {
                    state.mux.write(self.id, take());
                    Poll::Ready(Ok(()))
                }
                Some(false) => {
                    if let Some(waiting) = state.mux.owner(self.id) {
                        wait(&mut waiting.writer, cx);
                    }
                    Poll::Pending
                }
            }
        })
    }
}

/// Remembers who waits.
fn wait(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

impl MuxStream for Stream {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.shared.with(|state| match state.mux.read(self.id) {
            Read::Chunk(chunk) => Poll::Ready(Ok(Some(chunk))),
            Read::End => Poll::Ready(Ok(None)),
            Read::Nothing if !state.gone => {
                if let Some(waiting) = state.mux.owner(self.id) {
                    wait(&mut waiting.reader, cx);
                }
                Poll::Pending
            }
            Read::Nothing | Read::Reset if self.ended => Poll::Ready(Ok(None)),
            Read::Nothing | Read::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        })
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let some = &bytes[..bytes.len().min(MAX_FRAME)];
        ready!(self.poll_push(cx, || Bytes::copy_from_slice(some)))?;
        Poll::Ready(Ok(some.len()))
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        self.poll_push(cx, || std::mem::take(chunk))
    }

    fn tighten(&mut self) {
        self.shared.with(|state| state.mux.tighten(self.id));
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        self.shared.with(|state| {
            state.mux.close(self.id);
            Poll::Ready(if state.gone { Err(gone()) } else { Ok(()) })
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.with(|state| state.mux.release(self.id));
    }
}
