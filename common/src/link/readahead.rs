//! A socket, under TLS or not, read in large pieces.
//!
//! rustls asks for 4 KiB at a time, five system calls a record. Here one brings several records while bytes stream in.
//! The large buffer for that stays while much arrives, and goes with the heartbeats that follow: an idle link has none.

use super::{Idleness, Io};
use bytes::{Buf, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// Bytes asked for to begin with: what rustls would ask for.
const FIRST: usize = 4 * 1024;

/// Bytes asked for while reads fill what they ask for.
const MOST: usize = 64 * 1024;

/// Reads ahead; writes go straight through.
pub struct ReadAhead<S> {
    io: S,
    ahead: BytesMut,
    /// Bytes the next read asks for.
    size: usize,
    /// There is a large buffer, which stays until the link is idle.
    large: bool,
    idleness: Idleness,
}

impl<S> ReadAhead<S> {
    /// Reads ahead of what is asked of `io`.
    pub fn new(io: S) -> Self {
        ReadAhead::after(io, BytesMut::new())
    }

    /// `ahead` are bytes that were read from `io` already.
    pub fn after(io: S, ahead: BytesMut) -> Self {
        ReadAhead { io, ahead, size: FIRST, large: false, idleness: Idleness::default() }
    }
}

impl<S: Io> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ahead.is_empty() {
            if this.size <= buf.remaining() {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                this.adapt(buf.filled().len() - before);
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_fill(cx))?;
        }
        let n = buf.remaining().min(this.ahead.len());
        buf.put_slice(&this.ahead[..n]);
        this.ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: Io> AsyncBufRead for ReadAhead<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            ready!(this.poll_fill(cx))?;
        }
        Poll::Ready(Ok(&this.ahead))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.ahead.advance(amount);
    }
}

impl<S: Io> ReadAhead<S> {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.large |= self.size == MOST;
        let size = if self.large { MOST } else { self.size };
        self.ahead.clear();
        self.ahead.reserve(size);
        let mut limited = bytes::BufMut::limit(&mut self.ahead, size);
        match tokio_util::io::poll_read_buf(Pin::new(&mut self.io), cx, &mut limited) {
            Poll::Ready(read) => {
                self.adapt(read?);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                if !self.large || self.idleness.is_idle() {
                    self.ahead = BytesMut::new();
                    self.large = false;
                }
                Poll::Pending
            }
        }
    }
}

impl<S> ReadAhead<S> {
    fn adapt(&mut self, read: usize) {
        self.idleness.note(read);
        if read >= self.size {
            self.size = (self.size * 4).min(MOST);
        } else if read < self.size / 8 {
            self.size = FIRST;
        }
    }
}

impl<S: Io> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_arrive_in_order_however_they_are_asked_for() {
        let (mut far, near) = tokio::io::duplex(100_000);
        let sent: Vec<u8> = (0..300_000u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
        let mut near = ReadAhead::new(near);
        let receive = async {
            let mut received = Vec::new();
            for size in [1, 100, 4096, 70_000].into_iter().cycle() {
                let mut piece = vec![0; size];
                match near.read(&mut piece).await.unwrap() {
                    0 => break,
                    n => received.extend_from_slice(&piece[..n]),
                }
            }
            received
        };
        let send = async {
            far.write_all(&sent).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let (received, ()) = tokio::join!(receive, send);
        assert!(received == sent);
    }

    #[tokio::test]
    async fn a_large_buffer_stays_with_a_busy_link_and_goes_with_an_idle_one() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let mut near = ReadAhead::new(near);
        let mut turn = async |len: usize| {
            far.write_all(&vec![7; len]).await.unwrap();
            for piece in vec![0; len].chunks_mut(1000) {
                near.read_exact(piece).await.unwrap();
            }
            assert!(futures_util::poll!(std::pin::pin!(near.read_u8())).is_pending());
            near.ahead.capacity()
        };
        assert_eq!(turn(100).await, 0);
        let large = turn(1 << 18).await;
        assert!(large >= MOST);
        for _ in 1..Idleness::PATIENCE {
            assert!(turn(1).await > 0);
        }
        assert_eq!(turn(1).await, 0);
    }
}
