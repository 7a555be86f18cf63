//! Hole punching: one attempt to find a direct path, as one end of it sees it.
//!
//! ```text
//! initiator                                    responder
//!   gather a socket's addresses                  gather
//!   ── Offer ─────────────▶  ◀───────────── Offer ──
//!   ◀── Echo, EchoReply ──▶  ◀───────────── Ready ──      how long does a message take?
//!   ── Go ─────────────────────────────────────▶
//!   waits as long as Go takes                    probes
//!   probes ◀──────────── cross ────────────────▶
//!   ── nominating ping ──▶  ◀──────────── pong ──         Found, Found
//! ```
//! Both ends' first probes leave at the same time, so that each passes its own NAT before the other's arrives. A round
//! that fails is followed by one with other local ports, three at most. Where one NAT uses another port for each peer,
//! ports are predicted or guessed (`spray`).
//!
//! Messages come from an authenticated peer that may be hostile all the same: whatever it says, an attempt probes at
//! most [`MAX_PAIRS`] addresses, a bounded number of ports of one address, and is over after [`MAX_DURATION`].

mod draw;
mod driver;
mod failure;
mod message;
mod pairs;
mod predict;
mod relay;
mod round;
mod spray;
mod transactions;

pub use driver::{Action, Config, Found, Gathered, Role, SocketId};
pub use failure::{Failure, Side};
pub use message::{Offer, PunchMessage};
pub use pairs::MAX_PAIRS;
pub use predict::Mapping;
pub use spray::{MAX_SPRAYS, PORTS as SPRAY_PORTS, SOCKETS as SPRAY_SOCKETS};

use super::candidate::{self, Candidate, CandidateKind, MAX_OWN, MAX_REMOTE};
use super::probe::{self, Opener, Sealer};
use draw::Draw;
use pairs::Pairs;
use relay::RelayClock;
use round::Probing;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use transactions::Transactions;

/// Rounds of an attempt.
pub const MAX_ROUNDS: u32 = 3;

/// The longest that an attempt takes, whatever the peer does.
pub const MAX_DURATION: Duration = Duration::from_secs(30);

/// Sockets that take part in a round, beside those that only open many ports.
pub const MAX_SOCKETS: usize = 4;

/// How long own gathering may take.
const GATHER_DEADLINE: Duration = Duration::from_secs(6);

/// How long the peer's part of a round's preparation may take, once the own is done: its gathering and a slow relay.
const PEER_DEADLINE: Duration = Duration::from_secs(9);

/// Reflexive addresses of one socket that are taken into account.
const MAX_REFLEXIVE: usize = 4;

/// Echoes of a peer that are answered.
const MAX_ECHO_REPLIES: u32 = 16;

/// Actions that wait to be polled; beyond, probes are dropped as the network may drop them, too.
const MAX_ACTIONS: usize = 2048;

/// Where an attempt stands.
#[derive(Debug)]
enum Phase {
    /// Waits for the driver to gather.
    Gathering { deadline: Instant },
    /// Waits for the peer's offer, and for the start.
    Preparing { deadline: Instant },
    /// The initiator waits for its message to arrive.
    Starting { at: Instant },
    /// Probes.
    Probing(Box<Probing>),
    /// A path was found.
    Found(Found),
    /// Over.
    Failed,
}

/// One attempt, as one end sees it. See the [module](self).
#[derive(Debug)]
pub struct Punch {
    role: Role,
    may_spray: bool,
    /// Rounds in which ports were guessed at random.
    sprays: u32,
    draw: Draw,
    /// Nothing if keys could not be made, which never happens.
    channel: Option<(Sealer, Opener)>,
    round: u32,
    phase: Phase,
    give_up: Instant,
    /// Sockets of this round and whether they are IPv6; the first is the one that reflexive addresses belong to.
    sockets: Vec<(SocketId, bool)>,
    /// Sockets that open many ports.
    many: Vec<SocketId>,
    own: Option<Offer>,
    theirs: Option<Offer>,
    /// Candidates that came before the gathering was done.
    early: Vec<Candidate>,
    peer_ready: bool,
    prepared: bool,
    relay: RelayClock,
    peer_listens: bool,
    echo_replies: u32,
    pairs: Pairs,
    transactions: Transactions,
    actions: VecDeque<Action>,
}

