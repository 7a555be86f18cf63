//! What an attempt does with a peer, or a stranger, that means harm.

use proptest::prelude::*;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tun_proto::p2p::candidate::{self, Candidate, CandidateKind};
use tun_proto::p2p::probe::{self, Probe, ProbeKind};
use tun_proto::p2p::punch::{
    Action, Config, Gathered, MAX_DURATION, MAX_PAIRS, MAX_SPRAYS, Offer, Punch, PunchMessage, Role,
    SPRAY_PORTS,
};

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    Instant::now()
}

fn punch(role: Role, now: Instant) -> Punch {
    Punch::new(Config { role, secret: [9; 32], spray: true, entropy: [1; 32] }, now)
}

fn address(number: u32) -> SocketAddr {
    SocketAddr::from(([203, (number >> 16) as u8, (number >> 8) as u8, number as u8], 4000))
}

/// Some sockets, of which a server saw the first as `reflexive`.
fn gathered(reflexive: Vec<SocketAddr>) -> Vec<Gathered> {
    let local = SocketAddr::from(([192, 168, 1, 2], 4000));
    let candidates = vec![Candidate { address: local, kind: CandidateKind::Host }];
    let first = Gathered { socket: 1, local, candidates, reflexive };
    let more = (2..7).map(|socket| Gathered { socket, reflexive: Vec::new(), ..first.clone() });
    [first.clone()].into_iter().chain(more).collect()
}

/// Lets time pass until the attempt rests or `until` is reached; what it did.
fn pass(punch: &mut Punch, now: &mut Instant, until: Instant) -> Vec<Action> {
    let mut actions = Vec::new();
    loop {
        actions.extend(std::iter::from_fn(|| punch.poll_action()));
        match punch.poll_timeout() {
            Some(next) if next <= until => {
                *now = (*now).max(next);
                punch.handle_timeout(*now);
            }
            _ => return actions,
        }
    }
}

fn targets(actions: &[Action]) -> HashSet<SocketAddr> {
    let to = |action: &Action| match action {
        Action::Send { to, .. } => Some(*to),
        _ => None,
    };
    actions.iter().filter_map(to).collect()
}

/// A responder that probes, and what it did until then.
fn probing(candidates: Vec<Candidate>, now: Instant) -> Punch {
    let mut punch = punch(Role::Responder, now);
    punch.handle_gathered(1, gathered(vec![address(1), address(1)]), now);
    let offer = Offer { round: 1, candidates, reflexive: vec![address(2)], spray: true };
    punch.handle_message(PunchMessage::Offer(offer), now);
    punch.handle_message(PunchMessage::Go { round: 1, round_trip_ms: 10 }, now);
    punch
}

#[test]
fn hundreds_of_candidates_do_not_make_an_end_probe_hundreds_of_addresses() {
    let mut now = start();
    let flood = |from: u32, kind| (from..from + 300).map(move |n| Candidate { address: address(n), kind });
    let mut punch = probing(flood(100, CandidateKind::ServerReflexive).collect(), now);
    for batch in 1..20 {
        let candidates = flood(batch * 1000, CandidateKind::Mapped).collect();
        punch.handle_message(PunchMessage::Candidates { round: 1, candidates }, now);
    }
    let until = now + MAX_DURATION;
    let actions = pass(&mut punch, &mut now, until);
    let pair = |action: &Action| match action {
        Action::Send { socket, to, .. } => Some((*socket, *to)),
        _ => None,
    };
    let pairs = actions.iter().filter_map(pair).collect::<HashSet<_>>().len();
    assert!((8..=MAX_PAIRS).contains(&pairs), "{pairs}");
}

