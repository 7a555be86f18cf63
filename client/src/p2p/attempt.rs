//! One attempt at a direct path: the sockets for the decisions of [`Punch`].
//!
//! It ends with a socket over which both ends have heard each other, or with the reason why there is none.

use super::Search;
use super::gather::{Gathering, gather};
use super::portmap::{Mapping, is_public};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tun_common::random;
use tun_proto::p2p::candidate::{Candidate, CandidateKind};
use tun_proto::p2p::punch::{Action, Config, Failure, Found, Punch, PunchMessage, Role, SocketId};
use tun_proto::wire::login::Bytes32;

/// How long the responder waits on the nominated path for the direct link's handshake to begin.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);

/// Numbers set aside for the sockets of a round: one for each version of IP.
const MAX_SOCKETS: SocketId = 2;

/// Longest datagram that is looked at, in bytes; probes are much shorter.
const MAX_DATAGRAM: usize = 1500;

/// The path that was found.
#[derive(Debug)]
pub(super) struct Won {
    /// The socket at this end of it.
    pub(super) socket: std::net::UdpSocket,
    /// The other end.
    pub(super) remote: SocketAddr,
    /// Measured with probes.
    pub(super) round_trip: Duration,
    /// The socket's open port, if the router granted one: to be held as long as the path is used.
    pub(super) mapping: Option<Mapping>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    /// The networks do not let it through.
    #[error("{0}")]
    Failed(Failure),
    /// The other end left, or does not keep to the protocol.
    #[error("the other end gave up")]
    PeerGone,
    /// The other end found the path, but did not use it.
    #[error("the path that was found broke before it was used")]
    Unused,
    /// The direct link's handshake failed.
    #[error("a path was found, but not the other end's certificate at the end of it: {0}")]
    Handshake(#[source] io::Error),
    /// A socket could not be had.
    #[error("a UDP socket cannot be used: {0}")]
    Io(#[from] io::Error),
}

/// The sockets of a round, to come.
type Pending = Pin<Box<dyn Future<Output = (u32, io::Result<Gathering>)> + Send>>;

/// An attempt under way.
pub(super) struct Attempt {
    punch: Punch,
    role: Role,
    search: Arc<Search>,
    gathering: Option<Pending>,
    sockets: BTreeMap<SocketId, UdpSocket>,
    /// Of this round's IPv4 socket.
    mapping: Option<Mapping>,
    next_socket: SocketId,
    tell: mpsc::Sender<PunchMessage>,
    found: Option<Found>,
    /// When waiting on the nominated path is over.
    deadline: Option<Instant>,
}

enum Event {
    Message(Option<PunchMessage>),
    Gathered(u32, io::Result<Gathering>),
    Mapped(SocketAddr),
    Datagram(SocketId, SocketAddr, usize),
    Handshake,
    Timer,
}

impl Attempt {
    /// An attempt that tells the peer by `tell`.
    pub(super) fn new(
        role: Role,
        secret: Bytes32,
        search: Arc<Search>,
        tell: mpsc::Sender<PunchMessage>,
    ) -> Self {
        let config = Config { role, secret: secret.0, spray: search.spray, entropy: random::bytes() };
        Attempt {
            punch: Punch::new(config, Instant::now()),
            role,
            search,
            gathering: None,
            sockets: BTreeMap::new(),
            mapping: None,
            next_socket: 0,
            tell,
            found: None,
            deadline: None,
        }
    }

    /// Goes on until a path is found, or there is none. What the peer says comes by `messages`. Cancellation safe in
    /// the sense that everything it holds goes with it.
    pub(super) async fn run(
        mut self,
        mut messages: mpsc::Receiver<PunchMessage>,
    ) -> Result<Won, AttemptError> {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            self.act().await?;
            if let Some(found) = self.found.filter(|_| self.role == Role::Initiator) {
                return self.win(found);
            }
            let wake = [self.punch.poll_timeout(), self.deadline].into_iter().flatten().min();
            let event = tokio::select! {
                message = messages.recv() => Event::Message(message),
                (round, gathering) = gathered(&mut self.gathering) => Event::Gathered(round, gathering),
                address = granted(&mut self.mapping) => Event::Mapped(address),
                event = receive(&self.sockets, self.found, &mut buffer) => event,
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => Event::Timer,
            };
            let now = Instant::now();
            match event {
                Event::Message(Some(message)) => self.punch.handle_message(message, now),
                // The initiator needs the other end until the path is found, and so does the responder.
                Event::Message(None) => return Err(AttemptError::PeerGone),
                Event::Gathered(round, gathering) => {
                    self.gathering = None;
                    let Gathering { sockets, gathered } = gathering?;
                    tracing::trace!(round, ?gathered, "gathered");
                    self.sockets.extend(sockets);
                    // An address that the internet knows needs no mapping.
                    let translated =
                        gathered.iter().find(|one| one.local.is_ipv4() && !is_public(one.local.ip()));
                    self.mapping = translated.map(|one| self.search.mapper.map(one.local.port()));
                    self.punch.handle_gathered(round, gathered, now);
                }
                Event::Mapped(address) => {
                    let candidate = Candidate { address, kind: CandidateKind::Mapped };
                    self.punch.handle_candidates(vec![candidate], now);
                }
                Event::Datagram(socket, from, len) => {
                    self.punch.handle_datagram(socket, from, &buffer[..len], now);
                }
                Event::Handshake => {
                    if let Some(found) = self.found {
                        return self.win(found);
                    }
                }
                Event::Timer => {
                    if self.deadline.is_some_and(|deadline| deadline <= now) {
                        return Err(AttemptError::Unused);
                    }
                    self.punch.handle_timeout(now);
                }
            }
        }
    }

    /// Does what the punch wants done.
    async fn act(&mut self) -> Result<(), AttemptError> {
        while let Some(action) = self.punch.poll_action() {
            match action {
                Action::Gather { round } => {
                    // A round's sockets serve in no other.
                    self.sockets.clear();
                    self.mapping = None;
                    let (first, search) = (self.next_socket, self.search.clone());
                    self.next_socket += MAX_SOCKETS;
                    self.gathering = Some(Box::pin(async move {
                        let servers = search.surroundings.stun.known();
                        (round, gather(&search.options, &servers, first).await)
                    }));
                }
                Action::Bind { count } => {
                    let bound: Vec<SocketId> = (0..count).map_while(|_| self.bind()).collect();
                    self.punch.handle_bound(bound, Instant::now());
                }
                Action::Send { socket, to, datagram, ttl } => {
                    if let Some(socket) = self.sockets.get(&socket) {
                        send(socket, to, &datagram, ttl);
                    }
                }
                Action::Tell(message) => {
                    self.tell.send(message).await.map_err(|_| AttemptError::PeerGone)?;
                }
                Action::Close { sockets } => self.sockets.retain(|id, _| !sockets.contains(id)),
                Action::Found(found) => {
                    self.found = Some(found);
                    self.deadline = Some(Instant::now() + HANDSHAKE_PATIENCE);
                }
                Action::Failed(failure) => return Err(AttemptError::Failed(failure)),
            }
        }
        Ok(())
    }

    /// One more socket; `None` when there are no more to be had, which an attempt can live with.
    fn bind(&mut self) -> Option<SocketId> {
        let socket = super::gather::bind(true, 0).ok()?;
        let id = self.next_socket;
        self.next_socket += 1;
        self.sockets.insert(id, socket);
        Some(id)
    }

    fn win(mut self, found: Found) -> Result<Won, AttemptError> {
        let socket = self.sockets.remove(&found.socket).ok_or(AttemptError::Unused)?;
        let Found { remote, round_trip, .. } = found;
        Ok(Won { socket: socket.into_std()?, remote, round_trip, mapping: self.mapping })
    }
}

async fn gathered(gathering: &mut Option<Pending>) -> (u32, io::Result<Gathering>) {
    match gathering {
        Some(gathering) => gathering.await,
        None => std::future::pending().await,
    }
}

/// What the router grants.
async fn granted(mapping: &mut Option<Mapping>) -> SocketAddr {
    match mapping {
        Some(mapping) => mapping.granted().await,
        None => std::future::pending().await,
    }
}

/// Sends a probe. One that cannot be sent is as good as lost: the others will do.
fn send(socket: &UdpSocket, to: SocketAddr, datagram: &[u8], ttl: Option<u32>) {
    let Some(ttl) = ttl else {
        let _ = socket.try_send_to(datagram, to);
        return;
    };
    let options = socket2::SockRef::from(socket);
    if to.is_ipv4() {
        let usual = options.ttl_v4();
        if options.set_ttl_v4(ttl).is_ok() {
            let _ = socket.try_send_to(datagram, to);
        }
        let _ = options.set_ttl_v4(usual.unwrap_or(DEFAULT_TTL));
    } else {
        let usual = options.unicast_hops_v6();
        if options.set_unicast_hops_v6(ttl).is_ok() {
            let _ = socket.try_send_to(datagram, to);
        }
        let _ = options.set_unicast_hops_v6(usual.unwrap_or(DEFAULT_TTL));
    }
}

/// Errors of earlier probes that a socket is asked for before the others have their turn.
const ERRORS_AT_ONCE: usize = 16;

/// What systems use where nothing else is said (RFC 1700).
const DEFAULT_TTL: u32 = 64;

/// The next datagram of any socket; on the nominated one, the first packet of the handshake is left where it is.
async fn receive(sockets: &BTreeMap<SocketId, UdpSocket>, found: Option<Found>, buffer: &mut [u8]) -> Event {
    poll_fn(|cx| {
        for (&id, socket) in sockets {
            if found.is_some_and(|found| found.socket == id) && poll_handshake(socket, cx) {
                return Poll::Ready(Event::Handshake);
            }
            if let Poll::Ready(event) = poll_datagram(id, socket, buffer, cx) {
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    })
    .await
}

fn poll_datagram(id: SocketId, socket: &UdpSocket, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<Event> {
    for _ in 0..ERRORS_AT_ONCE {
        let mut into = ReadBuf::new(buffer);
        match socket.poll_recv_from(cx, &mut into) {
            Poll::Ready(Ok(from)) => return Poll::Ready(Event::Datagram(id, from, into.filled().len())),
            // About an earlier probe, such as an ICMP error; reading it takes it away.
            Poll::Ready(Err(_)) => {}
            Poll::Pending => return Poll::Pending,
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// True if a QUIC packet waits to be read: all of them have one of the two highest bits, which probes have not.
fn poll_handshake(socket: &UdpSocket, cx: &mut Context<'_>) -> bool {
    let mut first = [0; 1];
    let mut into = ReadBuf::new(&mut first);
    let peeked = socket.poll_peek_from(cx, &mut into);
    matches!(peeked, Poll::Ready(Ok(_))) && into.filled().first().is_some_and(|byte| byte & 0xC0 != 0)
}
