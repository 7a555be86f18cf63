//! Visitors of this client's private services: pair with them, and serve each one its service and nothing else.
//!
//! A visitor arrives as a stream that the server relays. Within it the two ends pair and build a link of their own
//! session, which outlives that stream: a visitor that comes back with the session's id goes on where it was.

use crate::backend::Service;
use crate::p2p::Search;
use crate::p2p::responder::Responder;
use bytes::BytesMut;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tun_common::config::Secret;
use tun_common::control;
use tun_common::lifecycle::Tasks;
use tun_common::limit::Failures;
use tun_common::link::tls::PeerTls;
use tun_common::link::{Link, Side, heartbeat};
use tun_common::peer::{self, PeerError};
use tun_common::session::{DatagramAnswer, Handler, Local, RelayedStream, Session, channel};
use tun_proto::limits::{HANDSHAKE_DEADLINE, RESUME_WINDOW};
use tun_proto::session::pairing::PeerHello;
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::login::Id;
use tun_proto::wire::relay::Refusal;
use tun_proto::wire::stream::ResetCode;

/// Streams one visitor may have open.
const MAX_STREAMS: usize = 16 * 1024;

/// Visitors that may be paired at once.
const MAX_SESSIONS: usize = 4 * 1024;

/// Wrong secrets that are forgiven at once, for one source and for one proxy from wherever, and the time in which one
/// more is. At this rate a secret of eight random letters takes ten thousand years.
const GUESSES_BY_SOURCE: u32 = 5;
const GUESSES_BY_PROXY: u32 = 20;
const GUESS_REFILL: Duration = Duration::from_secs(6);

/// Visitors of one source that are paired at a time. Others wait, so that guesses made at once are counted as well.
const PAIRING_BY_SOURCE: usize = 4;

/// A private service.
pub(crate) struct PrivateService {
    pub(crate) name: String,
    pub(crate) secret: Secret,
    pub(crate) backend: Service,
    /// How visitors are met directly, if they may be.
    pub(crate) direct: Option<Arc<Search>>,
}

/// All visitors' sessions.
pub(crate) struct Peers {
    tls: PeerTls,
    tasks: Tasks,
    heartbeat_timeout: Duration,
    by_source: Failures<String>,
    by_proxy: Failures<String>,
    pairing: Mutex<HashMap<String, Arc<Semaphore>>>,
    sessions: Mutex<HashMap<Id, Session>>,
}

impl Peers {
    pub(crate) fn new(tls: PeerTls, heartbeat_timeout: Duration, tasks: Tasks) -> Arc<Self> {
        Arc::new(Peers {
            tls,
            tasks,
            heartbeat_timeout,
            by_source: Failures::new(GUESSES_BY_SOURCE, GUESS_REFILL),
            by_proxy: Failures::new(GUESSES_BY_PROXY, GUESS_REFILL),
            pairing: Mutex::default(),
            sessions: Mutex::default(),
        })
    }

    /// Takes a visitor's way to `service`, relayed from `source`.
    pub(crate) fn receive(
        self: &Arc<Self>,
        service: Arc<PrivateService>,
        source: String,
        mut stream: RelayedStream,
    ) {
        let guesser = source.rsplit_once(':').map_or(source.as_str(), |(host, _)| host).to_owned();
        if self.is_blocked(&guesser, &service.name, &source) {
            self.tasks.spawn(stream.refuse(Refusal::Busy));
            return;
        }
        let peers = self.clone();
        let turns = self.turns(&guesser);
        self.tasks.spawn(async move {
            let turn = tokio::time::timeout(HANDSHAKE_DEADLINE, turns.acquire_owned()).await;
            let Ok(Ok(_turn)) = turn else {
                tracing::info!("[{}] visitor from {source} refused: others pair already", service.name);
                return stream.refuse(Refusal::Busy).await;
            };
            if peers.is_blocked(&guesser, &service.name, &source) {
                return stream.refuse(Refusal::Busy).await;
            }
            let pairing = async {
                stream.let_through().await?;
                peers.pair(stream, &service).await
            };
            let paired = tokio::time::timeout(HANDSHAKE_DEADLINE, pairing).await;
            match paired {
                Ok(Ok((io, hello))) => peers.add_link(service, io, hello, &source),
                Ok(Err(error)) => {
                    let reason = match &error {
                        PeerError::Io(_) => "it does not know the secret, or gave up".to_owned(),
                        other => other.to_string(),
                    };
                    tracing::warn!("[{}] visitor from {source} refused: {reason}", service.name);
                    tracing::debug!("[{}] {error}", service.name);
                    peers.note(&guesser, &service.name);
                }
                Err(_) => {
                    tracing::info!("[{}] visitor from {source} did not finish pairing", service.name);
                    // It may have: this client's confirmation is enough to check a guess with.
                    peers.note(&guesser, &service.name);
                }
            }
        });
    }

    fn is_blocked(&self, guesser: &String, proxy: &String, source: &str) -> bool {
        let blocked = self.by_source.blocked(guesser).or(self.by_proxy.blocked(proxy)).is_some();
        if blocked {
            tracing::warn!("[{proxy}] visitor from {source} refused: too many wrong secrets");
        }
        blocked
    }

