//! The part of a round in which probes fly.

use super::spray::{self, Shot, Volley};
use super::transactions::Ping;
use super::{
    Action, Failure, Found, MAX_ACTIONS, MAX_ROUNDS, Mapping, Phase, Punch, PunchMessage, Role, SocketId,
};
use crate::p2p::candidate;
use crate::p2p::probe::{Probe, ProbeKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// TTL of the first probe of each pair, by round. Four passes two routers of one's own and ends in the provider's
/// network in most cases. Seven is for larger sites, and may reach the peer's router where the internet is short.
const OPENER_TTLS: [u32; MAX_ROUNDS as usize] = [4, 7, 4];

/// How long a round lasts in general: the last probe, and the time for an answer.
const ROUND: Duration = Duration::from_secs(3);

/// How long it lasts where only the same network, IPv6 or a mapped port can help, which is seen soon.
const SHORT_ROUND: Duration = Duration::from_millis(1500);

/// When ports begin to be guessed, beyond the relay's round trip: a path that needs no guessing is found before.
const SPRAY_AFTER: Duration = Duration::from_millis(300);

/// How long binding many sockets may take.
const BIND_PATIENCE: Duration = Duration::from_secs(1);

/// After the last guess, for its answer.
const SPRAY_GRACE: Duration = Duration::from_secs(1);

/// How much longer the responder waits for the initiator's verdict.
const RESPONDER_PATIENCE: Duration = Duration::from_secs(3);

/// Bounds of the time that a better path is waited for.
const BETTER_WITHIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// Between two nominating pings, and how long they are sent.
const NOMINATE_EVERY: Duration = Duration::from_millis(40);
const NOMINATE_FOR: Duration = Duration::from_secs(2);

/// What happens while probes fly.
#[derive(Debug)]
pub(super) struct Probing {
    ends: Instant,
    guessing: Guessing,
    volley: Volley,
    choice: Choice,
}

/// How ports are guessed.
#[derive(Debug, PartialEq, Eq)]
enum Guessing {
    /// Not at all, or it is the peer's turn.
    No,
    /// This end opens many ports, from then on.
    OpensAt(Instant),
    /// Many sockets are being bound.
    Binding,
    /// The peer is told that all are open, then.
    TellsAt(Instant),
    /// This end tries many ports once the peer has opened its own.
    AwaitsOpeners,
    /// All that remains is to wait.
    Under,
}

/// How far the initiator is with its choice.
#[derive(Debug)]
enum Choice {
    None,
    /// A better path may show until then.
    At(Instant),
    Nominated {
        socket: SocketId,
        remote: SocketAddr,
        next: Instant,
        until: Instant,
    },
}

impl Probing {
    pub(super) fn next_timeout(&self) -> Instant {
        let guess = match self.guessing {
            Guessing::OpensAt(at) | Guessing::TellsAt(at) => Some(at),
            _ => None,
        };
        let choice = match self.choice {
            Choice::None => Some(self.ends),
            Choice::At(at) => Some(at),
            Choice::Nominated { next, until, .. } => Some(next.min(until)),
        };
        [guess, choice, self.volley.next_due()].into_iter().flatten().min().unwrap_or(self.ends)
    }

    pub(super) fn awaits_sockets(&self) -> bool {
        self.guessing == Guessing::Binding
    }

    fn stop_guessing(&mut self) {
        self.volley.stop();
        self.guessing = Guessing::No;
    }
}

impl Punch {
    /// Begins to probe; `relay` is the round trip of messages.
    pub(super) fn start_probing(&mut self, relay: Duration, now: Instant) {
        let (mine, theirs) = self.mappings();
        let is_blocked = self.blocked().is_some();
        let is_hopeless = is_blocked || (mine.is_dependent() && theirs.is_dependent());
        // Half the relay's round trip is when the other end begins, unless one direction is much slower: the first
        // round may have failed for that.
        let caution = if self.round == 1 { Duration::ZERO } else { relay / 2 };
        self.pairs.set_caution(caution);
        let mut probing = Box::new(Probing {
            ends: now + if is_hopeless { SHORT_ROUND } else { ROUND } + caution,
            guessing: Guessing::No,
            volley: Volley::default(),
            choice: Choice::None,
        });
        let seen =
            |offer: &Option<super::Offer>| offer.as_ref().map(|o| o.reflexive.clone()).unwrap_or_default();
        if let (Mapping::Sequential { step }, Mapping::Independent, Some((socket, false))) =
            (theirs, mine, self.sockets.first())
        {
            let guesses = super::predict::next_ports(&seen(&self.theirs), step);
            probing.volley = Volley::predictions(*socket, &guesses, self.opener_ttl(), now);
        }
        if self.sprays_in(self.round, mine, theirs) {
            let begin = now + SPRAY_AFTER + relay;
            probing.ends = begin + BIND_PATIENCE + SPRAY_GRACE + relay;
            probing.guessing =
                if mine.is_dependent() { Guessing::OpensAt(begin) } else { Guessing::AwaitsOpeners };
        }
        if self.role == Role::Responder {
            probing.ends += RESPONDER_PATIENCE;
        }
        self.phase = Phase::Probing(probing);
        self.pairs.start(now);
        if self.pairs.best().is_some() {
            self.consider(now);
        }
        self.drive(now);
    }

    /// Whether ports are guessed at random in a round. Where they may be predicted, that is tried first.
    fn sprays_in(&self, round: u32, mine: Mapping, theirs: Mapping) -> bool {
        let hard = match (mine, theirs) {
            (hard, Mapping::Independent) | (Mapping::Independent, hard) => hard,
            _ => return false,
        };
        let first = match hard {
            Mapping::Random => 1,
            Mapping::Sequential { .. } => 2,
            _ => return false,
        };
        let agreed = [&self.own, &self.theirs].iter().all(|offer| {
            offer
                .as_ref()
                .is_some_and(|offer| offer.spray && offer.reflexive.first().is_some_and(SocketAddr::is_ipv4))
        });
        let from_ipv4 = self.sockets.first().is_some_and(|(_, is_ipv6)| !is_ipv6);
        round >= first && agreed && from_ipv4 && self.sprays < spray::MAX_SPRAYS
    }

    fn opener_ttl(&self) -> u32 {
        OPENER_TTLS.get(self.round.saturating_sub(1) as usize).copied().unwrap_or(OPENER_TTLS[0])
    }

    /// The many sockets are there: opens their ports towards the peer.
    pub(super) fn open_many(&mut self, now: Instant) {
        let target = self.theirs.as_ref().and_then(|offer| offer.reflexive.first().copied());
        let (Phase::Probing(probing), Some(target)) = (&mut self.phase, target) else { return };
        let (volley, opened) = Volley::openers(&self.many, target, now);
        probing.volley = volley;
        probing.guessing = Guessing::TellsAt(opened);
        self.sprays += 1;
        self.drive(now);
    }

    /// The peer has opened its ports: tries to find one.
    pub(super) fn spray(&mut self, now: Instant) {
        let target = self.theirs.as_ref().and_then(|offer| offer.reflexive.first().copied());
        let (Phase::Probing(probing), Some(target), Some((socket, _))) =
            (&mut self.phase, target, self.sockets.first())
        else {
            return;
        };
        if probing.guessing != Guessing::AwaitsOpeners || self.pairs.heard_any() {
            return;
        }
        probing.volley = Volley::spray(*socket, target.ip(), &mut self.draw, now);
        probing.guessing = Guessing::Under;
        probing.ends = now + spray::DURATION + SPRAY_GRACE;
        if self.role == Role::Responder {
            probing.ends += RESPONDER_PATIENCE;
        }
        self.sprays += 1;
        self.drive(now);
    }

    /// A datagram came. What is no probe of the peer, and what was there before, is ignored.
    pub fn handle_datagram(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8], now: Instant) {
        let from = candidate::canonical(from);
        let is_ours = match &self.phase {
            Phase::Failed => false,
            Phase::Found(found) => {
                let same_family = found.remote.is_ipv6() == from.is_ipv6();
                found.socket == socket && same_family && self.role == Role::Responder
            }
            _ => {
                let is_main = self.sockets.contains(&(socket, from.is_ipv6()));
                is_main || (from.is_ipv4() && self.many.contains(&socket))
            }
        };
        if !is_ours || !candidate::is_usable(from) {
            return;
        }
        let Some(probe) = self.channel.as_mut().and_then(|(_, opener)| opener.open(bytes)) else { return };
        if u32::from(probe.round) != self.round {
            return;
        }
        match (probe.kind, &self.phase) {
            (ProbeKind::Ping, Phase::Found(_)) if probe.nominates => self.pong(socket, from, &probe),
            (_, Phase::Found(_)) => {}
            (ProbeKind::Ping, _) => {
                self.pong(socket, from, &probe);
                if probe.nominates && self.role == Role::Responder {
                    let round_trip = Duration::from_micros(probe.round_trip_us.into());
                    self.found(Found { socket, remote: from, round_trip });
                } else {
                    self.learn(socket, from, now);
                }
            }
            (ProbeKind::Pong, _) => self.handle_pong(socket, from, &probe, now),
        }
        if !self.is_over() {
            self.drive(now);
        }
    }

    /// An authenticated ping came from `from`: a path in that direction at least.
    fn learn(&mut self, socket: SocketId, from: SocketAddr, now: Instant) {
        let Some(index) = self.pairs.learn(socket, from) else { return };
        if self.pairs.hear(index, now) {
            self.ping(socket, from, None, false, now);
        }
        self.stop_guessing();
    }

    fn handle_pong(&mut self, socket: SocketId, from: SocketAddr, probe: &Probe, now: Instant) {
        let Some(ping) = self.transactions.take(probe.transaction) else { return };
        if ping.socket != socket || ping.to != from {
            return;
        }
        let round_trip = now.saturating_duration_since(ping.at);
        let Some(index) = self.pairs.learn(socket, from) else { return };
        self.pairs.validate(index, round_trip);
        self.stop_guessing();
        if ping.nominates {
            let round_trip = self.pairs.get_mut(index).and_then(|pair| pair.round_trip).unwrap_or(round_trip);
            return self.found(Found { socket, remote: from, round_trip });
        }
        self.consider(now);
    }

    /// Once something came through, nothing needs to be guessed.
    fn stop_guessing(&mut self) {
        if let Phase::Probing(probing) = &mut self.phase {
            probing.stop_guessing();
        }
    }

    /// Plans the initiator's choice after a path answered.
    fn consider(&mut self, now: Instant) {
        let may_improve = self.pairs.may_improve(now);
        let quickest = self.pairs.best().and_then(|best| best.round_trip).unwrap_or_default();
        let Phase::Probing(probing) = &mut self.phase else { return };
        if self.role == Role::Initiator && !matches!(probing.choice, Choice::Nominated { .. }) {
            let (least, most) = BETTER_WITHIN;
            let at = now + if may_improve { quickest.clamp(least, most) } else { least };
            probing.choice = match probing.choice {
                Choice::At(known) => Choice::At(known.min(at)),
                _ => Choice::At(at),
            };
        }
    }

    /// Does all that is due.
    pub(super) fn drive(&mut self, now: Instant) {
        while let Some(due) = self.pairs.due(now) {
            let ttl = due.opens.then(|| self.opener_ttl());
            self.ping(due.socket, due.remote, ttl, false, now);
        }
        self.drive_guessing(now);
        self.drive_choice(now);
        self.drive_end(now);
    }

    fn drive_guessing(&mut self, now: Instant) {
        while let Phase::Probing(probing) = &mut self.phase
            && let Some(Shot { socket, to, ttl }) = probing.volley.due(now)
        {
            self.ping(socket, to, ttl, false, now);
        }
        let Phase::Probing(probing) = &mut self.phase else { return };
        match probing.guessing {
            Guessing::OpensAt(at) if now >= at => {
                probing.guessing = Guessing::Binding;
                self.actions.push_back(Action::Bind { count: spray::SOCKETS });
            }
            Guessing::TellsAt(at) if now >= at => {
                probing.guessing = Guessing::Under;
                probing.ends = now + spray::DURATION + 2 * SPRAY_GRACE;
                if self.role == Role::Responder {
                    probing.ends += RESPONDER_PATIENCE;
                }
                self.tell(PunchMessage::Spray { round: self.round });
            }
            _ => {}
        }
    }

    fn drive_choice(&mut self, now: Instant) {
        let best = self.pairs.best().map(|best| (best.socket, best.remote));
        let Phase::Probing(probing) = &mut self.phase else { return };
        if let (Choice::At(at), Some((socket, remote))) = (&probing.choice, best)
            && now >= *at
        {
            probing.choice = Choice::Nominated { socket, remote, next: now, until: now + NOMINATE_FOR };
        }
        if let Choice::Nominated { socket, remote, next, until } = &mut probing.choice {
            if now >= *until {
                return self.fail(Failure::PathLost);
            }
            if now >= *next {
                *next = now + NOMINATE_EVERY;
                let (socket, remote) = (*socket, *remote);
                self.ping(socket, remote, None, true, now);
            }
        }
    }

    fn drive_end(&mut self, now: Instant) {
        let Phase::Probing(probing) = &self.phase else { return };
        if now < probing.ends || !matches!(probing.choice, Choice::None) {
            return;
        }
        if self.role == Role::Responder {
            return self.fail(Failure::PeerSilent);
        }
        match self.verdict() {
            Failure::NoAnswer { sprayed, mine, theirs, .. }
                if self.round < MAX_ROUNDS && (!sprayed || self.sprays_in(self.round + 1, mine, theirs)) =>
            {
                self.tell(PunchMessage::End { round: self.round });
                self.begin_round(self.round + 1, now);
            }
            failure => self.fail(failure),
        }
    }

    fn found(&mut self, found: Found) {
        self.close_all_but(Some(found.socket));
        self.phase = Phase::Found(found);
        self.actions.push_back(Action::Found(found));
    }

    fn ping(&mut self, socket: SocketId, to: SocketAddr, ttl: Option<u32>, nominates: bool, now: Instant) {
        let transaction = self.draw.number();
        let measured = self.pairs.find(socket, to).and_then(|index| self.pairs.get_mut(index)?.round_trip);
        let probe = Probe {
            kind: ProbeKind::Ping,
            nominates,
            round: self.round as u8,
            transaction,
            round_trip_us: measured
                .map_or(0, |measured| u32::try_from(measured.as_micros()).unwrap_or(u32::MAX)),
            observed: None,
        };
        self.transactions.insert(transaction, Ping { socket, to, at: now, nominates });
        self.send(socket, to, &probe, ttl);
    }

    fn pong(&mut self, socket: SocketId, to: SocketAddr, ping: &Probe) {
        let probe = Probe { kind: ProbeKind::Pong, round_trip_us: 0, observed: Some(to), ..*ping };
        self.send(socket, to, &probe, None);
    }

    fn send(&mut self, socket: SocketId, to: SocketAddr, probe: &Probe, ttl: Option<u32>) {
        let datagram = self.channel.as_mut().and_then(|(sealer, _)| sealer.seal(probe));
        if let Some(datagram) = datagram.filter(|_| self.actions.len() < MAX_ACTIONS) {
            self.actions.push_back(Action::Send { socket, to, datagram, ttl });
        }
    }
}
