//! The clients of the server: who is logged in, what they serve, and how their sessions begin and end.
//!
//! Decisions are those of [`Identities`] and [`Registry`]; this room owns both, and the sessions and public ports
//! that go with them, behind one lock that is never held across an await.

use crate::ingress::limits::Limits;
use crate::ingress::{Ingress, Port, Serving};
use crate::relay::Visit;
use crate::settings::Settings;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tun_common::lifecycle::Tasks;
use tun_common::link::heartbeat::LinkEvent;
use tun_common::random;
use tun_common::session::{Handler, Local, RelayedStream, Session, pipe};
use tun_proto::auth::SessionSecret;
use tun_proto::datagram::flows::FlowBudget;
use tun_proto::limits::MAX_SESSION_FLOWS;
use tun_proto::registry::{Claim, Registry, Transport};
use tun_proto::session::login::Candidate;
use tun_proto::session::takeover::{Decision, Identities};
use tun_proto::wire::control::{Exposure, ProxyKind, ProxySpec, PublicAddress, ServerMessage, StreamMeta};
use tun_proto::wire::login::{Id, Intent, RefusalCode};
use tun_proto::wire::relay::Refusal;
use tun_proto::wire::stream::ResetCode;

/// Messages to one client that wait to be sent.
const OUTBOX: usize = 64;

/// How long a client may let its flows be idle, at least and at most.
const MIN_IDLE: Duration = Duration::from_secs(1);
const MAX_IDLE: Duration = Duration::from_secs(24 * 60 * 60);

/// All clients.
pub(crate) struct Clients {
    this: Weak<Clients>,
    pub(crate) settings: Arc<Settings>,
    tasks: Tasks,
    state: Mutex<State>,
}

struct State {
    identities: Identities,
    registry: Registry,
    clients: HashMap<Id, Client>,
    ingresses: HashMap<String, Ingress>,
    limits: Limits,
    private: HashMap<String, PrivateProxy>,
    stopping: bool,
}

impl State {
    /// Closes what a proxy has here.
    fn remove(&mut self, name: &str) {
        self.ingresses.remove(name);
        self.private.remove(name);
        self.limits.remove(name);
    }
}

/// A proxy that only visitors reach.
struct PrivateProxy {
    session: Session,
    /// The user of the client that serves it.
    user: String,
    allow_users: Vec<String>,
}

struct Client {
    identity: String,
    user: String,
    session: Session,
    secret: SessionSecret,
    next_link: u32,
    /// Boxed, since the channel holds room for many from the start.
    outbox: mpsc::Sender<Box<ServerMessage>>,
    /// Of its UDP ports together.
    flows: Arc<FlowBudget>,
    superseded: bool,
}

/// A login that was judged.
pub(crate) enum Judgement {
    /// The link belongs to this session, under this number; the parts of a new session's control if it is one.
    Accepted {
        /// The session.
        session: Session,
        /// The link's number.
        link: u32,
        /// What the control task of a new session needs.
        new: Option<NewClient>,
    },
    /// Refused.
    Refused(RefusalCode, String),
}

/// What the control task of a new session works with.
pub(crate) struct NewClient {
    pub(crate) identity: String,
    pub(crate) session: Session,
    pub(crate) outbox: mpsc::Receiver<Box<ServerMessage>>,
    pub(crate) control: oneshot::Receiver<DuplexStream>,
    pub(crate) link_events: mpsc::Receiver<(u32, LinkEvent)>,
}

impl Clients {
    pub(crate) fn new(settings: Arc<Settings>, registry: Registry, tasks: Tasks) -> Arc<Self> {
        let state = State {
            identities: Identities::default(),
            registry,
            clients: HashMap::new(),
            ingresses: HashMap::new(),
            limits: Limits::new(tasks.clone()),
            private: HashMap::new(),
            stopping: false,
        };
        Arc::new_cyclic(|this| Clients { this: this.clone(), settings, tasks, state: Mutex::new(state) })
    }

    /// Judges a login whose proof may still be wrong.
    pub(crate) fn judge(&self, candidate: &Candidate, peer: SocketAddr) -> Judgement {
        match &candidate.hello.intent {
            Intent::Login { first } => self.log_in(candidate, *first, peer),
            Intent::Join { session, lost } => self.join(candidate, *session, lost),
        }
    }

