//! Direct links: QUIC over a UDP path that two peers have opened between them.
//!
//! Both ends know each other's certificate beforehand, so the handshake proves who is there. quinn appears here and
//! below, and nowhere else.

mod congestion;
mod datagram;
mod driver;
mod owned;
mod pulse;
mod quiet;
mod stream;
#[cfg(test)]
mod tests;

use super::tls::{OWN_NAME, PeerTls, TlsError};
use super::{Link, LinkKind, NewLink};
use crate::random;
use congestion::{Acknowledged, CountingConfig};
use driver::{Driver, Transport};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use owned::Owned;
use quiet::{Ids, Quiet};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Connection, ConnectionId, Endpoint, EndpointConfig, Runtime as _,
    ServerConfig, TransportConfig, VarInt,
};
use ring::digest;
use socket2::SockRef;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tun_proto::limits::HANDSHAKE_DEADLINE;
use tun_proto::session::pulse::ACK_DELAY;
use tun_proto::wire::login::Bytes32;

/// Silence after which a path is given up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often an idle link says something: routers forget a UDP mapping after 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Bytes a stream may have in flight: 640 Mbit/s at 50 ms. With larger windows a burst of losses can leave more gaps in
/// a stream than quinn bears.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// Bytes that all streams of a link may have in flight.
const LINK_WINDOW: u32 = 32 * 1024 * 1024;

/// Bytes that wait for acknowledgement in quinn; the session holds the same bytes, without a copy.
const SEND_WINDOW: u64 = 16 * 1024 * 1024;

/// Bytes sent before the first acknowledgement: a path is taken into use in the middle of transfers, and slow start
/// from ten packets would be felt.
const INITIAL_CONGESTION_WINDOW: u64 = 256 * 1024;

/// The kernel's buffers. The default of 208 KiB loses packets even on loopback.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Packets that the peer may receive before it acknowledges. An acknowledgement costs both sides as much as data.
const ACK_EVERY: u32 = 20;

/// Bytes of datagrams that have arrived and wait for the link's driver; the oldest are dropped.
const DATAGRAM_RECEIVE_BUFFER: usize = 1024 * 1024;

/// Bytes of datagrams that wait for the path. Few: what cannot leave should wait where it is chosen what to drop.
const DATAGRAM_SEND_BUFFER: usize = 128 * 1024;

/// Bounds for what is taken for the round trip before quinn has measured its own.
const FIRST_ROUND_TRIP: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Streams that the peer may open to begin with. quinn sets memory aside for all that it allows, a few hundred KiB for as
/// many as a link may carry, so the limit grows with the use of it.
const FIRST_STREAMS: u32 = 256;

/// Who repeats the first packet of the peer's handshake from elsewhere may be in one at once with the accepting end.
const MAX_HANDSHAKES: usize = 8;

/// Length of the connection ID that a handshake begins with, in bytes: the longest there is (RFC 9000 §17.2).
const FIRST_DESTINATION: usize = 20;

/// What a direct link is made of.
#[derive(Debug)]
pub struct Direct {
    /// A socket that the path was opened with. Datagrams of the opening may still arrive on it: they are dropped as long as
    /// the two upper bits of their first byte are 0.
    pub socket: UdpSocket,
    /// The peer as seen from here. The accepting end may hear it from another address.
    pub remote: SocketAddr,
    /// The link's number within its session.
    pub number: u32,
    /// The path's round trip as far as known.
    pub round_trip: Duration,
    /// Fingerprint (SHA-256) of the peer's certificate.
    pub peer: Bytes32,
}

/// Takes the connecting part. Not cancellation safe: the path is lost.
///
/// # Errors
/// If the peer is another one, or does not answer within [`HANDSHAKE_DEADLINE`].
pub async fn dial(direct: Direct, tls: &PeerTls) -> io::Result<NewLink> {
    let first = first_destination(tls.fingerprint(), direct.peer, direct.number);
    dial_to(first, direct, tls).await
}

async fn dial_to(first: ConnectionId, direct: Direct, tls: &PeerTls) -> io::Result<NewLink> {
    let crypto = QuicClientConfig::try_from(tls.direct_client(direct.peer).map_err(unusable)?)
        .map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    let acknowledged = Acknowledged::default();
    config.transport_config(Arc::new(transport(direct.round_trip, &acknowledged)));
    config.initial_dst_cid_provider(Arc::new(move || first));
    let (endpoint, tasks, socket) = endpoint(direct.socket, None)?;
    let connecting = endpoint.connect_with(config, direct.remote, OWN_NAME).map_err(io::Error::other)?;
    let connection = within_deadline(async { connecting.await.map_err(refused) }).await?;
    socket.connected.store(true, Ordering::Relaxed);
    Ok(new_link(Transport::new(connection, endpoint, tasks), acknowledged, direct.number))
}

