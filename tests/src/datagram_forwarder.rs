//! A network for datagrams between the two programs that fails on command.
//!
//! Everybody who sends to it is a flow, with a socket of its own towards the target, as behind a NAT.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};

use crate::datagrams::roomy;
use crate::forwarder::{Direction, Fault, Pending};
use crate::patience::soon;
use crate::service::AbortOnDrop;

/// Datagrams of one flow and direction that wait where the way is narrow; later ones are lost, as in a router.
const QUEUE: usize = 256;

/// A way for the network to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramFault {
    /// The flows that there are go silent in both directions; later ones work.
    Swallow,
    /// The flows that there are go silent in one direction only; later ones work.
    SwallowOneWay(Direction),
    /// The flows that there are go silent, and so do those that begin before [`DatagramForwarder::heal`].
    Block,
    /// The flows go on, but their target sees them come from this address, and from other ports.
    Readdress(IpAddr),
}

impl From<Fault> for DatagramFault {
    /// What comes nearest to it. Nothing does to a reset.
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Reset => panic!("there is no connection to reset"),
            Fault::Swallow(_) => Self::Swallow,
            Fault::SwallowOneWay(direction, _) => Self::SwallowOneWay(direction),
            Fault::NeverAnswer => Self::Block,
        }
    }
}

/// A running forwarder of datagrams. It ends when this value goes.
#[derive(Debug)]
pub struct DatagramForwarder {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _serving: AbortOnDrop,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    target: SocketAddr,
    state: Mutex<State>,
    /// The moments at which flows began.
    begun: watch::Sender<Vec<Instant>>,
    up: AtomicU64,
    down: AtomicU64,
    /// Bytes per second and direction of one flow; 0 is unlimited.
    rate: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    flows: HashMap<SocketAddr, Flow>,
    blocked: bool,
    planned: Option<Planned>,
}

#[derive(Debug)]
struct Flow {
    back: Arc<UdpSocket>,
    /// Towards the target, and back.
    silent: [bool; 2],
    /// What waits to go towards the target at a limited rate.
    queue: mpsc::Sender<Vec<u8>>,
    _tasks: [AbortOnDrop; 2],
}

/// When the next datagram of a flow may go at a limited rate.
#[derive(Debug, Default)]
struct Pace(Option<tokio::time::Instant>);

#[derive(Debug)]
struct Planned {
    direction: Direction,
    at: u64,
    fault: DatagramFault,
    done: oneshot::Sender<Instant>,
}

