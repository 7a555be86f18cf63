//! One session with the server: its control channel, and the links it needs.
//!
//! The loop waits for whatever comes first and deals with it: a message of the server, a link that came, went or fell
//! silent, a dial that succeeded or failed, a tick of the tunnel policy, the user's wish to stop.

use crate::backend::Backends;
use crate::dial::{self, DialError, Dialled};
use crate::settings::Settings;
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tun_common::config::{LimitMode, ProxyKind as LocalKind};
use tun_common::control::{Channel, PIPE};
use tun_common::lifecycle::Tasks;
use tun_common::link::heartbeat::{self, LinkEvent};
use tun_common::random;
use tun_common::session::{Session, pipe};
use tun_common::shutdown::Shutdown;
use tun_proto::auth::SessionSecret;
use tun_proto::backoff::Backoff;
use tun_proto::limits::RESUME_WINDOW;
use tun_proto::tunnels::{Advice, Tunnels};
use tun_proto::wire::control::{ClientMessage, Exposure, ProxyKind, ProxySpec, ServerMessage, StreamMeta};
use tun_proto::wire::login::RefusalCode;

/// How often the load of the tunnels is looked at.
const LOAD_TICK: Duration = Duration::from_secs(1);

/// How long a replaced session may still serve what it has open.
const SUPERSEDED_DRAIN: Duration = Duration::from_secs(60);

/// How long a goodbye may take to leave.
const GOODBYE_DEADLINE: Duration = Duration::from_millis(500);

/// Most streams a server may open: far above what it opens by default, so that the cap is its own.
const MAX_STREAMS: usize = 128 * 1024;

/// Ports that the server chose, by proxy name.
pub(crate) type Ports = HashMap<String, u16>;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The user wanted it.
    Stopped,
    /// Another instance took this one's place.
    Superseded,
    /// The server is gone, or does not know the session any more.
    Lost,
}

type Dialling = Pin<Box<dyn Future<Output = Result<Dialled, DialError>> + Send>>;
type ServerChannel = Channel<ClientMessage, ServerMessage>;

/// A session, served.
pub(crate) struct Connection<'a> {
    settings: Arc<Settings>,
    backends: Arc<Backends>,
    session: Session,
    secret: SessionSecret,
    channel: ServerChannel,
    link_events: mpsc::Receiver<(u32, LinkEvent)>,
    /// What tells the heart of each link in use to retire it, by link number.
    retire: HashMap<u32, Arc<Notify>>,
    /// Links given up since the server last heard.
    lost: BTreeSet<u32>,
    /// Links that the server is told to give up by the dial under way, if there is one.
    told: BTreeSet<u32>,
    tunnels: Tunnels,
    dialling: Option<Dialling>,
    backoff: Backoff,
    /// Do not dial before.
    pause_until: Option<Instant>,
    linkless_since: Option<Instant>,
    wants_more: bool,
    suspects: BTreeSet<u32>,
    /// Changes with every reason to see whether the links still answer.
    doubts: watch::Receiver<u64>,
    /// The session is about to end on purpose, so lost links are no news.
    leaving: Arc<AtomicBool>,
    ports: &'a mut Ports,
}

enum Event {
    Message(std::io::Result<Option<ServerMessage>>),
    Links,
    Link(u32, LinkEvent),
    Dialled(Result<Dialled, DialError>),
    Tick,
    TimeToDial,
    TimeIsOver,
    Stop,
}

impl<'a> Connection<'a> {
    /// Takes over a link that began a session.
    pub(crate) fn new(
        settings: Arc<Settings>,
        backends: Arc<Backends>,
        tasks: Tasks,
        dialled: Dialled,
        doubts: watch::Receiver<u64>,
        ports: &'a mut Ports,
    ) -> Self {
        let Dialled { new, accepted, secret, .. } = dialled;
        let (session, link_events) = Session::new(accepted.session, backends.clone(), MAX_STREAMS, tasks);
        let (local, pipe) = pipe(PIPE);
        let meta = Bytes::from(serde_json::to_vec(&StreamMeta::Control).unwrap_or_default());
        if let Some(pump) = session.open(random::id(), meta, local, None) {
            session.tasks().spawn_to_end(async move {
                pump.await;
            });
        }
        let most = settings.max_tunnels.min(accepted.max_links);
        let mut connection = Connection {
            tunnels: Tunnels::new(usize::from(settings.min_tunnels), usize::from(most)),
            settings,
            backends,
            session,
            secret,
            channel: Channel::new(pipe),
            link_events,
            retire: HashMap::new(),
            lost: BTreeSet::new(),
            told: BTreeSet::new(),
            dialling: None,
            backoff: dial::backoff(),
            pause_until: None,
            linkless_since: None,
            wants_more: false,
            doubts,
            suspects: BTreeSet::new(),
            leaving: Arc::default(),
            ports,
        };
        connection.add_link(new);
        connection
    }