    /// Counts a wrong secret.
    fn note(&self, guesser: &String, proxy: &String) {
        self.by_source.note(guesser);
        self.by_proxy.note(proxy);
        self.by_source.tidy();
    }

    /// Whose turn it is to pair, among the visitors of one source.
    fn turns(&self, guesser: &str) -> Arc<Semaphore> {
        let mut pairing = self.pairing.lock().unwrap_or_else(PoisonError::into_inner);
        pairing.retain(|_, turns| Arc::strong_count(turns) > 1);
        pairing
            .entry(guesser.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(PAIRING_BY_SOURCE)))
            .clone()
    }

    /// Resolves when no visitor has anything open; their sessions are over then.
    pub(crate) async fn drain(&self) {
        let sessions: Vec<Session> = self.lock().values().cloned().collect();
        for session in sessions {
            session.drained(0).await;
            session.end("the client was stopped");
        }
    }

    async fn pair(
        &self,
        io: RelayedStream,
        service: &PrivateService,
    ) -> Result<(Box<dyn tun_common::link::LinkIo>, PeerHello), PeerError> {
        peer::receive(io, &self.tls, &service.name, service.secret.expose()).await
    }

    fn add_link(
        self: &Arc<Self>,
        service: Arc<PrivateService>,
        io: Box<dyn tun_common::link::LinkIo>,
        hello: PeerHello,
        source: &str,
    ) {
        let Some(session) = self.session(&service, hello.session) else {
            tracing::warn!("[{}] visitor from {source} refused: too many visitors", service.name);
            return;
        };
        let address = source.parse().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let new = Link::over_relay(io, BytesMut::new(), Side::Acceptor, hello.link, address);
        let link = new.link.clone();
        let promised = Duration::from_millis(u64::from(hello.heartbeat_ms));
        let timeout = self.heartbeat_timeout;
        let (tasks, events) = (session.tasks().clone(), session.link_events());
        tracing::info!("[{}] visitor from {source}, session {}", service.name, session.id());
        session.add_link(new, move |stream, rest| {
            let read_ahead = BytesMut::from(&rest[..]);
            tasks.spawn(heartbeat::answer(link, stream, read_ahead, promised, timeout, events));
        });
    }

    /// The session of this id, begun if there is none.
    fn session(self: &Arc<Self>, service: &Arc<PrivateService>, id: Id) -> Option<Session> {
        let mut sessions = self.lock();
        if let Some(session) = sessions.get(&id).filter(|session| !session.is_over()) {
            return Some(session.clone());
        }
        if sessions.len() >= MAX_SESSIONS {
            return None;
        }
        let (service, tls) = (service.clone(), self.tls.clone());
        let handler = Arc::new(OneService { service, tls, talks: AtomicBool::new(false) });
        let (session, _) = Session::new(id, handler, MAX_STREAMS, self.tasks.child());
        sessions.insert(id, session.clone());
        let (peers, watched) = (self.clone(), session.clone());
        self.tasks.spawn(async move {
            linkless(&watched).await;
            watched.end("the visitor is gone");
            peers.lock().remove(&id);
        });
        Some(session)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves when the session has been without a link for as long as it may be.
async fn linkless(session: &Session) {
    let mut links = session.watch_links();
    loop {
        // The first link is added right after the session is begun.
        let returned = links.wait_for(|count| *count > 0);
        if tokio::time::timeout(RESUME_WINDOW, returned).await.is_err() {
            return;
        }
        if links.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
    }
}

/// What a visitor may open: connections to the service that it knows the secret of, and talk about direct paths.
struct OneService {
    service: Arc<PrivateService>,
    tls: PeerTls,
    /// The visitor has opened its stream about paths; one is enough.
    talks: AtomicBool,
}

impl OneService {
    fn talk(&self, session: &Session) -> Result<Box<dyn Local>, ResetCode> {
        let search = self.service.direct.clone().ok_or(ResetCode::Refused)?;
        if self.talks.swap(true, Ordering::Relaxed) {
            return Err(ResetCode::Refused);
        }
        let (local, io) = channel(control::PIPE);
        let name = self.service.name.clone();
        let responder = Responder { session: session.clone(), name, tls: self.tls.clone(), search };
        session.tasks().spawn(responder.run(io));
        Ok(local)
    }
}

impl Handler for OneService {
    fn open(&self, session: &Session, meta: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        match serde_json::from_slice(meta) {
            Ok(StreamMeta::Proxy { name, source }) if name == self.service.name => {
                tracing::debug!("[{name}] connection of a visitor at {source}");
                self.service.backend.connect()
            }
            Ok(StreamMeta::Paths) => self.talk(session),
            _ => Err(ResetCode::Refused),
        }
    }

    fn datagrams(&self, session: &Session, meta: &[u8]) -> DatagramAnswer {
        match serde_json::from_slice(meta) {
            Ok(StreamMeta::Datagrams { name }) if name == self.service.name => {
                self.service.backend.datagrams(session)
            }
            _ => Box::pin(std::future::ready(None)),
        }
    }
}
