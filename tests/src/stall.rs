//! Peers that begin a handshake and then say no more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::certs::careless_client;
use crate::patience::soon;

/// How far such a peer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// It connects, and sends nothing.
    TcpOnly,
    /// It sends the first half of a TLS client hello.
    HalfHello,
    /// It completes the TLS handshake, and does not log in.
    TlsWithoutLogin,
    /// It sends the first half of an HTTP request for a WebSocket.
    HalfUpgrade,
    /// It gets its WebSocket, and does not log in.
    UpgradeWithoutLogin,
}

const UPGRADE: &str = "GET /~!tun HTTP/1.1\r\nHost: example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Peers that have gone so far and are stuck now.
#[derive(Debug)]
pub struct Stalled {
    waiting: JoinSet<Duration>,
    refused: usize,
}

impl Stall {
    /// Brings `count` peers into this state at once, `per_source` from each of as many source addresses as that
    /// takes. Peers that are turned away on the way are counted, not complained about.
    pub async fn at(self, server: SocketAddr, count: u16, per_source: u16) -> Stalled {
        let hello = Arc::new(half_hello());
        let connector = TlsConnector::from(Arc::new(careless_client()));
        let mut connecting = JoinSet::new();
        for n in 0..count {
            let source = crate::net::source(1 + n / per_source);
            let (hello, connector) = (Arc::clone(&hello), connector.clone());
            connecting.spawn(async move {
                let started = Instant::now();
                let stream = self.connect(source, server, &hello, &connector).await?;
                io::Result::Ok((started, stream))
            });
        }
        let mut stalled = Stalled { waiting: JoinSet::new(), refused: 0 };
        while let Some(connected) = soon("stalling peers connect", connecting.join_next()).await {
            match connected.expect("connecting does not panic") {
                Ok((started, stream)) => _ = stalled.waiting.spawn(until_cut(stream, started)),
                Err(_) => stalled.refused += 1,
            }
        }
        stalled
    }

    async fn connect(
        self,
        source: IpAddr,
        server: SocketAddr,
        hello: &[u8],
        connector: &TlsConnector,
    ) -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let mut stream: TcpStream = socket.connect(server).await?;
        Ok(match self {
            Self::TcpOnly => Box::new(stream),
            Self::HalfHello => {
                stream.write_all(hello).await?;
                Box::new(stream)
            }
            Self::HalfUpgrade => {
                stream.write_all(&UPGRADE.as_bytes()[..UPGRADE.len() / 2]).await?;
                Box::new(stream)
            }
            Self::UpgradeWithoutLogin => {
                stream.write_all(UPGRADE.as_bytes()).await?;
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).await?;
                assert_eq!(&answer, b"HTTP/1.1 101");
                Box::new(stream)
            }
            Self::TlsWithoutLogin => {
                let name = ServerName::IpAddress(server.ip().into());
                Box::new(connector.connect(name, stream).await?)
            }
        })
    }
}

impl Stalled {
    /// How many were turned away before they got as far as they wanted.
    pub fn refused(&self) -> usize {
        self.refused
    }

    /// How many are still connected.
    pub fn waiting(&mut self) -> usize {
        while self.waiting.try_join_next().is_some() {}
        self.waiting.len()
    }

    /// Waits until the server has cut every one of them, and returns the longest time one of them had.
    pub async fn all_cut(mut self) -> Duration {
        let mut longest = Duration::ZERO;
        while let Some(lasted) = soon("a stalled peer is cut", self.waiting.join_next()).await {
            longest = longest.max(lasted.expect("waiting does not panic"));
        }
        longest
    }
}

async fn until_cut(mut stream: impl AsyncRead + Unpin, started: Instant) -> Duration {
    let mut buffer = [0; 1024];
    // Session tickets and refusals may come before the end; an end in error is an end as well.
    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    started.elapsed()
}

/// The first half of the bytes with which a real TLS client opens.
fn half_hello() -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a proper name");
    let mut client = ClientConnection::new(Arc::new(careless_client()), name).expect("a client can begin");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector takes bytes");
    hello.truncate(hello.len() / 2);
    hello
}
