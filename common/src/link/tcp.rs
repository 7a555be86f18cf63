//! TCP sockets as tun wants them: no delay, kept alive, and reset on demand.

use super::resolve::Resolver;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

/// Connections that the kernel may hold for us before they are accepted. The default of 128 is too small for a
/// burst of visitors.
const BACKLOG: u32 = 1024;

/// How many times the kernel asks a silent peer before it gives the connection up.
const KEEPALIVE_RETRIES: u32 = 3;

/// Prepares a socket for relaying: every byte leaves at once, and a peer that vanished is noticed.
///
/// # Errors
/// Those of the socket options.
pub fn tune(stream: &TcpStream, keepalive: Option<Duration>) -> io::Result<()> {
    set(SockRef::from(stream), keepalive)
}

/// Prepares what `listener` accepts, as [`tune`] does: its sockets inherit these options, which saves five system calls
/// for each.
///
/// # Errors
/// Those of the socket options.
pub fn tune_accepted(listener: &TcpListener, keepalive: Option<Duration>) -> io::Result<()> {
    set(SockRef::from(listener), keepalive)
}

fn set(socket: SockRef<'_>, keepalive: Option<Duration>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(idle) = keepalive {
        let probes = TcpKeepalive::new()
            .with_time(idle)
            .with_interval(Duration::from_secs(15))
            .with_retries(KEEPALIVE_RETRIES);
        socket.set_tcp_keepalive(&probes)?;
    }
    Ok(())
}

/// Makes the close that follows a reset, so that the peer learns that the stream was aborted.
pub fn reset_on_close(stream: &TcpStream) {
    // A failure means that the connection is gone already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Listens on `address`.
///
/// # Errors
/// Those of binding, typically that the port is in use or not permitted.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted server must not wait for the connections of its predecessor to leave TIME_WAIT.
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        // `::` means every address of both families, as in frp.
        SockRef::from(&socket).set_only_v6(false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Resolves `host` and connects to the first address that answers.
///
/// # Errors
/// The error of the last address tried.
pub async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    dial_first(lookup_host((host.trim_start_matches('[').trim_end_matches(']'), port)).await?, None).await
}

/// The local address that a connection comes from; `None` leaves it to the system.
pub type From = Option<IpAddr>;

/// How connections to the server are made.
#[derive(Debug, Clone, Default)]
pub struct Dialer {
    /// Where they come from; addresses of the other family are then left out.
    pub from: From,
    /// Who knows the addresses of names.
    pub resolver: Resolver,
    /// Idle time before the kernel probes; `None` leaves probing off.
    pub keepalive: Option<Duration>,
}

impl Dialer {
    /// As [`dial`], and prepares the socket as [`tune`] does.
    ///
    /// # Errors
    /// The error of the last address tried.
    pub async fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses = self.resolver.look_up(host, port).await?;
        let stream = dial_first(addresses, self.from).await?;
        tune(&stream, self.keepalive)?;
        Ok(stream)
    }
}

async fn dial_first(addresses: impl IntoIterator<Item = SocketAddr>, from: From) -> io::Result<TcpStream> {
    let mut last = None;
    for address in addresses {
        match connect(address, from).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

async fn connect(address: SocketAddr, from: From) -> io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect(address).await };
    if from.is_ipv4() != address.is_ipv4() {
        let what = format!("{} cannot be reached from {from}", address.ip());
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, what));
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(address).await
}

/// Pauses an accept loop after an error that will not go away at once, such as too many open files.
pub fn is_out_of_resources(error: &io::Error) -> bool {
    // EMFILE, ENFILE, ENOBUFS, ENOMEM: the same numbers on every unix we run on.
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 55 | 12))
}
