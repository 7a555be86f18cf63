//! Which networks find a direct path to which, and which do not and why: with simulated NATs of every kind.

mod internet;

use internet::site::Kind::{
    self, AddressRestricted, Blocked, CarrierGrade, FullCone, Ipv6, PortRestricted, Public, Random,
    Sequential,
};
use internet::{Outcome, Trial, run};
use std::time::Duration;
use tun_proto::p2p::punch::{Failure, MAX_DURATION, MAX_PAIRS, MAX_SPRAYS, SPRAY_PORTS, Side};

const EASY: [Kind; 5] = [Public, FullCone, AddressRestricted, PortRestricted, CarrierGrade];
const SEEDS: u64 = 25;
/// What a path between easy networks may take, with a relay of 50 ms one way.
const SOON: Duration = Duration::from_millis(700);
/// The same where only one end's probes can get through at first.
const SOON_ENOUGH: Duration = Duration::from_millis(800);

/// Runs trials of both directions and all seeds; those that ended in another way than `wanted` are returned.
fn runs(kinds: [Kind; 2], change: impl Fn(&mut Trial)) -> Vec<(Trial, Outcome)> {
    let mut outcomes = Vec::new();
    for [left, right] in [kinds, [kinds[1], kinds[0]]] {
        for seed in 0..SEEDS {
            let mut trial = Trial::new(left, right, seed * 31);
            change(&mut trial);
            outcomes.push((trial.clone(), run(trial)));
        }
    }
    outcomes
}

/// All runs must lead to a path within `within`; says how long they took.
fn all_direct(kinds: [Kind; 2], within: Duration, change: impl Fn(&mut Trial)) {
    let mut took = Vec::new();
    for (trial, outcome) in runs(kinds, change) {
        assert!(outcome.is_direct(), "{trial:?} ended with {:?}", outcome.ends);
        took.push((outcome.took, trial.seed, trial.kinds, outcome.rounds));
    }
    took.sort_by_key(|took| took.0);
    let (median, slowest) = (&took[took.len() / 2], &took[took.len() - 1]);
    println!("{kinds:?}: {:?} in the median, {:?} at most", median.0, slowest.0);
    assert!(slowest.0 <= within, "too slow: {slowest:?}");
}

fn pairs<'a>(left: &'a [Kind], right: &'a [Kind]) -> impl Iterator<Item = [Kind; 2]> + 'a {
    left.iter().flat_map(|left| right.iter().map(|right| [*left, *right]))
}

#[test]
fn easy_networks_find_each_other_soon() {
    pairs(&EASY, &EASY).for_each(|kinds| all_direct(kinds, SOON, |_| ()));
}

#[test]
fn easy_networks_find_each_other_through_routers_that_unsolicited_packets_upset() {
    pairs(&EASY, &EASY).for_each(|kinds| all_direct(kinds, SOON, |trial| trial.poisonable = true));
}

#[test]
fn it_does_not_matter_that_one_side_begins_a_second_late() {
    let second = Duration::from_secs(1);
    for late in [[second, Duration::ZERO], [Duration::ZERO, second]] {
        pairs(&EASY, &EASY).for_each(|kinds| {
            all_direct(kinds, SOON, |trial| {
                trial.late = late;
                trial.poisonable = true;
            });
        });
    }
}

#[test]
fn a_slow_relay_does_not_make_the_ends_begin_apart() {
    let slow = Duration::from_millis(400);
    for (trial, outcome) in runs([PortRestricted, PortRestricted], |trial| {
        trial.relay = [slow; 2];
        trial.poisonable = true;
    }) {
        assert!(outcome.is_direct() && outcome.rounds == 1, "{trial:?}: {:?}", outcome.ends);
    }
}

#[test]
fn where_the_relay_is_slow_in_one_direction_a_later_round_waits_for_the_later_end() {
    let [quick, slow] = [20, 400].map(Duration::from_millis);
    for relay in [[quick, slow], [slow, quick]] {
        for (trial, outcome) in runs([PortRestricted, PortRestricted], |trial| {
            trial.relay = relay;
            trial.poisonable = true;
        }) {
            assert!(outcome.is_direct(), "{trial:?}: {:?}", outcome.ends);
        }
    }
}

#[test]
fn a_symmetric_nat_reaches_whoever_accepts_other_ports() {
    let open = [Public, FullCone, AddressRestricted];
    pairs(&[Random, Sequential], &open).for_each(|kinds| all_direct(kinds, SOON_ENOUGH, |_| ()));
    pairs(&[Random, Sequential], &open)
        .for_each(|kinds| all_direct(kinds, SOON_ENOUGH, |trial| trial.poisonable = true));
}

#[test]
fn the_next_port_of_a_nat_that_counts_is_foreseen() {
    for poisonable in [false, true] {
        pairs(&[Sequential], &[PortRestricted, CarrierGrade])
            .for_each(|kinds| all_direct(kinds, SOON_ENOUGH, |trial| trial.poisonable = poisonable));
    }
}

