//! A TCP forwarder that stands between client and server, and fails on command.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::carry::{Condition, carry};
use crate::patience::{soon, within};
use crate::service::AbortOnDrop;

mod carry;

/// How much of what passes is kept for inspection.
const SEEN_MOST: u64 = 64 * 1024;

/// A way through the forwarder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From those who connect to it, to its target: from `tunc` to `tuns`.
    Up,
    /// From its target back: from `tuns` to `tunc`.
    Down,
}

/// What a silent connection does with the bytes that still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Leaves them in the kernel, as a frozen host does: the sender soon cannot write any more.
    Stall,
    /// Takes and forgets them, as a firewall that lost its state does: the sender's writes succeed.
    Discard,
}

/// A way for the network to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Open connections are reset; later ones work.
    Reset,
    /// Open connections go silent in both directions but stay open; later ones work.
    Swallow(Silence),
    /// Open connections go silent in one direction only; later ones work.
    SwallowOneWay(Direction, Silence),
    /// Open connections go silent, and later ones are accepted and never answered, until [`Forwarder::heal`].
    NeverAnswer,
}

impl Fault {
    fn condition(self) -> Condition {
        match self {
            Self::Reset => Condition::Reset,
            Self::Swallow(how) => Condition::Silent { up: Some(how), down: Some(how) },
            Self::SwallowOneWay(Direction::Up, how) => Condition::Silent { up: Some(how), down: None },
            Self::SwallowOneWay(Direction::Down, how) => Condition::Silent { up: None, down: Some(how) },
            Self::NeverAnswer => Condition::Silent { up: Some(Silence::Stall), down: Some(Silence::Stall) },
        }
    }
}

/// A running forwarder. It and all its connections end when this value goes.
#[derive(Debug)]
pub struct Forwarder {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDrop,
}

/// What the connections of a forwarder have in common.
#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    source: Option<IpAddr>,
    state: Mutex<State>,
    /// The moments at which connections were accepted.
    accepted: watch::Sender<Vec<Instant>>,
    up: AtomicU64,
    down: AtomicU64,
    /// The first bytes that have passed towards the target.
    seen: Mutex<Vec<u8>>,
    /// All that has passed in either direction since it was asked to keep it.
    record: Mutex<Option<[Vec<u8>; 2]>>,
    /// Bytes per second and direction of one connection; 0 is unlimited.
    rate: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<watch::Sender<Condition>>,
    /// What becomes of connections that are accepted now.
    arriving: Condition,
    planned: Option<Planned>,
}

/// A fault that waits for its moment.
#[derive(Debug)]
struct Planned {
    direction: Direction,
    at: u64,
    fault: Fault,
    done: oneshot::Sender<Instant>,
}

/// A fault that was planned with [`Forwarder::fail_after`].
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Instant>);

impl Pending {
    pub(crate) fn new(done: oneshot::Receiver<Instant>) -> Self {
        Self(done)
    }

    /// Waits until it has happened, and says when that was.
    pub async fn happened(self) -> Instant {
        within(crate::patience::transfer_patience(), "the planned fault", self.0)
            .await
            .expect("the forwarder lives")
    }
}

