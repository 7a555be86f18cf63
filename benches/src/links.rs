//! Both ends of a link in one process, for benchmarks that look at one layer.
//!
//! Everything runs on one thread, so that wall time is processor time, that of the kernel included.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tun_common::link::tls::{Accepted, ClientTls, Files, ServerTls};
use tun_common::link::{Link, LinkIo, NewLink, ReadAhead, Side};

/// Bytes that are on their way in memory.
const MEMORY: usize = 256 * 1024;

/// What a link runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The memory of this process: the multiplexer alone.
    Memory,
    /// TCP on loopback.
    Tcp,
    /// TLS over that.
    Tls,
}

impl Wire {
    /// All.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Tcp, Self::Tls];

    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// Both ends of a new link: the one that dialled, and the one that accepted. Their drivers are yet to be spawned. Not
    /// cancellation safe: the connection is lost.
    ///
    /// # Errors
    /// There is no loopback, or TLS does not come about.
    pub async fn link(self) -> Result<(NewLink, NewLink)> {
        if self == Self::Memory {
            let (one, other) = tokio::io::duplex(MEMORY);
            let link = |io, side| end(Box::new(ReadAhead::new(io)), side);
            return Ok((link(one, Side::Dialer), link(other, Side::Acceptor)));
        }
        let (one, other) = sockets().await?;
        if self == Self::Tcp {
            let link = |io, side| end(Box::new(ReadAhead::new(io)), side);
            return Ok((link(one, Side::Dialer), link(other, Side::Acceptor)));
        }
        let client = ClientTls::new(&Files::default(), "", "127.0.0.1")?;
        let server = ServerTls::new(&Files::default())?;
        let (one, other) = tokio::try_join!(client.connect(one), server.accept(other, BytesMut::new()))?;
        let Accepted::Tunnel(other) = other else { bail!("taken for a web server") };
        Ok((end(Box::new(one.stream), Side::Dialer), end(other.stream, Side::Acceptor)))
    }
}

fn end(io: Box<dyn LinkIo>, side: Side) -> NewLink {
    Link::over_yamux(io, BytesMut::new(), side, 0, SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// Two ends of a TCP connection on loopback, tuned as the programs do it. Cancellation safe.
///
/// # Errors
/// There is no loopback.
pub async fn sockets() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (one, other) = tokio::try_join!(TcpStream::connect(listener.local_addr()?), listener.accept())?;
    for stream in [&one, &other.0] {
        tun_common::link::tcp::tune(stream, None)?;
    }
    Ok((one, other.0))
}

/// A runtime of one thread.
///
/// # Errors
/// The system gives none.
pub fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("no runtime")
}

/// How long `work` takes. It ends the process where that fails, since criterion takes no errors.
pub async fn timed(work: impl Future<Output = Result<()>>) -> std::time::Duration {
    let since = Instant::now();
    if let Err(error) = work.await {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
    since.elapsed()
}
