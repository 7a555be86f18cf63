//! A socket as the multiplexer wants it: many small reads and writes gathered into few large ones.
//!
//! The multiplexer reads and writes a 12-byte header and a body for every frame and flushes after each. Here a flush
//! only takes note; the driver calls [`Flusher::poll_flush`] when the multiplexer has nothing more to do, so that
//! all frames of one turn leave with one system call (and, under TLS, in full records). Reading copies straight out of
//! the buffer of what lies below. The buffer for writing stays while much is sent, and goes with the heartbeats that
//! follow: an idle link has none.

use super::Traffic;
use bytes::{Buf, BytesMut};
use futures_util::io::{AsyncRead as FuturesRead, AsyncWrite as FuturesWrite};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite};
use tun_proto::limits::MAX_DATA;

/// Bytes gathered before a write goes to the socket.
const CAPACITY: usize = 64 * 1024;

/// A buffer for control frames and heartbeats.
const SMALL: usize = 1024;

/// A buffer for data: a frame may be added as long as less than [`CAPACITY`] is gathered.
const LARGE: usize = CAPACITY + MAX_DATA + SMALL;

/// A flush of less than this is one of a link that is idle, or that mostly receives.
const LITTLE: usize = 4 * 1024;

/// Flushes of little in a row after which a large buffer is given back.
const PATIENCE: u8 = 8;

/// Any byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A byte stream that a link can run on: it has a buffer of its own to read from.
pub trait LinkIo: Io + AsyncBufRead {}
impl<T: Io + AsyncBufRead> LinkIo for T {}

/// The multiplexer's end.
pub(super) struct Buffered(Arc<Mutex<Inner>>);

/// The driver's end.
pub(super) struct Flusher(Arc<Mutex<Inner>>);

struct Inner {
    io: Box<dyn LinkIo>,
    traffic: Arc<Traffic>,
    /// Read from `io` before the link began.
    ahead: BytesMut,
    write: BytesMut,
    /// How much of `write` the socket has taken.
    sent: usize,
    /// Bytes written since the last flush.
    gathered: usize,
    /// Flushes of little in a row.
    quiet: u8,
}

/// Wraps `io`; `read_ahead` are bytes that were read from it already.
pub(super) fn buffered(
    io: Box<dyn LinkIo>,
    read_ahead: BytesMut,
    traffic: Arc<Traffic>,
) -> (Buffered, Flusher) {
    let inner =
        Inner { io, traffic, ahead: read_ahead, write: BytesMut::new(), sent: 0, gathered: 0, quiet: 0 };
    let inner = Arc::new(Mutex::new(inner));
    (Buffered(inner.clone()), Flusher(inner))
}

impl Flusher {
    /// Sends what is gathered.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        ready!(inner.poll_drain(cx))?;
        inner.tidy();
        Pin::new(&mut inner.io).poll_flush(cx)
    }

    /// Ends the sending side of the socket.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_shutdown(cx)
    }
}

/// Both ends belong to one task, so the lock is never contended; a poisoned one is left by a panic of that task.
fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.write.len() {
            let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(cx, &self.write[self.sent..]) else {
                self.traffic.note_waiting();
                return Poll::Pending;
            };
            let n = written?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.traffic.note_written(n);
            self.sent += n;
        }
        self.traffic.note_taken();
        self.write.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Gives the buffer back when it is not worth its memory any more.
    fn tidy(&mut self) {
        let gathered = std::mem::take(&mut self.gathered);
        if gathered >= LITTLE {
            self.quiet = 0;
        } else if gathered > 0 {
            self.quiet = self.quiet.saturating_add(1);
        }
        if self.quiet >= PATIENCE || self.write.capacity() < CAPACITY {
            self.write = BytesMut::new();
        }
    }
}

impl FuturesRead for Buffered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.0);
        let inner = &mut *inner;
        if !inner.ahead.is_empty() {
            let n = buf.len().min(inner.ahead.len());
            buf[..n].copy_from_slice(&inner.ahead[..n]);
            inner.ahead.advance(n);
            if inner.ahead.is_empty() {
                inner.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(n));
        }
        let available = ready!(Pin::new(&mut inner.io).poll_fill_buf(cx))?;
        let n = buf.len().min(available.len());
        buf[..n].copy_from_slice(&available[..n]);
        Pin::new(&mut inner.io).consume(n);
        inner.traffic.note_read(n);
        Poll::Ready(Ok(n))
    }
}

impl FuturesWrite for Buffered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.0);
        // A frame is taken whole once there is room at all, so that frames that must not wait can follow it.
        if inner.write.len() >= CAPACITY {
            ready!(inner.poll_drain(cx))?;
        }
        if inner.write.capacity() - inner.write.len() < buf.len() {
            inner.write.reserve(if buf.len() < SMALL { SMALL } else { LARGE.max(buf.len()) });
        }
        inner.write.extend_from_slice(buf);
        inner.gathered += buf.len();
        Poll::Ready(Ok(buf.len()))
    }

    /// Takes note only; see the module's documentation.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ReadAhead;
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncReadExt;

    async fn turn(buffered: &mut Buffered, flusher: &Flusher, len: usize) {
        let bytes = vec![7; len];
        let written = poll_fn(|cx| Pin::new(&mut *buffered).poll_write(cx, &bytes)).await.unwrap();
        assert_eq!(written, len);
        poll_fn(|cx| flusher.poll_flush(cx)).await.unwrap();
    }

    fn capacity(flusher: &Flusher) -> usize {
        lock(&flusher.0).write.capacity()
    }

    #[tokio::test]
    async fn a_busy_link_keeps_its_buffer_and_an_idle_one_has_none() {
        let (near, mut far) = tokio::io::duplex(1000);
        let drain = async move { far.read_to_end(&mut Vec::new()).await };
        let use_it = async move {
            let io = Box::new(ReadAhead::new(near));
            let (mut buffered, flusher) = buffered(io, BytesMut::new(), Arc::new(Traffic::new()));
            turn(&mut buffered, &flusher, 12).await;
            assert_eq!(capacity(&flusher), 0);
            turn(&mut buffered, &flusher, MAX_DATA).await;
            let large = capacity(&flusher);
            assert!(large >= LARGE);
            for _ in 1..PATIENCE {
                turn(&mut buffered, &flusher, 12).await;
                assert_eq!(capacity(&flusher), large);
            }
            turn(&mut buffered, &flusher, 12).await;
            assert_eq!(capacity(&flusher), 0);
        };
        let (drained, ()) = tokio::join!(drain, use_it);
        assert_eq!(drained.unwrap(), MAX_DATA + 12 * (usize::from(PATIENCE) + 1));
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first() {
        let (near, mut far) = tokio::io::duplex(1000);
        tokio::io::AsyncWriteExt::write_all(&mut far, b"world").await.unwrap();
        drop(far);
        let io = Box::new(ReadAhead::new(near));
        let (mut buffered, _flusher) = buffered(io, BytesMut::from("hello "), Arc::new(Traffic::new()));
        let mut read = Vec::new();
        let mut piece = [0; 4];
        loop {
            match poll_fn(|cx| Pin::new(&mut buffered).poll_read(cx, &mut piece)).await.unwrap() {
                0 => break,
                n => read.extend_from_slice(&piece[..n]),
            }
        }
        assert_eq!(read, b"hello world");
    }
}
