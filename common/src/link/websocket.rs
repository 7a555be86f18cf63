//! A byte stream inside a WebSocket (RFC 6455), for networks and web servers that let nothing else through.
//!
//! Frames carry bytes and mean nothing: what is inside is cut as it comes. One side asks with an HTTP/1.1 upgrade, as a
//! browser would, so that web servers on the way pass it on. Nothing here has a deadline; the caller puts one around it.

use super::Io;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use tokio_tungstenite::tungstenite::http::{StatusCode, Uri};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// Where the tunnel is on a web server, unless configured otherwise.
pub const DEFAULT_PATH: &str = "/~!tun";

/// Most bytes that are put into a frame.
const MAX_FRAME: usize = 64 * 1024;

/// Most bytes that a frame of the peer may have: web servers on the way may cut frames, but do not join many.
const MAX_FOREIGN_FRAME: usize = 4 * MAX_FRAME;

/// Read buffer of a connection, held as long as it lives.
const READ_BUFFER: usize = 16 * 1024;

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// A web server answered, but not with the tunnel.
    #[error("the web server answers \"{status}\" to the path {path}: {advice}")]
    Status {
        /// Its status line.
        status: StatusCode,
        /// What was asked for.
        path: String,
        /// What to do.
        advice: &'static str,
    },
    /// A peer speaks HTTP, but asks for no WebSocket, or for another one.
    #[error("it looks like HTTP, but {0}")]
    NotOurs(String),
    /// The connection failed, or the peer does not keep to the protocol.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A WebSocket as a byte stream.
pub struct WebSocket<S> {
    frames: WebSocketStream<S>,
    /// What is left of the last frame.
    rest: Bytes,
    /// The peer has said goodbye.
    ended: bool,
}

/// Asks a server for a WebSocket at `path` of `host`, which may have a port. Not cancellation safe: the connection is lost.
///
/// # Errors
/// [`WebSocketError`].
pub async fn connect<S: Io>(stream: S, host: &str, path: &str) -> Result<WebSocket<S>, WebSocketError> {
    let invalid = |error: Error| WebSocketError::Io(io::Error::other(error));
    let mut request = format!("ws://localhost{path}").into_client_request().map_err(invalid)?;
    let host = HeaderValue::try_from(host).map_err(|error| WebSocketError::Io(io::Error::other(error)))?;
    request.headers_mut().insert(HOST, host);
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config())).await {
        Ok((frames, _)) => Ok(WebSocket::new(frames)),
        Err(Error::Http(response)) => {
            let advice = match response.status() {
                StatusCode::NOT_FOUND => "is transport.websocket.path the one of the server?",
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                    "it does not reach tuns"
                }
                _ => "it must pass on upgrades to tuns",
            };
            Err(WebSocketError::Status { status: response.status(), path: path.to_owned(), advice })
        }
        Err(error) => Err(WebSocketError::Io(io_error(error))),
    }
}

/// Answers a peer whose first bytes are an HTTP request. One that does not want this WebSocket is told so. Not
/// cancellation safe: the connection is lost.
///
/// # Errors
/// [`WebSocketError`]; the peer has its answer then.
pub async fn accept<S: Io>(mut stream: S, path: &str) -> Result<WebSocket<S>, WebSocketError> {
    let mut wrong = None;
    #[allow(clippy::result_large_err, reason = "the library's type")]
    let check = |request: &Request, response: Response| {
        if request.uri().path() == path {
            return Ok(response);
        }
        wrong = Some(shown(request.uri()));
        Err(answer(StatusCode::NOT_FOUND, "there is nothing here\n"))
    };
    let accepted = tokio_tungstenite::accept_hdr_async_with_config(&mut stream, check, Some(config())).await;
    let error = match accepted {
        Ok(_) => {
            let frames = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await;
            return Ok(WebSocket::new(frames));
        }
        Err(error) => error,
    };
    match (error, wrong) {
        (Error::Http(_), Some(path)) => {
            Err(WebSocketError::NotOurs(format!("asks for {path} (transport.websocket.path)")))
        }
        (Error::Io(error), _) => Err(error.into()),
        (Error::Protocol(ProtocolError::HandshakeIncomplete), _) => {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
        }
        (error, _) => {
            say_no(&mut stream).await?;
            Err(WebSocketError::NotOurs(format!("asks for no WebSocket: {error}")))
        }
    }
}

/// What is no upgrade at all has got no answer from the library.
async fn say_no<S: Io>(stream: &mut S) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let body = "this port speaks the tun protocol, not HTTP\n";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

fn answer(status: StatusCode, body: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(body.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert("content-length", HeaderValue::from(body.len()));
    response
}

/// A stranger's path, made fit for a log.
fn shown(uri: &Uri) -> String {
    let path: String = uri.path().chars().take(64).collect();
    format!("{path:?}")
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        // A frame leaves at once; what is on top gathers several writes in one frame.
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_FRAME)
        .max_message_size(Some(MAX_FOREIGN_FRAME))
        .max_frame_size(Some(MAX_FOREIGN_FRAME))
}

impl<S> WebSocket<S> {
    fn new(frames: WebSocketStream<S>) -> Self {
        WebSocket { frames, rest: Bytes::new(), ended: false }
    }
}

impl<S: Io> WebSocket<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>, gather: impl FnOnce() -> Bytes) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(io_error)?;
        let bytes = gather();
        let len = bytes.len();
        if len > 0 {
            Pin::new(&mut self.frames).start_send(Message::Binary(bytes)).map_err(io_error)?;
        }
        Poll::Ready(Ok(len))
    }
}

impl<S: Io> AsyncRead for WebSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.rest.is_empty() && !this.ended {
            match ready!(Pin::new(&mut this.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.rest = bytes,
                // Answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => this.ended = true,
                Some(Ok(Message::Text(_))) => {
                    let what = "the peer sent text on a WebSocket for bytes";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let n = buf.remaining().min(this.rest.len());
        buf.put_slice(&this.rest[..n]);
        this.rest.advance(n);
        if this.rest.is_empty() {
            // It would hold on to the buffer of the frame.
            this.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Io> AsyncWrite for WebSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, || Bytes::copy_from_slice(&buf[..buf.len().min(MAX_FRAME)]))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, || {
            let len = bufs.iter().map(|buf| buf.len()).sum::<usize>().min(MAX_FRAME);
            let mut bytes = BytesMut::with_capacity(len);
            for buf in bufs {
                let room = len - bytes.len();
                bytes.extend_from_slice(&buf[..buf.len().min(room)]);
            }
            bytes.freeze()
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_close(cx).map_err(io_error)
    }
}

/// In the words of sockets where there are some.
fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::UnexpectedEof.into(),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete) => {
            io::ErrorKind::UnexpectedEof.into()
        }
        Error::Protocol(ProtocolError::SendAfterClosing) => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {other}")),
    }
}

#[cfg(test)]
mod tests;