/// Takes the accepting part: the first connection with the right certificate is the link, wherever it comes from. Nobody
/// else gets an answer. Not cancellation safe: the path is lost.
///
/// # Errors
/// If nobody with that certificate comes within [`HANDSHAKE_DEADLINE`].
pub async fn accept(direct: Direct, tls: &PeerTls) -> io::Result<NewLink> {
    let crypto = QuicServerConfig::try_from(tls.direct_server(direct.peer).map_err(unusable)?)
        .map_err(io::Error::other)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    let acknowledged = Acknowledged::default();
    config.transport_config(Arc::new(transport(direct.round_trip, &acknowledged)));
    let first = first_destination(direct.peer, tls.fingerprint(), direct.number);
    let (endpoint, tasks, socket) = endpoint(direct.socket, Some((config, first)))?;
    let connection = within_deadline(first_proven(&endpoint)).await?;
    // Whoever comes later is not answered.
    endpoint.set_server_config(None);
    socket.connected.store(true, Ordering::Relaxed);
    Ok(new_link(Transport::new(connection, endpoint, tasks), acknowledged, direct.number))
}

/// Where the first packets of a link's handshake are addressed to (RFC 9000 §7.2): to what only its two ends know before,
/// so that nobody else needs an answer.
fn first_destination(dialing: Bytes32, accepting: Bytes32, number: u32) -> ConnectionId {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [b"tun direct v1", &dialing.0[..], &accepting.0, &number.to_be_bytes()] {
        context.update(part);
    }
    ConnectionId::new(&context.finish().as_ref()[..FIRST_DESTINATION])
}

async fn first_proven(endpoint: &Endpoint) -> io::Result<Connection> {
    let mut handshakes = FuturesUnordered::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let incoming = incoming.ok_or(io::ErrorKind::NotConnected)?;
                if handshakes.len() >= MAX_HANDSHAKES {
                    incoming.ignore();
                } else if let Ok(connecting) = incoming.accept() {
                    handshakes.push(connecting);
                }
            }
            Some(outcome) = handshakes.next() => match outcome {
                Ok(connection) => return Ok(connection),
                Err(error) => tracing::debug!(%error, "somebody else on a direct path"),
            },
        }
    }
}

async fn within_deadline<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the peer did not answer on the direct path");
    tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await.unwrap_or_else(|_| Err(late()))
}

/// With what is accepted, and where it must be addressed to, at the accepting end.
fn endpoint(
    socket: UdpSocket,
    accepting: Option<(ServerConfig, ConnectionId)>,
) -> io::Result<(Endpoint, Arc<Owned>, Arc<Quiet>)> {
    // The kernel may grant less.
    let buffers = SockRef::from(&socket);
    let _ = buffers.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = buffers.set_send_buffer_size(SOCKET_BUFFER);
    let mut config = EndpointConfig::default();
    // So that no datagram of the path's opening can look like one of QUIC's.
    config.grease_quic_bit(false);
    let key = u64::from_ne_bytes(random::bytes());
    config.cid_generator(move || Box::new(Ids::new(key)));
    let tasks = Arc::new(Owned::default());
    let (server, first) = accepting.unzip();
    let socket =
        Arc::new(Quiet { socket: tasks.wrap_udp_socket(socket)?, key, first, connected: false.into() });
    let endpoint = Endpoint::new_with_abstract_socket(config, server, socket.clone(), tasks.clone())?;
    Ok((endpoint, tasks, socket))
}

fn transport(round_trip: Duration, acknowledged: &Acknowledged) -> TransportConfig {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_CONGESTION_WINDOW);
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY)).max_ack_delay(Some(ACK_DELAY));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(FIRST_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(LINK_WINDOW))
        .send_window(SEND_WINDOW)
        .initial_rtt(round_trip.clamp(FIRST_ROUND_TRIP.0, FIRST_ROUND_TRIP.1))
        .ack_frequency_config(Some(acknowledgements))
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .congestion_controller_factory(Arc::new(CountingConfig::new(congestion, acknowledged.clone())));
    config
}

fn new_link(transport: Transport, acknowledged: Acknowledged, number: u32) -> NewLink {
    let connection = transport.connection();
    let (link, ends, inbound) = Link::new(LinkKind::Direct, number, canonical(connection.remote_address()));
    link.note_round_trip(connection.rtt());
    let driver = Driver::new(transport, acknowledged, link.clone(), ends);
    NewLink { link, inbound, driver: Box::pin(driver.run()) }
}

/// The address as the path's opening knows it, where a socket of both families shows an IPv4 peer in IPv6's clothes.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn unusable(error: TlsError) -> io::Error {
    io::Error::other(error)
}

fn refused(error: quinn::ConnectionError) -> io::Error {
    io::Error::other(format!("no direct connection: {}", driver::describe(&error)))
}
