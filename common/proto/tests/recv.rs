//! The receiving half against a model of it, and both halves against a peer that sends what it likes.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::{Duration, Instant};
use tun_proto::limits::{CHUNK_OVERHEAD, MAX_DATA, MAX_WINDOW};
use tun_proto::session::budget::Budget;
use tun_proto::session::recv::{Next, RecvHalf};
use tun_proto::session::stream::Stream;
use tun_proto::wire::login::Id;
use tun_proto::wire::stream::{Attach, AttachMode, Frame, ResetCode};

/// Bytes of the stream that the model compares with.
const LEN: usize = 400;

fn byte_at(offset: usize) -> u8 {
    (offset * 31 + offset / 256) as u8
}

/// What happens to a receiving half.
#[derive(Debug, Clone)]
enum Step {
    Piece(usize, usize),
    Take(usize),
    Fin,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..LEN, 1..60usize).prop_map(|(at, len)| Step::Piece(at, len.min(LEN - at))),
        2 => (1..80usize).prop_map(Step::Take),
        1 => Just(Step::Fin),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn overlapping_pieces_come_out_once_and_in_order(steps in vec(step(), 0..120)) {
        let now = start();
        let mut half = RecvHalf::default();
        let mut known = [false; LEN];
        let (mut taken, mut fin) = (0, false);
        for step in steps {
            match step {
                Step::Piece(at, len) => {
                    let bytes: Vec<u8> = (at..at + len).map(byte_at).collect();
                    prop_assert_eq!(half.handle_data(at as u64, Bytes::from(bytes), at % 3 == 0), Ok(()));
                    known[at..at + len].fill(true);
                }
                Step::Take(len) => {
                    if let Some(Next::Data(data)) = half.next() {
                        let len = len.min(data.len());
                        prop_assert!(data[..len].iter().enumerate().all(|(i, b)| *b == byte_at(taken + i)));
                        half.consume(len, now);
                        taken += len;
                    }
                }
                Step::Fin => {
                    prop_assert_eq!(half.handle_fin(LEN as u64), Ok(()));
                    fin = true;
                }
            }
            let in_order = known.iter().position(|known| !known).unwrap_or(LEN);
            let end = u64::from(fin && in_order == LEN);
            prop_assert_eq!(half.received(), in_order as u64 + end);
            let held = known.iter().filter(|known| **known).count() - taken;
            prop_assert_eq!(half.held(), held as u64);
            match half.next() {
                Some(Next::Data(_)) => prop_assert!(taken < in_order),
                Some(Next::Fin) => prop_assert!(fin && taken == LEN),
                next => prop_assert!(next.is_none() && taken == in_order && !(fin && taken == LEN)),
            }
        }
    }
}

/// What a peer that respects nothing may send, and what the application does meanwhile.
#[derive(Debug, Clone)]
enum Attack {
    Attach(u32, AttachMode, u64),
    Lose(u32),
    Frame(u32, Frame),
    Read,
    Write,
    Finish,
    Abort,
    Wait(u64),
}

/// Offsets at and around everything that matters.
fn offset() -> impl Strategy<Value = u64> {
    let near = prop_oneof![Just(0), Just(100), Just(MAX_WINDOW), Just(u64::from(u32::MAX)), Just(u64::MAX)];
    prop_oneof![
        4 => 0..300u64,
        1 => (near, -3..4i64).prop_map(|(at, by)| at.saturating_add_signed(by)),
        1 => any::<u64>(),
    ]
}

