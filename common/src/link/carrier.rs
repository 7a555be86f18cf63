//! What a login is spoken on, whatever it is carried by.

use super::handshake::HandshakeError;
use super::quic::tunnel::Tunnel;
use super::{Io, Link, LinkIo, NewLink, Side};
use bytes::BytesMut;
use std::net::SocketAddr;

/// A connection between client and server that becomes a link once the login on it has come to a good end.
pub enum Carrier {
    /// One stream of bytes. It gets a multiplexer.
    Stream(Box<dyn LinkIo>),
    /// QUIC, which multiplexes by itself.
    Quic(Box<Tunnel>),
}

impl Carrier {
    /// Where the login is spoken.
    pub fn login(&mut self) -> &mut dyn Io {
        match self {
            Carrier::Stream(io) => &mut **io,
            Carrier::Quic(tunnel) => tunnel.login(),
        }
    }

    /// Resolves when the peer sends what nobody who has not logged in may send. Cancellation safe.
    pub fn misused(&self) -> impl Future<Output = ()> + Send + use<> {
        let misused = match self {
            Carrier::Stream(_) => None,
            Carrier::Quic(tunnel) => Some(tunnel.misused()),
        };
        async move {
            match misused {
                Some(misused) => misused.await,
                // All that arrives is taken for the login.
                None => std::future::pending().await,
            }
        }
    }

    /// Why the login on it came to no verdict: where the connection knows more than the stream of the login, that.
    pub fn explain(&self, error: HandshakeError) -> HandshakeError {
        match (self, error) {
            (Carrier::Quic(tunnel), HandshakeError::Io(error)) => tunnel.lost().unwrap_or(error).into(),
            (_, error) => error,
        }
    }

    /// Makes the link. `read_ahead` are bytes behind the login that have been read already; `number` names the link within
    /// its session.
    pub fn into_link(self, read_ahead: BytesMut, side: Side, number: u32, peer: SocketAddr) -> NewLink {
        match self {
            Carrier::Stream(io) => Link::over_yamux(io, read_ahead, side, number, peer),
            // Nothing follows the login on its own stream.
            Carrier::Quic(tunnel) => tunnel.into_link(number, peer),
        }
    }

    /// Lets the peer know that the connection is of no use, where it does not see that by itself. Takes half a second at
    /// most. Cancellation safe: the peer then finds out later.
    pub async fn discard(self, reason: &str) {
        match self {
            Carrier::Stream(io) => drop(io),
            Carrier::Quic(tunnel) => tunnel.close(reason).await,
        }
    }
}
