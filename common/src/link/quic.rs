//! Links over QUIC: [`tunnel`]s between client and server, and [`direct`] ones between two peers.
//!
//! What the two have in common is here; they differ in who may connect, and in how the link is watched. quinn appears here
//! and below, and nowhere else.

mod congestion;
mod datagram;
pub mod direct;
mod driver;
mod owned;
pub mod port;
mod pulse;
mod quiet;
mod stream;
#[cfg(test)]
mod tests;
pub mod tunnel;

use crate::random;
use owned::Owned;
use quiet::{Ids, Quiet};
use quinn::{
    AckFrequencyConfig, ConnectionId, Endpoint, EndpointConfig, Runtime as _, ServerConfig, TransportConfig,
    VarInt,
};
use socket2::SockRef;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tun_proto::session::pulse::ACK_DELAY;

/// Silence after which a direct path is given up.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often an idle direct link says something: routers forget a UDP mapping after 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Bytes a stream may have in flight: 640 Mbit/s at 50 ms. With larger windows a burst of losses can leave more gaps in
/// a stream than quinn bears.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// Bytes that all streams of a link may have in flight: more than twice what 1 Gbit/s at 100 ms needs.
const LINK_WINDOW: u32 = 32 * 1024 * 1024;

/// Bytes that wait for acknowledgement in quinn: 1 Gbit/s at 100 ms needs 12.5 MB. The session holds the same bytes,
/// without a copy.
const SEND_WINDOW: u64 = 16 * 1024 * 1024;

/// The kernel's buffers. The default of 208 KiB loses packets even on loopback.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Packets that the peer may receive before it acknowledges. An acknowledgement costs both sides as much as data.
const ACK_EVERY: u32 = 20;

/// Bytes of datagrams that have arrived and wait for the link's driver; the oldest are dropped.
const DATAGRAM_RECEIVE_BUFFER: usize = 1024 * 1024;

/// Bytes of datagrams that wait for the path. Few: what cannot leave should wait where it is chosen what to drop.
const DATAGRAM_SEND_BUFFER: usize = 128 * 1024;

/// An endpoint of its own for one link. With what is accepted, and where it must be addressed to, at an accepting end.
fn endpoint(
    socket: UdpSocket,
    accepting: Option<(ServerConfig, ConnectionId)>,
) -> io::Result<(Endpoint, Arc<Owned>, Arc<Quiet>)> {
    widen(&socket);
    let mut config = endpoint_config();
    let key = u64::from_ne_bytes(random::bytes());
    config.cid_generator(move || Box::new(Ids::new(key)));
    let tasks = Arc::new(Owned::default());
    let (server, first) = accepting.unzip();
    let socket =
        Arc::new(Quiet { socket: tasks.wrap_udp_socket(socket)?, key, first, connected: false.into() });
    let endpoint = Endpoint::new_with_abstract_socket(config, server, socket.clone(), tasks.clone())?;
    Ok((endpoint, tasks, socket))
}

fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    // So that no datagram of another protocol on the same port can look like one of QUIC's.
    config.grease_quic_bit(false);
    config
}

fn widen(socket: &UdpSocket) {
    // The kernel may grant less.
    let buffers = SockRef::from(socket);
    let _ = buffers.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = buffers.set_send_buffer_size(SOCKET_BUFFER);
}

/// What links of all kinds have in common.
fn common() -> TransportConfig {
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY)).max_ack_delay(Some(ACK_DELAY));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(SEND_WINDOW)
        .ack_frequency_config(Some(acknowledgements))
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER);
    config
}

/// The address as others know it, where a socket of both families shows an IPv4 peer in IPv6's clothes.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
