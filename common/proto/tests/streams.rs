//! Streams under any schedule of link deaths, switches, hedges, slow readers and aborts; see [`sim`].
//!
//! A schedule that fails is named by its seed and can be run alone:
//! `TUN_SIM_SEED=1234 cargo test -p tun-proto --test streams -- --nocapture`.
//! `TUN_SIM_SCHEDULES` sets how many are tried, `TUN_SIM_FIRST` the seed of the first.

mod sim;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use sim::choices::Choices;
use sim::{Outcome, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tun_proto::limits::DATA_HEADROOM;
use tun_proto::session::budget::Budget;
use tun_proto::session::recv::Next;
use tun_proto::session::stream::{Stream, Transmit};
use tun_proto::wire::login::Id;
use tun_proto::wire::stream::{Attach, AttachMode, Frame, ResetCode};

/// Schedules tried unless the environment says otherwise.
const SCHEDULES: u64 = 100_000;

#[test]
fn streams_keep_their_promises_under_any_schedule() {
    if let Some(seed) = number("TUN_SIM_SEED") {
        return report(seed, run(Choices::seeded(seed), start(), true));
    }
    let first = number("TUN_SIM_FIRST").unwrap_or(0);
    let last = first + number("TUN_SIM_SCHEDULES").unwrap_or(SCHEDULES);
    let next = AtomicU64::new(first);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last {
                        return;
                    }
                    if run(Choices::seeded(seed), start(), false).fault.is_some() {
                        next.store(last, Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap();
                        *failed = Some(failed.map_or(seed, |other: u64| other.min(seed)));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    if let Some(seed) = failed {
        report(seed, run(Choices::seeded(seed), start(), true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same for schedules made up by proptest.
    #[test]
    fn streams_keep_their_promises_under_any_tape(tape in proptest::collection::vec(any::<u32>(), 0..2_000)) {
        let outcome = run(Choices::taped(tape), start(), false);
        prop_assert!(outcome.fault.is_none(), "{}", outcome.fault.unwrap_or_default());
    }
}

#[test]
fn a_switch_from_an_attachment_that_is_lost_is_announced_as_a_new_start() {
    let mode = |before: &[u32], after: &[u32]| {
        let mut stream = Stream::open(Id([1; 16]), Bytes::from_static(b"meta"), Budget::new(0));
        let old = stream.attach(AttachMode::Resend);
        before.iter().for_each(|&epoch| stream.handle_lost(epoch));
        let new = stream.attach(AttachMode::Switch);
        after.iter().for_each(|&epoch| stream.handle_lost(epoch));
        assert_eq!((old, new), (0, 1));
        match stream.poll_transmit(new, start()) {
            Some(Transmit::Attach(attach)) => attach.mode,
            other => unreachable!("{other:?}"),
        }
    };
    assert_eq!(mode(&[], &[]), AttachMode::Switch);
    assert_eq!(mode(&[0], &[]), AttachMode::Resend);
    assert_eq!(mode(&[], &[0]), AttachMode::Resend);
}

#[test]
fn a_failure_is_delivered_once_and_leaves_nothing_behind() {
    let now = start();
    for (aborted, told) in [(false, true), (true, false)] {
        let budget = Budget::new(1 << 20);
        let mut stream = Stream::accept(Id([1; 16]), budget.clone());
        let (epoch, mode, meta) = (0, AttachMode::Resend, Bytes::new());
        let attach = Attach { stream: Id([1; 16]), epoch, mode, received: 0, meta };
        stream.handle_attach(&attach, now).unwrap();
        stream.push(BytesMut::zeroed(DATA_HEADROOM + 10));
        stream
            .handle_frame(0, Frame::Data { offset: 0, payload: Bytes::from_static(b"x"), prompt: false }, now)
            .unwrap();
        stream.handle_frame(0, Frame::Reset { offset: 2, code: ResetCode::Aborted }, now).unwrap();
        if aborted {
            stream.abort(ResetCode::Aborted, now);
        }
        stream.fail(ResetCode::SessionOver);
        assert_eq!(stream.next(now), told.then_some(Next::Reset(ResetCode::SessionOver)));
        stream.consume_end(now);
        assert_eq!(stream.next(now), None);
        assert!(stream.is_closed() && stream.epitaph().is_none());
        assert_eq!((stream.held(), stream.room(), stream.poll_timeout(true)), ((0, 0), 0, None));
        assert_eq!(budget.used(), 0);
        // Should the opener come back before the stream is dropped, it is told.
        stream.handle_attach(&Attach { epoch: 1, ..attach }, now).unwrap();
        let sent: Vec<_> = std::iter::from_fn(|| stream.poll_transmit(1, now)).collect();
        assert_eq!(sent.last(), Some(&Transmit::Frame(Frame::Unknown)));
    }
}

/// Fails if the run did: with the trace of the shortest schedule that can be found to fail alike.
fn report(seed: u64, outcome: Outcome) {
    let Some(fault) = outcome.fault else {
        return println!("{}\nseed {seed}: no fault in {:?}", outcome.trace.join("\n"), outcome.lasted);
    };
    let shrunk = run(Choices::taped(shrink(outcome.tape, kind(&fault))), start(), true);
    println!("shrunk:\n{}\n{}", shrunk.trace.join("\n"), shrunk.fault.clone().unwrap_or_default());
    assert!(shrunk.fault.is_none(), "seed {seed}: {fault}\nrun it alone with TUN_SIM_SEED={seed}");
}

/// A fault without its numbers.
fn kind(fault: &str) -> &str {
    let text = fault.trim_start_matches(|c: char| !c.is_alphabetic());
    text.split(|c: char| c.is_ascii_digit() || c == ':').next().unwrap_or(text)
}

/// Leaves out of a failing tape whatever it fails without, and makes small what need not be large.
fn shrink(mut tape: Vec<u32>, fault: &str) -> Vec<u32> {
    let fails = |tape: &[u32]| {
        let outcome = run(Choices::taped(tape.to_vec()), start(), false);
        outcome.fault.is_some_and(|other| kind(&other) == fault)
    };
    for size in
        std::iter::successors(Some(tape.len() / 2), |size| Some(size / 2)).take_while(|size| *size > 0)
    {
        let mut at = 0;
        while at < tape.len() {
            let mut shorter = tape.clone();
            shorter.drain(at..tape.len().min(at + size));
            if fails(&shorter) {
                tape = shorter;
            } else {
                at += size;
            }
        }
    }
    for at in 0..tape.len() {
        let was = std::mem::take(&mut tape[at]);
        if !fails(&tape) {
            tape[at] = was;
        }
    }
    tape
}

#[allow(
    clippy::disallowed_methods,
    reason = "an Instant can be had from the clock only; the rest is virtual time"
)]
fn start() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "which schedules to run is an argument of the test")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