    fn log_in(&self, candidate: &Candidate, first: bool, peer: SocketAddr) -> Judgement {
        if !candidate.is_genuine(None) {
            return wrong_token();
        }
        let mut state = self.lock();
        if state.stopping {
            return Judgement::Refused(RefusalCode::Unavailable, "the server is about to stop".into());
        }
        let hello = &candidate.hello;
        let id = random::id();
        let address = peer.to_string();
        let decision =
            state.identities.login(&hello.identity, hello.instance, first, id, &address, Instant::now());
        let before = match decision {
            Decision::StandBy(other) => {
                let reason = format!("the place of \"{}\" is taken by a client at {other}", hello.identity);
                return Judgement::Refused(RefusalCode::Superseded, reason);
            }
            Decision::Vacant => None,
            Decision::Own(old) => state.clients.get(&old).map(|client| (client.session.clone(), None)),
            Decision::Replaces(old) => state.clients.get_mut(&old).map(|client| {
                client.superseded = true;
                (client.session.clone(), Some(client.outbox.clone()))
            }),
        };
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let (control, controls) = oneshot::channel();
        let handler = Arc::new(ClientStreams {
            control: Mutex::new(Some(control)),
            clients: self.this.clone(),
            user: hello.user.clone(),
            address: address.clone(),
        });
        let (session, link_events) = Session::new(id, handler, self.settings.max_streams, self.tasks.child());
        let client = Client {
            identity: hello.identity.clone(),
            user: hello.user.clone(),
            session: session.clone(),
            secret: candidate.session_secret(),
            next_link: 1,
            outbox,
            flows: FlowBudget::new(MAX_SESSION_FLOWS),
            superseded: false,
        };
        state.clients.insert(id, client);
        drop(state);
        match before {
            None => {}
            Some((old, None)) => old.end("the client logged in anew"),
            // An instance without a link cannot be told, and has nothing to drain over.
            Some((old, Some(outbox)))
                if old.links().is_empty()
                    || outbox.try_send(Box::new(ServerMessage::Superseded { by: address })).is_err() =>
            {
                old.end("another instance of the client took its place");
            }
            Some(_) => {}
        }
        let new = NewClient {
            identity: hello.identity.clone(),
            session: session.clone(),
            outbox: outgoing,
            control: controls,
            link_events,
        };
        Judgement::Accepted { session, link: 0, new: Some(new) }
    }

    fn join(&self, candidate: &Candidate, id: Id, lost: &[u32]) -> Judgement {
        let mut state = self.lock();
        let Some(client) = state.clients.get_mut(&id).filter(|client| !client.session.is_over()) else {
            return Judgement::Refused(RefusalCode::UnknownSession, "the session is over".into());
        };
        if !candidate.is_genuine(Some(&client.secret)) {
            return wrong_token();
        }
        let link = client.next_link;
        client.next_link += 1;
        let session = client.session.clone();
        drop(state);
        session.close_links(lost, "the client gave it up");
        let links = session.links();
        let staying = links.iter().filter(|link| !link.is_gone() && !lost.contains(&link.number()));
        if staying.count() >= usize::from(self.settings.max_links) {
            let reason = format!("the client has {} links already", self.settings.max_links);
            return Judgement::Refused(RefusalCode::Unavailable, reason);
        }
        Judgement::Accepted { session, link, new: None }
    }

    /// Exposes a proxy for a session; the answer is for the client.
    pub(crate) fn register(&self, identity: &str, session: &Session, spec: &ProxySpec) -> ServerMessage {
        let outcome = self.try_register(identity, session, spec);
        if let Err(reason) = &outcome {
            tracing::warn!("[{}] of client {identity:?} refused: {reason}", spec.name);
        }
        let outcome = outcome.map_err(|reason| self.settings.for_client(&reason));
        ServerMessage::Registered { name: spec.name.clone(), outcome }
    }

    fn try_register(&self, identity: &str, session: &Session, spec: &ProxySpec) -> Result<Exposure, String> {
        let mut state = self.lock();
        if state.stopping || !state.identities.is_holder(identity, session.id()) {
            return Err("another client took this one's place".into());
        }
        match &spec.kind {
            ProxyKind::Tcp { remote_port, previous_port } => {
                let wish = Wish { port: Port::Tcp, remote_port: *remote_port, previous_port: *previous_port };
                self.register_public(&mut state, identity, session, spec, wish).map(Exposure::Public)
            }
            ProxyKind::Udp { remote_port, previous_port, idle_ms } => {
                let idle = Duration::from_millis(*idle_ms).clamp(MIN_IDLE, MAX_IDLE);
                let flows = state.clients.get(&session.id()).map(|client| client.flows.clone());
                let flows = flows.unwrap_or_else(|| FlowBudget::new(MAX_SESSION_FLOWS));
                let port = Port::Udp { idle, flows };
                let wish = Wish { port, remote_port: *remote_port, previous_port: *previous_port };
                self.register_public(&mut state, identity, session, spec, wish).map(Exposure::Public)
            }
            ProxyKind::Stcp { allow_users }
            | ProxyKind::Xtcp { allow_users }
            | ProxyKind::Sudp { allow_users }
            | ProxyKind::Xudp { allow_users } => {
                state.registry.claim_name(identity, &spec.name).map_err(|error| error.to_string())?;
                let user =
                    state.clients.get(&session.id()).map(|client| client.user.clone()).unwrap_or_default();
                let none = (Transport::Tcp, 0);
                state.registry.bound(identity, &spec.name, session.id(), none, false, Instant::now());
                state.ingresses.remove(&spec.name);
                state.limits.remove(&spec.name);
                let proxy = PrivateProxy { session: session.clone(), user, allow_users: allow_users.clone() };
                state.private.insert(spec.name.clone(), proxy);
                tracing::info!("[{}] open to visitors", spec.name);
                Ok(Exposure::Private)
            }
        }
    }

