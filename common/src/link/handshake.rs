//! Drives the login of [`tun_proto::session::login`] over a connection.
//!
//! Nothing here has a deadline of its own: the caller puts one around everything from the first byte to the verdict.

use super::Io;
use bytes::BytesMut;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tun_proto::session::login::{Candidate, ClientLogin, ClientOutcome, LoginError, ServerLogin};

/// Bytes asked for at once: a hello and a proof in one piece.
const READ_AHEAD: usize = 2048;

/// Why a handshake did not come to a verdict.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer closed the connection.
    #[error("the peer closed the connection during the login")]
    Closed,
    /// The peer does not follow the protocol, or is not who it should be.
    #[error(transparent)]
    Login(#[from] LoginError),
}

/// The client's part. Returns the verdict; bytes in `input` behind it belong to the multiplexer. Not cancellation
/// safe: the connection is lost.
///
/// # Errors
/// [`HandshakeError`].
pub async fn client(
    io: &mut dyn Io,
    input: &mut BytesMut,
    login: &mut ClientLogin,
) -> Result<ClientOutcome, HandshakeError> {
    loop {
        send(io, login.poll_transmit()).await?;
        receive(io, input).await?;
        if let Some(outcome) = login.handle_input(input)? {
            return Ok(outcome);
        }
    }
}

/// The server's part up to the moment where the client has said and proven all it has to. Not cancellation safe:
/// the connection is lost.
///
/// # Errors
/// [`HandshakeError`]; what the protocol has to say to the peer about it has been sent.
pub async fn server(
    io: &mut dyn Io,
    input: &mut BytesMut,
    login: &mut ServerLogin,
) -> Result<Candidate, HandshakeError> {
    loop {
        let progress = login.handle_input(input);
        send(io, login.poll_transmit()).await?;
        if let Some(candidate) = progress? {
            return Ok(candidate);
        }
        receive(io, input).await?;
    }
}

/// Sends what a login wants sent. Not cancellation safe.
///
/// # Errors
/// Those of the connection.
pub async fn send(io: &mut dyn Io, bytes: BytesMut) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    io.write_all(&bytes).await?;
    io.flush().await
}

async fn receive(io: &mut dyn Io, input: &mut BytesMut) -> Result<(), HandshakeError> {
    // Announced lengths are checked as soon as they are there, so the buffer stays within a few messages.
    input.reserve(READ_AHEAD);
    if io.read_buf(input).await? == 0 {
        return Err(HandshakeError::Closed);
    }
    Ok(())
}
