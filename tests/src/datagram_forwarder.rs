//! A network for datagrams between the two programs that fails on command.
//!
//! Everybody who sends to it is a flow, with a socket of its own towards the target, as behind a NAT.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use crate::datagrams::roomy;
use crate::forwarder::{Direction, Pending};
use crate::service::AbortOnDrop;

/// A way for the network to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramFault {
    /// The flows that there are go silent in both directions; later ones work.
    Swallow,
    /// The flows that there are go silent in one direction only; later ones work.
    SwallowOneWay(Direction),
    /// Nothing passes, of old flows or new ones.
    Block,
    /// The flows go on, but their target sees them come from this address, and from other ports.
    Readdress(IpAddr),
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
    up: AtomicU64,
    down: AtomicU64,
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
    _answers: AbortOnDrop,
}

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
        let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { front, target, state: Mutex::default(), up, down });
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

    /// Lets datagrams pass again after [`DatagramFault::Block`].
    pub fn heal(&self) {
        self.shared.state().blocked = false;
    }

    /// Bytes that have passed in a direction.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.counter(direction).load(Ordering::Relaxed)
    }

    /// How many flows there have been.
    pub fn begun(&self) -> usize {
        self.shared.state().flows.len()
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

    /// The way on for a datagram from `source`, if it has one.
    fn way(self: &Arc<Self>, source: SocketAddr) -> Option<Arc<UdpSocket>> {
        let mut state = self.state();
        if state.blocked {
            return None;
        }
        let flow = state.flows.entry(source).or_insert_with(|| {
            let own = self.front.local_addr().expect("a socket has an address");
            Flow::new(self, source, SocketAddr::new(own.ip(), 0))
        });
        (!flow.silent[Direction::Up as usize]).then(|| Arc::clone(&flow.back))
    }

    fn lets_back(&self, source: SocketAddr) -> bool {
        let state = self.state();
        let silent = state.flows.get(&source).is_none_or(|flow| flow.silent[Direction::Down as usize]);
        !state.blocked && !silent
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
        let answers = tokio::spawn(answer(Arc::clone(shared), Arc::clone(&back), source));
        Self { back, silent: [false; 2], _answers: AbortOnDrop::new(answers) }
    }
}

fn fail(shared: &Arc<Shared>, state: &mut State, fault: DatagramFault) {
    match fault {
        DatagramFault::Swallow => state.flows.values_mut().for_each(|flow| flow.silent = [true; 2]),
        DatagramFault::SwallowOneWay(direction) => {
            state.flows.values_mut().for_each(|flow| flow.silent[direction as usize] = true);
        }
        DatagramFault::Block => state.blocked = true,
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
        let Some(back) = shared.way(source) else { continue };
        if back.send_to(&buffer[..n], shared.target).await.is_ok() {
            shared.count(Direction::Up, n);
        }
    }
}

async fn answer(shared: Arc<Shared>, back: Arc<UdpSocket>, source: SocketAddr) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok((n, _)) = back.recv_from(&mut buffer).await else { continue };
        if shared.lets_back(source) && shared.front.send_to(&buffer[..n], source).await.is_ok() {
            shared.count(Direction::Down, n);
        }
    }
}
