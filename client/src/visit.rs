//! One visitor: connections made here reach a private proxy of another client.
//!
//! All connections share one session with that client. Its link runs inside a stream that the server relays; when that is
//! lost (with the server, say), the visitor makes another, and the open connections go on over it.

pub(crate) mod listen;
pub(crate) mod stdio;

use crate::dial;
use crate::p2p::initiator::Initiator;
use crate::p2p::{PathState, Search, Surroundings};
use crate::settings::Settings;
use bytes::{Bytes, BytesMut};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep_until;
use tun_common::config::VisitorConfig;
use tun_common::lifecycle::Tasks;
use tun_common::link::{Link, LinkKind, NewLink, Side, heartbeat};
use tun_common::peer::{self, PeerError};
use tun_common::random;
use tun_common::session::{Handler, Local, Outcome, Session, refusal};
use tun_common::shutdown::Shutdown;
use tun_proto::backoff::Backoff;
use tun_proto::limits::{HANDSHAKE_DEADLINE, RESUME_WINDOW};
use tun_proto::session::pairing::{PairingError, PeerHello};
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::relay::Refusal;
use tun_proto::wire::stream::ResetCode;

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

/// The visitor's task.
pub(crate) struct Visitor {
    pub(crate) config: VisitorConfig,
    pub(crate) settings: Arc<Settings>,
    /// The session with the server, while there is one.
    pub(crate) server: watch::Receiver<Option<Session>>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) tasks: Tasks,
    pub(crate) shutdown: Shutdown,
    /// Told that the proxy cannot be visited, by a program that has nothing else to do.
    pub(crate) refused: Option<mpsc::Sender<VisitError>>,
}

/// The session with the proxy's client.
struct Peer {
    session: Session,
    links: watch::Receiver<usize>,
    next_link: Arc<AtomicU32>,
    linkless_since: Option<Instant>,
    /// It had a link before.
    met: bool,
}

enum Event {
    Request(Request),
    Approached(Result<NewLink, VisitError>),
    Links(usize),
    TimeToTry,
    TimeIsOver,
    Stop,
}

