//! The control channel as its two ends use it: typed messages over a pipe into a session stream.

use bytes::BytesMut;
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::marker::PhantomData;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tun_proto::limits::MAX_CONTROL_MESSAGE;
use tun_proto::wire::message;

/// Bytes that a pipe to the channel's stream holds.
pub const PIPE: usize = 16 * 1024;

/// Bytes asked for at once. They are held while nothing arrives, and copied within the program only.
const READ_AHEAD: usize = 128;

/// One end: sends messages of type `S`, receives those of type `R`.
pub struct Channel<S, R> {
    io: DuplexStream,
    input: BytesMut,
    messages: PhantomData<fn(S) -> R>,
}

impl<S: Serialize, R: DeserializeOwned> Channel<S, R> {
    /// A channel over the pipe's end.
    pub fn new(io: DuplexStream) -> Self {
        Channel { io, input: BytesMut::new(), messages: PhantomData }
    }

    /// Sends a message. Not cancellation safe: part of it may have left.
    ///
    /// # Errors
    /// When the session is over, or the message is too long.
    pub async fn send(&mut self, message: &S) -> io::Result<()> {
        let mut out = BytesMut::new();
        message::put(&mut out, message, "control message", MAX_CONTROL_MESSAGE).map_err(io::Error::other)?;
        self.io.write_all(&out).await
    }

    /// The next message; `None` when the peer ended the channel. Cancellation safe.
    ///
    /// # Errors
    /// When the peer sent something else than a message.
    pub async fn receive(&mut self) -> io::Result<Option<R>> {
        loop {
            let message = message::take(&mut self.input, "control message", MAX_CONTROL_MESSAGE);
            if let Some(message) = message.map_err(io::Error::other)? {
                return Ok(Some(message));
            }
            if self.input.is_empty() {
                // A long message would leave its memory behind.
                self.input = BytesMut::new();
            }
            self.input.reserve(READ_AHEAD);
            if self.io.read_buf(&mut self.input).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Ends the channel in order, once everything sent has been taken. Cancellation safe.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }
}
