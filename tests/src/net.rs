//! A loopback address for each test, and sockets there and in the network lab.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::lab::{self, Space};

/// The port that marks an address as taken. Its listener never accepts.
const CLAIM_PORT: u16 = 30_009;

/// Where every test's server listens.
pub const BIND_PORT: u16 = 7000;

/// Where a forwarder in front of the server listens. Not beside it: that is where its second port for STUN is.
pub const FORWARDER_PORT: u16 = 7100;

/// Where a proxy or a web server between a client and its server listens.
pub const PROXY_PORT: u16 = 3128;

/// First of the ports for local services.
pub const SERVICE_PORT: u16 = 8000;

/// First of the public ports of proxies. All fixed ports lie below those that the kernel gives to outgoing
/// connections.
pub const REMOTE_PORT: u16 = 6000;

/// An address of 127.0.0.0/8 that nobody else uses while this value lives, whatever test or test process runs
/// beside it.
#[derive(Debug)]
pub struct Loopback {
    ip: Ipv4Addr,
    _claim: std::net::TcpListener,
}

impl Loopback {
    /// Takes a free address.
    pub fn claim() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        for _ in 0..10_000 {
            // Processes start far apart, and walk on from there; the claim settles what still meets.
            let start = std::process::id().wrapping_mul(0x9E37_79B1) >> 10;
            let [_, b, c, d] = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
            let ip = Ipv4Addr::new(127, 16 + b % 224, c, 1 + d % 250);
            if let Ok(claim) = std::net::TcpListener::bind((ip, CLAIM_PORT)) {
                return Self { ip, _claim: claim };
            }
        }
        panic!("no free loopback address found");
    }

    /// The address itself.
    pub fn ip(&self) -> IpAddr {
        self.ip.into()
    }

    /// One of its ports.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }
}

/// Where something listens: an address of this machine, or one in a namespace of the network lab.
#[derive(Debug, Clone)]
pub struct Place {
    space: Option<String>,
    addr: SocketAddr,
}

impl Place {
    /// A listener there.
    pub async fn listen(&self) -> io::Result<TcpListener> {
        if self.space.is_none() {
            return TcpListener::bind(self.addr).await;
        }
        let socket = self.socket()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.addr)?;
        socket.listen(1024)
    }

    /// A connection to there, from the same namespace.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        self.socket()?.connect(self.addr).await
    }

    /// Another address in the same namespace.
    pub fn beside(&self, addr: SocketAddr) -> Self {
        Self { space: self.space.clone(), addr }
    }

    fn socket(&self) -> io::Result<TcpSocket> {
        let make = || if self.addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        match &self.space {
            Some(space) => lab::within(space, make),
            None => make(),
        }
    }
}

impl From<SocketAddr> for Place {
    fn from(addr: SocketAddr) -> Self {
        Self { space: None, addr }
    }
}

impl From<(&Space, SocketAddr)> for Place {
    fn from((space, addr): (&Space, SocketAddr)) -> Self {
        Self { space: Some(space.name().to_owned()), addr }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.space {
            Some(space) => write!(f, "{} in {space}", self.addr),
            None => self.addr.fmt(f),
        }
    }
}

/// The `n`-th of the addresses that tests connect *from* when they play several hosts. Nothing listens there, so
/// tests may share them.
pub fn source(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(127, 8, high, low).into()
}

/// Closes a connection in the way that its peer reads as "connection reset".
pub fn reset(stream: TcpStream) {
    // A connection that has no peer any more refuses the option, and is closed either way.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