    /// The session.
    pub(crate) fn session(&self) -> Session {
        self.session.clone()
    }

    /// Serves until the session ends; everything that belongs to it has ended then, but for what a replaced session
    /// still drains.
    pub(crate) async fn serve(mut self, shutdown: &Shutdown) -> Ended {
        let ended = match self.register().await {
            Ok(()) => self.run(shutdown).await,
            Err(_) => Ended::Lost,
        };
        match ended {
            Ended::Stopped => self.drain(shutdown).await,
            Ended::Superseded => return self.hand_over(),
            Ended::Lost => self.session.end("the session is over"),
        }
        self.session.tasks().finished(GOODBYE_DEADLINE).await;
        self.session.tasks().stop();
        ended
    }

    async fn register(&mut self) -> std::io::Result<()> {
        let specs = self.settings.proxies.iter().map(|proxy| {
            let kind = match &proxy.kind {
                LocalKind::Tcp { remote_port } => {
                    let previous_port = self.ports.get(&proxy.name).copied();
                    ProxyKind::Tcp { remote_port: *remote_port, previous_port }
                }
                LocalKind::Udp { remote_port, idle } => {
                    let previous_port = self.ports.get(&proxy.name).copied();
                    let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
                    ProxyKind::Udp { remote_port: *remote_port, previous_port, idle_ms }
                }
                LocalKind::Private { allow_users, direct, udp_idle, .. } => {
                    let allow_users = allow_users.clone();
                    match (direct.is_some(), udp_idle.is_some()) {
                        (false, false) => ProxyKind::Stcp { allow_users },
                        (true, false) => ProxyKind::Xtcp { allow_users },
                        (false, true) => ProxyKind::Sudp { allow_users },
                        (true, true) => ProxyKind::Xudp { allow_users },
                    }
                }
            };
            let limit = proxy.bandwidth.filter(|limit| limit.mode == LimitMode::Server);
            ProxySpec { name: proxy.name.clone(), kind, bandwidth_limit: limit.map(|limit| limit.rate) }
        });
        let specs: Vec<_> = specs.collect();
        // In parts, so that a thousand proxies stay below the longest message.
        for part in specs.chunks(256) {
            self.channel.send(&ClientMessage::Register(part.to_vec())).await?;
        }
        Ok(())
    }

    async fn run(&mut self, shutdown: &Shutdown) -> Ended {
        let mut links = self.session.watch_links();
        // The first link may be gone already.
        links.mark_changed();
        let mut tick = interval(LOAD_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let pause = self.pause_until;
            let over = self.linkless_since.map(|since| since + RESUME_WINDOW);
            let event = tokio::select! {
                message = self.channel.receive() => Event::Message(message),
                Ok(()) = links.changed() => Event::Links,
                Some((link, event)) = self.link_events.recv() => Event::Link(link, event),
                dialled = pending_or(&mut self.dialling) => Event::Dialled(dialled),
                _ = tick.tick() => Event::Tick,
                () = sleep_until(pause.unwrap_or_else(Instant::now).into()), if pause.is_some() => Event::TimeToDial,
                () = sleep_until(over.unwrap_or_else(Instant::now).into()), if over.is_some() => Event::TimeIsOver,
                () = shutdown.asked() => Event::Stop,
            };
            let ended = match event {
                Event::Stop => Some(Ended::Stopped),
                Event::Message(Ok(Some(message))) => self.handle_message(message),
                Event::Message(Ok(None) | Err(_)) => Some(Ended::Lost),
                Event::Links => {
                    links.mark_unchanged();
                    self.handle_links();
                    None
                }
                Event::Link(link, LinkEvent::Suspect) => {
                    tracing::debug!(link, "link is silent, dialling another");
                    self.suspects.insert(link);
                    None
                }
                Event::Link(_, LinkEvent::Retire) => None,
                Event::Dialled(result) => self.handle_dialled(result),
                Event::Tick => {
                    self.consult_policy();
                    None
                }
                Event::TimeToDial => {
                    self.pause_until = None;
                    None
                }
                Event::TimeIsOver => Some(Ended::Lost),
            };
            if let Some(ended) = ended {
                return ended;
            }
            self.dial_if_needed();
        }
    }