impl Punch {
    /// An attempt that begins now.
    pub fn new(config: Config, now: Instant) -> Self {
        let mut punch = Punch {
            role: config.role,
            may_spray: config.spray,
            sprays: 0,
            draw: Draw::new(&config.entropy),
            channel: probe::channel(&config.secret, config.role == Role::Initiator),
            round: 0,
            phase: Phase::Failed,
            give_up: now + MAX_DURATION,
            sockets: Vec::new(),
            many: Vec::new(),
            own: None,
            theirs: None,
            early: Vec::new(),
            peer_ready: false,
            prepared: false,
            relay: RelayClock::default(),
            peer_listens: false,
            echo_replies: 0,
            pairs: Pairs::default(),
            transactions: Transactions::default(),
            actions: VecDeque::new(),
        };
        punch.begin_round(1, now);
        punch.echo(now);
        punch
    }

    /// The next thing to do. To be asked after every other call until there is nothing left.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Punch::handle_timeout`] is to be called; nothing once the attempt is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let next = match &self.phase {
            Phase::Gathering { deadline } | Phase::Preparing { deadline } => *deadline,
            Phase::Starting { at } => *at,
            Phase::Probing(probing) => probing.next_timeout(),
            Phase::Found(_) | Phase::Failed => return None,
        };
        Some([Some(next), self.pairs.next_due()].into_iter().flatten().fold(self.give_up, Instant::min))
    }

    /// What the driver gathered for a round; empty if it could bind no socket.
    pub fn handle_gathered(&mut self, round: u32, sockets: Vec<Gathered>, now: Instant) {
        if round != self.round || !matches!(self.phase, Phase::Gathering { .. }) {
            return self.close(sockets.iter().map(|gathered| gathered.socket).collect());
        }
        let mut sockets = sockets;
        // The one whose NAT is described comes first, for that is IPv4's in most cases.
        sockets.sort_by_key(|gathered| (gathered.reflexive.is_empty(), gathered.local.is_ipv6()));
        let surplus = sockets.split_off(sockets.len().min(MAX_SOCKETS));
        self.close(surplus.iter().map(|gathered| gathered.socket).collect());
        self.sockets = sockets.iter().map(|gathered| (gathered.socket, is_ipv6(gathered.local))).collect();
        let early = std::mem::take(&mut self.early);
        let seen =
            |address: &SocketAddr| Candidate { address: *address, kind: CandidateKind::ServerReflexive };
        let gathered = sockets.iter().flat_map(|gathered| {
            gathered.candidates.iter().copied().chain(gathered.reflexive.iter().map(seen))
        });
        let offer = Offer {
            round,
            candidates: candidate::select(gathered.chain(early), MAX_OWN),
            reflexive: sockets.first().map(|first| reflexive(&first.reflexive)).unwrap_or_default(),
            spray: self.may_spray,
        };
        self.own = Some(offer.clone());
        self.tell(PunchMessage::Offer(offer));
        self.phase = Phase::Preparing { deadline: now + PEER_DEADLINE };
        self.prepare(now);
    }

    /// Candidates of this round's sockets that were found later, for example by asking a router for a mapping.
    pub fn handle_candidates(&mut self, more: Vec<Candidate>, _now: Instant) {
        match (&self.phase, &self.own) {
            (Phase::Gathering { .. }, _) => {
                self.early = candidate::select(self.early.drain(..).chain(more), MAX_OWN);
            }
            (Phase::Preparing { .. } | Phase::Starting { .. } | Phase::Probing(_), Some(_)) => {
                let candidates = candidate::select(more, MAX_OWN);
                self.tell(PunchMessage::Candidates { round: self.round, candidates });
            }
            _ => {}
        }
    }

    /// The sockets that were bound to open many ports; may be fewer than were asked for.
    pub fn handle_bound(&mut self, mut sockets: Vec<SocketId>, now: Instant) {
        let surplus = match &self.phase {
            Phase::Probing(probing) if probing.awaits_sockets() => {
                sockets.split_off(sockets.len().min(usize::from(SPRAY_SOCKETS)))
            }
            _ => std::mem::take(&mut sockets),
        };
        self.close(surplus);
        if !sockets.is_empty() {
            self.many = sockets;
            self.open_many(now);
        }
    }

    /// A message from the peer.
    pub fn handle_message(&mut self, message: PunchMessage, now: Instant) {
        if self.is_over() {
            return;
        }
        if !self.peer_listens {
            self.peer_listens = true;
            self.echo(now);
        }
        let is_initiator = self.role == Role::Initiator;
        match message {
            PunchMessage::Offer(offer) => self.handle_offer(offer, now),
            PunchMessage::Candidates { round, candidates } if round == self.round => {
                self.handle_remote_candidates(candidates, now);
            }
            PunchMessage::Echo { id } if self.echo_replies < MAX_ECHO_REPLIES => {
                self.echo_replies += 1;
                self.tell(PunchMessage::EchoReply { id });
            }
            PunchMessage::EchoReply { id } => {
                self.relay.handle_reply(id, now);
                self.prepare(now);
            }
            PunchMessage::Ready { round } if is_initiator && round == self.round => {
                self.peer_ready = true;
                self.prepare(now);
            }
            PunchMessage::Go { round, round_trip_ms } if !is_initiator && round == self.round => {
                let round_trip = Duration::from_millis(round_trip_ms.into()).min(relay::MAX_ROUND_TRIP);
                if self.prepared && matches!(self.phase, Phase::Preparing { .. }) {
                    self.start_probing(round_trip, now);
                }
            }
            PunchMessage::End { round } if !is_initiator && round == self.round && round < MAX_ROUNDS => {
                self.begin_round(round + 1, now);
            }
            PunchMessage::Spray { round } if round == self.round => self.spray(now),
            PunchMessage::Failed(failure) => self.finish(failure.mirrored()),
            _ => {}
        }
    }

    /// To be called at the time that [`Punch::poll_timeout`] gave; calling it at other times does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        let side = Side::Mine;
        match &self.phase {
            Phase::Gathering { deadline } if now >= *deadline => {
                self.fail(Failure::GatheringTimedOut { side })
            }
            Phase::Preparing { deadline } if now >= *deadline => self.fail(Failure::PeerSilent),
            Phase::Starting { at } if now >= *at => {
                let round_trip = self.relay.round_trip().unwrap_or_default();
                self.start_probing(round_trip, now);
            }
            _ => {}
        }
        if now >= self.give_up && !self.is_over() {
            let failure = self.verdict();
            return self.fail(failure);
        }
        self.drive(now);
    }

    /// Gives the attempt up, and tells the peer.
    pub fn abort(&mut self) {
        if !self.is_over() {
            self.fail(Failure::Aborted { side: Side::Mine });
        }
    }

    /// True once a path was found, or the attempt failed.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Found(_) | Phase::Failed)
    }

    fn begin_round(&mut self, round: u32, now: Instant) {
        self.close_all_but(None);
        self.round = round;
        self.own = None;
        self.theirs = None;
        self.early.clear();
        self.peer_ready = false;
        self.prepared = false;
        self.pairs = Pairs::default();
        self.transactions.clear();
        self.phase = Phase::Gathering { deadline: now + GATHER_DEADLINE };
        self.actions.push_back(Action::Gather { round });
    }

    fn echo(&mut self, now: Instant) {
        if self.role == Role::Initiator
            && let Some(id) = self.relay.echo(self.peer_listens, now)
        {
            self.tell(PunchMessage::Echo { id });
        }
    }

    fn handle_offer(&mut self, offer: Offer, now: Instant) {
        let awaited = matches!(self.phase, Phase::Gathering { .. } | Phase::Preparing { .. });
        if !awaited || offer.round != self.round || self.theirs.is_some() {
            return;
        }
        self.theirs = Some(Offer {
            candidates: candidate::select(offer.candidates, MAX_REMOTE),
            reflexive: reflexive(&offer.reflexive),
            ..offer
        });
        self.prepare(now);
    }

    fn handle_remote_candidates(&mut self, more: Vec<Candidate>, now: Instant) {
        let Some(theirs) = &mut self.theirs else { return };
        let room = MAX_REMOTE.saturating_sub(theirs.candidates.len());
        for candidate in candidate::select(more, room) {
            if !theirs.candidates.iter().any(|known| known.address == candidate.address) {
                theirs.candidates.push(candidate);
                if self.prepared {
                    self.pairs.add(&self.sockets, &candidate);
                }
            }
        }
        if matches!(self.phase, Phase::Probing(_)) {
            self.pairs.start(now);
            self.drive(now);
        }
    }

    /// Goes as far towards the start as what is known allows.
    fn prepare(&mut self, now: Instant) {
        let (Phase::Preparing { .. }, Some(_), Some(theirs)) = (&self.phase, &self.own, &self.theirs) else {
            return;
        };
        if !self.prepared {
            self.prepared = true;
            // Each socket with all candidates before the next, so that a limit leaves the main one complete.
            for socket in &self.sockets {
                for candidate in &theirs.candidates {
                    self.pairs.add(std::slice::from_ref(socket), candidate);
                }
            }
            if self.pairs.len() == 0 {
                let failure = self.blocked().unwrap_or(Failure::NoCommonFamily);
                return self.fail(failure);
            }
            if self.role == Role::Responder {
                self.tell(PunchMessage::Ready { round: self.round });
            }
        }
        if self.role == Role::Initiator
            && self.peer_ready
            && let Some(round_trip) = self.relay.round_trip()
        {
            let round_trip_ms = round_trip.as_millis() as u32;
            self.tell(PunchMessage::Go { round: self.round, round_trip_ms });
            self.phase = Phase::Starting { at: now + round_trip / 2 };
        }
    }

    /// How the two ends' NATs map.
    fn mappings(&self) -> (Mapping, Mapping) {
        let of =
            |offer: &Option<Offer>| offer.as_ref().map_or(Mapping::Blocked, |o| Mapping::of(&o.reflexive));
        (of(&self.own), of(&self.theirs))
    }

    /// That UDP is blocked, if it is.
    fn blocked(&self) -> Option<Failure> {
        let side = match self.mappings() {
            (Mapping::Blocked, Mapping::Blocked) => Side::Both,
            (Mapping::Blocked, _) => Side::Mine,
            (_, Mapping::Blocked) => Side::Theirs,
            _ => return None,
        };
        Some(Failure::UdpBlocked { side })
    }

    /// Why nothing came through.
    fn verdict(&self) -> Failure {
        if self.own.is_none() || self.theirs.is_none() {
            return Failure::PeerSilent;
        }
        let (mine, theirs) = self.mappings();
        if mine.is_dependent() && theirs.is_dependent() {
            return Failure::BothSymmetric;
        }
        let pairs = self.pairs.len() as u16;
        self.blocked().unwrap_or(Failure::NoAnswer { pairs, sprayed: self.sprays > 0, mine, theirs })
    }

    fn tell(&mut self, message: PunchMessage) {
        self.actions.push_back(Action::Tell(message));
    }

    fn close(&mut self, sockets: Vec<SocketId>) {
        if !sockets.is_empty() {
            self.actions.push_back(Action::Close { sockets });
        }
    }

    fn close_all_but(&mut self, kept: Option<SocketId>) {
        let main = self.sockets.drain(..).map(|(socket, _)| socket);
        let all = main.chain(self.many.drain(..)).filter(|socket| Some(*socket) != kept).collect();
        self.close(all);
    }

    fn fail(&mut self, failure: Failure) {
        self.tell(PunchMessage::Failed(failure));
        self.finish(failure);
    }

    fn finish(&mut self, failure: Failure) {
        self.close_all_but(None);
        self.phase = Phase::Failed;
        self.actions.push_back(Action::Failed(failure));
    }
}

fn is_ipv6(local: SocketAddr) -> bool {
    candidate::canonical(local).is_ipv6()
}

fn reflexive(seen: &[SocketAddr]) -> Vec<SocketAddr> {
    let seen = seen.iter().take(MAX_REFLEXIVE).map(|address| candidate::canonical(*address));
    seen.filter(|address| candidate::is_usable(*address)).collect()
}
