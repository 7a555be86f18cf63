//! One visitor: connections made here reach a private proxy of another client.
//!
//! All connections share one session with that client. Its link runs inside a stream that the server relays; when that is
//! lost (with the server, say), the visitor makes another, and the open connections go on over it. Connections that come
//! while there is no link may be handed to another visitor.

pub(crate) mod display;
pub(crate) mod fallback;
pub(crate) mod listen;
mod peer_session;
pub(crate) mod status;
pub(crate) mod stdio;
#[cfg(test)]
mod tests;
pub(crate) mod udp;

use crate::dial;
use crate::p2p::{PathState, Surroundings};
use crate::settings::Settings;
use bytes::{Bytes, BytesMut};
use fallback::{Fallback, Waiting};
use peer_session::Peer;
use status::{VisitState, VisitStatus};
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep_until;
use tun_common::config::VisitorConfig;
use tun_common::lifecycle::Tasks;
use tun_common::link::{Link, LinkKind, NewLink, Side};
use tun_common::peer::{self, PeerError};
use tun_common::random;
use tun_common::session::{Local, Outcome, Session, refusal};
use tun_common::shutdown::Shutdown;
use tun_proto::backoff::Backoff;
use tun_proto::limits::{HANDSHAKE_DEADLINE, RESUME_WINDOW};
use tun_proto::session::pairing::{PairingError, PeerHello};
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::relay::Refusal;

/// Connections that one visitor may have open.
const MAX_STREAMS: usize = 16 * 1024;

/// How long a connection waits for the other client to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(20);

/// Connections that wait for the visitor's attention.
pub(crate) const BACKLOG: usize = 64;

/// A connection to be made.
pub(crate) struct Request {
    /// This side of it.
    pub(crate) local: Box<dyn Local>,
    /// Where it comes from, for the other side's log.
    pub(crate) source: String,
    /// Told when it has ended.
    pub(crate) ended: Option<oneshot::Sender<Outcome>>,
}

/// Why a visitor has no link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VisitError {
    /// The proxy's client does not know the secret. The same words as for [`Self::NotThere`], so that nobody learns
    /// from them which proxies exist.
    #[error("no such proxy for this user, or a wrong secret")]
    Refused,
    /// The server knows no such proxy. It will, if its client is about to come back.
    #[error("no such proxy for this user, or a wrong secret")]
    NotThere,
    /// It may work later.
    #[error("{0}")]
    Failed(String),
}

type Approach = Pin<Box<dyn Future<Output = Result<NewLink, VisitError>> + Send>>;

/// How long a session with the proxy's client is kept without a connection: as long as carriers' NATs tend to keep a
/// path that is idle, so that a user's pauses cost no new meeting.
const IDLE: Duration = Duration::from_secs(300);

/// The visitor's task.
pub(crate) struct Visitor {
    pub(crate) config: VisitorConfig,
    pub(crate) settings: Arc<Settings>,
    pub(crate) timing: Timing,
    /// The session with the server, while there is one.
    pub(crate) server: watch::Receiver<Option<Session>>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) tasks: Tasks,
    pub(crate) shutdown: Shutdown,
    /// Who takes the connections while the proxy's client cannot be met.
    pub(crate) fallback: Option<Fallback>,
    /// Told that the proxy cannot be visited, by a program that has nothing else to do.
    pub(crate) refused: Option<mpsc::Sender<VisitError>>,
    /// Where datagrams come from, if the proxy takes those and not connections.
    pub(crate) port: Option<udp::Port>,
    /// What whoever watches sees.
    pub(crate) status: watch::Sender<VisitStatus>,
}

/// How patient a visitor is.
#[derive(Debug, Clone)]
pub(crate) struct Timing {
    /// How long a connection waits for the other client to answer for the first time.
    pub(crate) patience: Duration,
    /// After this long without a connection its session ends, unless it is to be kept.
    pub(crate) idle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { patience: PATIENCE, idle: IDLE }
    }
}

/// A visitor at work.
struct Visit {
    visitor: Visitor,
    /// The session with the proxy's client, while there is one.
    peer: Option<Peer>,
    approach: Option<Approach>,
    backoff: Backoff,
    /// No approach before.
    pause: Option<Instant>,
    /// There was such a proxy, and this was its secret.
    met: bool,
    /// The last approach found nobody.
    absent: bool,
    /// A connection came since, and went elsewhere.
    wanted: bool,
    /// Connections that may still go elsewhere.
    waiting: Waiting,
}

