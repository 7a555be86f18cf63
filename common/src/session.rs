//! Sessions: resumable streams over one or more links.
//!
//! A [`Session`] holds the links between two ends and the streams that cross them. The decisions about a stream are
//! those of [`tun_proto::session::stream`]; here one task per stream, its [`pump`], moves bytes between a local
//! connection and the links. The session places new attachments on the best link, the least loaded of several, and
//! tells the streams when links come, go, or are in doubt. It does not know what the streams are for.

mod datagram;
mod greeting;
mod limited;
mod local;
mod mailbox;
mod pump;
mod reader;
mod relayed;

pub use datagram::{DatagramAnswer, DatagramCarrier, DatagramEnd, DatagramQueue, DatagramSink};
pub use limited::limited;
pub use local::{Local, channel, dialing, pipe};
pub use pump::Outcome;
pub use relayed::{RelayedStream, refusal};

use crate::lifecycle::Tasks;
use crate::link::heartbeat::LinkEvent;
use crate::link::{Link, LinkKind, LinkStream, NewLink};
use bytes::Bytes;
use mailbox::{Command, Mailbox};
use pump::Pump;
use reader::Reader;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tun_proto::limits::{MAX_TOMBSTONES, SESSION_BUDGET};
use tun_proto::session::budget::Budget;
use tun_proto::session::stream::Stream;
use tun_proto::tunnels::Load;
use tun_proto::wire::login::Id;
use tun_proto::wire::relay::Refusal;
use tun_proto::wire::stream::{Attach, AttachMode, ResetCode};

/// What the owner of a session is told; a full queue loses nothing but hints.
const EVENT_BACKLOG: usize = 64;

/// Decides what a stream that the peer opened is connected to.
pub trait Handler: Send + Sync + 'static {
    /// The local end for a stream with this description.
    ///
    /// # Errors
    /// The code with which the stream is refused.
    fn open(&self, session: &Session, meta: &[u8]) -> Result<Box<dyn Local>, ResetCode>;

    /// Takes a relayed stream with this description, in a task of its own, and answers its opener.
    fn relayed(&self, session: &Session, _meta: &[u8], stream: RelayedStream) {
        session.tasks().spawn(stream.refuse(Refusal::NotThere));
    }

    /// The end of a channel of datagrams that the peer opened with this description.
    fn datagrams(&self, _: &Session, _meta: &[u8]) -> DatagramAnswer {
        Box::pin(std::future::ready(None))
    }
}

/// A handle to a session; cheap to clone.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    id: Id,
    budget: Arc<Budget>,
    tasks: Tasks,
    handler: Arc<dyn Handler>,
    max_streams: usize,
    state: Mutex<State>,
    links: watch::Sender<usize>,
    streams: watch::Sender<usize>,
    over: CancellationToken,
    events: mpsc::Sender<(u32, LinkEvent)>,
}

#[derive(Default)]
struct State {
    links: Vec<LinkEntry>,
    streams: HashMap<Id, Arc<Mailbox>>,
    /// Those of them that are channels between the programs themselves.
    channels: HashSet<Id>,
    /// Outcomes of finished streams, for peers that missed the last acknowledgement.
    tombstones: HashMap<Id, u64>,
    /// The same, oldest first.
    burials: VecDeque<Id>,
    /// Where the places of the peer's channels of datagrams go.
    datagrams: HashMap<u64, mpsc::Sender<datagram::Arrival>>,
    /// The last channel opened here.
    next_channel: u64,
}

struct LinkEntry {
    link: Link,
    /// Relayed streams on it.
    relayed: usize,
    /// When the load was last measured, what had crossed the link then, and how long bytes had waited.
    measured: (Instant, u64, Duration),
    load: Load,
}

/// How many places a link lost cleanly gets before it is declared gone.
const PLACEMENT_ATTEMPTS: usize = 4;

