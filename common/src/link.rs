//! Links: authenticated, multiplexed connections between two ends.
//!
//! * [`tcp`] dials and tunes sockets, [`upstream`] reaches through proxies, [`tls`] encrypts, [`websocket`] passes for a
//!   web page, [`handshake`] logs in;
//! * [`yamux`] multiplexes what comes out, as `tun_proto::mux` decides;
//! * [`quic`] needs none of these: it makes links of its own kind, between client and server and directly between peers;
//! * [`Carrier`] is either of the two before the login;
//! * [`heartbeat`] keeps a link honest;
//! * [`Link`] is what the session sees: streams to open, streams that the peer opened, and an end.

mod carrier;
mod datagram;
pub mod handshake;
pub mod heartbeat;
mod idleness;
mod outgoing;
pub mod quic;
mod readahead;
pub mod resolve;
pub mod tcp;
pub mod tls;
pub mod udp;
pub mod upstream;
pub mod websocket;
mod yamux;

pub use carrier::Carrier;
pub(crate) use datagram::{OwnDatagram, Wait};
use idleness::Idleness;
pub use readahead::ReadAhead;

use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tun_proto::limits::{LINK_STREAM_LIMIT, MAX_STREAMS_PER_LINK};

/// Streams that the peer opened and nobody has taken yet: all that it may open.
const INBOUND_BACKLOG: usize = LINK_STREAM_LIMIT;

/// A handle to a link; cheap to clone. The link lives until it is closed, breaks, or its driver is stopped.
#[derive(Debug, Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    number: u32,
    kind: LinkKind,
    peer: SocketAddr,
    opener: Opener,
    traffic: Arc<Traffic>,
    streams: Arc<AtomicUsize>,
    activity: Activity,
    health: watch::Sender<Health>,
    /// Nanoseconds; 0 while unknown.
    round_trip: AtomicU64,
    retiring: AtomicBool,
    /// Asks the driver to close the link.
    close: CancellationToken,
    /// Cancelled by the driver when the link is gone.
    gone: CancellationToken,
    reason: OnceLock<String>,
    datagrams: datagram::Datagrams,
}

/// Who opens streams.
#[derive(Debug)]
enum Opener {
    /// The multiplexer itself.
    Mux(Arc<yamux::Shared>),
    /// The driver, on request.
    Driver(mpsc::Sender<oneshot::Sender<LinkStream>>),
}

/// What a link runs over; the better way comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// A connection between client and server.
    Tunnel,
    /// A stream between two peers that the server relays.
    Relay,
    /// Datagrams straight between two peers.
    Direct,
}

/// Whether a link can be trusted with bytes at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// As far as one knows.
    Good,
    /// What was sent is not acknowledged: bytes should take another way if there is one. It may recover.
    Suspect,
}

/// Which end of the multiplexed connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The end that dialled.
    Dialer,
    /// The end that accepted.
    Acceptor,
}

/// What a new link consists of.
pub struct NewLink {
    /// The handle.
    pub link: Link,
    /// Streams that the peer opens.
    pub inbound: mpsc::Receiver<LinkStream>,
    /// Moves the bytes; to be spawned. Ends when the link is gone.
    pub driver: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Any byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A byte stream that a link can run on: it has a buffer of its own to read from.
pub trait LinkIo: Io + AsyncBufRead {}
impl<T: Io + AsyncBufRead> LinkIo for T {}

impl Link {
    /// Multiplexes `io` with yamux. `number` names the link within its session; `read_ahead` are bytes that were
    /// read from `io` already.
    pub fn over_yamux(
        io: Box<dyn LinkIo>,
        read_ahead: BytesMut,
        side: Side,
        number: u32,
        peer: SocketAddr,
    ) -> NewLink {
        Self::multiplexed(LinkKind::Tunnel, io, read_ahead, side, number, peer)
    }

    /// The same over a stream between two peers that the server relays.
    pub fn over_relay(
        io: Box<dyn LinkIo>,
        read_ahead: BytesMut,
        side: Side,
        number: u32,
        peer: SocketAddr,
    ) -> NewLink {
        Self::multiplexed(LinkKind::Relay, io, read_ahead, side, number, peer)
    }