enum Event {
    Request(Request),
    Unused,
    Approached(Result<NewLink, VisitError>),
    Links(usize),
    Streams,
    Flows,
    Path,
    TimeToTry,
    TimeIsOver,
    Idle,
    WaitIsOver,
    Stop,
}

impl Visitor {
    /// Serves requests until nobody can make one any more.
    pub(crate) async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut visit = Visit {
            visitor: self,
            peer: None,
            approach: None,
            backoff: dial::backoff(),
            pause: None,
            met: false,
            absent: false,
            wanted: false,
            waiting: Waiting::default(),
        };
        loop {
            visit.seek();
            let event = visit.next(&mut requests).await;
            if visit.handle(event).await.is_break() {
                return;
            }
        }
    }

    fn keeps(&self) -> bool {
        self.config.xtcp().is_some_and(|xtcp| xtcp.keep_tunnel_open)
    }
}

impl Visit {
    async fn next(&mut self, requests: &mut mpsc::Receiver<Request>) -> Event {
        let over = self.peer.as_ref().and_then(|peer| peer.linkless_since).map(|since| since + RESUME_WINDOW);
        let idle = self.idle_deadline();
        let stopping = self.visitor.shutdown.clone();
        let takes_connections = self.visitor.port.is_none() && !self.waiting.is_full();
        tokio::select! {
            request = requests.recv(), if takes_connections => request.map_or(Event::Unused, Event::Request),
            result = pending_or(&mut self.approach) => Event::Approached(result),
            event = peer_session::changed(&mut self.peer) => event,
            () = udp::changed(&mut self.visitor.port) => Event::Flows,
            () = at(self.pause) => Event::TimeToTry,
            () = at(over) => Event::TimeIsOver,
            () = at(idle) => Event::Idle,
            () = at(self.waiting.deadline()) => Event::WaitIsOver,
            () = stopping.asked() => Event::Stop,
        }
    }