    fn register_public(
        &self,
        state: &mut State,
        identity: &str,
        session: &Session,
        spec: &ProxySpec,
        wish: Wish,
    ) -> Result<PublicAddress, String> {
        let name = spec.name.as_str();
        let Wish { port: kind, remote_port, previous_port } = wish;
        let transport = kind.transport();
        let now = Instant::now();
        state.private.remove(name);
        let entropy = u64::from_le_bytes(random::bytes());
        let claim = state
            .registry
            .claim(identity, name, (transport, remote_port), previous_port, entropy)
            .map_err(|error| error.to_string())?;
        state.limits.set(name, spec.bandwidth_limit);
        let limit = state.limits.of(name);
        let chosen = remote_port == 0;
        let ports = match claim {
            Claim::TakeOver { port } => {
                if let Some(ingress) = state.ingresses.get(name).filter(|i| i.transport() == transport) {
                    ingress.hand_over(Serving { session: session.clone(), limit });
                    let address = ingress.address();
                    state.registry.bound(identity, name, session.id(), (transport, port), chosen, now);
                    tracing::info!("[{}] taken over on {address}", name);
                    return Ok(public(address));
                }
                vec![port]
            }
            Claim::Bind { ports } => ports,
        };
        let mut failure = String::new();
        for port in ports {
            let address = SocketAddr::new(self.settings.proxy_bind, port);
            let serving = Serving { session: session.clone(), limit: limit.clone() };
            match Ingress::bind(name, address, &kind, serving, &self.settings, &self.tasks) {
                Ok(ingress) => {
                    let address = ingress.address();
                    // Before a port of an earlier registration goes, so that the name never lacks one.
                    state.ingresses.insert(name.to_owned(), ingress);
                    let bound = (transport, address.port());
                    state.registry.bound(identity, name, session.id(), bound, chosen, now);
                    tracing::info!("[{}] listening on {address}{}", name, kind.suffix());
                    return Ok(public(address));
                }
                Err(error) => failure = format!("port {port} cannot be bound{}: {error}", kind.suffix()),
            }
        }
        if !state.ingresses.contains_key(name) {
            state.limits.remove(name);
        }
        Err(failure)
    }

    /// Stops exposing a proxy, if this session serves it.
    pub(crate) fn withdraw(&self, session: Id, name: &str) {
        let mut state = self.lock();
        if state.registry.release(name, session, Instant::now()) {
            state.remove(name);
            tracing::info!("[{name}] closed");
        }
    }

    /// Stops exposing everything a session serves.
    pub(crate) fn withdraw_all(&self, session: Id) {
        let mut state = self.lock();
        for name in state.registry.names_of(session) {
            state.registry.release(&name, session, Instant::now());
            state.remove(&name);
            tracing::info!("[{name}] closed");
        }
    }

    /// Closes the public ports of a session that has no link, but keeps them reserved for it. UDP ports stay: nobody is
    /// kept waiting by a datagram, and the flows go on when the client is back.
    pub(crate) fn suspend(&self, session: Id) {
        let mut state = self.lock();
        for name in state.registry.names_of(session) {
            if state.ingresses.get(&name).is_some_and(|ingress| ingress.transport() == Transport::Tcp) {
                state.ingresses.remove(&name);
                tracing::info!("[{name}] closed until its client is back");
            }
        }
    }

    /// Opens the public ports of a session again.
    pub(crate) fn resume(&self, session: &Session) {
        let mut state = self.lock();
        for name in state.registry.names_of(session.id()) {
            let Some(port) = state.registry.port_of(&name) else { continue };
            if state.ingresses.contains_key(&name) {
                continue;
            }
            let address = SocketAddr::new(self.settings.proxy_bind, port);
            let serving = Serving { session: session.clone(), limit: state.limits.of(&name) };
            match Ingress::bind(&name, address, &Port::Tcp, serving, &self.settings, &self.tasks) {
                Ok(ingress) => {
                    tracing::info!("[{name}] listening on {address} again");
                    state.ingresses.insert(name, ingress);
                }
                Err(error) => {
                    tracing::warn!("[{name}] port {port} cannot be bound again: {error}");
                    state.registry.release(&name, session.id(), Instant::now());
                    state.limits.remove(&name);
                }
            }
        }
    }

