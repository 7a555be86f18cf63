//! Direct links: QUIC over a UDP path that two peers have opened between them.
//!
//! Both ends know each other's certificate beforehand, so the handshake proves who is there.

use super::congestion::{Acknowledged, CountingConfig};
use super::driver::{self, Driver, Limits, Transport};
use super::{IDLE_TIMEOUT, KEEP_ALIVE, LINK_WINDOW, canonical, common, endpoint};
use crate::link::tls::{OWN_NAME, PeerTls, TlsError};
use crate::link::{LinkKind, NewLink};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, ConnectionId, Endpoint, ServerConfig, TransportConfig, VarInt};
use ring::digest;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tun_proto::limits::{HANDSHAKE_DEADLINE, LINK_STREAM_LIMIT};
use tun_proto::wire::login::Bytes32;

/// Bytes sent before the first acknowledgement: a path is taken into use in the middle of transfers, and slow start
/// from ten packets would be felt.
const INITIAL_CONGESTION_WINDOW: u64 = 256 * 1024;

/// Bounds for what is taken for the round trip before quinn has measured its own.
const FIRST_ROUND_TRIP: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Streams that the peer may open to begin with. quinn sets memory aside for all that it allows, a few hundred KiB for as
/// many as a link may carry, so the limit grows with the use of it.
pub(super) const FIRST_STREAMS: u32 = 256;

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

pub(super) async fn dial_to(first: ConnectionId, direct: Direct, tls: &PeerTls) -> io::Result<NewLink> {
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
    Ok(new_link(Transport::alone(connection, endpoint, tasks), acknowledged, direct.number))
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
    Ok(new_link(Transport::alone(connection, endpoint, tasks), acknowledged, direct.number))
}

/// Where the first packets of a link's handshake are addressed to (RFC 9000 §7.2): to what only its two ends know before,
/// so that nobody else needs an answer.
pub(super) fn first_destination(dialing: Bytes32, accepting: Bytes32, number: u32) -> ConnectionId {
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

fn transport(round_trip: Duration, acknowledged: &Acknowledged) -> TransportConfig {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_CONGESTION_WINDOW);
    let mut config = common();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(FIRST_STREAMS))
        .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .receive_window(VarInt::from_u32(LINK_WINDOW))
        .initial_rtt(round_trip.clamp(FIRST_ROUND_TRIP.0, FIRST_ROUND_TRIP.1))
        .congestion_controller_factory(Arc::new(CountingConfig::new(congestion, acknowledged.clone())));
    config
}

fn new_link(transport: Transport, acknowledged: Acknowledged, number: u32) -> NewLink {
    let connection = transport.connection();
    let (link, ends, inbound) =
        driver::new_link(LinkKind::Direct, number, canonical(connection.remote_address()));
    link.note_round_trip(connection.rtt());
    let limits = Limits {
        first_streams: FIRST_STREAMS,
        most_streams: LINK_STREAM_LIMIT as u32,
        silence: IDLE_TIMEOUT,
    };
    let driver = Driver::new(transport, Some(acknowledged), limits, link.clone(), ends);
    NewLink { link, inbound, driver: Box::pin(driver.run()) }
}

fn unusable(error: TlsError) -> io::Error {
    io::Error::other(error)
}

fn refused(error: quinn::ConnectionError) -> io::Error {
    io::Error::other(format!("no direct connection: {}", driver::describe(&error, IDLE_TIMEOUT)))
}
