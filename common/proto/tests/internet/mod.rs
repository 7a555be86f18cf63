//! A simulated internet with two ends of an attempt in it: routers, delays, hops, loss, a relay for messages, and a
//! clock that jumps from event to event. Every run of one seed is the same.

pub(crate) mod nat;
pub(crate) mod site;

use bytes::Bytes;
use site::{Host, Kind, Site};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use tun_proto::p2p::candidate::{Candidate, CandidateKind};
use tun_proto::p2p::probe::PROBE_LEN;
use tun_proto::p2p::punch::{Action, Config, Failure, Found, Gathered, Punch, PunchMessage, Role, SocketId};

/// Routers between two sites' own.
const HOPS: u32 = 5;
/// TTL of an ordinary packet.
const TTL: u32 = 64;
const STUN_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const STUN_SERVER_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));
const LAN_DELAY: Duration = Duration::from_micros(300);
/// The first byte of a QUIC packet.
const QUIC: &[u8] = &[0x40; 30];

/// What a run is about.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    pub(crate) kinds: [Kind; 2],
    pub(crate) seed: u64,
    pub(crate) poisonable: bool,
    /// Both hosts in the first kind's site.
    pub(crate) same_site: bool,
    /// How much later an end begins than the other.
    pub(crate) late: [Duration; 2],
    /// How long a message to each end takes.
    pub(crate) relay: [Duration; 2],
    /// Percent of the datagrams that are lost on the internet.
    pub(crate) loss: u64,
    pub(crate) spray: [bool; 2],
    /// Whether an end's messages stop after so many.
    pub(crate) mute_after: [usize; 2],
}

