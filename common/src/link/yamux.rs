//! Links over yamux: the driver that owns the multiplexed connection, and its streams.
//!
//! yamux moves nothing unless it is polled, so one task polls it for opens, arrivals and bytes alike, and flushes
//! when there is nothing more to do. This is the only file that knows yamux.

use super::buffered::{Buffered, Flusher};
use super::{Link, LinkStream, MuxStream, Side};
use bytes::Bytes;
use futures_util::Stream as _;
use futures_util::io::AsyncWrite as _;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tun_proto::limits::{LINK_STREAM_LIMIT, MAX_FRAME};

/// Receive window that streams may earn beyond their first 256 KiB, for all streams of a link together. Windows
/// are promises, not memory: the session acknowledges what it delivered, and never has more in flight than that.
const WINDOW_BUDGET: usize = 512 * 1024 * 1024;

/// How long a closing link may take to send what is queued.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// yamux's own first window for a stream; its limit must leave room for that many.
const FIRST_WINDOW: usize = 256 * 1024;

pub(super) struct Driver {
    connection: yamux::Connection<Buffered>,
    flusher: Flusher,
    link: Link,
    requests: mpsc::Receiver<oneshot::Sender<LinkStream>>,
    /// A request that yamux could not serve yet.
    waiting: Option<oneshot::Sender<LinkStream>>,
    accepted: mpsc::Sender<LinkStream>,
}

impl Driver {
    pub(super) fn new(
        io: Buffered,
        flusher: Flusher,
        side: Side,
        link: Link,
        requests: mpsc::Receiver<oneshot::Sender<LinkStream>>,
        accepted: mpsc::Sender<LinkStream>,
    ) -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_connection_receive_window(Some(LINK_STREAM_LIMIT * FIRST_WINDOW + WINDOW_BUDGET))
            .set_max_num_streams(LINK_STREAM_LIMIT)
            .set_split_send_size(MAX_FRAME);
        let mode = match side {
            Side::Dialer => yamux::Mode::Client,
            Side::Acceptor => yamux::Mode::Server,
        };
        let connection = yamux::Connection::new(io, config, mode);
        Driver { connection, flusher, link, requests, waiting: None, accepted }
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
            poll_fn(|cx| {
                let _ = self.poll(cx);
                self.flusher.poll_flush(cx)
            })
            .await?;
            poll_fn(|cx| self.flusher.poll_shutdown(cx)).await
        })
        .await;
        link.end("closed");
    }

    /// Does all there is to do; resolves to the reason when the link breaks.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            if let Err(reason) = self.poll_opens(cx) {
                return Poll::Ready(reason);
            }
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => self.accept(stream),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(describe(&error)),
                Poll::Ready(None) => return Poll::Ready("the peer closed the connection".into()),
                Poll::Pending => break,
            }
        }
        match self.flusher.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error.to_string()),
            _ => Poll::Pending,
        }
    }

    fn poll_opens(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        loop {
            let request = match self.waiting.take() {
                Some(request) => request,
                None => match self.requests.poll_recv(cx) {
                    Poll::Ready(Some(request)) => request,
                    _ => return Ok(()),
                },
            };
            if request.is_closed() {
                continue;
            }
            match self.connection.poll_new_outbound(cx) {
                Poll::Ready(Ok(stream)) => {
                    let _ = request.send(LinkStream::new(Box::new(Stream::new(stream)), &self.link));
                }
                Poll::Ready(Err(error)) => return Err(describe(&error)),
                Poll::Pending => {
                    self.waiting = Some(request);
                    return Ok(());
                }
            }
        }
    }

    fn accept(&mut self, stream: yamux::Stream) {
        // A peer that opens streams faster than they are looked at gets the surplus reset.
        let _ = self.accepted.try_send(LinkStream::new(Box::new(Stream::new(stream)), &self.link));
    }
}

/// What happened, in words for the log.
fn describe(error: &yamux::ConnectionError) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => "the connection was cut".into(),
                io::ErrorKind::ConnectionReset => "the connection was reset".into(),
                _ => error.to_string(),
            };
        }
        cause = error.source();
    }
    match error {
        yamux::ConnectionError::Closed => "the peer closed the connection".into(),
        other => other.to_string(),
    }
}

struct Stream {
    io: yamux::Stream,
    /// This side has ended.
    ended: bool,
}

impl Stream {
    fn new(io: yamux::Stream) -> Self {
        Stream { io, ended: false }
    }
}

impl MuxStream for Stream {
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match ready!(Pin::new(&mut self.io).poll_next(cx)) {
            // Closed in both directions although only the peer's can have ended in order.
            None if !self.ended && self.io.is_closed() => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            None => Poll::Ready(Ok(None)),
            Some(Ok(packet)) => Poll::Ready(Ok(Some(Bytes::from_owner(packet)))),
            Some(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_close(cx))?;
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}