#[test]
fn what_is_not_from_the_peer_is_neither_answered_nor_remembered() {
    let mut now = start();
    let mut punch =
        probing(vec![Candidate { address: address(2), kind: CandidateKind::ServerReflexive }], now);
    let (mut peer, _) = probe::channel(&[9; 32], true).unwrap();
    let (mut reflected, _) = probe::channel(&[9; 32], false).unwrap();
    let (mut stranger, _) = probe::channel(&[8; 32], true).unwrap();
    let ping = Probe {
        kind: ProbeKind::Ping,
        nominates: true,
        round: 1,
        transaction: 5,
        round_trip_us: 0,
        observed: None,
    };
    let plain = Probe { nominates: false, ..ping };
    let first = peer.seal(&plain).unwrap();
    let mut until = now + Duration::from_millis(15);
    pass(&mut punch, &mut now, until);
    let old = Probe { round: 2, ..ping };
    for forged in [reflected.seal(&ping), stranger.seal(&ping), peer.seal(&old), Some(vec![5; 80].into())] {
        punch.handle_datagram(1, address(66), &forged.unwrap(), now);
        assert_eq!(punch.poll_action(), None);
    }
    punch.handle_datagram(6, address(66), &first, now);
    assert_eq!(punch.poll_action(), None, "not one of its sockets");
    punch.handle_datagram(1, address(2), &first, now);
    assert_eq!(targets(&pass(&mut punch, &mut now, until)), HashSet::from([address(2)]));
    punch.handle_datagram(1, address(66), &first, now);
    assert_eq!(punch.poll_action(), None, "repeated from elsewhere");
    until += MAX_DURATION;
    assert_eq!(targets(&pass(&mut punch, &mut now, until)), HashSet::from([address(2)]));
}

#[test]
fn a_peer_that_probes_from_everywhere_is_answered_and_not_chased() {
    let mut now = start();
    let mut punch =
        probing(vec![Candidate { address: address(2), kind: CandidateKind::ServerReflexive }], now);
    let (mut peer, _) = probe::channel(&[9; 32], true).unwrap();
    let kind = ProbeKind::Ping;
    let (mut answers, mut later) = (0, HashSet::new());
    for number in 100..400 {
        let ping =
            Probe { kind, nominates: false, round: 1, transaction: 5, round_trip_us: 0, observed: None };
        punch.handle_datagram(1, address(number), &peer.seal(&ping).unwrap(), now);
        while punch.poll_action().is_some() {
            answers += 1;
        }
    }
    assert!(answers <= 600, "at most an answer and a probe each: {answers}");
    let until = now + MAX_DURATION;
    later.extend(targets(&pass(&mut punch, &mut now, until)));
    assert!(later.len() <= MAX_PAIRS);
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<u8>()
            .prop_map(|last| IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]))
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn any_message() -> impl Strategy<Value = PunchMessage> {
    let kind = prop_oneof![
        Just(CandidateKind::Host),
        Just(CandidateKind::ServerReflexive),
        Just(CandidateKind::PeerReflexive),
        Just(CandidateKind::Mapped)
    ];
    let candidate = (any_address(), kind).prop_map(|(address, kind)| Candidate { address, kind });
    let candidates = prop::collection::vec(candidate, 0..200).boxed();
    let round = prop_oneof![4 => 1..=3u32, 1 => any::<u32>()];
    let reflexive = prop_oneof![
        prop::collection::vec(any_address(), 0..9),
        prop::collection::vec(1..=u16::MAX, 1..4).prop_map(|ports| ports
            .into_iter()
            .map(|port| SocketAddr::from(([203, 0, 113, 9], port)))
            .collect()),
    ];
    prop_oneof![
        4 => (round.clone(), candidates.clone(), reflexive, any::<bool>()).prop_map(|(round, candidates, reflexive, spray)|
            PunchMessage::Offer(Offer { round, candidates, reflexive, spray })),
        1 => (round.clone(), candidates).prop_map(|(round, candidates)| PunchMessage::Candidates { round, candidates }),
        1 => any::<u32>().prop_map(|id| PunchMessage::Echo { id }),
        2 => (0..6u32).prop_map(|id| PunchMessage::EchoReply { id }),
        2 => round.clone().prop_map(|round| PunchMessage::Ready { round }),
        3 => (round.clone(), any::<u32>()).prop_map(|(round, round_trip_ms)| PunchMessage::Go { round, round_trip_ms }),
        1 => round.clone().prop_map(|round| PunchMessage::Spray { round }),
        1 => round.prop_map(|round| PunchMessage::End { round }),
    ]
}

