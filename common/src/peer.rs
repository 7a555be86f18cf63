//! From a relayed stream to a link between two peers that the server cannot look into.
//!
//! Drives the pairing of [`tun_proto::session::pairing`]. Nothing here has a deadline of its own: the caller puts one
//! around it.

use crate::link::tls::PeerTls;
use crate::link::{Io, LinkIo};
use crate::random;
use bytes::BytesMut;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tun_proto::limits::MAX_HANDSHAKE_MESSAGE;
use tun_proto::session::pairing::{Exchange, MESSAGE_LEN, PairingError, PeerHello};
use tun_proto::wire::login::Bytes32;
use tun_proto::wire::{WireError, message};

/// Why two peers did not come together.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The relayed stream failed, or the peer closed it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer does not know the secret, or does not follow the protocol.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// The peer's first message cannot be read.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// The visitor's part. Returns the encrypted stream, which belongs to the multiplexer from here on. Not cancellation
/// safe: the stream is lost.
///
/// # Errors
/// [`PeerError`].
pub async fn visit(
    mut io: impl Io + 'static,
    tls: &PeerTls,
    proxy: &str,
    secret: &str,
    hello: &PeerHello,
) -> Result<Box<dyn LinkIo>, PeerError> {
    let exchange = Exchange::new(true, proxy, secret, random::bytes());
    io.write_all(&exchange.message()).await?;
    let secured = tls.connect(AnswerFirst { io, answer: [0; MESSAGE_LEN], filled: 0 }).await?;
    let mut stream = secured.stream;
    let key = exchange.finish(stream.get_ref().0.answer)?;
    let certificate = secured.certificate.ok_or(PairingError::Confirmation)?;
    let mut confirmation = [0; 32];
    stream.read_exact(&mut confirmation).await?;
    key.verify_client(certificate, Bytes32(confirmation))?;
    let mut out = BytesMut::from(&key.confirm_visitor(certificate, secured.exporter).0[..]);
    message::put(&mut out, hello, "peer hello", MAX_HANDSHAKE_MESSAGE)?;
    stream.write_all(&out).await?;
    stream.flush().await?;
    Ok(Box::new(stream))
}

/// The client's part. Returns the encrypted stream and what the visitor wants with it. Not cancellation safe: the
/// stream is lost.
///
/// # Errors
/// [`PeerError`]; [`PairingError::Confirmation`] and a stream that ends early are what a wrong guess looks like.
pub async fn receive(
    mut io: impl Io + 'static,
    tls: &PeerTls,
    proxy: &str,
    secret: &str,
) -> Result<(Box<dyn LinkIo>, PeerHello), PeerError> {
    let exchange = Exchange::new(false, proxy, secret, random::bytes());
    let mut theirs = [0; MESSAGE_LEN];
    io.read_exact(&mut theirs).await?;
    io.write_all(&exchange.message()).await?;
    let key = exchange.finish(theirs)?;
    let certificate = tls.fingerprint();
    let secured = tls.accept(io, &key.confirm_client(certificate).0).await?;
    let mut stream = secured.stream;
    let mut confirmation = [0; 32];
    stream.read_exact(&mut confirmation).await?;
    key.verify_visitor(certificate, secured.exporter, Bytes32(confirmation))?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; message::check_len(prefix, "peer hello", MAX_HANDSHAKE_MESSAGE)?];
    stream.read_exact(&mut body).await?;
    let hello = message::parse(&body, "peer hello")?;
    Ok((Box::new(stream), hello))
}

/// A stream whose first bytes are the peer's exchange message, which is kept aside for later; what follows is TLS.
struct AnswerFirst<S> {
    io: S,
    answer: [u8; MESSAGE_LEN],
    filled: usize,
}

impl<S: Io> AsyncRead for AnswerFirst<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.filled < MESSAGE_LEN {
            let mut into = ReadBuf::new(&mut this.answer[this.filled..]);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut into))?;
            let n = into.filled().len();
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            this.filled += n;
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<S: Io> AsyncWrite for AnswerFirst<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tun_proto::wire::login::Id;

    async fn meet(
        visitor: &str,
        client: &str,
    ) -> (Result<Box<dyn LinkIo>, PeerError>, Result<PeerHello, PeerError>) {
        let (a, b) = tokio::io::duplex(1 << 16);
        let (one, other) = (PeerTls::new().unwrap(), PeerTls::new().unwrap());
        let hello = PeerHello { session: Id([5; 16]), link: 0, heartbeat_ms: 3000 };
        tokio::join!(visit(a, &one, "ssh", visitor, &hello), async {
            let (mut io, hello) = receive(b, &other, "ssh", client).await?;
            io.write_all(b"welcome").await?;
            io.shutdown().await?;
            Ok(hello)
        })
    }

    #[tokio::test]
    async fn peers_with_one_secret_meet_and_talk() {
        let (visitor, client) = meet("open", "open").await;
        assert_eq!(client.unwrap().session, Id([5; 16]));
        let mut said = String::new();
        visitor.unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "welcome");
    }

    #[tokio::test]
    async fn a_wrong_secret_is_noticed_by_both() {
        let (visitor, client) = meet("guess", "open").await;
        assert!(matches!(visitor.err(), Some(PeerError::Pairing(PairingError::Confirmation))));
        assert!(client.is_err());
    }

    /// A server that ends the encryption towards both sides needs the secret to confirm its own certificate.
    #[tokio::test]
    async fn a_splicing_server_is_noticed_by_both() {
        let (visitor_end, to_visitor) = tokio::io::duplex(1 << 16);
        let (to_client, client_end) = tokio::io::duplex(1 << 16);
        let (one, other, middle) =
            (PeerTls::new().unwrap(), PeerTls::new().unwrap(), PeerTls::new().unwrap());
        let hello = PeerHello { session: Id([5; 16]), link: 0, heartbeat_ms: 3000 };
        let splice = async {
            let (mut to_visitor, mut to_client) = (to_visitor, to_client);
            let mut message = [0; MESSAGE_LEN];
            to_visitor.read_exact(&mut message).await?;
            to_client.write_all(&message).await?;
            let client =
                middle.connect(AnswerFirst { io: to_client, answer: [0; MESSAGE_LEN], filled: 0 }).await?;
            let mut client = client.stream;
            to_visitor.write_all(&client.get_ref().0.answer).await?;
            let mut confirmation = [0; 32];
            client.read_exact(&mut confirmation).await?;
            let visitor = middle.accept(to_visitor, &confirmation).await?;
            let mut visitor = visitor.stream;
            tokio::io::copy_bidirectional(&mut visitor, &mut client).await
        };
        let (visitor, client, _) = tokio::join!(
            visit(visitor_end, &one, "ssh", "open", &hello),
            receive(client_end, &other, "ssh", "open"),
            splice
        );
        assert!(matches!(visitor.err(), Some(PeerError::Pairing(PairingError::Confirmation))));
        assert!(client.is_err());
    }
}