impl Forwarder {
    /// Forwards connections to `listen` on to `target`.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> Self {
        Self::start_from(listen, target, None).await
    }

    /// The same, and the connections to the target come from `source`: a host of its own to the server.
    pub async fn start_from(listen: SocketAddr, target: SocketAddr, source: Option<IpAddr>) -> Self {
        let listener = TcpListener::bind(listen).await.expect("the forwarder's address is free");
        let shared = Arc::new(Shared {
            target,
            source,
            state: Mutex::default(),
            accepted: watch::Sender::default(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            seen: Mutex::default(),
            record: Mutex::default(),
            rate: AtomicU64::new(0),
        });
        let addr = listener.local_addr().expect("a listener has an address");
        let accepting = AbortOnDrop::new(tokio::spawn(accept(listener, Arc::clone(&shared))));
        Self { addr, shared, _accepting: accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets `fault` happen now.
    pub fn fail(&self, fault: Fault) {
        self.shared.state().fail(fault);
    }

    /// Lets `fault` happen as soon as `bytes` more have passed in a direction, all connections taken together.
    pub fn fail_after(&self, direction: Direction, bytes: u64, fault: Fault) -> Pending {
        let (done, pending) = oneshot::channel();
        let at = self.passed(direction) + bytes;
        self.shared.state().planned = Some(Planned { direction, at, fault, done });
        Pending(pending)
    }

    /// Lets connections that arrive from now on work again. Those that failed stay as they are.
    pub fn heal(&self) {
        self.shared.state().arriving = Condition::Pass;
    }

    /// Limits each connection to so many bytes per second and direction.
    pub fn limit(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Bytes that have passed in a direction.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.counter(direction).load(Ordering::Relaxed)
    }

    /// What has passed towards the target, its first 64 KiB.
    pub fn seen(&self) -> Vec<u8> {
        self.shared.seen.lock().expect("no panic while held").clone()
    }

    /// Keeps all that passes from now on.
    pub fn record(&self) {
        *self.shared.record.lock().expect("no panic while held") = Some(Default::default());
    }

    /// What has passed in a direction since [`Forwarder::record`], all connections mixed.
    pub fn recorded(&self, direction: Direction) -> Vec<u8> {
        let record = self.shared.record.lock().expect("no panic while held");
        record.as_ref().expect("it was asked to keep it")[direction as usize].clone()
    }

    /// How many connections it has accepted since it started.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.borrow().len()
    }

    /// Waits for its `n`-th connection, and says when that was.
    pub async fn nth_accepted(&self, n: usize) -> Instant {
        let mut accepted = self.shared.accepted.subscribe();
        let what = format!("connection number {n} to the forwarder");
        let moments = soon(&what, accepted.wait_for(|moments| moments.len() >= n)).await;
        moments.expect("the forwarder lives")[n - 1]
    }

    /// Waits for a connection that came after `moment`, and says when it came.
    pub async fn accepted_after(&self, moment: Instant) -> Instant {
        let mut accepted = self.shared.accepted.subscribe();
        let later = |moments: &Vec<Instant>| moments.iter().copied().find(|&accepted| accepted > moment);
        let moments =
            soon("a new connection to the forwarder", accepted.wait_for(|m| later(m).is_some())).await;
        later(&moments.expect("the forwarder lives")).expect("it was waited for")
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        let mut state = self.shared.state();
        state.forget_closed();
        state.connections.len()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn counter(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// Counts bytes that have passed, and lets the planned fault happen when they were enough.
    fn count(&self, direction: Direction, bytes: &[u8]) {
        let len = bytes.len() as u64;
        let passed = self.counter(direction).fetch_add(len, Ordering::Relaxed) + len;
        if direction == Direction::Up && passed <= SEEN_MOST {
            self.seen.lock().expect("no panic while held").extend_from_slice(bytes);
        }
        if let Some(record) = &mut *self.record.lock().expect("no panic while held") {
            record[direction as usize].extend_from_slice(bytes);
        }
        let mut state = self.state();
        let due = |planned: &mut Planned| planned.direction == direction && planned.at <= passed;
        if let Some(planned) = state.planned.take_if(due) {
            state.fail(planned.fault);
            // Nobody needs to wait for it.
            let _ = planned.done.send(Instant::now());
        }
    }

    /// How long `bytes` take at the limited rate.
    fn pace(&self, bytes: usize) -> Option<Duration> {
        match self.rate.load(Ordering::Relaxed) {
            0 => None,
            rate => Some(Duration::from_secs_f64(bytes as f64 / rate as f64)),
        }
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = self.source {
            socket.bind((source, 0).into())?;
        }
        let stream = socket.connect(self.target).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl State {
    fn fail(&mut self, fault: Fault) {
        self.forget_closed();
        for connection in &self.connections {
            connection.send_modify(|condition| condition.worsen(fault.condition()));
        }
        if fault == Fault::NeverAnswer {
            self.arriving = fault.condition();
        }
    }

    fn forget_closed(&mut self) {
        self.connections.retain(|connection| !connection.is_closed());
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("the forwarder can accept");
        while connections.try_join_next().is_some() {}
        let arriving = {
            let mut state = shared.state();
            let (condition, watched) = watch::channel(state.arriving);
            state.connections.push(condition);
            watched
        };
        shared.accepted.send_modify(|moments| moments.push(Instant::now()));
        connections.spawn(carry(stream, arriving, Arc::clone(&shared)));
    }
}
