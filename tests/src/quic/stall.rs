//! Peers that begin a handshake of QUIC and then say no more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn::Connection;
use tokio::task::JoinSet;

use super::careless_endpoint;
use crate::datagrams::roomy;
use crate::net::source;
use crate::patience::soon;
use crate::stall::{SLOW, Stalled, login};

/// Datagrams that are sent where none is wanted.
const UNWANTED: usize = 200;

/// Peers that share a socket: few enough for what the server tells all of them at once to find room in its buffer, also
/// where the system grants no larger one.
const PER_SOCKET: u16 = 10;

/// How far such peers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuicStall {
    /// They send a proper first packet and take no notice of the answer, as those do who forge their address.
    FirstPacket,
    /// They finish the handshake, and never log in.
    WithoutLogin,
    /// They log in one byte at a time.
    SlowLogin,
    /// They open the stream of the login, too, and send a datagram where nobody may yet.
    UnwantedDatagram,
}

impl QuicStall {
    /// Brings peers into this state: see [`crate::stall::Stall::at`].
    pub(crate) async fn add(self, stalled: &mut Stalled, server: SocketAddr, count: u16, per_source: u16) {
        let from = |n: u16| SocketAddr::new(source(1 + n / per_source), 0);
        match self {
            Self::FirstPacket => first_packets(stalled, server, count, from).await,
            Self::WithoutLogin | Self::SlowLogin | Self::UnwantedDatagram => {
                self.handshakes(stalled, server, count, per_source).await;
            }
        }
    }

    async fn handshakes(self, stalled: &mut Stalled, server: SocketAddr, count: u16, per_source: u16) {
        let mut connecting = JoinSet::new();
        let step = per_source.min(PER_SOCKET);
        for n in (0..count).step_by(usize::from(step)) {
            let endpoint = careless_endpoint(SocketAddr::new(source(1 + n / per_source), 0));
            for _ in n..count.min(n + step) {
                let connection = endpoint.connect(server, "tuns").expect("a connection can be begun");
                // Their time counts from here. First packets may get lost where so many come at once, and are repeated
                // after one, two and four seconds: until then the server knows nothing of them.
                connecting.spawn(async move { Some((connection.await.ok()?, Instant::now())) });
            }
            stalled.held.push(Box::new(endpoint));
        }
        while let Some(connected) = soon("stalling peers connect", connecting.join_next()).await {
            match connected.expect("connecting does not panic") {
                Some((connection, started)) => _ = stalled.waiting.spawn(self.until_cut(connection, started)),
                None => stalled.refused += 1,
            }
        }
    }

    async fn until_cut(self, connection: Connection, started: Instant) -> Duration {
        // It may be cut in the middle of this, or before: others have come since.
        let talking = async {
            match self {
                Self::SlowLogin => log_in_slowly(&connection).await,
                Self::UnwantedDatagram => send_datagrams(&connection).await,
                Self::FirstPacket | Self::WithoutLogin => None,
            };
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = talking => (),
            _ = connection.closed() => (),
        }
        started.elapsed()
    }
}

async fn log_in_slowly(connection: &Connection) -> Option<()> {
    let (mut stream, _answer) = connection.open_bi().await.ok()?;
    for byte in login() {
        stream.write_all(&[byte]).await.ok()?;
        tokio::time::sleep(SLOW).await;
    }
    Some(())
}

async fn send_datagrams(connection: &Connection) -> Option<()> {
    let (mut stream, answer) = connection.open_bi().await.ok()?;
    stream.write_all(b"TUN").await.ok()?;
    for _ in 0..UNWANTED {
        connection.send_datagram_wait(vec![0; 1000].into()).await.ok()?;
    }
    // The stream stays open.
    std::future::pending::<()>().await;
    drop((stream, answer));
    Some(())
}

/// Has first packets made for somebody who never answers, and sends them to the server from elsewhere.
async fn first_packets(
    stalled: &mut Stalled,
    server: SocketAddr,
    count: u16,
    from: impl Fn(u16) -> SocketAddr,
) {
    let nobody = roomy(SocketAddr::new(source(0), 0));
    let address = nobody.local_addr().expect("a socket has an address");
    let maker = careless_endpoint(SocketAddr::new(source(0), 0));
    let mut buffer = [0; 2048];
    // Held, since one that is given up says so, and that is no first packet.
    let mut begun = Vec::new();
    for n in 0..count {
        begun.push(maker.connect(address, "tuns").expect("a connection can be begun"));
        let (len, _) = soon("a first packet", nobody.recv_from(&mut buffer)).await.expect("it is read");
        let silent = roomy(from(n));
        silent.send_to(&buffer[..len], server).await.expect("it is sent");
        stalled.held.push(Box::new(silent));
    }
}
