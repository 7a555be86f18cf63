//! From nothing to a link: dial the server, encrypt, log in.

mod race;
pub(crate) mod ways;

use self::ways::Opened;
use crate::settings::Settings;
use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tun_common::link::handshake::{self, HandshakeError};
use tun_common::link::upstream::UpstreamError;
use tun_common::link::websocket::WebSocketError;
use tun_common::link::{NewLink, Side};
use tun_common::random;
use tun_proto::auth::SessionSecret;
use tun_proto::backoff::Backoff;
use tun_proto::race::HEDGE_AFTER;
use tun_proto::session::login::{ClientLogin, ClientOutcome};
use tun_proto::wire::login::{Accepted, Bytes32, Hello, Id, Intent, RefusalCode, Refused};

/// Attempts that may be under way at once.
const MAX_ATTEMPTS: usize = 3;

/// Pauses between attempts to reach a server that is away. The longest is what bounds how late after the server's
/// return the client is back.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A link that is logged in.
pub(crate) struct Dialled {
    pub(crate) new: NewLink,
    pub(crate) accepted: Accepted,
    pub(crate) secret: SessionSecret,
    /// The server's own address, where the connection goes straight to it.
    pub(crate) server: Option<SocketAddr>,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot connect to {server}: {source}")]
    Connect { server: String, source: io::Error },
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("no QUIC connection with {server}: {source}")]
    Quic { server: String, source: io::Error },
    #[error("no WebSocket with {server}: {source}")]
    WebSocket { server: String, source: WebSocketError },
    #[error("TLS with {server} failed: {source}")]
    Tls { server: String, source: io::Error },
    #[error("login to {server} failed: {source}")]
    Handshake { server: String, source: HandshakeError },
    #[error("no login to {server} within {} s (transport.dialServerTimeout)", timeout.as_secs())]
    Timeout { server: String, timeout: Duration },
    #[error("login to {server} refused: {}{hint}", refused.reason)]
    Refused { server: String, refused: Refused, hint: String },
}

impl DialError {
    /// The server's verdict, if there was one.
    pub(crate) fn refusal(&self) -> Option<RefusalCode> {
        match self {
            DialError::Refused { refused, .. } => Some(refused.code),
            _ => None,
        }
    }
}

/// Begins a session. Not cancellation safe: the login may have been accepted.
pub(crate) async fn log_in(settings: &Settings, first: bool) -> Result<Dialled, DialError> {
    attempt(settings, Intent::Login { first }, None).await
}

/// Adds a link to a session. Where an attempt meets silence, others are made beside it; the first that succeeds counts.
/// Cancellation safe.
pub(crate) async fn join(
    settings: Arc<Settings>,
    session: Id,
    secret: SessionSecret,
    lost: Vec<u32>,
) -> Result<Dialled, DialError> {
    if !lost.is_empty() {
        settings.ways.doubt();
    }
    let attempt = || {
        let intent = Intent::Join { session, lost: lost.clone() };
        attempt(&settings, intent, Some(secret.clone()))
    };
    let mut attempts = FuturesUnordered::new();
    attempts.push(attempt());
    loop {
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Err(error) if !attempts.is_empty() => tracing::debug!("{error}"),
                result => return result,
            },
            () = tokio::time::sleep(HEDGE_AFTER), if attempts.len() < MAX_ATTEMPTS => attempts.push(attempt()),
        }
    }
}

/// The schedule by which whoever is away is tried again.
pub(crate) fn backoff() -> Backoff {
    Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, u64::from_le_bytes(random::bytes()))
}

async fn attempt(
    settings: &Settings,
    intent: Intent,
    secret: Option<SessionSecret>,
) -> Result<Dialled, DialError> {
    let timeout = settings.dial_timeout;
    match tokio::time::timeout(timeout, connect(settings, intent, secret)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::Timeout { server: settings.server_name(), timeout }),
    }
}

async fn connect(
    settings: &Settings,
    intent: Intent,
    secret: Option<SessionSecret>,
) -> Result<Dialled, DialError> {
    let Opened { mut carrier, exporter, certificate, peer, way } = ways::open(settings).await?;
    let server = || settings.server_name();
    let hello = Hello {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        identity: settings.identity.clone(),
        user: settings.user.clone(),
        instance: settings.instance,
        intent,
        heartbeat_ms: u32::try_from(settings.heartbeat_interval.as_millis()).unwrap_or(u32::MAX),
        saw_certificate: certificate,
        metadatas: settings.metadatas.clone(),
    };
    let broken = |source: HandshakeError| DialError::Handshake { server: server(), source };
    let mut login = ClientLogin::new(&hello, settings.key.clone(), secret, exporter)
        .map_err(|error| broken(HandshakeError::Login(error.into())))?;
    let mut input = BytesMut::new();
    let outcome = handshake::client(carrier.login(), &mut input, &mut login).await;
    let outcome = outcome.map_err(|error| broken(carrier.explain(error)));
    // Whoever stands in for the server on one way may not do so on another.
    settings.ways.judge(way, outcome.is_ok());
    let refused = match outcome {
        Ok(ClientOutcome::Accepted { accepted, secret }) => {
            let new = carrier.into_link(input, Side::Dialer, accepted.link, peer);
            let server = settings.upstream.is_none().then_some(peer);
            return Ok(Dialled { new, accepted, secret, server });
        }
        Ok(ClientOutcome::Refused(refused)) => {
            let hint = hint(&refused, certificate);
            DialError::Refused { server: server(), refused, hint }
        }
        Err(error) => error,
    };
    settings.dialling.spawn_to_end(async move { carrier.discard("not logged in").await });
    Err(refused)
}

/// What the user can do about a refusal.
fn hint(refused: &Refused, saw: Option<Bytes32>) -> String {
    match (refused.code, refused.certificate, saw) {
        (RefusalCode::Token, Some(theirs), Some(saw)) if theirs != saw => format!(
            " (the server's certificate is {}, the one seen here is {}: somebody in the middle ends the encryption)",
            &theirs.to_string()[..16],
            &saw.to_string()[..16]
        ),
        (RefusalCode::Token, ..) => " (auth.token must be the same on both sides)".to_owned(),
        _ => String::new(),
    }
}
