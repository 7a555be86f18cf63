//! Relayed streams: bytes between this end and a peer's peer, that the server passes on.
//!
//! What crosses one is a link of another session, so it needs nothing of this one but a place on a link: no
//! acknowledgements, no copies. It ends with that link, and the session inside goes on over the next.

use super::Session;
use crate::link::{Link, LinkStream};
use bytes::{Buf, Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tun_proto::limits::{MAX_FRAME, MAX_RELAYED_STREAMS};
use tun_proto::wire::relay::{Refusal, THROUGH, decode_answer, put_opening};

/// Chunks below this size do not make a stream count as active.
const SMALL: usize = 2 * 1024;

/// One end of a relayed stream. Reading and writing as [`AsyncRead`] and [`AsyncWrite`] is for those who talk over it:
/// the answer of the far end is taken from the front, and a refusal becomes an error (see [`refusal`]). Whoever only
/// passes its bytes on takes them in chunks, answer and all.
///
/// Dropping a stream that was not closed resets it.
pub struct RelayedStream {
    io: LinkStream,
    /// Arrived, and not taken yet.
    ahead: Bytes,
    /// The next byte that arrives is the answer.
    unanswered: bool,
    /// See [`Activity`](crate::link::Activity).
    counted: u32,
    // Goes after the multiplexed stream, so that the session sees an empty link as empty.
    place: Place,
}

/// A relayed stream's place in its session, while it lives.
struct Place {
    session: Session,
    link: Link,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.session.forget_relayed(self.link.number());
    }
}

impl Session {
    /// Opens a relayed stream on the least loaded link; waits for a link if there is none. `meta` says what for. Costs
    /// no round trip. Cancellation safe.
    ///
    /// # Errors
    /// `QuotaExceeded` at the limit of such streams, `NotConnected` when the session is over or the link just broke.
    pub async fn open_relayed(&self, meta: &[u8]) -> io::Result<RelayedStream> {
        let mut links = self.watch_links();
        let (link, io) = loop {
            links.mark_unchanged();
            if let Some(found) = self.clone().attach().await {
                break found;
            }
            tokio::select! {
                Ok(()) = links.changed() => {}
                () = self.over() => return Err(io::Error::new(io::ErrorKind::NotConnected, "the session is over")),
            }
        };
        let full = || io::Error::new(io::ErrorKind::QuotaExceeded, "too many relayed streams are open");
        let mut stream = RelayedStream::new(self, &link, io, Bytes::new()).map_err(|_| full())?;
        stream.unanswered = true;
        let mut opening = BytesMut::new();
        put_opening(meta, &mut opening);
        stream.io.write_all(&opening).await?;
        Ok(stream)
    }

    /// Number of relayed streams.
    pub fn relayed_count(&self) -> usize {
        self.lock().links.iter().map(|entry| entry.relayed).sum()
    }

    /// Resolves when there is no relayed stream, or the session is over. Cancellation safe.
    pub async fn relayed_ended(&self) {
        let mut streams = self.watch_streams();
        loop {
            streams.mark_unchanged();
            if self.relayed_count() == 0 {
                return;
            }
            tokio::select! {
                changed = streams.changed() => if changed.is_err() { return },
                () = self.over() => return,
            }
        }
    }

    fn forget_relayed(&self, link: u32) {
        {
            let mut state = self.lock();
            if let Some(entry) = state.links.iter_mut().find(|entry| entry.link.number() == link) {
                entry.relayed = entry.relayed.saturating_sub(1);
            }
        }
        self.count_streams();
        self.close_empty_links();
    }
}

impl RelayedStream {
    /// Gives a multiplexed stream a place, or gives it back at the limit, or if its link is gone.
    pub(super) fn new(
        session: &Session,
        link: &Link,
        io: LinkStream,
        ahead: Bytes,
    ) -> Result<Self, LinkStream> {
        {
            let mut state = session.lock();
            let count: usize = state.links.iter().map(|entry| entry.relayed).sum();
            let mut links = state.links.iter_mut();
            let entry = links.find(|entry| entry.link.number() == link.number());
            let Some(entry) = entry.filter(|_| count < MAX_RELAYED_STREAMS) else { return Err(io) };
            entry.relayed += 1;
        }
        let place = Place { session: session.clone(), link: link.clone() };
        session.count_streams();
        Ok(RelayedStream { io, ahead, unanswered: false, counted: 0, place })
    }