impl Session {
    /// A session without links. Its tasks belong to `tasks`; the receiver gets what happens to its links.
    pub fn new(
        id: Id,
        handler: Arc<dyn Handler>,
        max_streams: usize,
        tasks: Tasks,
    ) -> (Self, mpsc::Receiver<(u32, LinkEvent)>) {
        let (events, receiver) = mpsc::channel(EVENT_BACKLOG);
        let inner = Inner {
            id,
            budget: Budget::new(SESSION_BUDGET),
            tasks,
            handler,
            max_streams,
            state: Mutex::default(),
            links: watch::Sender::new(0),
            streams: watch::Sender::new(0),
            over: CancellationToken::new(),
            events,
        };
        (Session { inner: Arc::new(inner) }, receiver)
    }

    /// The session's identifier.
    pub fn id(&self) -> Id {
        self.inner.id
    }

    /// The tasks of the session.
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// Where the drivers of links report what happens to them.
    pub fn link_events(&self) -> mpsc::Sender<(u32, LinkEvent)> {
        self.inner.events.clone()
    }

    /// Adds a link: its driver and the loop that takes the peer's streams from it are spawned. Streams without a link
    /// are attached to it at once.
    ///
    /// `beats` is called with the link's own channel if the peer opens it.
    pub fn add_link(&self, new: NewLink, beats: impl FnOnce(LinkStream, Bytes) + Send + 'static) {
        let NewLink { link, inbound, driver } = new;
        self.lock().links.push(LinkEntry::new(link.clone()));
        self.inner.tasks.spawn_to_end(driver);
        let session = self.clone();
        self.inner.tasks.spawn_to_end(async move {
            let mut health = link.health();
            let served = async {
                greeting::serve(&session, &link, inbound, beats).await;
                link.gone().await;
            };
            let watched = async {
                while health.changed().await.is_ok() {
                    session.links_changed();
                }
                std::future::pending().await
            };
            tokio::select! {
                () = served => {}
                () = watched => {}
            }
            session.remove_link(&link);
        });
        self.links_changed();
    }

    /// The links, by their number.
    pub fn links(&self) -> Vec<Link> {
        self.lock().links.iter().map(|entry| entry.link.clone()).collect()
    }

    /// Number of links, to be watched.
    pub fn watch_links(&self) -> watch::Receiver<usize> {
        self.inner.links.subscribe()
    }

    /// Number of streams, relayed ones included, to be watched.
    pub fn watch_streams(&self) -> watch::Receiver<usize> {
        self.inner.streams.subscribe()
    }

    /// Number of streams, without relayed ones and those that are not connections (see [`Local::is_connection`]).
    pub fn stream_count(&self) -> usize {
        let state = self.lock();
        state.streams.len().saturating_sub(state.channels.len())
    }

    /// Resolves when there are no more than `rest` streams, or the session is over. Relayed streams do not count: those
    /// who talk over one find another way. Cancellation safe.
    pub async fn drained(&self, rest: usize) {
        let mut streams = self.watch_streams();
        loop {
            streams.mark_unchanged();
            if self.stream_count() <= rest || self.is_over() {
                return;
            }
            tokio::select! {
                changed = streams.changed() => if changed.is_err() { return },
                () = self.over() => return,
            }
        }
    }

    /// Opens a stream and connects it to `local`. The outcome resolves when both directions have ended.
    ///
    /// `meta` tells the peer what for; if it has not answered within `patience`, the stream is given up.
    /// Returns `None` at the limit of streams, or after the session's end.
    pub fn open(
        &self,
        id: Id,
        meta: Bytes,
        local: Box<dyn Local>,
        patience: Option<Duration>,
    ) -> Option<impl Future<Output = Outcome> + Send + use<>> {
        let mailbox = self.register(&mut self.lock(), id)?;
        let stream = Stream::open(id, meta, self.inner.budget.clone());
        let deadline = patience.map(|patience| Instant::now() + patience);
        Some(Pump::new(stream, self.clone(), mailbox, local, deadline))
    }

    /// Measures what each link carried since the last call.
    pub fn measure(&self) -> Vec<Load> {
        let mut state = self.lock();
        let links = state.links.iter_mut().filter(|entry| !entry.link.is_gone() && !entry.link.is_retiring());
        links.map(LinkEntry::measure).collect()
    }

