//! Between a visitor and the client of a private proxy: two relayed streams joined, whose bytes the server cannot read.

use bytes::{Buf, Bytes};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::timeout;
use tun_common::session::{RelayedStream, Session};
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::relay::Refusal;

/// Chunks passed on before other tasks of the worker get their turn.
const TURNS: usize = 32;

/// A visitor that was found to be welcome.
pub(crate) struct Visit {
    pub(crate) proxy: String,
    /// The visitor's user.
    pub(crate) user: String,
    /// The visitor's address.
    pub(crate) source: String,
    /// Of the client that serves the proxy.
    pub(crate) client: Session,
    /// How long the visitor waits while that client has no link.
    pub(crate) patience: Duration,
}

impl Visit {
    /// Leads the visitor's stream to the client, and passes bytes on until both sides have ended.
    pub(crate) async fn relay(self, visitor: RelayedStream) {
        let Visit { proxy, user, source, client, patience } = self;
        let meta = StreamMeta::Visitor { proxy: proxy.clone(), user, source: source.clone() };
        let meta = serde_json::to_vec(&meta).unwrap_or_default();
        let clients_end = match timeout(patience, client.open_relayed(&meta)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::QuotaExceeded => {
                tracing::warn!("[{proxy}] visitor from {source} refused: its client has as many as it may");
                return visitor.refuse(Refusal::Busy).await;
            }
            Ok(Err(_)) | Err(_) => {
                tracing::debug!("[{proxy}] visitor from {source} refused: its client has no link");
                return visitor.refuse(Refusal::Unreachable).await;
            }
        };
        tracing::debug!("[{proxy}] visitor from {source}");
        match join(visitor, clients_end).await {
            Ok(()) => tracing::debug!("[{proxy}] visitor from {source} ended"),
            Err(error) => tracing::debug!("[{proxy}] visitor from {source} ended: {error}"),
        }
    }
}

/// Passes on the bytes of two streams and the ends of their sides. When one of them fails, both are reset.
async fn join(mut one: RelayedStream, mut other: RelayedStream) -> io::Result<()> {
    let (mut there, mut back) = (Way::default(), Way::default());
    poll_fn(|cx| {
        // Both are looked at each time, so that a failure of either shows.
        let there = there.poll_pass(cx, &mut one, &mut other)?;
        let back = back.poll_pass(cx, &mut other, &mut one)?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// One direction: never more than the chunk that its writer did not take yet.
#[derive(Default)]
struct Way {
    chunk: Bytes,
    ended: bool,
    closed: bool,
}

impl Way {
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut RelayedStream,
        to: &mut RelayedStream,
    ) -> Poll<io::Result<()>> {
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURNS {
            while !self.chunk.is_empty() {
                let taken = ready!(to.poll_write_some(cx, &self.chunk))?;
                self.chunk.advance(taken);
            }
            self.chunk = Bytes::new();
            if self.ended {
                ready!(to.poll_close(cx))?;
                self.closed = true;
                return Poll::Ready(Ok(()));
            }
            match ready!(from.poll_read_chunk(cx))? {
                Some(chunk) => self.chunk = chunk,
                None => self.ended = true,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
