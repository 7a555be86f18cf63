//! Those who connect to a public port, with the checks that each visit makes.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::net::Place;
use crate::patience::{soon, transfer_patience, within};
use crate::pattern::{self, Hash, Pattern};

/// A connection to a public port.
#[derive(Debug)]
pub struct Visitor(TcpStream);

/// How a connection ended, as its visitor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer closed it properly.
    Closed,
    /// The peer reset it.
    Reset,
}

impl Visitor {
    /// Connects, or fails the test.
    pub async fn connect(at: impl Into<Place>) -> Self {
        let place = at.into();
        let stream = soon(&format!("a connection to {place}"), place.connect()).await;
        let stream = stream.unwrap_or_else(|e| panic!("nobody accepts at {place}: {e}"));
        stream.set_nodelay(true).expect("the socket is open");
        Self(stream)
    }

    /// The same where the service may reset the connection before it is known here to stand: `None` then.
    pub async fn try_connect(at: impl Into<Place>) -> Option<Self> {
        let place = at.into();
        match soon(&format!("a connection to {place}"), place.connect()).await {
            Ok(stream) => Some(Self(stream)),
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::ConnectionReset, "nobody accepts at {place}");
                None
            }
        }
    }

    /// Sends `bytes`.
    pub async fn send(&mut self, bytes: &[u8]) {
        send(&mut self.0, bytes).await;
    }

    /// Sends the first `len` bytes of a pattern, and returns their SHA-256.
    pub async fn send_pattern(&mut self, seed: u64, len: u64) -> String {
        send_pattern(&mut self.0, seed, len).await
    }

    /// Sends the first `len` bytes of a pattern and says that nothing more will come, and reads to the proper end
    /// meanwhile. Returns the SHA-256 of what was sent, and that of what came with its length.
    pub async fn exchange(&mut self, seed: u64, len: u64) -> (String, (String, u64)) {
        let (mut reader, mut writer) = self.0.split();
        let sending = async {
            let digits = send_pattern(&mut writer, seed, len).await;
            writer.shutdown().await.expect("the connection can be half-closed");
            digits
        };
        let both = async { tokio::join!(sending, receive_to_end(&mut reader)) };
        within(transfer_patience(), "an exchange", both).await
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        self.0.shutdown().await.expect("the connection can be half-closed");
    }

    /// Reads exactly `len` bytes.
    pub async fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = within(transfer_patience(), "receiving", self.0.read_exact(&mut bytes)).await;
        read.unwrap_or_else(|e| panic!("the connection broke before {len} bytes had come: {e}"));
        bytes
    }

    /// Reads exactly `len` bytes into a hash.
    pub async fn receive_into(&mut self, hash: &mut Hash, len: u64) {
        let mut left = len;
        while left > 0 {
            let part = self.receive(left.min(64 * 1024) as usize).await;
            hash.feed(&part);
            left -= part.len() as u64;
        }
    }

    /// Reads to the proper end, and returns the SHA-256 and the number of bytes.
    pub async fn receive_to_end(&mut self) -> (String, u64) {
        receive_to_end(&mut self.0).await
    }

    /// Reads to the proper end, and returns what came as text.
    pub async fn receive_text(&mut self) -> String {
        let mut text = String::new();
        let read = soon("a text and the end of the connection", self.0.read_to_string(&mut text)).await;
        read.expect("the connection ends properly, after valid text");
        text
    }

    /// Sends a message that nobody else sends and reads it back.
    pub async fn echo(&mut self, seed: u64, len: usize) {
        let message = pattern::bytes(seed, len);
        let (mut reader, mut writer) = self.0.split();
        let mut answer = vec![0; len];
        let (sent, received) = within(transfer_patience(), "an echo", async {
            tokio::join!(writer.write_all(&message), reader.read_exact(&mut answer))
        })
        .await;
        sent.expect("the connection takes bytes");
        received.expect("the connection brings the echo");
        assert!(answer == message, "the echo is not what was sent");
    }

    /// Reads and forgets what still comes, until the connection ends.
    pub async fn end(&mut self) -> End {
        let mut buffer = vec![0; 64 * 1024];
        let end = async {
            loop {
                match self.0.read(&mut buffer).await {
                    Ok(0) => return End::Closed,
                    Ok(_) => (),
                    Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return End::Reset,
                    Err(e) => panic!("the connection ended with {e}"),
                }
            }
        };
        soon("the end of a connection", end).await
    }

    /// Resets the connection.
    pub fn reset(self) {
        crate::net::reset(self.0);
    }

    /// The socket itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.0
    }
}

/// One visit to a service that is down: the visitor must be sent away within a second.
pub async fn sent_away(at: impl Into<Place>) {
    let place = at.into();
    let sending_away = async {
        if let Some(mut visitor) = Visitor::try_connect(place).await {
            visitor.end().await;
        }
    };
    within(Duration::from_secs(1), "a visitor of a service that is down is sent away", sending_away).await;
}

/// One visit to an echo service.
pub async fn echo(at: impl Into<Place>) {
    let mut visitor = Visitor::connect(at).await;
    visitor.echo(0xEC40, 1000).await;
    visitor.finish().await;
    assert_eq!(visitor.end().await, End::Closed);
}

/// Tells whether an echo service is behind the address now; for things that become true some time.
pub async fn try_echo(at: impl Into<Place>) -> bool {
    let place = at.into();
    let visit = async {
        let mut stream = place.connect().await?;
        stream.write_all(b"anybody?").await?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await?;
        io::Result::Ok(&answer == b"anybody?")
    };
    matches!(tokio::time::timeout(crate::patience::patience(), visit).await, Ok(Ok(true)))
}

/// Downloads from a [`crate::service::Service::source`], and returns what the hash of it is and should be.
pub async fn download(at: impl Into<Place>, seed: u64, len: u64) -> (String, String) {
    let mut visitor = Visitor::connect(at).await;
    visitor.send(format!("{seed} {len}\n").as_bytes()).await;
    let (digits, received) = visitor.receive_to_end().await;
    assert_eq!(received, len, "the length of a download");
    (digits, pattern::digits_of(seed, len))
}

/// Uploads to a [`crate::service::Service::sink`], and returns what the hash of it is there and should be.
pub async fn upload(at: impl Into<Place>, seed: u64, len: u64) -> (String, String) {
    let mut visitor = Visitor::connect(at).await;
    let sent = visitor.send_pattern(seed, len).await;
    visitor.finish().await;
    (visitor.receive_text().await, sent)
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    let sent = within(transfer_patience(), "sending", writer.write_all(bytes)).await;
    sent.expect("the connection takes bytes");
}

async fn send_pattern(writer: &mut (impl AsyncWrite + Unpin), seed: u64, len: u64) -> String {
    let (mut pattern, mut hash) = (Pattern::new(seed), Hash::default());
    let mut buffer = vec![0; 64 * 1024];
    let mut left = len;
    while left > 0 {
        let n = left.min(buffer.len() as u64) as usize;
        pattern.fill(&mut buffer[..n]);
        hash.feed(&buffer[..n]);
        send(writer, &buffer[..n]).await;
        left -= n as u64;
    }
    hash.digits()
}

async fn receive_to_end(reader: &mut (impl AsyncRead + Unpin)) -> (String, u64) {
    let (mut hash, mut len) = (Hash::default(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = within(transfer_patience(), "receiving to the end", reader.read(&mut buffer)).await;
        match read.unwrap_or_else(|e| panic!("the connection broke after {len} bytes: {e}")) {
            0 => return (hash.digits(), len),
            n => {
                hash.feed(&buffer[..n]);
                len += n as u64;
            }
        }
    }
}