    /// The session that serves a private proxy, if `user` may visit it.
    fn find_private(&self, proxy: &str, user: &str) -> Option<Session> {
        let state = self.lock();
        let found = state.private.get(proxy)?;
        let allowed = match found.allow_users.as_slice() {
            [] => found.user == user,
            list => list.iter().any(|allowed| allowed == "*" || allowed == user),
        };
        allowed.then(|| found.session.clone())
    }

    /// Notes since when a session has no link.
    pub(crate) fn set_linkless(&self, identity: &str, session: Id, since: Option<Instant>) {
        self.lock().identities.set_linkless(identity, session, since);
    }

    /// True if another instance has taken a session's place.
    pub(crate) fn is_superseded(&self, session: Id) -> bool {
        self.lock().clients.get(&session).is_none_or(|client| client.superseded)
    }

    /// Removes a session that is over. Its ports go when `keep_ports` is false; otherwise a successor may have them.
    pub(crate) fn remove(&self, session: Id, keep_ports: bool) {
        {
            let mut state = self.lock();
            let Some(client) = state.clients.remove(&session) else { return };
            state.identities.end(&client.identity, session);
            state.registry.expire(Instant::now());
        }
        if !keep_ports {
            self.withdraw_all(session);
        }
    }

    /// Takes no more logins, closes all public ports and tells every client; returns their sessions.
    pub(crate) fn begin_stop(&self) -> Vec<Session> {
        let mut state = self.lock();
        state.stopping = true;
        state.ingresses.clear();
        state.private.clear();
        let deadline_ms = self.settings.drain_timeout.as_millis() as u64;
        let clients = state.clients.values();
        clients
            .map(|client| {
                let _ = client.outbox.try_send(Box::new(ServerMessage::Drain { deadline_ms }));
                client.session.clone()
            })
            .collect()
    }

    /// Tells every client that the server has stopped.
    pub(crate) fn say_goodbye(&self) {
        let state = self.lock();
        for client in state.clients.values() {
            let reason = "the server was stopped".to_owned();
            if client.outbox.try_send(Box::new(ServerMessage::Goodbye { reason })).is_err() {
                client.session.end("the server was stopped");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The public port that a client asks for.
struct Wish {
    port: Port,
    /// 0: any.
    remote_port: u16,
    previous_port: Option<u16>,
}

fn wrong_token() -> Judgement {
    let reason = "the token does not match, or somebody in the middle ends the encryption";
    Judgement::Refused(RefusalCode::Token, reason.into())
}

/// Where the client tells its user that the proxy is; no host if the server listens on all of its addresses.
fn public(address: SocketAddr) -> PublicAddress {
    let host = if address.ip().is_unspecified() { String::new() } else { address.ip().to_string() };
    PublicAddress { host, port: address.port() }
}

/// What a client may open: its control channel, once, and ways to private proxies.
struct ClientStreams {
    /// Until it has been opened.
    control: Mutex<Option<oneshot::Sender<DuplexStream>>>,
    clients: Weak<Clients>,
    user: String,
    address: String,
}

impl Handler for ClientStreams {
    fn open(&self, _: &Session, meta: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        match serde_json::from_slice(meta) {
            Ok(StreamMeta::Control) => {
                let control = self.control.lock().unwrap_or_else(PoisonError::into_inner).take();
                let (local, ours) = pipe(tun_common::control::PIPE);
                control.and_then(|control| control.send(ours).ok()).ok_or(ResetCode::Refused)?;
                Ok(local)
            }
            _ => Err(ResetCode::Refused),
        }
    }

    fn relayed(&self, session: &Session, meta: &[u8], stream: RelayedStream) {
        match self.visit(meta) {
            Some(visit) => session.tasks().spawn(visit.relay(stream)),
            None => session.tasks().spawn(stream.refuse(Refusal::NotThere)),
        }
    }
}

impl ClientStreams {
    /// What a relayed stream leads to; `None` for a proxy that does not exist as well as for one that the user may not
    /// visit.
    fn visit(&self, meta: &[u8]) -> Option<Visit> {
        let Ok(StreamMeta::Visit { proxy }) = serde_json::from_slice(meta) else { return None };
        let clients = self.clients.upgrade()?;
        let (user, source) = (self.user.clone(), self.address.clone());
        let Some(client) = clients.find_private(&proxy, &user) else {
            tracing::info!("[{proxy}] visitor from {source} refused: no such proxy for user {user:?}");
            return None;
        };
        Some(Visit { proxy, user, source, client, patience: clients.settings.user_conn_timeout })
    }
}