impl Trial {
    pub(crate) fn new(left: Kind, right: Kind, seed: u64) -> Self {
        Trial {
            kinds: [left, right],
            seed,
            poisonable: false,
            same_site: false,
            late: [Duration::ZERO; 2],
            relay: [Duration::from_millis(50); 2],
            loss: 0,
            spray: [true; 2],
            mute_after: [usize::MAX; 2],
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ends: [Option<Result<Found, Failure>>; 2],
    /// From the later start to the later end.
    pub(crate) took: Duration,
    pub(crate) rounds: u32,
    /// Addresses that each end sent probes to.
    pub(crate) probed: [HashSet<SocketAddr>; 2],
    /// A packet crosses the path both ways.
    pub(crate) carries: bool,
}

impl Outcome {
    pub(crate) fn is_direct(&self) -> bool {
        self.carries
    }
}

enum Event {
    Start(usize),
    Gathered(usize, u32, Vec<Gathered>),
    Bound(usize, Vec<SocketId>),
    Message(usize, PunchMessage),
    /// Arrives at the outermost router of the destination.
    Packet {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
    /// Arrives at a host.
    Deliver {
        end: usize,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
}

struct Peer {
    punch: Option<Punch>,
    host: Host,
    sockets: HashMap<SocketId, SocketAddr>,
    next_socket: u32,
    waiting: Vec<PunchMessage>,
    told: usize,
    result: Option<(Instant, Result<Found, Failure>)>,
    /// From which address and on which socket a QUIC packet arrived.
    arrived: Option<(SocketId, SocketAddr)>,
}

pub(crate) struct World {
    trial: Trial,
    start: Instant,
    now: Instant,
    sites: Vec<Site>,
    peers: [Peer; 2],
    events: BinaryHeap<(Reverse<Instant>, Reverse<usize>)>,
    bodies: HashMap<usize, Event>,
    count: usize,
    random: u64,
    rounds: u32,
    probed: [HashSet<SocketAddr>; 2],
}

/// Runs a trial to its end.
pub(crate) fn run(trial: Trial) -> Outcome {
    World::new(trial).run()
}

impl World {
    fn new(trial: Trial) -> Self {
        #[expect(clippy::disallowed_methods, reason = "where virtual time begins does not matter")]
        let now = Instant::now();
        let delays =
            [Duration::from_millis(25 + trial.seed % 26), Duration::from_millis(25 + trial.seed / 26 % 26)];
        let mut sites = Vec::new();
        let mut hosts = Vec::new();
        for (number, (kind, delay)) in trial.kinds.into_iter().zip(delays).enumerate() {
            let (site, host) = site::build(kind, number, trial.poisonable, delay, trial.seed * 7 + 1);
            sites.push(site);
            hosts.push(host);
        }
        if trial.same_site {
            hosts[1].site = 0;
        }
        let peer = |host| Peer {
            punch: None,
            host,
            sockets: HashMap::new(),
            next_socket: 0,
            waiting: Vec::new(),
            told: 0,
            result: None,
            arrived: None,
        };
        let peers = [peer(hosts[0]), peer(hosts[1])];
        let random = trial.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut world = World {
            trial,
            start: now,
            now,
            sites,
            peers,
            events: BinaryHeap::new(),
            bodies: HashMap::new(),
            count: 0,
            random,
            rounds: 0,
            probed: Default::default(),
        };
        for end in 0..2 {
            world.after(world.trial.late[end], Event::Start(end));
        }
        world
    }

    fn run(mut self) -> Outcome {
        let deadline = self.start + Duration::from_secs(60);
        while self.peers.iter().any(|peer| peer.result.is_none()) {
            assert!(self.step(), "an attempt waits for nothing");
            assert!(self.now < deadline, "an attempt does not end: {:?}", self.trial);
        }
        let ended = self.peers.iter().filter_map(|peer| peer.result.as_ref()).map(|(at, _)| *at).max();
        let told = self.start + self.trial.late[0].max(self.trial.late[1]);
        let took = ended.map_or(Duration::ZERO, |at| at.saturating_duration_since(told));
        let carries = self.check_path();
        self.check_sockets();
        let [left, right] = self.peers;
        Outcome {
            ends: [left.result.map(|(_, result)| result), right.result.map(|(_, result)| result)],
            took,
            rounds: self.rounds,
            probed: self.probed,
            carries,
        }
    }

    /// Both ends use what they found: each must hear the other, from where it expects it.
    fn check_path(&mut self) -> bool {
        let found: Vec<Found> =
            self.peers.iter().filter_map(|peer| peer.result.as_ref()?.1.as_ref().ok().copied()).collect();
        let [left, right] = found[..] else { return false };
        self.trial.loss = 0;
        // Probes that are still under way are answered or come to nothing.
        for (end, found) in [(0, left), (1, right)] {
            self.send(end, found.socket, found.remote, QUIC.into(), TTL);
            let patience = self.now + Duration::from_secs(1);
            while self.now < patience && self.step() {}
        }
        self.peers[0].arrived == Some((left.socket, left.remote))
            && self.peers[1].arrived == Some((right.socket, right.remote))
    }

    /// Nothing stays open but what was found.
    fn check_sockets(&self) {
        for peer in &self.peers {
            let kept = match &peer.result {
                Some((_, Ok(found))) => vec![found.socket],
                _ => vec![],
            };
            let open: Vec<SocketId> = peer.sockets.keys().copied().collect();
            assert_eq!(open, kept, "sockets left open in {:?}", self.trial);
        }
    }

    /// Lets the next thing happen; false if there is none.
    fn step(&mut self) -> bool {
        let event = self.events.peek().map(|(Reverse(at), _)| *at);
        let timeouts: Vec<Option<Instant>> =
            self.peers.iter().map(|peer| peer.punch.as_ref().and_then(Punch::poll_timeout)).collect();
        let Some(next) = [event, timeouts[0], timeouts[1]].into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        if event == Some(next)
            && let Some((_, Reverse(id))) = self.events.pop()
            && let Some(event) = self.bodies.remove(&id)
        {
            self.handle(event);
        } else {
            for (end, timeout) in timeouts.into_iter().enumerate() {
                if timeout.is_some_and(|at| at <= self.now) {
                    let now = self.now;
                    self.with(end, |punch| punch.handle_timeout(now));
                }
            }
        }
        true
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Start(end) => {
                let role = if end == 0 { Role::Initiator } else { Role::Responder };
                let mut entropy = [end as u8; 32];
                entropy[..8].copy_from_slice(&self.trial.seed.to_be_bytes());
                let spray = self.trial.spray[end];
                self.peers[end].punch =
                    Some(Punch::new(Config { role, secret: [9; 32], spray, entropy }, now));
                let waiting = std::mem::take(&mut self.peers[end].waiting);
                self.with(end, |punch| {
                    waiting.into_iter().for_each(|message| punch.handle_message(message, now))
                });
            }
            Event::Gathered(end, round, gathered) => {
                self.with(end, |punch| punch.handle_gathered(round, gathered, now));
            }
            Event::Bound(end, sockets) => self.with(end, |punch| punch.handle_bound(sockets, now)),
            Event::Message(end, message) if self.peers[end].punch.is_none() => {
                self.peers[end].waiting.push(message)
            }
            Event::Message(end, message) => self.with(end, |punch| punch.handle_message(message, now)),
            Event::Packet { from, to, bytes } => self.arrive(from, to, bytes),
            Event::Deliver { end, from, to, bytes } => self.deliver(end, from, to, &bytes),
        }
    }

    fn with(&mut self, end: usize, act: impl FnOnce(&mut Punch)) {
        let Some(mut punch) = self.peers[end].punch.take() else { return };
        act(&mut punch);
        while let Some(action) = punch.poll_action() {
            self.act(end, action);
        }
        self.peers[end].punch = Some(punch);
    }

    fn act(&mut self, end: usize, action: Action) {
        match action {
            Action::Gather { round } => self.gather(end, round),
            Action::Bind { count } => {
                let sockets = (0..count).map(|_| self.bind(end, self.peers[end].host.v4.into())).collect();
                self.after(Duration::from_millis(8), Event::Bound(end, sockets));
            }
            Action::Send { socket, to, datagram, ttl } => {
                assert_eq!(datagram.len(), PROBE_LEN);
                self.probed[end].insert(to);
                self.send(end, socket, to, datagram, ttl.unwrap_or(TTL));
            }
            Action::Tell(message) => {
                let text = serde_json::to_string(&message).unwrap_or_default();
                assert!(text.len() < 4096);
                self.peers[end].told += 1;
                if self.peers[end].told <= self.trial.mute_after[end] {
                    assert_eq!(serde_json::from_str::<PunchMessage>(&text).ok().as_ref(), Some(&message));
                    self.after(self.trial.relay[1 - end], Event::Message(1 - end, message));
                }
            }
            Action::Close { sockets } => {
                for socket in sockets {
                    assert!(self.peers[end].sockets.remove(&socket).is_some(), "closed twice");
                }
            }
            Action::Found(found) => self.end(end, Ok(found)),
            Action::Failed(failure) => self.end(end, Err(failure)),
        }
    }

    fn end(&mut self, end: usize, result: Result<Found, Failure>) {
        assert!(self.peers[end].result.is_none(), "an attempt ends once");
        self.peers[end].result = Some((self.now, result));
    }

    fn bind(&mut self, end: usize, ip: IpAddr) -> SocketId {
        let peer = &mut self.peers[end];
        peer.next_socket += 1;
        // Ports of the two hosts differ by chance alone.
        let port = 40_000 + peer.next_socket as u16 * 3 + (end as u16) * 7;
        peer.sockets.insert(peer.next_socket, SocketAddr::new(ip, port));
        peer.next_socket
    }

    /// Asks two ports of a server how a fresh socket is seen.
    fn gather(&mut self, end: usize, round: u32) {
        self.rounds = self.rounds.max(round);
        let host = self.peers[end].host;
        let mut gathered = Vec::new();
        for ip in [Some(IpAddr::V4(host.v4)), host.v6.map(IpAddr::V6)].into_iter().flatten() {
            let socket = self.bind(end, ip);
            let local = self.peers[end].sockets[&socket];
            let server = if ip.is_ipv4() { STUN_SERVER } else { STUN_SERVER_IPV6 };
            let reflexive = [3478, 3479]
                .iter()
                .filter_map(|port| self.leave(host.site, local, SocketAddr::new(server, *port), TTL));
            let reflexive = reflexive.collect();
            let candidates = vec![Candidate { address: local, kind: CandidateKind::Host }];
            gathered.push(Gathered { socket, local, candidates, reflexive });
        }
        let patience = Duration::from_millis(10) + 2 * self.sites[host.site].delay;
        self.after(patience, Event::Gathered(end, round, gathered));
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.count += 1;
        self.bodies.insert(self.count, event);
        self.events.push((Reverse(self.now + delay), Reverse(self.count)));
    }

    /// A packet passes its site's routers; the source address it has outside, if it gets there.
    fn leave(&mut self, site: usize, from: SocketAddr, to: SocketAddr, mut ttl: u32) -> Option<SocketAddr> {
        let site = &mut self.sites[site];
        let routers = if from.is_ipv4() { &mut site.routers } else { &mut site.routers6 };
        let mut from = from;
        for router in routers {
            ttl = ttl.checked_sub(1).filter(|ttl| *ttl > 0)?;
            from = router.outbound(from, to)?;
        }
        (ttl > HOPS).then_some(from)
    }

    fn send(&mut self, end: usize, socket: SocketId, to: SocketAddr, bytes: Bytes, ttl: u32) {
        let from = self.peers[end].sockets.get(&socket).copied();
        assert!(from.is_some(), "sent from a closed socket in {:?}", self.trial);
        let Some(from) = from else { return };
        assert_eq!(from.is_ipv4(), to.is_ipv4(), "families do not mix");
        let site = self.peers[end].host.site;
        let neighbour = (0..2).find(|other| {
            let host = self.peers[*other].host;
            host.site == site && (IpAddr::V4(host.v4) == to.ip() || host.v6.map(IpAddr::V6) == Some(to.ip()))
        });
        if let Some(neighbour) = neighbour {
            return self.after(LAN_DELAY, Event::Deliver { end: neighbour, from, to, bytes });
        }
        let Some(from) = self.leave(site, from, to, ttl) else { return };
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if (self.random >> 33) % 100 < self.trial.loss {
            return;
        }
        let target = self.site_of(to.ip());
        // No router lets its own outer address in again from within.
        if let Some(target) = target.filter(|target| *target != site) {
            let delay = self.sites[site].delay + self.sites[target].delay;
            self.after(delay, Event::Packet { from, to, bytes });
        }
    }

    fn site_of(&self, ip: IpAddr) -> Option<usize> {
        let by_host = |ip| self.peers.iter().find(|peer| peer.host.v6.map(IpAddr::V6) == Some(ip));
        let outer = self.sites.iter().position(|site| IpAddr::V4(site.outer) == ip);
        outer.or_else(|| by_host(ip).map(|peer| peer.host.site))
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let Some(site) = self.site_of(to.ip()) else { return };
        let routers =
            if to.is_ipv4() { &mut self.sites[site].routers } else { &mut self.sites[site].routers6 };
        let mut inner = to;
        for router in routers.iter_mut().rev() {
            let Some(next) = router.inbound(from, inner) else { return };
            inner = next;
        }
        for end in 0..2 {
            if self.peers[end].host.site == site {
                self.deliver(end, from, inner, &bytes);
            }
        }
    }

    fn deliver(&mut self, end: usize, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let socket =
            self.peers[end].sockets.iter().find(|(_, local)| **local == to).map(|(socket, _)| *socket);
        let Some(socket) = socket else { return };
        if bytes == QUIC {
            self.peers[end].arrived = Some((socket, from));
            return;
        }
        let now = self.now;
        self.with(end, |punch| punch.handle_datagram(socket, from, bytes, now));
    }
}