fn attack() -> impl Strategy<Value = Attack> {
    let mode = prop_oneof![Just(AttachMode::Resend), Just(AttachMode::Switch)];
    let code = prop_oneof![Just(ResetCode::Aborted), Just(ResetCode::Protocol)];
    let len = prop_oneof![30 => 1..50usize, 1 => Just(MAX_DATA)];
    let frame = prop_oneof![
        2 => offset().prop_map(|received| Frame::Attached { received }),
        8 => (offset(), len).prop_map(|(offset, len)| Frame::Data { offset, payload: Bytes::from(vec![0; len]), prompt: offset % 2 == 0 }),
        3 => offset().prop_map(|offset| Frame::Ack { offset }),
        1 => offset().prop_map(|offset| Frame::Fin { offset }),
        1 => (offset(), code).prop_map(|(offset, code)| Frame::Reset { offset, code }),
        3 => offset().prop_map(|offset| Frame::Switch { offset }),
        1 => Just(Frame::Unknown),
    ];
    let epoch = || prop_oneof![9 => 0..6u32, 1 => (u32::MAX - 2)..=u32::MAX];
    prop_oneof![
        3 => (epoch(), mode, offset()).prop_map(|(epoch, mode, received)| Attack::Attach(epoch, mode, received)),
        1 => epoch().prop_map(Attack::Lose),
        20 => (epoch(), frame).prop_map(|(epoch, frame)| Attack::Frame(epoch, frame)),
        3 => Just(Attack::Read),
        3 => Just(Attack::Write),
        1 => Just(Attack::Finish),
        1 => Just(Attack::Abort),
        1 => (0..10_000u64).prop_map(Attack::Wait),
    ]
}

fn read(stream: &mut Stream, now: Instant) {
    match stream.next(now) {
        Some(Next::Data(data)) => {
            let len = data.len();
            stream.consume(len, now);
        }
        Some(Next::Fin | Next::Reset(_)) => stream.consume_end(now),
        None => {}
    }
}

fn write(stream: &mut Stream) {
    let room = stream.room().min(100);
    stream.push(bytes::BytesMut::zeroed(tun_proto::limits::DATA_HEADROOM + room));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_peer_makes_a_stream_panic_or_hold_too_much(opener: bool, attacks in vec(attack(), 0..150)) {
        let mut now = start();
        let budget = Budget::new(1 << 20);
        let id = Id([3; 16]);
        let mut stream = match opener {
            true => Stream::open(id, Bytes::from_static(b"meta"), budget.clone()),
            false => Stream::accept(id, budget.clone()),
        };
        // What a driver does about a violation is to abort the stream; here it goes on, which is worse.
        for attack in attacks {
            match attack {
                Attack::Attach(_, mode, _) if opener => drop(stream.attach(mode)),
                Attack::Attach(epoch, mode, received) => {
                    let _ = stream.handle_attach(&Attach { stream: id, epoch, mode, received, meta: Bytes::new() }, now);
                }
                Attack::Lose(epoch) => stream.handle_lost(epoch),
                Attack::Frame(epoch, frame) => drop(stream.handle_frame(epoch, frame, now)),
                Attack::Read => read(&mut stream, now),
                Attack::Write => write(&mut stream),
                Attack::Finish => stream.finish(),
                Attack::Abort => stream.abort(ResetCode::Aborted, now),
                Attack::Wait(millis) => now += Duration::from_millis(millis),
            }
            for epoch in (0..6).chain((u32::MAX - 2)..=u32::MAX) {
                // At most the greeting, everything that is written, an acknowledgement, an end and a farewell.
                let sent = (0..).take_while(|_| stream.poll_transmit(epoch, now).is_some()).take(1_000).count();
                prop_assert!(sent < 1_000, "a stream that never has enough");
            }
            while stream.poll_detached().is_some() {}
            prop_assert!(stream.held().1 <= MAX_WINDOW + MAX_DATA as u64);
            let _ = (stream.is_closed(), stream.epitaph(), stream.poll_timeout(true), stream.wants_attachment());
        }
        drop(stream);
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn tiny_pieces_are_charged_for_what_they_cost() {
    for gap in [1, 2] {
        let mut half = RecvHalf::default();
        let most = MAX_WINDOW / CHUNK_OVERHEAD + MAX_DATA as u64;
        let refused =
            (0..most).position(|i| half.handle_data(i * gap, Bytes::from_static(b"x"), false).is_err());
        let pieces = refused.unwrap() as u64;
        assert!(
            pieces * (1 + CHUNK_OVERHEAD) >= MAX_WINDOW,
            "an honest sender may have {pieces} pieces under way"
        );
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "an Instant can be had from the clock only; the rest is virtual time"
)]
fn start() -> Instant {
    Instant::now()
}