    fn handle_message(&mut self, message: ServerMessage) -> Option<Ended> {
        match message {
            ServerMessage::Registered { name, outcome } => {
                self.report(&name, outcome);
                None
            }
            ServerMessage::Superseded { by } => {
                let identity = &self.settings.identity;
                tracing::warn!(
                    "another client logged in as \"{identity}\" from {by}; standing by (give each its own clientID)"
                );
                Some(Ended::Superseded)
            }
            ServerMessage::Busy => {
                let links = self.session.links().len();
                self.wants_more |= links < self.tunnels.most();
                None
            }
            ServerMessage::Drain { deadline_ms } => {
                tracing::info!(
                    "the server is about to stop, connections may finish within {} s",
                    deadline_ms / 1000
                );
                None
            }
            ServerMessage::Goodbye { reason } => {
                self.leaving.store(true, Ordering::Relaxed);
                tracing::info!("session ended by the server: {reason}");
                Some(Ended::Lost)
            }
        }
    }

    fn report(&mut self, name: &str, outcome: Result<Exposure, String>) {
        match outcome {
            Ok(Exposure::Private) => tracing::info!("[{name}] start proxy success, open to visitors"),
            Ok(Exposure::Public(mut address)) => {
                if address.host.is_empty() {
                    address.host.clone_from(&self.settings.server.0);
                }
                self.ports.insert(name.to_owned(), address.port);
                tracing::info!("[{name}] start proxy success, public address {address}");
            }
            Err(reason) => tracing::error!("[{name}] start proxy error: {reason}"),
        }
    }

    fn handle_links(&mut self) {
        let alive: BTreeSet<u32> = self.session.links().iter().map(|link| link.number()).collect();
        self.suspects.retain(|number| alive.contains(number));
        // The server may not know it yet: what only this side saw break is told with the next link.
        self.lost
            .extend(self.retire.extract_if(|number, _| !alive.contains(number)).map(|(number, _)| number));
        if !alive.is_empty() {
            return;
        }
        if self.linkless_since.is_none() {
            self.linkless_since = Some(Instant::now());
            self.backoff.reset();
            self.pause_until = None;
        }
    }

    fn dial_if_needed(&mut self) {
        let told = self.lost.is_empty() && self.suspects.is_empty();
        let wanted = self.linkless_since.is_some() || !told || self.wants_more;
        if !wanted || self.dialling.is_some() || self.pause_until.is_some() {
            return;
        }
        self.told = self.lost.iter().chain(&self.suspects).copied().collect();
        let lost = self.told.iter().copied().collect();
        let joining = dial::join(self.settings.clone(), self.session.id(), self.secret.clone(), lost);
        self.dialling = Some(Box::pin(joining));
    }

    fn handle_dialled(&mut self, result: Result<Dialled, DialError>) -> Option<Ended> {
        self.dialling = None;
        match result {
            Ok(dialled) => {
                self.add_link(dialled.new);
                let told = std::mem::take(&mut self.told);
                let replaced: Vec<u32> =
                    self.suspects.extract_if(.., |number| told.contains(number)).collect();
                self.session.close_links(&replaced, "replaced after it fell silent");
                // What has broken since is told with the next link.
                self.lost.retain(|number| !told.contains(number));
                self.retire.retain(|number, _| !told.contains(number));
                self.backoff.reset();
                self.wants_more = false;
                if self.linkless_since.take().is_some() || !replaced.is_empty() {
                    tracing::info!("link to server restored");
                }
                None
            }
            Err(error) => match error.refusal() {
                Some(RefusalCode::UnknownSession) => {
                    tracing::info!("the server does not know the session any more, logging in anew");
                    Some(Ended::Lost)
                }
                Some(RefusalCode::Unavailable) if self.linkless_since.is_none() => {
                    tracing::debug!("{error}");
                    self.wants_more = false;
                    self.pause();
                    None
                }
                _ => {
                    if self.backoff.attempts() == 0 {
                        tracing::warn!("{error}; trying again");
                    } else {
                        tracing::debug!("{error}");
                    }
                    self.pause();
                    None
                }
            },
        }
    }

