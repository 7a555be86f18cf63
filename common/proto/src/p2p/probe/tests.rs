//! Probes: nobody but the peer makes one, and none counts twice.

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn ping(transaction: u64) -> Probe {
    let observed = Some("203.0.113.7:4000".parse().unwrap());
    Probe { kind: ProbeKind::Ping, nominates: true, round: 2, transaction, round_trip_us: 41, observed }
}

fn ends() -> ((Sealer, Opener), (Sealer, Opener)) {
    (channel(&[7; 32], true).unwrap(), channel(&[7; 32], false).unwrap())
}

#[test]
fn a_probe_arrives_as_it_was_sent_in_both_directions() {
    let ((mut one, mut from_other), (mut other, mut from_one)) = ends();
    let v6 = Probe { observed: Some("[2001:db8::1]:9".parse().unwrap()), ..ping(u64::MAX) };
    let none = Probe { observed: None, kind: ProbeKind::Pong, nominates: false, ..ping(0) };
    for probe in [ping(1), v6, none] {
        assert_eq!(from_one.open(&one.seal(&probe).unwrap()), Some(probe));
        assert_eq!(from_other.open(&other.seal(&probe).unwrap()), Some(probe));
    }
}

#[test]
fn a_probe_looks_like_neither_quic_nor_stun() {
    for secret in 0..=255 {
        let (mut sealer, _) = channel(&[secret; 32], true).unwrap();
        let datagram = sealer.seal(&ping(1)).unwrap();
        assert_eq!(datagram.len(), PROBE_LEN);
        assert!((64..=120).contains(&datagram.len()));
        assert_eq!(datagram[0] & 0xc0, 0);
        assert_ne!(datagram[4..8], STUN_COOKIE);
    }
}

#[test]
fn a_repeated_or_reflected_or_foreign_probe_is_nothing() {
    let ((mut one, mut from_other), (_, mut from_one)) = ends();
    let datagram = one.seal(&ping(1)).unwrap();
    assert_eq!(from_other.open(&datagram), None, "reflected");
    assert!(from_one.open(&datagram).is_some());
    assert_eq!(from_one.open(&datagram), None, "repeated");
    let (mut stranger, _) = channel(&[8; 32], true).unwrap();
    assert_eq!(from_one.open(&stranger.seal(&ping(1)).unwrap()), None, "foreign");
}

#[test]
fn a_reflected_probe_fails_even_under_the_right_tag() {
    let ((mut one, mut from_other), _) = ends();
    let mut datagram = one.seal(&ping(1)).unwrap().to_vec();
    datagram[1..1 + TAG].copy_from_slice(&from_other.tag);
    assert_eq!(from_other.open(&datagram), None);
}

#[test]
fn a_forgery_does_not_use_up_the_counter_it_names() {
    let ((mut one, _), (_, mut from_one)) = ends();
    let datagram = one.seal(&ping(1)).unwrap();
    for place in 0..PROBE_LEN {
        for mask in [1, 0x80, 0xff] {
            let mut forged = datagram.to_vec();
            forged[place] ^= mask;
            assert_eq!(from_one.open(&forged), None, "byte {place}");
        }
    }
    assert!(from_one.open(&datagram).is_some());
}

#[test]
fn late_probes_count_within_the_window_and_not_behind_it() {
    let ((mut one, _), (_, mut from_one)) = ends();
    let sealed: Vec<Bytes> = (0..3 * REPLAY_WINDOW).map(|n| one.seal(&ping(n)).unwrap()).collect();
    let newest = 2 * REPLAY_WINDOW as usize;
    assert!(from_one.open(&sealed[newest]).is_some());
    let oldest = newest + 1 - REPLAY_WINDOW as usize;
    assert!(from_one.open(&sealed[oldest - 1]).is_none());
    assert!(from_one.open(&sealed[oldest]).is_some());
    assert!(from_one.open(&sealed[oldest]).is_none());
    assert!(from_one.open(&sealed[oldest + 1]).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_taken_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (_, (_, mut from_one)) = ends();
        prop_assert_eq!(from_one.open(&bytes), None);
        let mut dressed = bytes;
        dressed.resize(PROBE_LEN, 0);
        dressed[0] = FIRST_BYTE;
        let tag = from_one.tag;
        dressed[1..1 + TAG].copy_from_slice(&tag);
        prop_assert_eq!(from_one.open(&dressed), None);
    }

    #[test]
    fn any_contents_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Some(probe) = Probe::decode(&bytes) {
            prop_assert_eq!(Probe::decode(&probe.encode()), Some(probe));
        }
    }

    #[test]
    fn no_counter_is_accepted_twice_in_any_order(steps in prop::collection::vec(-1500i64..1500, 1..300)) {
        let mut window = Window::default();
        let mut accepted = HashSet::new();
        let (mut at, mut highest) = (0i64, -1);
        for step in steps {
            at = (at + step).max(0);
            let counter = at as u64;
            let fresh = window.is_new(counter);
            let remembered = at > highest - REPLAY_WINDOW as i64;
            prop_assert_eq!(fresh, remembered && !accepted.contains(&counter));
            if fresh {
                window.mark(counter);
                accepted.insert(counter);
                highest = highest.max(at);
            }
        }
        prop_assert!(!window.is_new(u64::MAX));
    }
}