#[derive(Debug, Clone)]
enum Happening {
    Message(PunchMessage),
    Probe { from: SocketAddr, is_ping: bool, nominates: bool, round: u8, transaction: u64 },
    Noise(SocketAddr, Vec<u8>),
    Gathered(u32, Vec<SocketAddr>),
    Bound(u32),
    Time(u64),
}

fn any_happening() -> impl Strategy<Value = Happening> {
    let bytes = prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![
        6 => any_message().prop_map(Happening::Message),
        2 => (any_address(), any::<bool>(), 0..10u8, 0..4u8, any::<u64>()).prop_map(
            |(from, is_ping, nominates, round, transaction)| Happening::Probe {
                from, is_ping, nominates: nominates == 0, round, transaction
            }),
        1 => (any_address(), bytes).prop_map(|(from, bytes)| Happening::Noise(from, bytes)),
        3 => (1..4u32, prop::collection::vec(any_address(), 0..4)).prop_map(|(r, seen)| Happening::Gathered(r, seen)),
        1 => (0..400u32).prop_map(Happening::Bound),
        3 => (0..4000u64).prop_map(Happening::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_hostile_peer_can_neither_hang_an_attempt_nor_make_it_flood(
        happenings in prop::collection::vec(any_happening(), 0..60),
        initiates in any::<bool>(),
    ) {
        let mut now = start();
        let began = now;
        let role = if initiates { Role::Initiator } else { Role::Responder };
        let mut punch = punch(role, now);
        let (mut peer, _) = probe::channel(&[9; 32], !initiates).unwrap();
        let (mut answers, mut actions) = (0, Vec::new());
        for happening in happenings {
            match happening {
                Happening::Message(message) => punch.handle_message(message, now),
                Happening::Probe { from, is_ping, nominates, round, transaction } => {
                    let kind = if is_ping { ProbeKind::Ping } else { ProbeKind::Pong };
                    let probe = Probe { kind, nominates, round, transaction, round_trip_us: 0, observed: None };
                    punch.handle_datagram(1, from, &peer.seal(&probe).unwrap(), now);
                    answers += 2;
                }
                Happening::Noise(from, bytes) => punch.handle_datagram(1, from, &bytes, now),
                Happening::Gathered(round, reflexive) => punch.handle_gathered(round, gathered(reflexive), now),
                Happening::Bound(count) => punch.handle_bound((100..100 + count).collect(), now),
                Happening::Time(ms) => {
                    let until = now + Duration::from_millis(ms);
                    actions.extend(pass(&mut punch, &mut now, until));
                    now = until;
                }
            }
            actions.extend(std::iter::from_fn(|| punch.poll_action()));
        }
        let until = began + MAX_DURATION.max(now - began) + Duration::from_secs(1);
        actions.extend(pass(&mut punch, &mut now, until));
        prop_assert!(punch.is_over() && punch.poll_timeout().is_none());
        let ends = actions.iter().filter(|action| matches!(action, Action::Found(_) | Action::Failed(_))).count();
        prop_assert_eq!(ends, 1);
        // Three rounds of all pairs, with nominations, and all that guessing sends.
        let most = 3 * MAX_PAIRS * 10 + 100 + MAX_SPRAYS as usize * (SPRAY_PORTS + 512) + 3 * 69 + answers;
        let sent = actions.iter().filter(|action| matches!(action, Action::Send { .. })).count();
        prop_assert!(sent <= most, "{} datagrams", sent);
        prop_assert!(targets(&actions).iter().all(|to| to.is_ipv4() && candidate::is_usable(*to)));
    }
}