    fn multiplexed(
        kind: LinkKind,
        io: Box<dyn LinkIo>,
        read_ahead: BytesMut,
        side: Side,
        number: u32,
        peer: SocketAddr,
    ) -> NewLink {
        let shared = yamux::Shared::new(side == Side::Dialer);
        let (accepted, inbound) = mpsc::channel(INBOUND_BACKLOG);
        let link = Link::new(kind, number, peer, Opener::Mux(shared.clone()));
        let driver = yamux::Driver::new(io, read_ahead, link.clone(), shared, accepted);
        NewLink { link, inbound, driver: Box::pin(driver.run()) }
    }

    fn new(kind: LinkKind, number: u32, peer: SocketAddr, opener: Opener) -> Link {
        let inner = Inner {
            number,
            kind,
            peer,
            opener,
            traffic: Arc::new(Traffic::new()),
            streams: Arc::new(AtomicUsize::new(0)),
            activity: Activity::default(),
            health: watch::Sender::new(Health::Good),
            round_trip: AtomicU64::new(0),
            retiring: AtomicBool::new(false),
            close: CancellationToken::new(),
            gone: CancellationToken::new(),
            reason: OnceLock::new(),
            datagrams: datagram::Datagrams::default(),
        };
        Link { inner: Arc::new(inner) }
    }

    /// The link's number within its session.
    pub fn number(&self) -> u32 {
        self.inner.number
    }

    /// What the link runs over.
    pub fn kind(&self) -> LinkKind {
        self.inner.kind
    }

    /// Whether it can be trusted with bytes, to be watched. Always [`Health::Good`] unless it is direct.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.subscribe()
    }

    /// True if bytes should take another way for the moment.
    pub fn is_suspect(&self) -> bool {
        *self.inner.health.borrow() == Health::Suspect
    }

    /// The round trip to the peer, as last seen; `None` before it was measured.
    pub fn round_trip(&self) -> Option<Duration> {
        match self.inner.round_trip.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.inner.peer
    }

    /// What crossed the link.
    pub fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    /// Streams open now, those of the link itself included.
    pub fn streams(&self) -> usize {
        self.inner.streams.load(Ordering::Relaxed)
    }

    /// Counts the streams that move bytes.
    pub fn activity(&self) -> &Activity {
        &self.inner.activity
    }

    /// True if new streams may be placed here.
    pub fn is_usable(&self) -> bool {
        !self.is_gone() && !self.is_retiring() && self.streams() < MAX_STREAMS_PER_LINK
    }

    /// True if the link takes no new streams because it is about to be closed.
    pub fn is_retiring(&self) -> bool {
        self.inner.retiring.load(Ordering::Relaxed)
    }

    /// Takes the link out of use for new streams.
    pub fn retire(&self) {
        self.inner.retiring.store(true, Ordering::Relaxed);
    }

    /// Opens a stream. Costs no round trip; the peer learns of it with the first bytes. Cancellation safe.
    ///
    /// # Errors
    /// `NotConnected` when the link is gone; others if it carries as many streams as it can.
    pub async fn open(&self) -> io::Result<LinkStream> {
        let opens = match &self.inner.opener {
            Opener::Mux(shared) => return shared.open(self),
            Opener::Driver(opens) => opens,
        };
        let (reply, stream) = oneshot::channel();
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the link is gone");
        opens.send(reply).await.map_err(|_| gone())?;
        stream.await.map_err(|_| gone())
    }

    /// Closes the link, for a reason that others will read. What is queued may be lost.
    pub fn close(&self, reason: impl Into<String>) {
        self.inner.reason.get_or_init(|| reason.into());
        self.inner.close.cancel();
    }

    /// Resolves when the link is gone. Cancellation safe.
    pub async fn gone(&self) {
        self.inner.gone.cancelled().await;
    }

    /// True once the link is gone.
    pub fn is_gone(&self) -> bool {
        self.inner.gone.is_cancelled()
    }

    /// Why the link is gone.
    pub fn reason(&self) -> &str {
        self.inner.reason.get().map_or("closed", String::as_str)
    }

    fn note_round_trip(&self, round_trip: Duration) {
        self.inner.round_trip.store((round_trip.as_nanos() as u64).max(1), Ordering::Relaxed);
    }

    fn end(&self, reason: impl Into<String>) {
        self.inner.reason.get_or_init(|| reason.into());
        self.inner.gone.cancel();
        self.inner.datagrams.end();
    }
}

/// A multiplexed byte stream of a link.
///
/// Reading hands out the chunks that arrived, without copying them. Dropping a stream that was not closed resets it.
pub struct LinkStream {
    io: Box<dyn MuxStream>,
    streams: Arc<AtomicUsize>,
}