    async fn handle(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Request(request) => self.handle_request(request).await,
            Event::Approached(result) => {
                self.approach = None;
                self.handle_approached(result).await;
            }
            Event::Links(0) => self.handle_link_lost(),
            Event::Links(_) => {}
            Event::Streams | Event::Flows => {
                let idle = self.uses() == 0;
                if let Some(peer) = &mut self.peer {
                    peer.idle_since = idle.then(Instant::now);
                }
            }
            Event::Path => self.publish_way(),
            Event::TimeToTry => self.pause = None,
            Event::TimeIsOver => self.give_up("its client did not come back"),
            // It was in use from the first moment on, or is again.
            Event::Idle if self.uses() > 0 => {
                if let Some(peer) = &mut self.peer {
                    peer.idle_since = None;
                }
            }
            Event::Idle => {
                tracing::info!("[{}] not used any more, leaving its client", self.proxy());
                self.approach = None;
                self.give_up("not used any more");
            }
            Event::WaitIsOver => {
                let due = self.waiting.take_due(Instant::now());
                self.hand_over(due, "its client does not answer").await;
            }
            Event::Unused => return ControlFlow::Break(()),
            Event::Stop => {
                // The link to the proxy's client goes last, since everything open crosses it.
                if let Some(peer) = &self.peer {
                    peer.session.drained(0).await;
                }
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Approaches the proxy's client, if there is a reason to and nothing against it.
    fn seek(&mut self) {
        let wanted = self.uses() > 0 || self.wanted || !self.waiting.is_empty() || self.visitor.keeps();
        if !wanted || self.approach.is_some() || self.pause.is_some() || self.is_relayed() {
            return;
        }
        self.wanted = false;
        let peer = self.peer.get_or_insert_with(|| Peer::begin(&self.visitor));
        let hello = peer.next_hello(self.visitor.settings.heartbeat_interval);
        let Visitor { settings, config, server, .. } = &self.visitor;
        let (settings, config, server) = (settings.clone(), config.clone(), server.clone());
        self.approach = Some(Box::pin(async move { approach(&settings, &config, server, hello).await }));
        if !self.absent && self.backoff.attempts() == 0 && !self.is_linked() {
            self.publish(VisitState::Connecting { reason: None });
        }
    }

    async fn handle_request(&mut self, request: Request) {
        let Some(fallback) = self.visitor.fallback.as_ref().filter(|_| !self.is_linked()) else {
            return self.open(request);
        };
        if self.absent && self.pause.is_some() {
            self.wanted = true;
            self.hand_over(vec![request], "its client is not there").await;
        } else {
            self.waiting.push(request, Instant::now() + fallback.timeout);
        }
    }

    fn open(&mut self, request: Request) {
        let Request { local, source, ended } = request;
        let meta = StreamMeta::Proxy { name: self.proxy().to_owned(), source };
        let meta = Bytes::from(serde_json::to_vec(&meta).unwrap_or_default());
        let peer = self.peer.get_or_insert_with(|| Peer::begin(&self.visitor));
        let session = &peer.session;
        let patience = self.visitor.timing.patience;
        let Some(pump) = session.open(random::id(), meta, local, Some(patience)) else {
            tracing::warn!("[{}] connection refused: {MAX_STREAMS} are open", self.proxy());
            return;
        };
        session.tasks().spawn_to_end(async move {
            let outcome = pump.await;
            if let Some(ended) = ended {
                let _ = ended.send(outcome);
            }
        });
    }

    async fn handle_approached(&mut self, result: Result<NewLink, VisitError>) {
        match (result, &mut self.peer) {
            (Ok(new), Some(peer)) => {
                let again = if peer.met { " again" } else { "" };
                peer.add_link(new, &self.visitor.settings, self.visitor.surroundings.doubts());
                peer.find_paths(&self.visitor);
                self.backoff.reset();
                (self.met, self.absent) = (true, false);
                let by = self.visitor.settings.server_name();
                tracing::info!(
                    "[{}] connected to its client{again}, relayed by {by}, encrypted end to end",
                    self.proxy()
                );
                self.publish_way();
                for request in self.waiting.take_all() {
                    self.open(request);
                }
            }
            (Ok(_), None) => {}
            // The direct link carries everything; a relayed one beside it can wait.
            (Err(_), Some(peer)) if peer.is_linked() => {
                self.pause = Some(Instant::now() + self.backoff.next_pause());
            }
            // After a restart of the server its client may be later than this one: what is open waits.
            (Err(VisitError::NotThere), Some(peer)) if peer.met => {
                self.absent = true;
                self.try_again("its client is not there");
                let waiting = self.waiting.take_all();
                self.hand_over(waiting, "its client is not there").await;
            }
            (Err(VisitError::Failed(reason)), _) => {
                self.absent = false;
                self.try_again(&reason);
            }
            (Err(error), _) => self.handle_refused(error).await,
        }
    }

    async fn handle_refused(&mut self, error: VisitError) {
        let patient = self.visitor.fallback.is_some() || self.visitor.keeps();
        if !patient || self.backoff.attempts() == 0 {
            tracing::error!("[{}] cannot be visited: {error}", self.proxy());
        }
        let reason = error.to_string();
        // Told first: the end of the connections, which follows from it, is not the reason. A proxy that was there
        // before may come back.
        let is_final = !self.met || matches!(error, VisitError::Refused);
        if let Some(refused) = self.visitor.refused.as_ref().filter(|_| is_final) {
            let _ = refused.try_send(error);
        }
        self.give_up("refused");
        self.absent = true;
        self.pause = Some(Instant::now() + self.backoff.next_pause());
        self.publish(VisitState::Connecting { reason: Some(reason.clone()) });
        let waiting = self.waiting.take_all();
        self.hand_over(waiting, &reason).await;
    }

    fn handle_link_lost(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        peer.linkless_since.get_or_insert_with(Instant::now);
        let reason = "the way to its client was lost";
        tracing::warn!("[{}] {reason}", self.proxy());
        self.publish(VisitState::Connecting { reason: Some(reason.to_owned()) });
    }

    /// Pauses until the next attempt; only the first failure is worth a line.
    fn try_again(&mut self, reason: &str) {
        if self.backoff.attempts() == 0 {
            tracing::warn!("[{}] {reason}; trying again", self.proxy());
        }
        self.pause = Some(Instant::now() + self.backoff.next_pause());
        self.publish(VisitState::Connecting { reason: Some(reason.to_owned()) });
    }

    /// Hands connections, of which nothing was read, to the other visitor.
    async fn hand_over(&mut self, requests: Vec<Request>, reason: &str) {
        let Some(fallback) = self.visitor.fallback.as_ref().filter(|_| !requests.is_empty()) else { return };
        tracing::info!(
            "[{}] {reason}; {} to [{}]",
            self.proxy(),
            fallback::count(requests.len()),
            fallback.to
        );
        for request in requests {
            tokio::select! {
                sent = fallback.requests.send(request) => if sent.is_err() { return },
                () = self.visitor.shutdown.asked() => return,
            }
        }
    }

    fn give_up(&mut self, reason: &str) {
        if let Some(peer) = self.peer.take() {
            peer.session.end(reason);
        }
        self.publish(VisitState::Idle);
    }

    fn publish(&self, state: VisitState) {
        let session = self.peer.as_ref().map(|peer| peer.session.clone());
        self.visitor.status.send_replace(VisitStatus { state, session });
    }

    /// Publishes which way the bytes go.
    fn publish_way(&self) {
        let Some(peer) = self.peer.as_ref().filter(|peer| peer.is_linked()) else { return };
        self.publish(match peer.path() {
            PathState::Direct { address } => VisitState::Direct { address },
            PathState::Relayed { why } => {
                VisitState::Relayed { by: self.visitor.settings.server_name(), why }
            }
        });
    }

    fn idle_deadline(&self) -> Option<Instant> {
        let since = self.peer.as_ref()?.idle_since?;
        let needed = self.visitor.keeps() || !self.waiting.is_empty();
        (!needed).then(|| since + self.visitor.timing.idle)
    }

    /// Number of connections and flows.
    fn uses(&self) -> usize {
        let connections = self.peer.as_ref().map_or(0, |peer| peer.session.stream_count());
        connections + self.visitor.port.as_ref().map_or(0, |port| *port.flows.borrow())
    }

    fn is_linked(&self) -> bool {
        self.peer.as_ref().is_some_and(Peer::is_linked)
    }

    fn is_relayed(&self) -> bool {
        let relayed = |peer: &Peer| peer.session.links().iter().any(|link| link.kind() == LinkKind::Relay);
        self.peer.as_ref().is_some_and(relayed)
    }

    /// The name of the proxy.
    fn proxy(&self) -> &str {
        &self.visitor.config.server_name
    }
}

/// Goes to the proxy's client: over the server, then through the pairing.
async fn approach(
    settings: &Settings,
    config: &VisitorConfig,
    mut server: watch::Receiver<Option<Session>>,
    hello: PeerHello,
) -> Result<NewLink, VisitError> {
    let failed = |reason: &str| VisitError::Failed(reason.to_owned());
    let session = server.wait_for(|session| session.as_ref().is_some_and(|session| !session.is_over())).await;
    let session =
        session.ok().and_then(|session| session.clone()).ok_or_else(|| failed("the program is stopping"))?;
    let meta = StreamMeta::Visit { proxy: config.server_name.clone() };
    let meta = serde_json::to_vec(&meta).unwrap_or_default();
    let pairing = async {
        let stream = session.open_relayed(&meta).await?;
        let server = stream.peer();
        let secret = config.secret_key.expose();
        let io = peer::visit(stream, &settings.peer_tls, &config.server_name, secret, &hello).await?;
        Ok((io, server))
    };
    match tokio::time::timeout(HANDSHAKE_DEADLINE, pairing).await {
        Err(_) => Err(failed("the proxy's client does not answer")),
        Ok(Ok((io, server))) => Ok(Link::over_relay(io, BytesMut::new(), Side::Dialer, hello.link, server)),
        Ok(Err(PeerError::Pairing(PairingError::Confirmation))) => Err(VisitError::Refused),
        Ok(Err(PeerError::Io(error))) if refusal(&error) == Some(Refusal::NotThere) => {
            Err(VisitError::NotThere)
        }
        Ok(Err(error)) => Err(VisitError::Failed(format!("the way to the proxy's client failed: {error}"))),
    }
}

/// Resolves when the time has come; never if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

async fn pending_or(approach: &mut Option<Approach>) -> Result<NewLink, VisitError> {
    match approach {
        Some(approach) => approach.await,
        None => std::future::pending().await,
    }
}