#[test]
fn a_random_port_is_found_by_trying_many() {
    for kinds in pairs(&[Random], &[PortRestricted, CarrierGrade]) {
        for poisonable in [false, true] {
            let outcomes = runs(kinds, |trial| trial.poisonable = poisonable);
            let direct = outcomes.iter().filter(|(_, outcome)| outcome.is_direct()).count();
            let mut took: Vec<Duration> = outcomes.iter().map(|(_, outcome)| outcome.took).collect();
            took.sort();
            println!(
                "{kinds:?}: {direct} of {} direct, {:?} in the median",
                took.len(),
                took[took.len() / 2]
            );
            assert_eq!(direct, outcomes.len(), "{kinds:?}");
            let at_once = outcomes.iter().filter(|(_, outcome)| outcome.rounds == 1).count();
            assert!(at_once * 25 >= outcomes.len() * 24, "{kinds:?}: {at_once} of {}", outcomes.len());
            for (trial, outcome) in &outcomes {
                let most = Duration::from_secs(12) * outcome.rounds;
                assert!(outcome.took < most, "{trial:?}: {:?}", outcome.took);
                assert!(outcome.rounds <= MAX_SPRAYS);
                let most = outcome.rounds as usize * (SPRAY_PORTS + MAX_PAIRS);
                assert!(outcome.probed.iter().all(|probed| probed.len() <= most));
            }
        }
    }
}

#[test]
fn ports_are_guessed_only_if_both_sides_agree() {
    for spray in [[false, true], [true, false], [false, false]] {
        for (trial, outcome) in runs([Random, PortRestricted], |trial| trial.spray = spray) {
            assert!(
                matches!(outcome.ends[0], Some(Err(Failure::NoAnswer { sprayed: false, .. }))),
                "{trial:?}: {:?}",
                outcome.ends
            );
            assert!(outcome.probed.iter().all(|probed| probed.len() <= MAX_PAIRS));
        }
    }
}

#[test]
fn two_symmetric_nats_fail_soon_and_say_so() {
    for kinds in [[Random, Random], [Random, Sequential], [Sequential, Sequential]] {
        for (trial, outcome) in runs(kinds, |_| ()) {
            let both = Some(Err(Failure::BothSymmetric));
            assert_eq!(outcome.ends, [both, both], "{trial:?}");
            assert!(outcome.took < Duration::from_secs(3) && outcome.rounds == 1);
        }
    }
}

#[test]
fn blocked_udp_is_named_with_its_side() {
    let of = |side| Some(Err(Failure::UdpBlocked { side }));
    for other in [Public, FullCone, PortRestricted, CarrierGrade, Random] {
        for (trial, outcome) in runs([Blocked, other], |_| ()) {
            let sides = if trial.kinds[0] == Blocked {
                [Side::Mine, Side::Theirs]
            } else {
                [Side::Theirs, Side::Mine]
            };
            assert_eq!(outcome.ends, sides.map(of), "{trial:?}");
            assert!(outcome.took < Duration::from_secs(3));
        }
    }
    for (trial, outcome) in runs([Blocked, Blocked], |_| ()) {
        assert_eq!(outcome.ends, [of(Side::Both); 2], "{trial:?}");
    }
}

#[test]
fn ipv6_leads_past_nats_that_nobody_gets_through() {
    for (trial, outcome) in runs([Ipv6, Ipv6], |_| ()) {
        assert!(outcome.is_direct() && outcome.took < SOON, "{trial:?}: {:?}", outcome.ends);
        assert!(matches!(outcome.ends[0], Some(Ok(found)) if found.remote.is_ipv6()));
    }
}

#[test]
fn hosts_of_one_network_find_each_other_whatever_its_nat_does() {
    for kind in [PortRestricted, CarrierGrade, Random, Sequential, Blocked] {
        for (trial, outcome) in runs([kind, kind], |trial| trial.same_site = true) {
            assert!(outcome.is_direct() && outcome.took < SOON, "{trial:?}: {:?}", outcome.ends);
            assert!(
                matches!(outcome.ends[0], Some(Ok(found)) if found.round_trip < Duration::from_millis(2))
            );
        }
    }
}

#[test]
fn lost_datagrams_are_sent_again() {
    let within = Duration::from_secs(8);
    for kinds in pairs(&[PortRestricted], &[Public, FullCone, PortRestricted, CarrierGrade]) {
        all_direct(kinds, within, |trial| trial.loss = 20);
    }
}

#[test]
fn a_peer_that_falls_silent_ends_the_attempt() {
    for silent in 0..2 {
        for after in 0..6 {
            let mut trial = Trial::new(PortRestricted, PortRestricted, 5);
            trial.mute_after[silent] = after;
            let outcome = run(trial);
            assert!(outcome.took <= MAX_DURATION, "{:?}", outcome.took);
        }
    }
}
