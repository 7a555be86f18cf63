//! Peers that begin a handshake and then say no more, or hardly more.

use std::any::Any;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::certs::careless_client;
use crate::patience::soon;
use crate::quic::QuicStall;

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
    /// It completes a TLS handshake as browsers do, and does not say what it wants.
    WebWithoutRequest,
    /// It gets its WebSocket in such TLS, and does not log in.
    WebWithoutLogin,
    /// It sends something one byte at a time.
    Slow(Slow),
    /// It comes by QUIC.
    Quic(QuicStall),
}

/// What a peer sends one byte at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// A login in the clear.
    Login,
    /// A TLS client hello.
    Hello,
    /// A login in TLS.
    TlsLogin,
    /// An HTTP request for a WebSocket.
    Upgrade,
    /// The same in TLS as browsers speak it.
    WebUpgrade,
}

impl Slow {
    /// All of them.
    pub const ALL: [Stall; 5] = [
        Stall::Slow(Self::Login),
        Stall::Slow(Self::Hello),
        Stall::Slow(Self::TlsLogin),
        Stall::Slow(Self::Upgrade),
        Stall::Slow(Self::WebUpgrade),
    ];
}

/// How often a slow peer sends a byte.
pub(crate) const SLOW: Duration = Duration::from_millis(400);

const UPGRADE: &str = "GET /~!tun HTTP/1.1\r\nHost: example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Peers that have gone so far and are stuck now.
#[derive(Debug, Default)]
pub struct Stalled {
    pub(crate) waiting: JoinSet<Duration>,
    pub(crate) refused: usize,
    /// What must live as long as they do.
    pub(crate) held: Vec<Box<dyn Any + Send>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What peers connect with.
struct Tools {
    hello: Vec<u8>,
    tls: TlsConnector,
    web: TlsConnector,
}

impl Stall {
    /// Brings `count` peers into this state at once, `per_source` from each of as many source addresses as that
    /// takes. Peers that are turned away on the way are counted, not complained about.
    pub async fn at(self, server: SocketAddr, count: u16, per_source: u16) -> Stalled {
        let mut stalled = Stalled::default();
        self.add(&mut stalled, server, count, per_source).await;
        stalled
    }

    /// Brings `count` peers into these states, as many into each.
    pub async fn each_at(states: &[Self], server: SocketAddr, count: u16, per_source: u16) -> Stalled {
        let mut stalled = Stalled::default();
        let each = count / u16::try_from(states.len()).expect("few states");
        for state in states {
            state.add(&mut stalled, server, each, per_source).await;
        }
        stalled
    }

    async fn add(self, stalled: &mut Stalled, server: SocketAddr, count: u16, per_source: u16) {
        if let Self::Quic(quic) = self {
            return quic.add(stalled, server, count, per_source).await;
        }
        let tools = Arc::new(Tools::new());
        let mut connecting = JoinSet::new();
        for n in 0..count {
            let (source, tools) = (crate::net::source(1 + n / per_source), Arc::clone(&tools));
            connecting.spawn(async move {
                let started = Instant::now();
                let stream = self.connect(source, server, &tools).await?;
                io::Result::Ok((started, stream, self.rest(&tools)))
            });
        }
        while let Some(connected) = soon("stalling peers connect", connecting.join_next()).await {
            match connected.expect("connecting does not panic") {
                Ok((started, stream, rest)) => {
                    _ = stalled.waiting.spawn(until_cut(stream, rest, started));
                }
                Err(_) => stalled.refused += 1,
            }
        }
    }

    async fn connect(self, source: IpAddr, server: SocketAddr, tools: &Tools) -> io::Result<Box<dyn Stream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let stream = socket.connect(server).await?;
        let name = ServerName::IpAddress(server.ip().into());
        let mut stream: Box<dyn Stream> = match self {
            Self::TlsWithoutLogin | Self::Slow(Slow::TlsLogin) => {
                Box::new(tools.tls.connect(name, stream).await?)
            }
            Self::WebWithoutRequest | Self::WebWithoutLogin | Self::Slow(Slow::WebUpgrade) => {
                Box::new(tools.web.connect(name, stream).await?)
            }
            _ => Box::new(stream),
        };
        match self {
            Self::HalfHello => stream.write_all(&tools.hello[..tools.hello.len() / 2]).await?,
            Self::HalfUpgrade => stream.write_all(&UPGRADE.as_bytes()[..UPGRADE.len() / 2]).await?,
            Self::UpgradeWithoutLogin | Self::WebWithoutLogin => {
                stream.write_all(UPGRADE.as_bytes()).await?;
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).await?;
                assert_eq!(&answer, b"HTTP/1.1 101");
            }
            _ => (),
        }
        Ok(stream)
    }

    /// What it still sends, a byte at a time.
    fn rest(self, tools: &Tools) -> Vec<u8> {
        match self {
            Self::Slow(Slow::Login | Slow::TlsLogin) => login(),
            Self::Slow(Slow::Hello) => tools.hello.clone(),
            Self::Slow(Slow::Upgrade | Slow::WebUpgrade) => UPGRADE.into(),
            _ => Vec::new(),
        }
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

    /// Waits until the server has cut every one of them that would notice, and returns the longest time one of them had.
    pub async fn all_cut(mut self) -> Duration {
        let mut longest = Duration::ZERO;
        while let Some(lasted) = soon("a stalled peer is cut", self.waiting.join_next()).await {
            longest = longest.max(lasted.expect("waiting does not panic"));
        }
        longest
    }
}

impl Tools {
    fn new() -> Self {
        let mut web = careless_client();
        web.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = |config: ClientConfig| TlsConnector::from(Arc::new(config));
        Self { hello: hello(), tls: connector(careless_client()), web: connector(web) }
    }
}

async fn until_cut(stream: Box<dyn Stream>, rest: Vec<u8>, started: Instant) -> Duration {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sending = async {
        for byte in rest {
            tokio::time::sleep(SLOW).await;
            // Who cannot be told any more has been cut, which shows below.
            if writer.write_all(&[byte]).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut buffer = [0; 1024];
    // Session tickets and refusals may come before the end; an end in error is an end as well.
    let reading = async { while reader.read(&mut buffer).await.is_ok_and(|n| n > 0) {} };
    tokio::select! {
        () = sending => (),
        () = reading => (),
    }
    started.elapsed()
}

/// The beginning of a login, to be sent slowly.
pub(crate) fn login() -> Vec<u8> {
    // The preface, and a message of 3840 bytes.
    [b"TUN\x01\x00\x00\x0f\x00{".as_slice(), &[b' '; 200]].concat()
}

/// The bytes with which a real TLS client opens.
fn hello() -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a proper name");
    let mut client = ClientConnection::new(Arc::new(careless_client()), name).expect("a client can begin");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector takes bytes");
    hello
}
