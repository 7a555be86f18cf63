//! The server's own ports: from an accepted connection to a link of a session.
//!
//! Nothing but accepting happens in the accept loop. Each connection has a task with one deadline from its first byte
//! to its login, and a place among the pending ones that a newcomer can claim when there are too many.

mod opening;

use self::opening::{Arrival, OpeningError};
use crate::clients::{Clients, Judgement};
use crate::control;
use bytes::BytesMut;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tun_common::lifecycle::Tasks;
use tun_common::limit::LoginFailures;
use tun_common::link::handshake::{self, HandshakeError};
use tun_common::link::quic::tunnel::{Knock, Listener};
use tun_common::link::{Carrier, Side, heartbeat, tcp};
use tun_common::random;
use tun_proto::admission::Admission;
use tun_proto::limits::HANDSHAKE_DEADLINE;
use tun_proto::session::login::{Candidate, LoginError, ServerLogin};
use tun_proto::wire::login::{Bytes32, Intent, RefusalCode, StunService};
use tun_proto::wire::preface;

/// How long a refused peer may take to read why.
const REFUSAL_LINGER: Duration = Duration::from_secs(1);

/// Pause of the accept loop when the process has run out of something.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How often what is remembered of failed logins is tidied up.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// Everything that connections in their handshake share.
pub(crate) struct Gate {
    clients: Arc<Clients>,
    failures: LoginFailures,
    /// Told to clients.
    stun: Option<StunService>,
    pending: Mutex<Pending>,
    tasks: Tasks,
}

#[derive(Default)]
struct Pending {
    admission: Admission,
    evictions: HashMap<u64, CancellationToken>,
}

/// A connection that may become a link.
struct Newcomer {
    carrier: Carrier,
    input: BytesMut,
    login: ServerLogin,
    peer: SocketAddr,
}

impl Gate {
    /// `stun` is where STUN is served, for clients to know.
    pub(crate) fn new(clients: Arc<Clients>, stun: Option<StunService>, tasks: Tasks) -> Arc<Self> {
        Arc::new(Gate { clients, failures: LoginFailures::default(), stun, pending: Mutex::default(), tasks })
    }

