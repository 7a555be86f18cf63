//! UDP sockets.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use tokio::net::UdpSocket;

/// Binds `address`; `::` means every address of both families.
///
/// # Errors
/// Those of binding, typically that the port is in use or not permitted.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A socket bound to `local` that talks to `peer` alone.
///
/// # Errors
/// Those of binding, typically that the process has no more descriptors; no route to the peer.
pub fn connect(local: SocketAddr, peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The kernel may grant less.
    let _ = socket.set_recv_buffer_size(FLOW_BUFFER);
    socket.bind(&local.into())?;
    socket.connect(&peer.into())?;
    UdpSocket::from_std(socket.into())
}

/// What a service may send at once before it is read, in bytes.
const FLOW_BUFFER: usize = 1024 * 1024;
