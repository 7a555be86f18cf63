//! Pairs of an own socket and an address of the peer, when each is probed, and which of them is best.

use super::SocketId;
use crate::p2p::candidate::{Candidate, CandidateKind};
use crate::p2p::nat::is_private;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Most pairs that are probed.
pub const MAX_PAIRS: usize = 32;

/// Most of them that come from offers; the others are for addresses learned from probes.
const MAX_OFFERED: usize = 24;

/// When a pair is probed, after its round's start. The first probe has a low TTL: it opens the own NAT and dies before
/// it reaches the peer's, where it could upset the tables of a router that does not expect it.
const SCHEDULE: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(160),
    Duration::from_millis(320),
    Duration::from_millis(640),
    Duration::from_millis(1280),
    Duration::from_millis(2000),
    Duration::from_millis(2600),
];

/// Between the first probes of two pairs: they are to leave before the peer's second ones arrive.
const OPENER_PACE: Duration = Duration::from_millis(1);

/// Between later probes of two pairs.
const PACE: Duration = Duration::from_millis(3);

/// Least time between two probes of a pair that are sent in reply to something.
const TRIGGER_PACE: Duration = Duration::from_millis(30);

/// How long an answer from the same network is waited for.
const LOCAL_PATIENCE: Duration = Duration::from_millis(100);

/// An own socket and an address of the peer.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) socket: SocketId,
    pub(super) remote: SocketAddr,
    kind: CandidateKind,
    preference: u8,
    /// Place in [`SCHEDULE`], and when that is.
    step: usize,
    next: Option<Instant>,
    /// Start of this pair's schedule, without pacing.
    base: Option<Instant>,
    /// Place among the pairs, which spreads their probes.
    rank: u32,
    last_ping: Option<Instant>,
    /// Set once an answer came.
    pub(super) round_trip: Option<Duration>,
    /// A probe came from there.
    pub(super) heard: bool,
}

/// All pairs of a round.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    list: Vec<Pair>,
    /// How much longer than usual the low TTL's probe is alone.
    caution: Duration,
}

/// A probe that is due.
pub(super) struct Due {
    pub(super) socket: SocketId,
    pub(super) remote: SocketAddr,
    /// The first of its pair.
    pub(super) opens: bool,
}

impl Pair {
    /// Lower is better: the same network, then IPv6, then the quickest.
    fn quality(&self) -> (u8, Duration) {
        (self.tier(), self.round_trip.unwrap_or(Duration::MAX))
    }

    fn tier(&self) -> u8 {
        match self.remote {
            remote if is_private(remote.ip()) && self.kind == CandidateKind::Host => 0,
            SocketAddr::V6(_) => 1,
            SocketAddr::V4(_) => 2,
        }
    }
}

impl Pairs {
    /// Lets the low TTL's probe of each pair be alone for longer, in case the peer begins later than it should.
    pub(super) fn set_caution(&mut self, caution: Duration) {
        self.caution = caution;
    }

    /// Number of pairs.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Adds `candidate` for the sockets of its family; `sockets` are socket and whether it is IPv6.
    pub(super) fn add(&mut self, sockets: &[(SocketId, bool)], candidate: &Candidate) {
        for (socket, is_ipv6) in sockets {
            let known = self.find(*socket, candidate.address).is_some();
            if *is_ipv6 == candidate.address.is_ipv6() && !known && self.list.len() < MAX_OFFERED {
                self.push(*socket, candidate);
            }
        }
    }

    /// The place of the pair with an address that a probe came from, which may be new. At the limit, it takes the place
    /// of the last pair that nothing was heard of.
    pub(super) fn learn(&mut self, socket: SocketId, remote: SocketAddr) -> Option<usize> {
        if let Some(known) = self.find(socket, remote) {
            return Some(known);
        }
        if self.list.len() >= MAX_PAIRS {
            let silent = self.list.iter().rposition(|pair| !pair.heard && pair.round_trip.is_none())?;
            self.list.remove(silent);
        }
        self.push(socket, &Candidate { address: remote, kind: CandidateKind::PeerReflexive });
        Some(self.list.len() - 1)
    }

