//! A UDP port that QUIC shares with protocols whose datagrams cannot be mistaken for its own (RFC 9443).

use super::widen;
use crate::link::udp;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

/// A UDP port on which QUIC is served. What cannot be QUIC goes to whoever asked for it, and is forgotten otherwise.
pub struct Port {
    socket: Arc<dyn AsyncUdpSocket>,
    address: SocketAddr,
    strays: OnceLock<Box<dyn Strays>>,
}

/// Takes the datagrams of a [`Port`] that are not of QUIC.
pub trait Strays: Send + Sync {
    /// A datagram from `source`, which came to `local` where the system tells. Called while the port is read: what does
    /// not end at once holds up everybody.
    fn handle(&self, datagram: &[u8], source: SocketAddr, local: Option<IpAddr>);
}

impl Port {
    /// Binds `address`; `::` means every address of both families.
    ///
    /// # Errors
    /// Those of binding, typically that the port is in use or not permitted.
    pub fn bind(address: SocketAddr) -> io::Result<Arc<Self>> {
        let socket = udp::bind(address)?.into_std()?;
        widen(&socket);
        let address = socket.local_addr()?;
        let socket = TokioRuntime.wrap_udp_socket(socket)?;
        Ok(Arc::new(Port { socket, address, strays: OnceLock::new() }))
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets `strays` have what is not QUIC, from now on. There can be one such for a port; later ones are dropped.
    pub fn divert(&self, strays: Box<dyn Strays>) {
        let _ = self.strays.set(strays);
    }

    /// Sends a datagram that is not of QUIC; `from` is the address it leaves from where the port has several.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where there is no room at the moment.
    pub fn send(&self, datagram: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        self.socket.try_send(&Transmit {
            destination: to,
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: from,
        })
    }
}

impl AsyncUdpSocket for Port {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(cx, buffers, meta);
        if let (Poll::Ready(Ok(count)), Some(strays)) = (&received, self.strays.get()) {
            for (buffer, meta) in buffers.iter().zip(meta.iter()).take(*count) {
                // The kernel may have joined datagrams of one sender. quinn gets to see them all, and forgets these.
                for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    if is_stray(datagram) {
                        strays.handle(datagram, meta.addr, meta.dst_ip);
                    }
                }
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("address", &self.address).finish_non_exhaustive()
    }
}

/// No packet of QUIC begins with two zero bits (RFC 9000 §17), unless its ends agree on that (RFC 9287), and ours do not.
fn is_stray(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xc0 == 0)
}
