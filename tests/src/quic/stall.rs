//! Peers that begin a handshake of QUIC and then say no more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::careless_endpoint;
use crate::datagrams::roomy;
use crate::net::source;
use crate::patience::soon;

/// Datagrams that are sent where none is wanted.
const UNWANTED: usize = 200;

/// How far such peers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuicStall {
    /// They send a proper first packet and take no notice of the answer, as those do who forge their address.
    FirstPacket,
    /// They finish the handshake, and never log in.
    WithoutLogin,
    /// They open the stream of the login, too, and send a datagram where nobody may yet.
    UnwantedDatagram,
}

/// Peers that have gone so far and are stuck now.
#[derive(Debug, Default)]
pub struct QuicStalled {
    waiting: JoinSet<Duration>,
    refused: usize,
    /// The sockets of those that take no notice.
    _silent: Vec<UdpSocket>,
    _endpoints: Vec<Endpoint>,
}

impl QuicStall {
    /// Brings `count` peers into this state at once, `per_source` from each of as many source addresses as that takes.
    /// Peers that are turned away on the way are counted, not complained about.
    pub async fn at(self, server: SocketAddr, count: u16, per_source: u16) -> QuicStalled {
        let from = |n: u16| SocketAddr::new(source(1 + n / per_source), 0);
        match self {
            Self::FirstPacket => first_packets(server, count, from).await,
            Self::WithoutLogin | Self::UnwantedDatagram => self.handshakes(server, count, per_source).await,
        }
    }

    async fn handshakes(self, server: SocketAddr, count: u16, per_source: u16) -> QuicStalled {
        let mut connecting = JoinSet::new();
        let mut stalled = QuicStalled::default();
        for n in (0..count).step_by(usize::from(per_source)) {
            let endpoint = careless_endpoint(SocketAddr::new(source(1 + n / per_source), 0));
            for _ in n..count.min(n + per_source) {
                let started = Instant::now();
                let connection = endpoint.connect(server, "tuns").expect("a connection can be begun");
                connecting.spawn(async move { Some((started, connection.await.ok()?)) });
            }
            stalled._endpoints.push(endpoint);
        }
        while let Some(connected) = soon("stalling peers connect", connecting.join_next()).await {
            match connected.expect("connecting does not panic") {
                Some((started, connection)) => _ = stalled.waiting.spawn(self.until_cut(connection, started)),
                None => stalled.refused += 1,
            }
        }
        stalled
    }

    async fn until_cut(self, connection: Connection, started: Instant) -> Duration {
        if self == Self::UnwantedDatagram {
            // It may be cut in the middle of this, or before: others have come since.
            let Ok((mut stream, _answer)) = connection.open_bi().await else { return started.elapsed() };
            let _ = stream.write_all(b"TUN").await;
            for _ in 0..UNWANTED {
                if connection.send_datagram_wait(vec![0; 1000].into()).await.is_err() {
                    break;
                }
            }
        }
        connection.closed().await;
        started.elapsed()
    }
}

/// Has first packets made for somebody who never answers, and sends them to the server from elsewhere.
async fn first_packets(server: SocketAddr, count: u16, from: impl Fn(u16) -> SocketAddr) -> QuicStalled {
    let nobody = roomy(SocketAddr::new(source(0), 0));
    let address = nobody.local_addr().expect("a socket has an address");
    let maker = careless_endpoint(SocketAddr::new(source(0), 0));
    let mut stalled = QuicStalled::default();
    let mut buffer = [0; 2048];
    // Held, since one that is given up says so, and that is no first packet.
    let mut begun = Vec::new();
    for n in 0..count {
        begun.push(maker.connect(address, "tuns").expect("a connection can be begun"));
        let (len, _) = soon("a first packet", nobody.recv_from(&mut buffer)).await.expect("it is read");
        let silent = roomy(from(n));
        silent.send_to(&buffer[..len], server).await.expect("it is sent");
        stalled._silent.push(silent);
    }
    stalled
}

impl QuicStalled {
    /// How many were turned away before they got as far as they wanted.
    pub fn refused(&self) -> usize {
        self.refused
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
