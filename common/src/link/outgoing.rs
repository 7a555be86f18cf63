//! Frames on their way to the socket: those of one turn leave with one system call, and under TLS in full records.
//!
//! Their payloads are what the streams hold for sending again; nothing is copied in front of the encryption, unless the
//! way to the socket takes one piece at a time only (a WebSocket, whose messages should not be 12 bytes).

use super::{Idleness, Io};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tun_proto::limits::MAX_FRAME;
use tun_proto::mux;
use tun_proto::wire::yamux::HEADER;

/// Bytes gathered before a write goes to the socket. What comes last may go beyond.
const CAPACITY: usize = 64 * 1024;

/// Pieces that one system call is given: two for each frame.
const PIECES: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that have left.
    sent: usize,
    /// Bytes that have not left, those of `joined` included.
    len: usize,
    /// Frames that have been put together.
    joined: BytesMut,
    idleness: Idleness,
}

#[derive(Debug)]
struct Frame {
    header: [u8; HEADER],
    payload: Bytes,
}

impl Outgoing {
    /// True if more may be added.
    pub(super) fn has_room(&self) -> bool {
        self.len < CAPACITY
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, frame: mux::Outgoing) {
        let frame = Frame { header: frame.header.encode(), payload: frame.payload };
        self.len += HEADER + frame.payload.len();
        self.frames.push_back(frame);
    }

    /// Writes some of it; how many bytes left.
    pub(super) fn poll_write<S: Io + ?Sized>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let io = Pin::new(io);
        let n = if io.is_write_vectored() && self.joined.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = self.pieces(&mut pieces);
            let n = ready!(io.poll_write_vectored(cx, &pieces[..count]))?;
            self.advance(n);
            n
        } else {
            self.join();
            let n = ready!(io.poll_write(cx, &self.joined))?;
            self.joined.advance(n);
            n
        };
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.len -= n;
        if self.len == 0 {
            self.tidy();
        }
        Poll::Ready(Ok(n))
    }

    fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>; PIECES]) -> usize {
        let mut skip = self.sent;
        let mut count = 0;
        let all = self.frames.iter().flat_map(|frame| [&frame.header[..], &frame.payload[..]]);
        for piece in all {
            let here = skip.min(piece.len());
            skip -= here;
            if here == piece.len() {
                continue;
            }
            pieces[count] = IoSlice::new(&piece[here..]);
            count += 1;
            if count == PIECES {
                break;
            }
        }
        count
    }

    fn advance(&mut self, n: usize) {
        self.sent += n;
        while let Some(front) = self.frames.front() {
            let len = HEADER + front.payload.len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            self.frames.pop_front();
        }
    }

    fn join(&mut self) {
        if !self.joined.is_empty() {
            return;
        }
        self.joined.clear();
        if self.len > self.joined.capacity() {
            self.joined.reserve(if self.len < HEADER * 32 {
                self.len
            } else {
                CAPACITY + MAX_FRAME + HEADER
            });
        }
        for frame in self.frames.drain(..) {
            self.joined.extend_from_slice(&frame.header);
            self.joined.extend_from_slice(&frame.payload);
        }
        self.idleness.note(self.len);
    }

    /// An idle link holds no buffer.
    fn tidy(&mut self) {
        if self.frames.capacity() > PIECES {
            self.frames = VecDeque::new();
        }
        if self.idleness.is_idle() {
            self.joined = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWrite};
    use tun_proto::wire::yamux::{Header, Kind};

    fn frame(len: usize) -> mux::Outgoing {
        let header = Header { kind: Kind::Data, flags: 0, stream: 1, length: len as u32 };
        mux::Outgoing { header, payload: (0..len).map(|n| n as u8).collect() }
    }

    /// Takes little at a time, in one piece or in several.
    struct Narrow<S> {
        io: S,
        vectored: bool,
    }

    impl<S: Io> AsyncWrite for Narrow<S> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let len = buf.len().min(7);
            Pin::new(&mut self.io).poll_write(cx, &buf[..len])
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let some: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).take(30).collect();
            let io = &mut self.get_mut().io;
            Pin::new(io).poll_write(cx, &some)
        }

        fn is_write_vectored(&self) -> bool {
            self.vectored
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl<S: Io> tokio::io::AsyncRead for Narrow<S> {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn frames_leave_whole_and_in_order_however_little_the_socket_takes() {
        for vectored in [true, false] {
            let (near, mut far) = tokio::io::duplex(1 << 20);
            let mut narrow = Narrow { io: near, vectored };
            let mut outgoing = Outgoing::default();
            let mut expected = Vec::new();
            for len in [0, 5, 100, 0, 0, 40, 1].into_iter().chain([0; 2 * PIECES]) {
                let frame = frame(len);
                expected.extend_from_slice(&frame.header.encode());
                expected.extend_from_slice(&frame.payload);
                outgoing.push(frame);
            }
            let mut left = 0;
            while !outgoing.is_empty() {
                left += poll_fn(|cx| outgoing.poll_write(&mut narrow, cx)).await.unwrap();
            }
            assert_eq!(left, expected.len());
            drop(narrow);
            let mut arrived = Vec::new();
            far.read_to_end(&mut arrived).await.unwrap();
            assert_eq!(arrived, expected);
        }
    }

    #[tokio::test]
    async fn a_buffer_stays_with_a_busy_link_and_goes_with_an_idle_one() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut io = Narrow { io: near, vectored: false };
        let mut outgoing = Outgoing::default();
        let mut turn = async |len| {
            outgoing.push(frame(len));
            while !outgoing.is_empty() {
                poll_fn(|cx| outgoing.poll_write(&mut io, cx)).await.unwrap();
            }
            outgoing.joined.capacity()
        };
        assert!(turn(MAX_FRAME).await > 0);
        for _ in 1..Idleness::PATIENCE {
            assert!(turn(0).await > 0);
        }
        assert_eq!(turn(0).await, 0);
        drop(io);
        far.read_to_end(&mut Vec::new()).await.unwrap();
    }
}