    fn push(&mut self, socket: SocketId, candidate: &Candidate) {
        self.list.push(Pair {
            socket,
            remote: candidate.address,
            kind: candidate.kind,
            preference: candidate.preference(),
            step: 0,
            next: None,
            base: None,
            rank: 0,
            last_ping: None,
            round_trip: None,
            heard: false,
        });
    }

    pub(super) fn find(&self, socket: SocketId, remote: SocketAddr) -> Option<usize> {
        self.list.iter().position(|pair| pair.socket == socket && pair.remote == remote)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Pair> {
        self.list.get_mut(index)
    }

    /// Begins the schedule of every pair that has none yet. What a server saw is opened first: a NAT that counts its
    /// ports must use the next one for that, and behind other NATs it is the most likely path.
    pub(super) fn start(&mut self, now: Instant) {
        let mut waiting: Vec<&mut Pair> = self.list.iter_mut().filter(|pair| pair.base.is_none()).collect();
        waiting.sort_by_key(|pair| {
            std::cmp::Reverse((pair.kind == CandidateKind::ServerReflexive, pair.preference))
        });
        for (rank, pair) in (0u32..).zip(waiting) {
            pair.rank = rank;
            pair.base = Some(now);
            pair.step = 0;
            pair.next = Some(now + OPENER_PACE * rank);
        }
    }

    /// The next probe that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        let caution = self.caution;
        let pair = self
            .list
            .iter_mut()
            .filter(|pair| pair.next.is_some_and(|next| next <= now))
            .min_by_key(|pair| pair.next)?;
        let opens = pair.step == 0;
        pair.step += 1;
        pair.next = SCHEDULE
            .get(pair.step)
            .filter(|_| pair.round_trip.is_none())
            .and_then(|after| Some(pair.base? + *after + caution + PACE * pair.rank));
        pair.last_ping = Some(now);
        Some(Due { socket: pair.socket, remote: pair.remote, opens })
    }

    /// When the next probe is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.list.iter().filter_map(|pair| pair.next).min()
    }

    /// Notes that a probe came over a pair; true if it is to be probed at once.
    pub(super) fn hear(&mut self, index: usize, now: Instant) -> bool {
        let Some(pair) = self.list.get_mut(index) else { return false };
        pair.heard = true;
        let recent = pair.last_ping.is_some_and(|last| now.saturating_duration_since(last) < TRIGGER_PACE);
        if pair.round_trip.is_some() || recent {
            return false;
        }
        if pair.base.is_none() {
            // Nothing needs to be opened any more.
            pair.base = Some(now);
            pair.step = 2;
            pair.next = Some(now + SCHEDULE[2]);
        }
        pair.last_ping = Some(now);
        true
    }

    /// Notes that a pair's probe was answered.
    pub(super) fn validate(&mut self, index: usize, round_trip: Duration) {
        if let Some(pair) = self.list.get_mut(index) {
            pair.round_trip = Some(pair.round_trip.map_or(round_trip, |known| known.min(round_trip)));
            pair.heard = true;
            pair.next = None;
        }
    }

    /// The best pair that answered.
    pub(super) fn best(&self) -> Option<&Pair> {
        self.list.iter().filter(|pair| pair.round_trip.is_some()).min_by_key(|pair| pair.quality())
    }

    /// True if a pair that has not answered yet may do so soon and be better than the best that did. In the same
    /// network, answers come quickly or not at all.
    pub(super) fn may_improve(&self, now: Instant) -> bool {
        let Some(best) = self.best() else { return true };
        self.list.iter().filter(|pair| pair.round_trip.is_none() && pair.tier() < best.tier()).any(|pair| {
            pair.tier() > 0
                || pair.base.is_some_and(|base| now.saturating_duration_since(base) < LOCAL_PATIENCE)
        })
    }

    /// True if anything came from the peer.
    pub(super) fn heard_any(&self) -> bool {
        self.list.iter().any(|pair| pair.heard)
    }
}
