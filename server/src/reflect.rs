//! The STUN server: tells whoever asks how it is seen from here (RFC 8489), and answers from other addresses and ports
//! where that is asked for (RFC 5780).
//!
//! It has two ports on one address, or on two. It keeps no state but how often each address has asked.

mod answer;

use answer::{Layout, Place, answer};
use anyhow::Context;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tun_common::config::StunConfig;
use tun_common::lifecycle::Tasks;
use tun_common::limit::SourceRate;
use tun_proto::limits::{STUN_BURST, STUN_REFILL};
use tun_proto::wire::login::StunService;

/// Pause after an error of a socket that is not about one datagram.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Datagrams of one sender may arrive together; the kernel joins up to this much.
const RECEIVE_BUFFER: usize = 64 * 1024;

/// Sockets by place; the second address is optional.
struct Reflector {
    sockets: Vec<(Place, Socket)>,
    layout: Layout,
    rate: SourceRate,
}

struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
}

/// Binds the ports and serves them; returns what clients should know of them. `tcp` is where clients connect.
///
/// # Errors
/// When something that was configured cannot be had. Defaults that cannot be had cost a warning.
pub(crate) fn start(
    config: &StunConfig,
    tcp: SocketAddr,
    tasks: &Tasks,
) -> anyhow::Result<Option<StunService>> {
    if !config.enable {
        return Ok(None);
    }
    let first = config.port.unwrap_or(tcp.port());
    let second = config.alt_port.unwrap_or(if first < u16::MAX { first + 1 } else { first - 1 });
    let mut ips = vec![tcp.ip()];
    if let Some(other) = config.alt_addr {
        anyhow::ensure!(
            !tcp.ip().is_unspecified() && tcp.ip() != other && tcp.is_ipv4() == other.is_ipv4(),
            "stun.altAddr = \"{other}\" needs a bindAddr that is another address of the same family, not {}",
            tcp.ip()
        );
        ips.push(other);
    }
    let mut sockets = Vec::new();
    for (place, ip) in ips.into_iter().enumerate() {
        for (port, configured) in [(first, config.port.is_some()), (second, config.alt_port.is_some())] {
            let address = SocketAddr::new(ip, port);
            match Socket::bind(address) {
                Ok(socket) => {
                    sockets.push((Place { other_address: place == 1, other_port: port == second }, socket));
                }
                Err(error) if configured || place == 1 => {
                    return Err(error).with_context(|| format!("cannot serve STUN on {address} (UDP; stun)"));
                }
                Err(error) => {
                    tracing::warn!("no STUN on {address} (UDP): {error}; stun.port and stun.altPort choose")
                }
            }
        }
    }
    let Some((_, main)) = sockets.first() else { return Ok(None) };
    tracing::info!("STUN on {} (UDP), {} ports in all", main.io.local_addr()?, sockets.len());
    let complete = sockets.len() == 4;
    let layout = Layout {
        ips: [tcp.ip(), config.alt_addr.filter(|_| complete).unwrap_or(tcp.ip())],
        ports: [first, second],
        two_addresses: complete,
        two_ports: sockets.len() > 1,
    };
    let on_first = sockets.iter().filter(|(place, _)| !place.other_address);
    let service = StunService {
        ports: on_first.map(|(place, _)| if place.other_port { second } else { first }).collect(),
        other_address: config.alt_addr.filter(|_| complete),
    };
    let burst = NonZeroU32::new(STUN_BURST).unwrap_or(NonZeroU32::MIN);
    let rate = SourceRate::new(burst, STUN_REFILL);
    let count = sockets.len();
    let reflector = Arc::new(Reflector { sockets, layout, rate });
    for index in 0..count {
        let reflector = reflector.clone();
        tasks.spawn(async move { reflector.serve(index).await });
    }
    Ok(Some(service))
}

impl Reflector {
    async fn serve(&self, index: usize) {
        let Some((place, socket)) = self.sockets.get(index) else { return };
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let meta = match socket.receive(&mut buffer).await {
                Ok(meta) => meta,
                Err(error) => {
                    tracing::debug!("STUN: {error}");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let received = buffer.get(..meta.len).unwrap_or_default();
            for datagram in received.chunks(meta.stride.max(1)) {
                self.handle(*place, &meta, datagram).await;
            }
        }
    }

    async fn handle(&self, place: Place, meta: &RecvMeta, datagram: &[u8]) {
        // Port 0 cannot be answered, and what is not even a message costs no place in the counts.
        if meta.addr.port() == 0 || !self.rate.allows(meta.addr.ip()) {
            return;
        }
        let local = meta.dst_ip.map(|ip| ip.to_canonical());
        let Some(answer) = answer(datagram, meta.addr, place, local, &self.layout) else { return };
        let Some((_, socket)) = self.sockets.iter().find(|(place, _)| *place == answer.from) else { return };
        // The answer leaves from the address that was asked: a NAT would not let it in from another one.
        let source = local.filter(|_| answer.from.other_address == place.other_address);
        if let Err(error) = socket.send(&answer.bytes, answer.to, source).await {
            tracing::debug!("STUN: no answer to {}: {error}", meta.addr);
        }
    }
}

impl Socket {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = tun_common::link::udp::bind(address)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Ok(Socket { io: socket, state })
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<RecvMeta> {
        let mut meta = [RecvMeta::default()];
        self.io
            .async_io(Interest::READABLE, || {
                let mut buffers = [IoSliceMut::new(buffer)];
                self.state.recv(UdpSockRef::from(&self.io), &mut buffers, &mut meta)
            })
            .await?;
        Ok(meta[0])
    }

    async fn send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        let transmit =
            Transmit { destination: to, ecn: None, contents: bytes, segment_size: None, src_ip: from };
        let send = || self.state.try_send(UdpSockRef::from(&self.io), &transmit);
        self.io.async_io(Interest::WRITABLE, send).await
    }
}
