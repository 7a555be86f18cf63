//! The streams of a link over QUIC.

use crate::link::{Link, LinkStream, MuxStream};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt as _;
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::sync::Notify;

/// Pieces taken at once, a packet's worth each: 64 KiB together, as much as other links read at once.
const PIECES: usize = 46;

/// Streams whose last bytes are not acknowledged are looked through when there are this many.
const MIN_LINGERING: usize = 32;

/// Why a stream was reset; there is but one reason.
const DROPPED: VarInt = VarInt::from_u32(0);

/// What the streams of a link have in common.
pub(super) struct Shared {
    link: Link,
    /// How often bytes were moved, or were to move and could not.
    moves: AtomicU64,
    /// Somebody waits for the next move.
    awaited: AtomicBool,
    moved: Notify,
    lingering: Mutex<Lingering>,
}

/// Streams that were closed in order and let go of before the peer had everything.
#[derive(Default)]
struct Lingering {
    streams: Vec<Acknowledged>,
    /// When to forget those that are through.
    tidy_at: usize,
}

/// Resolves when the peer has everything of a stream, or wants no more.
type Acknowledged = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Shared {
    pub(super) fn new(link: Link) -> Self {
        Shared {
            link,
            moves: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            moved: Notify::new(),
            lingering: Mutex::default(),
        }
    }

    /// How often bytes were moved, or were to move and could not.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::SeqCst)
    }

    /// Resolves when that is no longer `seen`. For one caller. Cancellation safe.
    pub(super) async fn moved(&self, seen: u64) {
        loop {
            self.awaited.store(true, Ordering::SeqCst);
            if self.moves() != seen {
                return;
            }
            self.moved.notified().await;
        }
    }

    /// A datagram is sent.
    pub(super) fn note_datagram(&self, len: usize) {
        self.note_move();
        self.link.traffic().note_written(len);
    }

    /// A datagram has arrived.
    pub(super) fn note_datagram_received(&self, len: usize) {
        self.note_move();
        self.link.traffic().note_read(len);
    }

    fn note_move(&self) {
        self.moves.fetch_add(1, Ordering::SeqCst);
        if self.awaited.load(Ordering::SeqCst) && self.awaited.swap(false, Ordering::SeqCst) {
            self.moved.notify_one();
        }
    }

    /// Resolves when the peer has everything that streams left behind when they were closed in order.
    pub(super) async fn acknowledged(&self) {
        let streams = self.lingering(|lingering| std::mem::take(&mut lingering.streams));
        futures_util::future::join_all(streams).await;
    }

    fn linger(&self, stream: Acknowledged) {
        self.lingering(|lingering| {
            lingering.streams.push(stream);
            if lingering.streams.len() >= lingering.tidy_at.max(MIN_LINGERING) {
                lingering.streams.retain_mut(|stream| stream.now_or_never().is_none());
                lingering.tidy_at = 2 * lingering.streams.len();
            }
        });
    }

    fn lingering<T>(&self, f: impl FnOnce(&mut Lingering) -> T) -> T {
        f(&mut self.lingering.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct Stream {
    send: SendStream,
    recv: RecvStream,
    shared: Arc<Shared>,
    finished: bool,
}

impl Stream {
    pub(super) fn new_link_stream(send: SendStream, recv: RecvStream, shared: &Arc<Shared>) -> LinkStream {
        let stream = Stream { send, recv, shared: shared.clone(), finished: false };
        LinkStream::new(Box::new(stream), &shared.link)
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        self.shared.note_move();
        let traffic = self.shared.link.traffic();
        match written {
            Poll::Pending => traffic.note_waiting(),
            Poll::Ready(Ok(n)) => {
                traffic.note_taken();
                traffic.note_written(*n);
            }
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl MuxStream for Stream {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let mut pieces = [const { Bytes::new() }; PIECES];
        let read = match ready!(pin!(self.recv.read_chunks(&mut pieces)).poll(cx)) {
            Ok(Some(read)) => read,
            Ok(None) | Err(ReadError::Reset(_)) => return Poll::Ready(Ok(None)),
            Err(error) => return Poll::Ready(Err(error.into())),
        };
        let chunk = joined(&mut pieces[..read]);
        self.shared.link.traffic().note_read(chunk.len());
        self.shared.note_move();
        Poll::Ready(Ok(Some(chunk)))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = pin!(self.send.write(bytes)).poll(cx).map_err(io::Error::from);
        self.note_write(&written);
        written
    }

    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        let written = pin!(self.send.write_chunks(std::slice::from_mut(chunk))).poll(cx);
        let written = written.map_ok(|written| written.bytes).map_err(io::Error::from);
        self.note_write(&written);
        written.map_ok(drop)
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A stream that is closed already, or that the peer has no use for, needs no end.
        let _ = self.send.finish();
        self.finished = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished {
            // Fails if it is over already.
            let _ = self.send.reset(DROPPED);
            return;
        }
        let mut acknowledged = Box::pin(self.send.stopped().map(drop));
        if acknowledged.as_mut().now_or_never().is_none() {
            self.shared.linger(acknowledged);
        }
    }
}

/// One piece as it is, more of them copied together: who handles them pays for each chunk, not for each byte.
fn joined(pieces: &mut [Bytes]) -> Bytes {
    if let [single] = pieces {
        return std::mem::take(single);
    }
    let mut chunk = BytesMut::with_capacity(pieces.iter().map(Bytes::remaining).sum());
    for piece in pieces {
        chunk.extend_from_slice(piece);
    }
    chunk.freeze()
}