impl Visitor {
    /// Serves requests until nobody can make one any more.
    pub(crate) async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut peer: Option<Peer> = None;
        let mut approach: Option<Approach> = None;
        let mut backoff = dial::backoff();
        let mut pause: Option<Instant> = None;
        // There was such a proxy, and this was its secret.
        let mut met = false;
        loop {
            let over = peer.as_ref().and_then(|peer| peer.linkless_since).map(|since| since + RESUME_WINDOW);
            let event = tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => Event::Request(request),
                    None => return,
                },
                result = pending_or(&mut approach) => Event::Approached(result),
                count = changed(&mut peer) => Event::Links(count),
                () = sleep_until(pause.unwrap_or_else(Instant::now).into()), if pause.is_some() => Event::TimeToTry,
                () = sleep_until(over.unwrap_or_else(Instant::now).into()), if over.is_some() => Event::TimeIsOver,
                () = self.shutdown.asked() => Event::Stop,
            };
            match event {
                Event::Request(request) => {
                    let peer = peer.get_or_insert_with(|| self.begin());
                    self.open(&peer.session, request);
                }
                Event::Links(0) => {
                    if let Some(peer) = &mut peer {
                        peer.linkless_since.get_or_insert_with(Instant::now);
                        tracing::warn!("[{}] the way to its client was lost", self.config.server_name);
                    }
                }
                Event::Links(_) => {}
                Event::TimeToTry => pause = None,
                Event::Stop => {
                    // The link to the proxy's client goes last, since everything open crosses it.
                    if let Some(peer) = &peer {
                        peer.session.drained(0).await;
                    }
                    return;
                }
                Event::TimeIsOver => self.give_up(&mut peer, "its client did not come back"),
                Event::Approached(result) => {
                    approach = None;
                    match (result, &mut peer) {
                        (Ok(new), Some(peer)) => {
                            backoff.reset();
                            met = true;
                            self.add_link(peer, new);
                        }
                        (Ok(_), None) => {}
                        // After a restart of the server its client may be later than this one: what is open waits.
                        (Err(VisitError::NotThere), Some(peer)) if peer.met => {
                            pause = Some(
                                Instant::now() + self.try_again(&mut backoff, "its client is not there"),
                            );
                        }
                        // The direct link needs no other.
                        (Err(_), Some(peer)) if !peer.session.links().is_empty() => {
                            pause = Some(Instant::now() + backoff.next_pause());
                        }
                        (Err(VisitError::Failed(reason)), _) => {
                            pause = Some(Instant::now() + self.try_again(&mut backoff, &reason));
                        }
                        (Err(error), _) => {
                            tracing::error!("[{}] cannot be visited: {error}", self.config.server_name);
                            // Told first: the end of the connections, which follows from it, is not the reason. A proxy
                            // that was there before may come back.
                            let is_final = !met || matches!(error, VisitError::Refused);
                            if let Some(refused) = self.refused.as_ref().filter(|_| is_final) {
                                let _ = refused.try_send(error);
                            }
                            self.give_up(&mut peer, "refused");
                            pause = Some(Instant::now() + backoff.next_pause());
                        }
                    }
                }
            }
            if approach.is_none()
                && pause.is_none()
                && let Some(peer) = peer.as_mut().filter(|peer| peer.needs_link())
            {
                approach = Some(self.approach(peer));
            }
        }
    }

    /// The pause until the next attempt; only the first failure is worth a line.
    fn try_again(&self, backoff: &mut Backoff, reason: &str) -> Duration {
        if backoff.attempts() == 0 {
            tracing::warn!("[{}] {reason}; trying again", self.config.server_name);
        }
        backoff.next_pause()
    }

    fn begin(&self) -> Peer {
        let (session, _) =
            Session::new(random::id(), Arc::new(NothingIncoming), MAX_STREAMS, self.tasks.child());
        let links = session.watch_links();
        Peer { session, links, next_link: Arc::default(), linkless_since: None, met: false }
    }

    fn open(&self, session: &Session, request: Request) {
        let Request { local, source, ended } = request;
        let meta = StreamMeta::Proxy { name: self.config.server_name.clone(), source };
        let meta = Bytes::from(serde_json::to_vec(&meta).unwrap_or_default());
        let Some(pump) = session.open(random::id(), meta, local, Some(PATIENCE)) else {
            tracing::warn!("[{}] connection refused: {MAX_STREAMS} are open", self.config.server_name);
            return;
        };
        session.tasks().spawn_to_end(async move {
            let outcome = pump.await;
            if let Some(ended) = ended {
                let _ = ended.send(outcome);
            }
        });
    }

    fn approach(&self, peer: &mut Peer) -> Approach {
        let hello = PeerHello {
            session: peer.session.id(),
            link: peer.next_link.fetch_add(1, Ordering::Relaxed),
            heartbeat_ms: u32::try_from(self.settings.heartbeat_interval.as_millis()).unwrap_or(u32::MAX),
        };
        let (settings, config, server) = (self.settings.clone(), self.config.clone(), self.server.clone());
        Box::pin(async move { approach(&settings, &config, server, hello).await })
    }

    fn add_link(&self, peer: &mut Peer, new: NewLink) {
        let link = new.link.clone();
        let session = &peer.session;
        session.tasks().spawn(heartbeat::ask(
            link,
            self.settings.heartbeat_interval,
            self.settings.heartbeat_timeout,
            Arc::new(Notify::new()),
            session.link_events(),
        ));
        session.add_link(new, |_, _| {});
        peer.links.mark_unchanged();
        peer.linkless_since = None;
        let met = std::mem::replace(&mut peer.met, true);
        if let Some(xtcp) = self.config.xtcp().filter(|_| !met) {
            let initiator = Initiator {
                session: session.clone(),
                name: self.config.server_name.clone(),
                tls: self.settings.peer_tls.clone(),
                search: Arc::new(Search::new(self.surroundings.clone(), &xtcp.nat_traversal)),
                relay: self.settings.server_name(),
                next_link: peer.next_link.clone(),
                state: watch::Sender::new(PathState::Relayed { why: None }),
            };
            session.tasks().spawn(initiator.run());
        }
        let again = if met { " again" } else { "" };
        tracing::info!(
            "[{}] connected to its client{again}, relayed by {}, encrypted end to end",
            self.config.server_name,
            self.settings.server_name()
        );
    }

    fn give_up(&self, peer: &mut Option<Peer>, reason: &str) {
        if let Some(peer) = peer.take() {
            peer.session.end(reason);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.session.end("the visitor was stopped");
    }
}

impl Peer {
    fn needs_link(&self) -> bool {
        let is_relayed = self.session.links().iter().any(|link| link.kind() == LinkKind::Relay);
        !is_relayed && self.session.stream_count() > 0
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

/// Resolves to the number of links when it changes.
async fn changed(peer: &mut Option<Peer>) -> usize {
    match peer {
        Some(peer) => match peer.links.changed().await {
            Ok(()) => *peer.links.borrow_and_update(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

async fn pending_or(approach: &mut Option<Approach>) -> Result<NewLink, VisitError> {
    match approach {
        Some(approach) => approach.await,
        None => std::future::pending().await,
    }
}

/// The proxy's client opens no streams towards its visitors.
struct NothingIncoming;

impl Handler for NothingIncoming {
    fn open(&self, _: &Session, _: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        Err(ResetCode::Refused)
    }
}