    /// The address of the link's peer.
    pub fn peer(&self) -> SocketAddr {
        self.place.link.peer()
    }

    /// Tells the opener that the stream goes through. Not cancellation safe.
    ///
    /// # Errors
    /// When the stream is gone.
    pub async fn let_through(&mut self) -> io::Result<()> {
        self.io.write_all(&[THROUGH]).await
    }

    /// Tells the opener that it does not, and ends the stream.
    pub async fn refuse(self, refusal: Refusal) {
        refuse(self.io, refusal).await;
    }

    /// The next bytes as they are; `None` at the end of the peer's side.
    ///
    /// # Errors
    /// When the peer reset the stream or the link is gone.
    pub fn poll_read_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.ahead))));
        }
        let chunk = ready!(self.io.poll_read_chunk(cx))?;
        if chunk.as_ref().is_some_and(|chunk| chunk.len() >= SMALL) {
            self.place.link.activity().note(&mut self.counted);
        }
        Poll::Ready(Ok(chunk))
    }

    /// Queues bytes for sending; returns how many were taken.
    ///
    /// # Errors
    /// When the peer reset the stream or the link is gone.
    pub fn poll_write_some(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = ready!(self.io.poll_write(cx, bytes))?;
        if taken >= SMALL {
            self.place.link.activity().note(&mut self.counted);
        }
        Poll::Ready(Ok(taken))
    }

    /// Ends this side in order.
    ///
    /// # Errors
    /// When the link is gone.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_close(cx)
    }
}

impl AsyncRead for RelayedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.ahead.is_empty() {
                match ready!(this.poll_read_chunk(cx))? {
                    Some(chunk) => this.ahead = chunk,
                    None => return Poll::Ready(Ok(())),
                }
            }
            if this.unanswered && this.ahead.has_remaining() {
                let answer = decode_answer(this.ahead.get_u8()).map_err(io::Error::other)?;
                answer.map_err(|refusal| io::Error::new(io::ErrorKind::ConnectionRefused, refusal))?;
                this.unanswered = false;
            }
            let n = buf.remaining().min(this.ahead.len());
            if n > 0 {
                buf.put_slice(&this.ahead[..n]);
                this.ahead.advance(n);
            }
            if this.ahead.is_empty() {
                // An empty slice would still hold the memory of its chunk.
                this.ahead = Bytes::new();
            }
            if n > 0 || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for RelayedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_some(cx, buf)
    }

    /// TLS hands over its records of 16 KiB side by side. Joined into full frames they cost less at every stop than the
    /// copy does here.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut parts = bufs.iter().filter(|part| !part.is_empty());
        match (parts.next(), parts.next()) {
            (None, _) => Poll::Ready(Ok(0)),
            (Some(only), None) => self.poll_write_some(cx, only),
            (Some(_), Some(_)) => {
                let mut joined = Vec::with_capacity(MAX_FRAME);
                for part in bufs {
                    joined.extend_from_slice(&part[..part.len().min(MAX_FRAME - joined.len())]);
                }
                self.poll_write_some(cx, &joined)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The link's driver sends what is queued without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_close(cx)
    }
}

/// The refusal that an error of a relayed stream stands for, if it does for one.
pub fn refusal(error: &io::Error) -> Option<Refusal> {
    error.get_ref()?.downcast_ref().copied()
}

/// Tells the opener of a stream that it does not go through.
pub(super) async fn refuse(mut io: LinkStream, refusal: Refusal) {
    if io.write_all(&[refusal as u8]).await.is_ok() {
        let _ = std::future::poll_fn(|cx| io.poll_close(cx)).await;
    }
}
