//! The local end of a stream: a socket, a socket that is still being dialled, or a pipe within the program.

use crate::link::tcp::reset_on_close;
use bytes::BytesMut;
use bytes::buf::Limit;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncWrite, DuplexStream};
use tokio::net::TcpStream;
use tun_proto::wire::stream::ResetCode;

/// What a pump needs of a local connection.
pub trait Local: Send + Unpin {
    /// Resolves when [`Local::poll_read`] is likely to have something, so that no buffer is taken before; errors are
    /// left for that to report.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// Reads what is there; 0 at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut Limit<&mut BytesMut>) -> Poll<io::Result<usize>>;
    /// Writes some bytes.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    /// Ends the writing side in order.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Makes the drop that follows an abort, where the kind of connection can express one.
    fn reset(&mut self);
    /// False for a channel between the programs themselves, whose end nobody waits for.
    fn is_connection(&self) -> bool {
        true
    }
    /// What the peer is told when reading or writing fails.
    fn failure(&self) -> ResetCode {
        ResetCode::Aborted
    }
}

impl Local for TcpStream {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read_ready(cx).map(drop)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut Limit<&mut BytesMut>) -> Poll<io::Result<usize>> {
        tokio_util::io::poll_read_buf(Pin::new(self), cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(self), cx, bytes)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }

    fn reset(&mut self) {
        reset_on_close(self);
    }
}

/// A connection that `dial` is about to make. Bytes for it wait in the stream, within its window.
pub fn dialing(dial: impl Future<Output = io::Result<TcpStream>> + Send + 'static) -> Box<dyn Local> {
    Box::new(Dialing::Pending(Box::pin(dial)))
}

enum Dialing {
    Pending(Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>),
    Connected(TcpStream),
    Failed,
}

impl Dialing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut TcpStream>> {
        if let Dialing::Pending(dial) = self {
            *self = match ready!(dial.as_mut().poll(cx)) {
                Ok(stream) => Dialing::Connected(stream),
                Err(_) => Dialing::Failed,
            };
        }
        Poll::Ready(match self {
            Dialing::Connected(stream) => Ok(stream),
            _ => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

impl Local for Dialing {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.poll(cx)) {
            Ok(stream) => stream.poll_readable(cx),
            Err(_) => Poll::Ready(()),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut Limit<&mut BytesMut>) -> Poll<io::Result<usize>> {
        ready!(self.poll(cx))?.poll_read(cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Local::poll_write(ready!(self.poll(cx))?, cx, bytes)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Local::poll_shutdown(ready!(self.poll(cx))?, cx)
    }

    fn reset(&mut self) {
        if let Dialing::Connected(stream) = self {
            stream.reset();
        }
    }

    fn failure(&self) -> ResetCode {
        match self {
            Dialing::Failed => ResetCode::Unreachable,
            _ => ResetCode::Aborted,
        }
    }
}

/// A pipe: one end for a stream, the other for a task of this program.
pub fn pipe(capacity: usize) -> (Box<dyn Local>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(capacity);
    (Box::new(Pipe { io: ours, is_connection: true }), theirs)
}

/// The same for a channel between the programs themselves, which a drain does not wait for.
pub fn channel(capacity: usize) -> (Box<dyn Local>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(capacity);
    (Box::new(Pipe { io: ours, is_connection: false }), theirs)
}

struct Pipe {
    io: DuplexStream,
    is_connection: bool,
}

impl Local for Pipe {
    /// A pipe cannot be asked without reading from it.
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut Limit<&mut BytesMut>) -> Poll<io::Result<usize>> {
        tokio_util::io::poll_read_buf(Pin::new(&mut self.io), cx, buf)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.io), cx, bytes)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.io), cx)
    }

    /// The other end sees it end, which is all that a pipe can say.
    fn reset(&mut self) {}

    fn is_connection(&self) -> bool {
        self.is_connection
    }
}

/// What stands in for the local end of a stream that is refused, or whose local end is gone.
pub(super) fn none(code: ResetCode) -> Box<dyn Local> {
    Box::new(Nowhere(code))
}

struct Nowhere(ResetCode);

impl Local for Nowhere {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_read(&mut self, _: &mut Context<'_>, _: &mut Limit<&mut BytesMut>) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {}

    fn failure(&self) -> ResetCode {
        self.0
    }
}
