//! A socket as the multiplexer wants it: many small reads and writes gathered into few large ones.
//!
//! The multiplexer reads and writes a 12-byte header and a body for every frame and flushes after each. Here a flush
//! only takes note; the driver calls [`Flusher::poll_flush`] when the multiplexer has nothing more to do, so that
//! all frames of one turn leave with one system call (and, under TLS, in full records). Buffers exist only while
//! they hold bytes: an idle link costs none.

use super::Traffic;
use bytes::{Buf, BytesMut};
use futures_util::io::{AsyncRead as FuturesRead, AsyncWrite as FuturesWrite};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before a write goes to the socket, and asked for in one read.
const CAPACITY: usize = 64 * 1024;

/// Any byte stream a link can run on.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The multiplexer's end.
pub(super) struct Buffered(Arc<Mutex<Inner>>);

/// The driver's end.
pub(super) struct Flusher(Arc<Mutex<Inner>>);

struct Inner {
    io: Box<dyn Io>,
    traffic: Arc<Traffic>,
    read: BytesMut,
    write: BytesMut,
}

/// Wraps `io`; `read_ahead` are bytes that were read from it already.
pub(super) fn buffered(io: Box<dyn Io>, read_ahead: BytesMut, traffic: Arc<Traffic>) -> (Buffered, Flusher) {
    let inner = Arc::new(Mutex::new(Inner { io, traffic, read: read_ahead, write: BytesMut::new() }));
    (Buffered(inner.clone()), Flusher(inner))
}

impl Flusher {
    /// Sends what is gathered.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = lock(&self.0);
        ready!(inner.poll_drain(cx))?;
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
        while !self.write.is_empty() {
            let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(cx, &self.write) else {
                self.traffic.note_waiting();
                return Poll::Pending;
            };
            let n = written?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.traffic.note_written(n);
            self.write.advance(n);
        }
        self.traffic.note_taken();
        self.write = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(CAPACITY);
        match tokio_util::io::poll_read_buf(Pin::new(&mut self.io), cx, &mut self.read) {
            Poll::Ready(Ok(n)) => {
                self.traffic.note_read(n);
                Poll::Ready(Ok(n))
            }
            other => {
                self.read = BytesMut::new();
                other
            }
        }
    }

    fn poll_read_past(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(buf);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut into))?;
        let n = into.filled().len();
        self.traffic.note_read(n);
        Poll::Ready(Ok(n))
    }
}

impl FuturesRead for Buffered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut inner = lock(&self.0);
        if inner.read.is_empty() {
            if buf.len() >= CAPACITY {
                return inner.poll_read_past(cx, buf);
            }
            if ready!(inner.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(0));
            }
        }
        let n = buf.len().min(inner.read.len());
        buf[..n].copy_from_slice(&inner.read[..n]);
        inner.read.advance(n);
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
        if inner.write.is_empty() {
            inner.write.reserve(if buf.len() < 1024 { 1024 } else { CAPACITY });
        }
        inner.write.extend_from_slice(buf);
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
