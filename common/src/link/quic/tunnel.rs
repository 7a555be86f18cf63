//! Tunnels: QUIC between client and server.
//!
//! The trust is that of TLS over TCP: the same certificates, and a login that is bound to the connection's keying
//! material. It is spoken on the client's first stream. Until it has come to a good end, neither end lets the other have
//! more than that stream and a small window.

use super::driver::{self, Driver, Limits, Transport};
use super::owned::Owned;
use super::port::Port;
use super::{LINK_WINDOW, canonical, common, endpoint, endpoint_config};
use crate::link::tls::{ClientTls, Secured, ServerTls, fingerprint};
use crate::link::{Io, LinkKind, NewLink};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, ServerConfig,
    Side, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use ring::hmac;
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::Join;
use tun_proto::auth::EXPORTER_LABEL;
use tun_proto::limits::LINK_STREAM_LIMIT;
use tun_proto::wire::login::Bytes32;

/// Bytes that a peer which has not logged in may have in flight: a login has less than 16 KiB.
const STRANGER_WINDOW: u32 = 64 * 1024;

/// Streams that the peer may open to begin with, once it has logged in. See the same of direct links; there are many
/// more tunnels, and most of them are idle.
const FIRST_STREAMS: u32 = 32;

/// Streams that a client opens beside those that carry something: the login, the heartbeat and the control channel.
const OWN_STREAMS: u32 = 3;

/// What is taken for the round trip before it is measured: most servers are nearer, and a first packet that is lost is
/// repeated after three times as long.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(100);

/// Handshakes that wait for [`Listener::accept`], which does nothing but take them; beyond, newcomers have to try again.
const MAX_WAITING: usize = 256;

/// Bytes of packets of one such handshake, and of all of them, that are kept for it.
const WAITING_BYTES: (u64, u64) = (16 * 1024, 1024 * 1024);

/// How long the ends of closed connections may take to leave.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// How tunnels behave: `transport.quic` of both files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How often an idle connection says something; half of `idle_timeout` at most.
    pub keep_alive: Duration,
    /// Silence after which it is given up. The shorter one of both ends counts.
    pub idle_timeout: Duration,
    /// Streams that the peer may have open at once in one connection, beside the connection's own.
    pub max_streams: u32,
}

impl Default for Options {
    /// frp's values.
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            max_streams: 100_000,
        }
    }
}

impl Options {
    fn transport(&self) -> TransportConfig {
        let mut config = common();
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_idle_timeout(self.idle_timeout.try_into().ok())
            .keep_alive_interval(Some(self.keep_alive.min(self.idle_timeout / 2)))
            .receive_window(VarInt::from_u32(STRANGER_WINDOW))
            .initial_rtt(FIRST_ROUND_TRIP);
        config
    }

    /// For the end that is `side`.
    fn limits(&self, side: Side) -> Limits {
        let own = if side.is_server() { OWN_STREAMS } else { 0 };
        let most = self.max_streams.saturating_add(own).min(LINK_STREAM_LIMIT as u32);
        Limits { first_streams: FIRST_STREAMS.min(most), most_streams: most, silence: self.idle_timeout }
    }
}

/// A connection on whose first stream the login comes next.
pub struct Tunnel {
    transport: Transport,
    login: Join<RecvStream, SendStream>,
    limits: Limits,
}

impl Tunnel {
    /// The stream for the login.
    pub fn login(&mut self) -> &mut dyn Io {
        &mut self.login
    }

    /// Resolves when the peer sends what it must not send before its login has come to a good end, or the connection
    /// is lost. Cancellation safe.
    pub fn misused(&self) -> impl Future<Output = ()> + Send + use<> {
        let connection = self.transport.connection().clone();
        // What a stranger sends as datagrams would be kept, and nothing of a login is one.
        async move { drop(connection.read_datagram().await) }
    }

    /// Why the connection is lost, if it is.
    pub(crate) fn lost(&self) -> Option<io::Error> {
        let error = self.transport.connection().close_reason()?;
        Some(io::Error::other(driver::describe(&error, self.limits.silence)))
    }

    /// Makes the link, after the login.
    pub(crate) fn into_link(self, number: u32, peer: SocketAddr) -> NewLink {
        let Tunnel { transport, login, limits } = self;
        let (_, mut send) = login.into_inner();
        // Fails if the peer has let go of the stream already.
        let _ = send.finish();
        let connection = transport.connection();
        connection.set_receive_window(VarInt::from_u32(LINK_WINDOW));
        connection.set_max_concurrent_bi_streams(VarInt::from_u32(limits.first_streams));
        let (link, ends, inbound) = driver::new_link(LinkKind::Tunnel, number, peer);
        link.note_round_trip(connection.rtt());
        let driver = Driver::new(transport, None, limits, link.clone(), ends);
        NewLink { link, inbound, driver: Box::pin(driver.run()) }
    }

    /// Ends it, for a reason that the peer may read. Takes half a second at most.
    pub async fn close(self, reason: &str) {
        self.transport.close(reason).await;
        self.transport.stopped().await;
    }