    fn pause(&mut self) {
        self.pause_until = Some(Instant::now() + self.backoff.next_pause());
    }

    fn consult_policy(&mut self) {
        let loads = self.session.measure();
        match self.tunnels.advise(&loads, Instant::now()) {
            Advice::Keep => {}
            Advice::Add => {
                tracing::debug!("all tunnels are busy, adding one");
                self.wants_more = true;
            }
            Advice::Retire => self.retire_youngest(),
        }
    }

    fn retire_youngest(&mut self) {
        let Some(number) = self.session.youngest_to_retire() else { return };
        let Some(notify) = self.retire.remove(&number) else { return };
        tracing::debug!(link = number, "the load is low, retiring a tunnel");
        notify.notify_one();
        self.session.retire(number);
    }

    fn add_link(&mut self, new: tun_common::link::NewLink) {
        let link = new.link.clone();
        let number = link.number();
        let retire = Arc::new(Notify::new());
        self.retire.insert(number, retire.clone());
        self.session.tasks().spawn(heartbeat::ask(
            link.clone(),
            self.settings.heartbeat_interval,
            self.settings.heartbeat_timeout,
            retire,
            self.doubts.clone(),
            self.session.link_events(),
        ));
        let (session, leaving) = (self.session.clone(), self.leaving.clone());
        self.session.tasks().spawn_to_end(async move {
            link.gone().await;
            if session.is_over() || link.is_retiring() || leaving.load(Ordering::Relaxed) {
                tracing::debug!(link = number, "link closed: {}", link.reason());
            } else {
                tracing::warn!("link to server lost: {}", link.reason());
            }
        });
        // Only the client opens the channel of a link.
        self.session.add_link(new, |_, _| {});
    }

    /// Lets open connections finish, then says goodbye.
    async fn drain(&mut self, shutdown: &Shutdown) {
        let timeout = self.settings.drain_timeout;
        tracing::info!("stopping, draining for up to {}s", timeout.as_secs());
        let farewell = async {
            self.channel.send(&ClientMessage::Drain).await?;
            let finished = async {
                // What visitors have open is carried by relayed streams of this session, whose owners end them.
                self.backends.drain_visitors().await;
                self.session.drained(1).await;
                self.session.relayed_ended().await;
            };
            let _ = tokio::time::timeout(timeout, finished).await;
            let left = self.session.stream_count().saturating_sub(1) + self.session.relayed_count();
            if left > 0 {
                tracing::warn!("{left} connections were cut");
            }
            self.leaving.store(true, Ordering::Relaxed);
            self.channel.send(&ClientMessage::Goodbye).await?;
            self.channel.finish().await?;
            // The server closes the links when it has read the goodbye.
            let mut links = self.session.watch_links();
            let _ = tokio::time::timeout(GOODBYE_DEADLINE, links.wait_for(|count| *count == 0)).await;
            std::io::Result::Ok(())
        };
        let mut links = self.session.watch_links();
        tokio::select! {
            _ = farewell => {}
            _ = links.wait_for(|count| *count == 0) => tracing::debug!("no link is left to drain over"),
            () = shutdown.insisted() => tracing::warn!("stopping at once"),
        }
        self.session.end("the client was stopped");
    }

    /// Leaves the session to what is still open on it.
    fn hand_over(self) -> Ended {
        let session = self.session;
        let channel = self.channel;
        session.clone().tasks().spawn_to_end(async move {
            let drained = async {
                session.drained(1).await;
                session.relayed_ended().await;
            };
            let _ = tokio::time::timeout(SUPERSEDED_DRAIN, drained).await;
            drop(channel);
            session.end("another instance took this one's place");
        });
        Ended::Superseded
    }
}

async fn pending_or(dialling: &mut Option<Dialling>) -> Result<Dialled, DialError> {
    match dialling {
        Some(dialling) => dialling.await,
        None => std::future::pending().await,
    }
}