    /// Accepts connections until the gate's tasks are stopped.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = tidy.tick() => {
                    self.failures.tidy();
                    continue;
                }
            };
            match accepted {
                Ok((stream, peer)) => self.admit(Arrival::Tcp(stream), peer),
                Err(error) if tcp::is_out_of_resources(&error) => {
                    tracing::warn!("a connection cannot be accepted: {error}");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                Err(error) => tracing::debug!("a connection was not accepted: {error}"),
            }
        }
    }

    /// Accepts connections over QUIC until the gate's tasks are stopped.
    pub(crate) async fn serve_quic(self: Arc<Self>, listener: Arc<Listener>) {
        while let Some(knock) = listener.accept().await {
            self.consider(knock);
        }
    }

    /// The address of a first packet may be forged: where many wait, that must be ruled out before it costs anything.
    fn consider(self: &Arc<Self>, knock: Knock) {
        let peer = knock.peer();
        if !knock.is_validated() && self.lock().admission.is_crowded(peer.ip()) {
            knock.validate();
        } else {
            self.admit(Arrival::Quic(Box::new(knock)), peer);
        }
    }

    fn admit(self: &Arc<Self>, arrival: Arrival, peer: SocketAddr) {
        let evicted = CancellationToken::new();
        let ticket = {
            let mut pending = self.lock();
            let admitted = pending.admission.enter(peer.ip());
            if let Some(oldest) = admitted.evicted.and_then(|ticket| pending.evictions.remove(&ticket)) {
                oldest.cancel();
            }
            pending.evictions.insert(admitted.ticket, evicted.clone());
            admitted.ticket
        };
        let gate = self.clone();
        self.tasks.spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, gate.shake_hands(arrival, peer));
            let newcomer = tokio::select! {
                result = handshake => result.unwrap_or_else(|_| Err(Failure::Deadline)),
                () = evicted.cancelled() => Err(Failure::Evicted),
            };
            gate.leave(ticket);
            match newcomer {
                Ok((newcomer, candidate)) => gate.judge(newcomer, candidate).await,
                Err(failure) => failure.report(peer),
            }
        });
    }

    fn leave(&self, ticket: u64) {
        let mut pending = self.lock();
        pending.admission.leave(ticket);
        pending.evictions.remove(&ticket);
    }

    /// Takes a connection as far as a complete login.
    async fn shake_hands(
        &self,
        arrival: Arrival,
        peer: SocketAddr,
    ) -> Result<(Newcomer, Candidate), Failure> {
        let settings = &self.clients.settings;
        let opening::Opening { carrier, input, exporter } = match arrival {
            Arrival::Tcp(stream) => {
                tcp::tune(&stream, settings.keepalive)?;
                opening::open(settings, stream).await?
            }
            Arrival::Quic(knock) => Box::pin(opening::open_quic(settings, *knock)).await?,
        };
        let certificate = exporter.map(|_| settings.tls.fingerprint());
        let login = ServerLogin::new(settings.key.clone(), exporter, random::bytes(), certificate);
        let misused = carrier.misused();
        let mut newcomer = Newcomer { carrier, input, login, peer };
        let login = handshake::server(newcomer.carrier.login(), &mut newcomer.input, &mut newcomer.login);
        let result = tokio::select! {
            biased;
            result = login => result,
            () = misused => return Err(Failure::Misused),
        };
        match result {
            Ok(candidate) => Ok((newcomer, candidate)),
            Err(error) => {
                newcomer.answer_stranger(&error).await;
                Err(newcomer.carrier.explain(error).into())
            }
        }
    }

    async fn judge(self: &Arc<Self>, mut newcomer: Newcomer, candidate: Candidate) {
        let peer = newcomer.peer;
        let judgement = match self.failures.blocked(peer.ip()) {
            Some(wait) => {
                let reason =
                    format!("too many failed logins from {}, wait {} s", peer.ip(), wait.as_secs() + 1);
                Judgement::Refused(RefusalCode::RateLimited, reason)
            }
            None => self.clients.judge(&candidate, peer),
        };
        match judgement {
            Judgement::Refused(code, reason) => {
                if code == RefusalCode::Token {
                    self.failures.note(peer.ip());
                }
                let hint = self.interception(&candidate);
                if code == RefusalCode::Superseded {
                    // It stands by and asks every few seconds.
                    tracing::debug!("login refused from {peer}: {reason}");
                } else {
                    tracing::warn!("login refused from {peer}: {reason}{hint}");
                }
                newcomer.refuse(code, self.clients.settings.for_client(&reason)).await;
            }
            Judgement::Accepted { session, link, new } => {
                let max_links = self.clients.settings.max_links;
                let accepted = newcomer.login.accept(
                    &candidate,
                    env!("CARGO_PKG_VERSION"),
                    session.id(),
                    link,
                    max_links,
                    self.stun.clone(),
                );
                let sent = handshake::send(newcomer.carrier.login(), newcomer.login.poll_transmit()).await;
                if let (Err(_), _) | (_, Err(_)) = (accepted, &sent) {
                    tracing::info!("link from {peer} lost before it began");
                    if new.is_some() {
                        self.clients.remove(session.id(), false);
                    }
                    return;
                }
                self.add_link(newcomer, &candidate, session, link);
                if let Some(new) = new {
                    tracing::info!(
                        "client {:?} logged in from {peer}, version {}, session {}",
                        candidate.hello.identity,
                        candidate.hello.program,
                        new.session.id()
                    );
                    self.tasks.spawn(control::serve(self.clients.clone(), new));
                }
            }
        }
    }

    fn add_link(
        &self,
        newcomer: Newcomer,
        candidate: &Candidate,
        session: tun_common::session::Session,
        number: u32,
    ) {
        let peer = newcomer.peer;
        let new = newcomer.carrier.into_link(newcomer.input, Side::Acceptor, number, peer);
        let link = new.link.clone();
        let promised = Duration::from_millis(u64::from(candidate.hello.heartbeat_ms));
        let timeout = self.clients.settings.heartbeat_timeout;
        let events = session.link_events();
        let tasks = session.tasks().clone();
        let beating = link.clone();
        if matches!(candidate.hello.intent, Intent::Join { .. }) {
            tracing::info!("session {}: link {number} from {peer}", session.id());
        }
        let owner = session.clone();
        session.tasks().spawn_to_end(async move {
            link.gone().await;
            let what = if owner.is_over() || link.is_retiring() { "closed" } else { "lost" };
            tracing::info!("link {peer} {what}: {}", link.reason());
        });
        session.add_link(new, move |stream, rest| {
            let read_ahead = BytesMut::from(&rest[..]);
            tasks.spawn(heartbeat::answer(beating, stream, read_ahead, promised, timeout, events));
        });
    }

    /// Tells apart a wrong token and an intercepted connection, where the client says which certificate it saw.
    fn interception(&self, candidate: &Candidate) -> String {
        let ours = self.clients.settings.tls.fingerprint();
        match candidate.hello.saw_certificate {
            Some(saw) if saw != ours => format!(
                "; the client saw certificate {}, ours is {}: somebody in the middle ends the encryption",
                short(saw),
                short(ours)
            ),
            _ => String::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn short(fingerprint: Bytes32) -> String {
    fingerprint.to_string()[..16].to_owned()
}

impl Newcomer {
    async fn refuse(&mut self, code: RefusalCode, reason: String) {
        if self.login.refuse(code, reason).is_ok() {
            let bytes = self.login.poll_transmit();
            self.part(bytes).await;
        }
    }

    /// A peer that does not speak our protocol gets an answer it may understand.
    async fn answer_stranger(&mut self, error: &HandshakeError) {
        let HandshakeError::Login(LoginError::Preface(_)) = error else { return };
        let first = self.input.first_chunk::<{ preface::LEN }>();
        if first.is_some_and(|bytes| preface::is_http(*bytes)) {
            let body = "this port speaks the tun protocol, not HTTP\n";
            let answer = format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            self.part(BytesMut::from(answer.as_bytes())).await;
        } else {
            self.part(BytesMut::new()).await;
        }
    }

    /// Sends the last bytes and waits for the peer to close, because a close over unread bytes would reset the
    /// connection and take the answer with it.
    async fn part(&mut self, bytes: BytesMut) {
        let io = self.carrier.login();
        let farewell = async {
            handshake::send(io, bytes).await?;
            io.shutdown().await?;
            let mut rest = [0; 512];
            while io.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(REFUSAL_LINGER, farewell).await;
    }
}

/// Why a connection did not get as far as a login.
enum Failure {
    Deadline,
    Evicted,
    Misused,
    Opening(OpeningError),
    Handshake(HandshakeError),
}

impl From<OpeningError> for Failure {
    fn from(error: OpeningError) -> Self {
        Failure::Opening(error)
    }
}

impl From<HandshakeError> for Failure {
    fn from(error: HandshakeError) -> Self {
        Failure::Handshake(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Handshake(error.into())
    }
}

impl Failure {
    /// Strangers knock at every public port; only what an operator can act on is more than a detail.
    fn report(&self, peer: SocketAddr) {
        match self {
            Failure::Opening(OpeningError::Empty | OpeningError::Gone) => {
                tracing::debug!("{peer} connected and closed");
            }
            Failure::Misused => {
                tracing::info!("handshake with {peer} ended: it left, or sent something else than a login");
            }
            Failure::Evicted => {
                tracing::warn!("handshake with {peer} ended: too many connections wait for their login");
            }
            Failure::Deadline => {
                tracing::info!(
                    "handshake with {peer} ended: no login within {} s",
                    HANDSHAKE_DEADLINE.as_secs()
                );
            }
            Failure::Opening(error @ OpeningError::Plain) => {
                tracing::warn!("handshake with {peer} ended: {error}");
            }
            Failure::Opening(error) => tracing::info!("handshake with {peer} ended: {error}"),
            Failure::Handshake(error) => tracing::info!("handshake with {peer} ended: {error}"),
        }
    }
}