/// What a multiplexer's streams must be able to do.
trait MuxStream: Send + Unpin {
    /// The next bytes; `None` at the end of the peer's side. A reset is an error unless this side has ended.
    fn poll_read_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;
    /// Queues bytes for sending; returns how many were taken.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    /// The same for bytes that can be kept without copying them; takes from the front what it queues.
    fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        let n = ready!(self.poll_write(cx, chunk))?;
        chunk.advance(n);
        Poll::Ready(Ok(()))
    }
    /// Ends the sending side in order.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// See [`LinkStream::tighten`].
    fn tighten(&mut self) {}
}

impl LinkStream {
    fn new(io: Box<dyn MuxStream>, link: &Link) -> Self {
        link.inner.streams.fetch_add(1, Ordering::Relaxed);
        LinkStream { io, streams: link.inner.streams.clone() }
    }

    /// The next bytes; `None` at the end of the peer's side. A reset is an error unless this side has ended.
    pub fn poll_read_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.io.poll_read_chunk(cx)
    }

    /// Queues bytes for sending; returns how many were taken.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io.poll_write(cx, bytes)
    }

    /// Queues bytes for sending, without copying them where the link can; takes from the front what it queues.
    pub fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<()>> {
        self.io.poll_write_chunk(cx, chunk)
    }

    /// Keeps the multiplexer's window for the stream as small as the way allows, for who bounds by itself what is in flight.
    pub fn tighten(&mut self) {
        self.io.tighten();
    }

    /// Ends the sending side in order.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_close(cx)
    }

    /// The next bytes, as a future. Cancellation safe.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn read_chunk(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_read_chunk(cx)).await
    }

    /// Sends all of `bytes`. Not cancellation safe: part of them may have been taken.
    ///
    /// # Errors
    /// When the link is gone or the peer reset the stream.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = std::future::poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = &bytes[n..];
        }
        Ok(())
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts what crosses a link, and remembers when something last arrived.
#[derive(Debug)]
pub struct Traffic {
    born: Instant,
    /// Nanoseconds after `born`.
    heard: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    /// Nanoseconds that bytes waited for the socket, but for the present wait.
    waited: AtomicU64,
    /// Since when they wait now, in nanoseconds after `born`; 0 if they do not.
    waiting: AtomicU64,
}

impl Traffic {
    fn new() -> Self {
        Traffic {
            born: Instant::now(),
            heard: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        }
    }

    /// Bytes that arrived.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that left.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// When something last arrived; the link's birth to begin with.
    pub fn heard(&self) -> Instant {
        self.born + Duration::from_nanos(self.heard.load(Ordering::Relaxed))
    }

    /// How long bytes have waited for the socket to take them, in all.
    pub fn waited(&self) -> Duration {
        let present = match self.waiting.load(Ordering::Relaxed) {
            0 => 0,
            since => self.age().saturating_sub(since),
        };
        Duration::from_nanos(self.waited.load(Ordering::Relaxed) + present)
    }

    fn age(&self) -> u64 {
        self.born.elapsed().as_nanos() as u64
    }

    fn note_read(&self, bytes: usize) {
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        self.heard.store(self.age(), Ordering::Relaxed);
    }

    fn note_waiting(&self) {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            self.waiting.store(self.age().max(1), Ordering::Relaxed);
        }
    }

    fn note_taken(&self) {
        if self.waiting.load(Ordering::Relaxed) != 0 {
            let since = self.waiting.swap(0, Ordering::Relaxed);
            self.waited.fetch_add(self.age().saturating_sub(since), Ordering::Relaxed);
        }
    }

    fn note_written(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Counts how many streams moved bytes in a period, at the cost of one atomic load for each move.
#[derive(Debug, Default)]
pub struct Activity {
    period: AtomicU32,
    active: AtomicU32,
}

impl Activity {
    /// A stream moves bytes; `last` is its own memory of the period it was counted in.
    pub fn note(&self, last: &mut u32) {
        // Periods begin at 1 for a stream's memory, so that a new stream is counted in the first.
        let period = self.period.load(Ordering::Relaxed).wrapping_add(1);
        if *last != period {
            *last = period;
            self.active.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends the period: how many streams were active in it.
    pub fn measure(&self) -> usize {
        self.period.fetch_add(1, Ordering::Relaxed);
        self.active.swap(0, Ordering::Relaxed) as usize
    }
}
