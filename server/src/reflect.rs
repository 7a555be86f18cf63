//! The STUN server: tells whoever asks how it is seen from here (RFC 8489), and answers from other addresses and ports
//! where that is asked for (RFC 5780).
//!
//! It has two ports on one address, or on two, and shares those that QUIC is served on as well. It keeps no state but how
//! often each address has asked.

mod answer;

use answer::{Layout, Place, answer};
use anyhow::Context;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tun_common::config::StunConfig;
use tun_common::lifecycle::Tasks;
use tun_common::limit::SourceRate;
use tun_common::link::quic::port::{Port, Strays};
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

enum Socket {
    Own { io: UdpSocket, state: UdpSocketState },
    Shared(Arc<Port>),
}

/// What a shared port hands over.
struct Diverted {
    /// Not there any more once STUN is to end.
    reflector: Weak<Reflector>,
    place: Place,
}

/// Binds the ports and serves them; returns what clients should know of them. `tcp` is where clients connect, `quic` are the
/// ports that are bound already.
///
/// # Errors
/// When something that was configured cannot be had. Defaults that cannot be had cost a warning.
pub(crate) fn start(
    config: &StunConfig,
    tcp: SocketAddr,
    quic: &[Arc<Port>],
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
            match Socket::at(address, quic) {
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
    tracing::info!("STUN on {} (UDP), {} ports in all", main.local_addr()?, sockets.len());
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
    let reflector = Arc::new(Reflector { sockets, layout, rate });
    for (index, (place, socket)) in reflector.sockets.iter().enumerate() {
        match socket {
            Socket::Own { .. } => {
                let reflector = reflector.clone();
                tasks.spawn(async move { reflector.serve(index).await });
            }
            Socket::Shared(port) => {
                port.divert(Box::new(Diverted { reflector: Arc::downgrade(&reflector), place: *place }));
            }
        }
    }
    // What shared ports hand over is answered as long as the others are.
    tasks.spawn(async move {
        std::future::pending::<()>().await;
        drop(reflector);
    });
    Ok(Some(service))
}

impl Reflector {
    async fn serve(&self, index: usize) {
        let Some((place, Socket::Own { io, state })) = self.sockets.get(index) else { return };
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let meta = match receive(io, state, &mut buffer).await {
                Ok(meta) => meta,
                Err(error) => {
                    tracing::debug!("STUN: {error}");
                    tokio::time::sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let received = buffer.get(..meta.len).unwrap_or_default();
            for datagram in received.chunks(meta.stride.max(1)) {
                self.handle(*place, datagram, meta.addr, meta.dst_ip);
            }
        }
    }

    fn handle(&self, place: Place, datagram: &[u8], source: SocketAddr, local: Option<IpAddr>) {
        // Port 0 cannot be answered, and what is not even a message costs no place in the counts.
        if source.port() == 0 || !self.rate.allows(source.ip()) {
            return;
        }
        let local = local.map(|ip| ip.to_canonical());
        let Some(answer) = answer(datagram, source, place, local, &self.layout) else { return };
        let Some((_, socket)) = self.sockets.iter().find(|(place, _)| *place == answer.from) else { return };
        // The answer leaves from the address that was asked: a NAT would not let it in from another one.
        let from = local.filter(|_| answer.from.other_address == place.other_address);
        // Who gets no answer asks again.
        if let Err(error) = socket.send(&answer.bytes, answer.to, from) {
            tracing::debug!("STUN: no answer to {source}: {error}");
        }
    }
}

impl Strays for Diverted {
    fn handle(&self, datagram: &[u8], source: SocketAddr, local: Option<IpAddr>) {
        if let Some(reflector) = self.reflector.upgrade() {
            reflector.handle(self.place, datagram, source, local);
        }
    }
}

impl Socket {
    /// One of the ports that are bound already, or a socket of its own.
    fn at(address: SocketAddr, bound: &[Arc<Port>]) -> io::Result<Self> {
        if let Some(port) = bound.iter().find(|port| port.address() == address) {
            return Ok(Socket::Shared(port.clone()));
        }
        let io = tun_common::link::udp::bind(address)?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        Ok(Socket::Own { io, state })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Socket::Own { io, .. } => io.local_addr(),
            Socket::Shared(port) => Ok(port.address()),
        }
    }

    /// Fails where there is no room at the moment.
    fn send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        match self {
            Socket::Own { io, state } => {
                let transmit = Transmit {
                    destination: to,
                    ecn: None,
                    contents: bytes,
                    segment_size: None,
                    src_ip: from,
                };
                io.try_io(Interest::WRITABLE, || state.try_send(UdpSockRef::from(io), &transmit))
            }
            Socket::Shared(port) => port.send(bytes, to, from),
        }
    }
}

async fn receive(io: &UdpSocket, state: &UdpSocketState, buffer: &mut [u8]) -> io::Result<RecvMeta> {
    let mut meta = [RecvMeta::default()];
    io.async_io(Interest::READABLE, || {
        let mut buffers = [IoSliceMut::new(buffer)];
        state.recv(UdpSockRef::from(io), &mut buffers, &mut meta)
    })
    .await?;
    Ok(meta[0])
}