    /// The youngest link that can be retired. Relayed streams cannot move, so a link that has some is not worth it: it
    /// would live on as long as they do.
    pub fn youngest_to_retire(&self) -> Option<u32> {
        let state = self.lock();
        let idle = state.links.iter().filter(|entry| entry.link.is_usable() && entry.relayed == 0);
        idle.map(|entry| entry.link.number()).max()
    }

    /// Takes a link out of use: its streams move to the others without a pause, and it closes when none is left, relayed
    /// ones included.
    pub fn retire(&self, number: u32) {
        let links = self.links();
        let Some(link) = links.iter().find(|link| link.number() == number) else { return };
        link.retire();
        self.links_changed();
        // One between client and server is closed by its last stream: its peer has to hear of this first.
        if link.kind() == LinkKind::Direct {
            self.close_empty_links();
        }
    }

    /// Closes links that the peer has given up.
    pub fn close_links(&self, numbers: &[u32], reason: &str) {
        for link in self.links().iter().filter(|link| numbers.contains(&link.number())) {
            link.close(reason);
        }
    }

    /// Ends the session: streams are reset, links closed. Idempotent.
    pub fn end(&self, reason: &str) {
        self.inner.over.cancel();
        let (mailboxes, links): (Vec<_>, Vec<_>) = {
            let state = self.lock();
            let links = state.links.iter().map(|entry| entry.link.clone()).collect();
            (state.streams.values().cloned().collect(), links)
        };
        for mailbox in mailboxes {
            mailbox.send(Command::Fail(ResetCode::SessionOver));
        }
        for link in links {
            link.close(reason);
        }
    }

    /// True after [`Session::end`].
    pub fn is_over(&self) -> bool {
        self.inner.over.is_cancelled()
    }

    /// Resolves after [`Session::end`]. Cancellation safe.
    pub async fn over(&self) {
        self.inner.over.cancelled().await;
    }

    // --- for streams ---

    /// The least loaded of the best links that take streams.
    fn place(&self) -> Option<Link> {
        let state = self.lock();
        let usable = state.links.iter().filter(|entry| entry.link.is_usable());
        let best = usable.min_by_key(|entry| {
            let (bytes, _) = entry.load.rank();
            (Reverse(merit(&entry.link)), bytes, entry.link.streams())
        });
        best.map(|entry| entry.link.clone())
    }

    /// True if a stream on `link` should go to another one.
    fn has_better(&self, link: &Link) -> bool {
        let state = self.lock();
        let mut others = state.links.iter().map(|entry| &entry.link).filter(|other| other.is_usable());
        others.any(|other| {
            other.number() != link.number() && (link.is_retiring() || merit(other) > merit(link))
        })
    }

    /// Opens a multiplexed stream on the best link; `None` if there is no link, until the streams are told that
    /// links changed.
    async fn attach(self) -> Option<(Link, LinkStream)> {
        for _ in 0..PLACEMENT_ATTEMPTS {
            let link = self.place()?;
            if let Ok(stream) = link.open().await {
                return Some((link, stream));
            }
        }
        None
    }

    /// Gives a stream that the peer attached to its pump, or starts one. Returns when the stream has ended if it was
    /// new, at once otherwise.
    async fn accept(&self, attach: Attach, link: Link, stream: LinkStream, reader: Reader) {
        enum Way {
            Known(Arc<Mailbox>),
            Fresh(Arc<Mailbox>),
            Absent(Option<u64>),
        }
        let way = {
            let mut state = self.lock();
            if let Some(mailbox) = state.streams.get(&attach.stream) {
                Way::Known(mailbox.clone())
            } else if let Some(received) = state.tombstones.get(&attach.stream) {
                Way::Absent(Some(*received))
            } else if attach.meta.is_empty() {
                Way::Absent(None)
            } else {
                self.register(&mut state, attach.stream).map_or(Way::Absent(None), Way::Fresh)
            }
        };
        match way {
            Way::Known(mailbox) => mailbox.send(Command::Attached { attach, link, stream, reader }),
            Way::Absent(epitaph) => greeting::answer_absent(stream, epitaph).await,
            Way::Fresh(mailbox) => {
                let local = self.inner.handler.open(self, &attach.meta).unwrap_or_else(local::none);
                let accepted = Stream::accept(attach.stream, self.inner.budget.clone());
                mailbox.send(Command::Attached { attach, link, stream, reader });
                Pump::new(accepted, self.clone(), mailbox, local, None).await;
            }
        }
    }