    fn secured(
        transport: Transport,
        (send, recv): (SendStream, RecvStream),
        options: &Options,
        certificate: Option<Bytes32>,
    ) -> io::Result<Secured<Tunnel>> {
        let mut exporter = [0; 32];
        transport
            .connection()
            .export_keying_material(&mut exporter, EXPORTER_LABEL, &[])
            .map_err(|_| io::Error::other("no keying material"))?;
        let login = tokio::io::join(recv, send);
        let limits = options.limits(transport.connection().side());
        let tunnel = Tunnel { transport, login, limits };
        Ok(Secured { stream: tunnel, exporter, certificate })
    }
}

/// Connects to a server, from `local` if that is given. Not cancellation safe: the server then waits for a login until its
/// patience ends.
///
/// # Errors
/// Those of the socket; if the server is another one, refuses, or does not answer within the idle timeout.
pub async fn dial(
    remote: SocketAddr,
    local: Option<IpAddr>,
    tls: &ClientTls,
    options: &Options,
) -> io::Result<Secured<Tunnel>> {
    let any = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let local = local.unwrap_or(any);
    if local.is_ipv4() != remote.is_ipv4() {
        let what = format!("{} cannot be reached from {local}", remote.ip());
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, what));
    }
    let socket = UdpSocket::bind(SocketAddr::new(local, 0))?;
    let crypto = QuicClientConfig::try_from(tls.quic()).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(options.transport()));
    let (endpoint, tasks, socket) = endpoint(socket, None)?;
    let connecting = endpoint.connect_with(config, remote, &tls.name()).map_err(io::Error::other)?;
    let connection = connecting.await.map_err(|error| lost(&error, options))?;
    socket.connected.store(true, Ordering::Relaxed);
    let transport = Transport::alone(connection, endpoint, tasks);
    let stream = transport.connection().open_bi().await.map_err(|error| lost(&error, options))?;
    let certificate = seen_certificate(transport.connection());
    Tunnel::secured(transport, stream, options, certificate)
}

fn seen_certificate(connection: &Connection) -> Option<Bytes32> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().map(fingerprint)
}

/// The server's end: a UDP port at which clients connect.
pub struct Listener {
    endpoint: Endpoint,
    tasks: Arc<Owned>,
    options: Options,
}

impl Listener {
    /// Serves on `port`. By `reset_key`, which is to be the same after a restart and another one on every port, the
    /// clients of a predecessor are told that their connections are no more.
    ///
    /// # Errors
    /// If TLS or the socket cannot be set up.
    pub fn new(
        port: Arc<Port>,
        tls: &ServerTls,
        options: &Options,
        reset_key: &[u8; 32],
    ) -> io::Result<Self> {
        let crypto = QuicServerConfig::try_from(tls.quic()).map_err(io::Error::other)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(Arc::new(options.transport()))
            .max_incoming(MAX_WAITING)
            .incoming_buffer_size(WAITING_BYTES.0)
            .incoming_buffer_size_total(WAITING_BYTES.1);
        let mut config = endpoint_config();
        config.reset_key(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_key)));
        let ids = u64::from_le_bytes(*reset_key.first_chunk().unwrap_or(&[0; 8]));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
        let tasks = Arc::new(Owned::default());
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), port, tasks.clone())?;
        Ok(Listener { endpoint, tasks, options: options.clone() })
    }

    /// The next handshake that somebody begins; `None` after [`Listener::close`]. Cancellation safe.
    pub async fn accept(&self) -> Option<Knock> {
        let incoming = self.endpoint.accept().await?;
        Some(Knock { incoming, options: self.options.clone() })
    }

    /// Takes no more connections, ends those that are left, and waits until the port is free or half a second is over.
    pub async fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"the server was stopped");
        let _ = tokio::time::timeout(CLOSE_DEADLINE, self.endpoint.wait_idle()).await;
        self.tasks.stopped().await;
    }
}

/// Somebody's first packet. Dropped, it is answered with a refusal.
pub struct Knock {
    incoming: Incoming,
    options: Options,
}

impl Knock {
    /// Where it says that it comes from.
    pub fn peer(&self) -> SocketAddr {
        canonical(self.incoming.remote_address())
    }

    /// Whether it is known to come from there.
    pub fn is_validated(&self) -> bool {
        self.incoming.remote_address_validated()
    }

    /// Asks for a sign that it does come from there, and forgets it until then (RFC 9000 §8.1.2).
    pub fn validate(self) {
        // Fails if it has given that sign.
        let _ = self.incoming.retry();
    }

    /// Takes the server's part in the handshake, until the stream of the login is there. Not cancellation safe: the
    /// connection is lost.
    ///
    /// # Errors
    /// Whatever is wrong with the peer or the connection; [`io::ErrorKind::ConnectionAborted`] if it went away.
    pub async fn accept(self, tls: &ServerTls) -> io::Result<Secured<Tunnel>> {
        let Knock { incoming, options } = self;
        let lost = |error: ConnectionError| lost(&error, &options);
        let connection = incoming.accept().map_err(lost)?.await.map_err(lost)?;
        let transport = Transport::of_many(connection);
        let stream = transport.connection().accept_bi().await.map_err(lost)?;
        Tunnel::secured(transport, stream, &options, Some(tls.fingerprint()))
    }
}

fn lost(error: &ConnectionError, options: &Options) -> io::Error {
    let kind = io::Error::from(error.clone()).kind();
    io::Error::new(kind, driver::describe(error, options.idle_timeout))
}
