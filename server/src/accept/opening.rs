//! How a connection begins: from its first bytes to where the login is spoken.
//!
//! One port takes everything, and the first bytes tell it apart: the login in the clear, TLS with the login in it, or what
//! web servers pass on: an HTTP upgrade to a WebSocket, in TLS or not, with one of the first two in it. What is outside a
//! WebSocket ends at any web server on the way and proves nothing; only TLS of our own, right around the login, counts.

use crate::settings::Settings;
use bytes::BytesMut;
use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tun_common::link::quic::tunnel::Knock;
use tun_common::link::tls::{Accepted, Secured};
use tun_common::link::websocket::{self, WebSocketError};
use tun_common::link::{Carrier, Io, ReadAhead};
use tun_proto::wire::preface;

/// Bytes asked for to tell what begins.
const FIRST_READ: usize = 1024;

/// With what a WebSocket begins.
const GET: &[u8] = b"GET ";

/// A connection on which the login comes next.
pub(super) struct Opening {
    pub(super) carrier: Carrier,
    /// Bytes of the login that have been read already.
    pub(super) input: BytesMut,
    /// Of our own TLS, if there is any.
    pub(super) exporter: Option<[u8; 32]>,
}

/// Why a connection did not get as far as the login.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpeningError {
    #[error("it closed")]
    Empty,
    #[error("it went away")]
    Gone,
    #[error("it does not use TLS of its own, which transport.tls.force demands")]
    Plain,
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("QUIC: {0}")]
    Quic(io::Error),
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
    #[error("it asked for the web in TLS, and then spoke something else than HTTP")]
    NoWeb,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What the first bytes look like.
#[derive(PartialEq, Eq)]
enum First {
    Nothing,
    Tls,
    Http,
    Other,
}

/// Somebody who wants to connect.
pub(super) enum Arrival {
    Tcp(TcpStream),
    Quic(Box<Knock>),
}

/// Takes somebody who connects over QUIC as far as the login. Not cancellation safe: the connection is lost.
pub(super) async fn open_quic(settings: &Settings, knock: Knock) -> Result<Opening, OpeningError> {
    match knock.accept(&settings.tls).await {
        Ok(Secured { stream, exporter, .. }) => {
            let carrier = Carrier::Quic(Box::new(stream));
            Ok(Opening { carrier, input: BytesMut::new(), exporter: Some(exporter) })
        }
        // Another way was faster, and this one is not needed any more.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Err(OpeningError::Gone),
        Err(error) => Err(OpeningError::Quic(error)),
    }
}

/// Takes a connection as far as the login. Not cancellation safe: the connection is lost.
///
/// What comes after the first bytes is boxed: peers that say nothing shall not hold the memory for all that they might say.
pub(super) async fn open(settings: &Settings, mut stream: TcpStream) -> Result<Opening, OpeningError> {
    let mut input = BytesMut::new();
    match first(&mut stream, &mut input).await? {
        First::Nothing => Err(OpeningError::Empty),
        First::Http => Box::pin(inside(settings, stream, input)).await,
        First::Other => plain(settings, stream, input),
        First::Tls => Box::pin(encrypted(settings, stream, input)).await,
    }
}

/// From a TLS handshake to the login.
async fn encrypted(settings: &Settings, stream: TcpStream, input: BytesMut) -> Result<Opening, OpeningError> {
    let accepted = settings.tls.accept(stream, input).await.map_err(OpeningError::Tls)?;
    let mut input = BytesMut::new();
    match accepted {
        Accepted::Web(mut stream) => match first(&mut stream, &mut input).await? {
            First::Nothing => Err(OpeningError::Empty),
            First::Http => Box::pin(inside(settings, stream, input)).await,
            First::Tls | First::Other => Err(OpeningError::NoWeb),
        },
        Accepted::Tunnel(Secured { mut stream, exporter, .. }) => {
            // Web servers on the way may speak TLS to us without saying what for.
            match first(&mut stream, &mut input).await? {
                First::Http => Box::pin(inside(settings, stream, input)).await,
                _ => Ok(Opening { carrier: Carrier::Stream(stream), input, exporter: Some(exporter) }),
            }
        }
    }
}

/// From an HTTP request to the login.
async fn inside<S: Io + 'static>(
    settings: &Settings,
    stream: S,
    input: BytesMut,
) -> Result<Opening, OpeningError> {
    let stream = websocket::accept(ReadAhead::after(stream, input), &settings.websocket_path).await?;
    let mut stream: Box<dyn Io> = Box::new(stream);
    let mut input = BytesMut::new();
    match first(&mut stream, &mut input).await? {
        First::Nothing => Err(OpeningError::Empty),
        First::Http | First::Other => plain(settings, stream, input),
        First::Tls => match settings.tls.accept(stream, input).await.map_err(OpeningError::Tls)? {
            Accepted::Web(_) => Err(OpeningError::NoWeb),
            Accepted::Tunnel(Secured { stream, exporter, .. }) => {
                let carrier = Carrier::Stream(stream);
                Ok(Opening { carrier, input: BytesMut::new(), exporter: Some(exporter) })
            }
        },
    }
}

fn plain<S: Io + 'static>(settings: &Settings, stream: S, input: BytesMut) -> Result<Opening, OpeningError> {
    if settings.force_tls {
        return Err(OpeningError::Plain);
    }
    let carrier = Carrier::Stream(Box::new(ReadAhead::new(stream)));
    Ok(Opening { carrier, input, exporter: None })
}

/// Reads until it is clear what begins.
async fn first(io: &mut (impl Io + ?Sized), input: &mut BytesMut) -> io::Result<First> {
    loop {
        input.reserve(FIRST_READ);
        let ended = io.read_buf(input).await? == 0;
        match input.first() {
            None => return Ok(First::Nothing),
            Some(byte) if preface::is_tls(*byte) => return Ok(First::Tls),
            Some(_) if input.starts_with(GET) => return Ok(First::Http),
            Some(_) if ended || !GET.starts_with(input) => return Ok(First::Other),
            Some(_) => {}
        }
    }
}