    fn register(&self, state: &mut State, id: Id) -> Option<Arc<Mailbox>> {
        if self.is_over() || state.streams.len() >= self.inner.max_streams {
            return None;
        }
        let mailbox = Arc::new(Mailbox::default());
        state.streams.insert(id, mailbox.clone());
        self.inner.streams.send_replace(state.count());
        Some(mailbox)
    }

    /// A stream is no connection of anybody's.
    fn note_channel(&self, id: Id) {
        self.lock().channels.insert(id);
        self.count_streams();
    }

    fn count_streams(&self) {
        let state = self.lock();
        self.inner.streams.send_replace(state.count());
    }

    /// A stream's pump has ended.
    fn forget(&self, id: Id, epitaph: Option<u64>) {
        {
            let mut state = self.lock();
            state.streams.remove(&id);
            state.channels.remove(&id);
            if let Some(received) = epitaph {
                state.bury(id, received);
            }
        }
        self.count_streams();
        self.close_empty_links();
    }

    // --- for links ---

    fn remove_link(&self, link: &Link) {
        self.lock().links.retain(|entry| entry.link.number() != link.number());
        self.links_changed();
    }

    fn links_changed(&self) {
        let (count, mailboxes): (_, Vec<_>) = {
            let state = self.lock();
            (state.links.len(), state.streams.values().cloned().collect())
        };
        for mailbox in mailboxes {
            mailbox.send(Command::LinksChanged);
        }
        self.inner.links.send_replace(count);
    }

    /// A retired link closes when only its own channel is left on it.
    fn close_empty_links(&self) {
        let state = self.lock();
        for link in state.links.iter().map(|entry| &entry.link).filter(|link| link.is_retiring()) {
            let own = usize::from(link.kind() != LinkKind::Direct);
            if link.streams() <= own {
                link.close("retired");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkEntry {
    fn new(link: Link) -> Self {
        LinkEntry { link, relayed: 0, measured: (Instant::now(), 0, Duration::ZERO), load: Load::default() }
    }

    fn measure(&mut self) -> Load {
        let traffic = self.link.traffic();
        let present = (Instant::now(), traffic.read() + traffic.written(), traffic.waited());
        let (since, bytes, waited) = std::mem::replace(&mut self.measured, present);
        let period = present.0.saturating_duration_since(since);
        self.load = Load {
            bytes: present.1 - bytes,
            active: self.link.activity().measure(),
            streams: self.link.streams(),
            congested: 2 * present.2.saturating_sub(waited) > period,
        };
        self.load
    }
}

impl State {
    fn count(&self) -> usize {
        self.streams.len().saturating_sub(self.channels.len())
            + self.links.iter().map(|entry| entry.relayed).sum::<usize>()
    }

    fn bury(&mut self, id: Id, received: u64) {
        if self.burials.len() >= MAX_TOMBSTONES
            && let Some(oldest) = self.burials.pop_front()
        {
            self.tombstones.remove(&oldest);
        }
        self.tombstones.insert(id, received);
        self.burials.push_back(id);
    }
}

/// How good a link is for streams: one that answers before one that may be dead, a direct one before a relayed one.
fn merit(link: &Link) -> (bool, LinkKind) {
    (!link.is_suspect(), link.kind())
}

/// The mode in which a stream that has a working attachment on `from` goes to another link. What was sent over one that
/// may be dead is sent again.
fn mode_of_move(from: Option<&Link>) -> AttachMode {
    match from {
        Some(link) if !link.is_gone() && !link.is_suspect() => AttachMode::Switch,
        _ => AttachMode::Resend,
    }
}