impl DatagramForwarder {
    /// Forwards datagrams that come to `listen` on to `target`.
    pub fn start(listen: SocketAddr, target: SocketAddr) -> Self {
        let front = roomy(listen);
        let addr = front.local_addr().expect("a socket has an address");
        let shared = Arc::new(Shared {
            front,
            target,
            state: Mutex::default(),
            begun: watch::Sender::default(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            rate: AtomicU64::new(0),
        });
        let serving = AbortOnDrop::new(tokio::spawn(serve(Arc::clone(&shared))));
        Self { addr, shared, _serving: serving }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets `fault` happen now.
    pub fn fail(&self, fault: DatagramFault) {
        fail(&self.shared, &mut self.shared.state(), fault);
    }

    /// Lets `fault` happen as soon as `bytes` more have passed in a direction, all flows taken together.
    pub fn fail_after(&self, direction: Direction, bytes: u64, fault: DatagramFault) -> Pending {
        let (done, pending) = oneshot::channel();
        let at = self.passed(direction) + bytes;
        self.shared.state().planned = Some(Planned { direction, at, fault, done });
        Pending::new(pending)
    }

    /// Lets flows that begin from now on pass again after [`DatagramFault::Block`].
    pub fn heal(&self) {
        self.shared.state().blocked = false;
    }

    /// Limits each flow to so many bytes per second and direction. What is too much waits for a while, and is lost then.
    pub fn limit(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Bytes that have passed in a direction.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.counter(direction).load(Ordering::Relaxed)
    }

    /// How many flows there have been.
    pub fn begun(&self) -> usize {
        self.shared.begun.borrow().len()
    }

    /// Waits for the `n`-th flow, and says when it began.
    pub async fn nth_begun(&self, n: usize) -> Instant {
        self.begins(&format!("flow number {n} to the forwarder"), |moments| moments.get(n - 1).copied()).await
    }

    /// Waits for a flow that began after `moment`, and says when that was.
    pub async fn begun_after(&self, moment: Instant) -> Instant {
        let later = |moments: &[Instant]| moments.iter().copied().find(|&begun| begun > moment);
        self.begins("a new flow to the forwarder", later).await
    }

    async fn begins(&self, what: &str, wanted: impl Fn(&[Instant]) -> Option<Instant>) -> Instant {
        let mut begun = self.shared.begun.subscribe();
        let moments = soon(what, begun.wait_for(|moments| wanted(moments).is_some())).await;
        wanted(&moments.expect("the forwarder lives")).expect("it was waited for")
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

    /// The way on for a datagram from `source`, if it has one; where that is narrow, the datagram is put in line.
    fn way(self: &Arc<Self>, source: SocketAddr, datagram: &[u8]) -> Option<Arc<UdpSocket>> {
        let mut state = self.state();
        let blocked = state.blocked;
        let flow = state.flows.entry(source).or_insert_with(|| {
            self.begun.send_modify(|moments| moments.push(Instant::now()));
            let own = self.front.local_addr().expect("a socket has an address");
            Flow { silent: [blocked; 2], ..Flow::new(self, source, SocketAddr::new(own.ip(), 0)) }
        });
        if flow.silent[Direction::Up as usize] {
            return None;
        }
        if self.rate.load(Ordering::Relaxed) > 0 {
            // Who comes when the line is full is lost.
            let _ = flow.queue.try_send(datagram.to_vec());
            return None;
        }
        Some(Arc::clone(&flow.back))
    }

    /// Whether a datagram of this flow passes in a direction.
    fn lets(&self, source: SocketAddr, direction: Direction) -> bool {
        self.state().flows.get(&source).is_some_and(|flow| !flow.silent[direction as usize])
    }

    /// Counts bytes that have passed, and lets the planned fault happen when they were enough.
    fn count(self: &Arc<Self>, direction: Direction, bytes: usize) {
        let passed = self.counter(direction).fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let mut state = self.state();
        let due = |planned: &mut Planned| planned.direction == direction && planned.at <= passed;
        if let Some(planned) = state.planned.take_if(due) {
            fail(self, &mut state, planned.fault);
            // Nobody needs to wait for it.
            let _ = planned.done.send(Instant::now());
        }
    }
}

impl Flow {
    fn new(shared: &Arc<Shared>, source: SocketAddr, from: SocketAddr) -> Self {
        let back = Arc::new(roomy(from));
        let (queue, waiting) = mpsc::channel(QUEUE);
        let answers = tokio::spawn(answer(Arc::clone(shared), Arc::clone(&back), source));
        let asking = tokio::spawn(ask(Arc::clone(shared), Arc::clone(&back), source, waiting));
        let _tasks = [answers, asking].map(AbortOnDrop::new);
        Self { back, silent: [false; 2], queue, _tasks }
    }
}

impl Pace {
    /// Waits until a datagram may go that takes its time at `rate` bytes per second.
    async fn turn(&mut self, bytes: usize, rate: u64) {
        if rate == 0 {
            return;
        }
        let now = tokio::time::Instant::now();
        let at = self.0.unwrap_or(now).max(now);
        self.0 = Some(at + Duration::from_secs_f64(bytes as f64 / rate as f64));
        // Timers are coarser than the time that one datagram takes.
        if at > now + Duration::from_millis(1) {
            tokio::time::sleep_until(at).await;
        }
    }
}

fn fail(shared: &Arc<Shared>, state: &mut State, fault: DatagramFault) {
    match fault {
        DatagramFault::Swallow => state.flows.values_mut().for_each(|flow| flow.silent = [true; 2]),
        DatagramFault::SwallowOneWay(direction) => {
            state.flows.values_mut().for_each(|flow| flow.silent[direction as usize] = true);
        }
        DatagramFault::Block => {
            state.blocked = true;
            state.flows.values_mut().for_each(|flow| flow.silent = [true; 2]);
        }
        DatagramFault::Readdress(ip) => {
            for (source, flow) in &mut state.flows {
                let silent = flow.silent;
                *flow = Flow { silent, ..Flow::new(shared, *source, SocketAddr::new(ip, 0)) };
            }
        }
    }
}

async fn serve(shared: Arc<Shared>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        // News of a datagram that nobody took concerns nobody.
        let Ok((n, source)) = shared.front.recv_from(&mut buffer).await else { continue };
        let Some(back) = shared.way(source, &buffer[..n]) else { continue };
        if back.send_to(&buffer[..n], shared.target).await.is_ok() {
            shared.count(Direction::Up, n);
        }
    }
}

/// Sends what waits in line towards the target.
async fn ask(
    shared: Arc<Shared>,
    back: Arc<UdpSocket>,
    source: SocketAddr,
    mut waiting: mpsc::Receiver<Vec<u8>>,
) {
    let mut pace = Pace::default();
    while let Some(datagram) = waiting.recv().await {
        pace.turn(datagram.len(), shared.rate.load(Ordering::Relaxed)).await;
        if shared.lets(source, Direction::Up) && back.send_to(&datagram, shared.target).await.is_ok() {
            shared.count(Direction::Up, datagram.len());
        }
    }
}

/// What waits in line here does so in the socket.
async fn answer(shared: Arc<Shared>, back: Arc<UdpSocket>, source: SocketAddr) {
    let mut buffer = vec![0; 1 << 16];
    let mut pace = Pace::default();
    loop {
        let Ok((n, _)) = back.recv_from(&mut buffer).await else { continue };
        pace.turn(n, shared.rate.load(Ordering::Relaxed)).await;
        if shared.lets(source, Direction::Down) && shared.front.send_to(&buffer[..n], source).await.is_ok() {
            shared.count(Direction::Down, n);
        }
    }
}
