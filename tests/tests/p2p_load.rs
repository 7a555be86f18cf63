//! Many connections between two peers at once, while their session moves from the relay to the direct path and back.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tun_tests::eventually::eventually;
use tun_tests::lab::Nat;
use tun_tests::p2p::exchange::{Exchange, exchange_all};
use tun_tests::p2p::storm::{Kind, Moves, Storm};
use tun_tests::p2p::{DIRECT, LOST, Peers, Plan, said};
use tun_tests::patience::{alone, transfer_patience, within};
use tun_tests::pattern::Pattern;
use tun_tests::program::Program;
use tun_tests::service::{Ended, Service};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Waits until both programs have no more files open than that.
async fn releases(peers: &Peers, visitor: &Program, most: [usize; 2]) -> [usize; 2] {
    eventually(&format!("at most {most:?} open files"), || {
        let now = [peers.client.open_files(), visitor.open_files()];
        std::future::ready((now[0] <= most[0] && now[1] <= most[1]).then_some(now))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_connections_move_to_the_direct_path_at_once_and_leave_nothing_behind() {
    const CONNECTIONS: u64 = 100;
    /// The session's own: a socket of the direct path at each end, and what a port mapping may need.
    const OF_THE_SESSION: usize = 3;
    let _turn = alone().await;
    let plan = Plan::new(Nat::PortRestricted, Nat::PortRestricted);
    let service = async |at| Service::start(at, |stream, _| Exchange::serve(stream)).await;
    let Some(peers) = Peers::start(plan, service).await else { return };
    let visitor = peers.visitor().await;
    let before = [peers.client.open_files(), visitor.open_files()];
    let started = Instant::now();
    exchange_all(&peers, 0..CONNECTIONS).await;
    let took = started.elapsed();
    let met = visitor.line(DIRECT).await.at - started;
    let ways = peers.ways();
    eprintln!("{CONNECTIONS} connections, {took:?} in all, direct after {met:?}: {ways:?}");
    // Some of it went either way, so that the connections were moved while they were busy.
    assert!(ways.relayed > 4 * MIB && ways.direct > 16 * MIB, "{ways:?}");
    assert_eq!(visitor.log().count(LOST), 0);
    let after = releases(&peers, &visitor, before.map(|files| files + OF_THE_SESSION)).await;
    exchange_all(&peers, CONNECTIONS..CONNECTIONS + 20).await;
    let at_last = releases(&peers, &visitor, after).await;
    eprintln!("open files of client and visitor: {before:?} before, {after:?} after, {at_last:?} at last");
}

/// Cuts and restores the path at random, and now and then makes a router forget everything.
async fn shake(peers: &Peers, moves: &mut Moves, duration: Duration, seed: u64) {
    let mut luck = Pattern::new(seed);
    let mut below = |n: u64| luck.word() % n;
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let mut pause = || Duration::from_millis(50 + below(451));
        let (cut_for, whole_for) = (pause(), pause());
        let cut = match below(3) {
            0 => peers.cut(),
            1 => peers.cut_towards_visitor(),
            _ => peers.cut_towards_client(),
        };
        moves.watch(peers, cut_for).await;
        if below(12) == 0 {
            let site = if below(2) == 0 { &peers.serving } else { peers.visiting() };
            site.forget_connections();
        }
        drop(cut);
        moves.watch(peers, whole_for).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_survive_a_minute_of_a_path_that_comes_and_goes_at_random() {
    const SEED: u64 = 20_261;
    const SHAKING: Duration = Duration::from_secs(60);
    const LEAST_MOVES: usize = 20;
    use Kind::{Download, Echo, Upload};
    let _turn = alone().await;
    let kinds = [Download, Upload, Echo, Download, Upload, Echo, Download, Upload];
    let storm = Storm::default();
    let serving = storm.clone();
    let service = async |at| Service::start(at, move |stream, _| serving.clone().serve(stream)).await;
    let plan = Plan::new(Nat::PortRestricted, Nat::PortRestricted);
    let Some(peers) = Peers::start(plan, service).await else { return };
    let visitor = peers.visit(&["-v", "--bind", "127.0.0.1:9000"]).start();
    visitor.line("listening on 127.0.0.1:9000").await;
    let before = [peers.client.resident_kib(), visitor.resident_kib()].map(|kib| kib * KIB);
    let visits: Vec<JoinHandle<_>> =
        kinds.map(|kind| tokio::spawn(storm.clone().visit(peers.entrance(), kind))).into();
    said(&visitor, DIRECT, 1, Duration::from_secs(20)).await;

    let mut moves = Moves::default();
    shake(&peers, &mut moves, SHAKING, SEED).await;
    assert!(visits.iter().all(|visit| !visit.is_finished()), "a connection broke");
    let arrived = storm.arrived();
    storm.end();
    let mut expected = Vec::new();
    for visit in visits {
        let ended = within(transfer_patience(), "the end of a connection", visit).await;
        expected.push(Ended::Properly(ended.expect("it does not panic").expect("it does not break")));
    }
    peers.service.nth_ended(kinds.len()).await;
    let mut reported = peers.service.ended();
    for ended in &expected {
        let at = reported.iter().position(|one| one == ended);
        reported.swap_remove(at.unwrap_or_else(|| panic!("the service reports no {ended:?}: {reported:?}")));
    }
    assert_eq!(peers.service.accepted(), kinds.len(), "a connection was made anew");

    let peak = [peers.client.peak_kib(), visitor.peak_kib()].map(|kib| kib * KIB);
    let grown = [peak[0] - before[0], peak[1] - before[1]];
    let log = visitor.log();
    eprintln!(
        "{} moves, {} times silent, {} lost; {} MiB arrived; memory grew by {:?} MiB from {:?} MiB",
        moves.count(),
        log.count("is silent"),
        log.count(LOST),
        arrived / MIB,
        grown.map(|bytes| bytes / MIB),
        before.map(|bytes| bytes / MIB),
    );
    assert!(moves.count() >= LEAST_MOVES, "it moved {} times only", moves.count());
    let most = most_memory(kinds.len() as u64);
    assert!(grown.iter().all(|grown| *grown <= most), "{grown:?} bytes more, {most} are allowed");
}

/// What a session may add to the memory of a program: what it sent and the peer has not acknowledged, what it got and
/// cannot deliver yet (both bounded by the budget), what the direct link holds of either direction beside that, and an
/// eighth for what the allocator keeps.
fn most_memory(streams: u64) -> u64 {
    /// Unacknowledged bytes that all streams of a session together may hold, in one direction.
    const SESSION_BUDGET: u64 = 64 * MIB;
    /// The same that each stream may hold in any case.
    const WINDOW_FLOOR: u64 = 16 * KIB;
    /// What QUIC may have received and not passed on.
    const LINK_RECEIVES: u64 = 32 * MIB;
    /// What it may hold for sending; the session's copies are shared, but retransmissions frame them anew.
    const LINK_SENDS: u64 = 16 * MIB;
    /// What the multiplexer of the relay grants and holds for each stream, in both directions.
    const RELAYED: u64 = 2 * 256 * KIB;
    /// Buffers of sockets' and threads' own.
    const BASE: u64 = 8 * MIB;
    let session = 2 * (SESSION_BUDGET + streams * WINDOW_FLOOR);
    (session + LINK_RECEIVES + LINK_SENDS + streams * RELAYED + BASE) * 9 / 8
}
