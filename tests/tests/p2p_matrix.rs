//! Who reaches whom directly: every kind of NAT against every other, 25 ms from each other and from the server.
//!
//! Where a direct path is to be had, it is found and used; where not, the visitor says why, and all works by the server.

use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tun_tests::lab::{Access, Internet, Nat};
use tun_tests::p2p::{DIRECT, NONE, Peers, Plan, relay, said};
use tun_tests::pattern::digits_of;
use tun_tests::service::Service;
use tun_tests::visitor::{self, End, Visitor};

const MIB: u64 = 1 << 20;

/// Labs that run at the same time: more would measure the machine. Where time is what a test measures, it takes all places.
const MOST_LABS: u32 = 6;
static LABS: Semaphore = Semaphore::const_new(MOST_LABS as usize);

/// Every kind.
const KINDS: [Nat; 8] = [
    Nat::Public,
    Nat::FullCone,
    Nat::AddressRestricted,
    Nat::PortRestricted,
    Nat::CarrierGrade,
    Nat::SymmetricRandom,
    Nat::SymmetricSequential,
    Nat::UdpBlocked,
];

/// What is to become of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// A direct path in time.
    Direct(Duration),
    /// None, for a reason with these words in it.
    Relayed(&'static str),
}

/// Some rounds of probes at most.
const SOON: Expected = Expected::Direct(Duration::from_secs(20));

/// An attempt tries a thousand ports twice, each time with a probability of 98 %, and takes half a minute at most.
const BY_LUCK: Expected = Expected::Direct(Duration::from_secs(40));

fn expected(client: Nat, visitor: Nat) -> Expected {
    let is_symmetric = |nat| matches!(nat, Nat::SymmetricRandom | Nat::SymmetricSequential);
    let is_restricted = |nat| matches!(nat, Nat::PortRestricted | Nat::CarrierGrade);
    let meet = |one, other| is_symmetric(one) && is_restricted(other);
    match (client, visitor) {
        (Nat::UdpBlocked, _) | (_, Nat::UdpBlocked) => Expected::Relayed("UDP is blocked"),
        _ if is_symmetric(client) && is_symmetric(visitor) => Expected::Relayed("symmetric NAT"),
        _ if meet(client, visitor) || meet(visitor, client) => BY_LUCK,
        _ => SOON,
    }
}

/// Lets a visitor and a client meet, checks what the visitor says of it, and which way a megabyte takes.
async fn meet(plan: Plan, expected: Expected) -> Option<String> {
    let peers = Peers::start(plan, async |at| Service::duplex(at).await).await?;
    let program = peers.visitor().await;
    let started = Instant::now();
    let mut open = Visitor::connect(peers.entrance()).await;
    open.send(b"1 1000\n").await;
    open.receive(1000).await;
    let found = match expected {
        Expected::Direct(limit) => {
            let line = said(&program, DIRECT, 1, limit).await;
            peers.client.line("direct connection with the visitor at").await;
            format!("direct after {:?}", line.at - started)
        }
        Expected::Relayed(reason) => {
            let line = said(&program, NONE, 1, Duration::from_secs(60)).await;
            let relayed = format!("relayed by {}", relay());
            assert!(line.text.contains(reason) && line.text.contains(&relayed), "{}", line.text);
            assert_eq!(program.log().count(DIRECT), 0);
            format!("relayed, said after {:?}", line.at - started)
        }
    };
    let before = peers.ways();
    let (digits, sent) = visitor::download(peers.entrance(), 2, MIB).await;
    assert_eq!(digits, sent);
    let went = peers.ways() - before;
    match expected {
        Expected::Direct(_) => assert!(went.is_direct(MIB), "{went:?}"),
        Expected::Relayed(_) => assert!(went.is_relayed(MIB), "{went:?}"),
    }
    // The connection of the beginning is still the same one.
    open.finish().await;
    assert_eq!(open.end().await, End::Closed);
    Some(found)
}

/// Every kind of visitor in front of one kind of client.
async fn every_visitor_meets(client: Nat) {
    let pairs = KINDS.map(|visitor| {
        let pair = tokio::spawn(async move {
            let _place = LABS.acquire().await;
            meet(Plan::new(client, visitor), expected(client, visitor)).await
        });
        (visitor, pair)
    });
    let mut failed = Vec::new();
    for (visitor, pair) in pairs {
        match pair.await {
            Ok(found) => {
                eprintln!("{visitor:?} visits {client:?}: {}", found.as_deref().unwrap_or("skipped"))
            }
            Err(_) => failed.push(visitor),
        }
    }
    assert!(failed.is_empty(), "visits to {client:?} did not go as expected from {failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_to_a_public_client() {
    every_visitor_meets(Nat::Public).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_to_a_client_behind_a_full_cone() {
    every_visitor_meets(Nat::FullCone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_to_a_client_behind_an_address_restricted_cone() {
    every_visitor_meets(Nat::AddressRestricted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_to_a_client_behind_a_port_restricted_cone() {
    every_visitor_meets(Nat::PortRestricted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_to_a_client_behind_a_carriers_nat() {
    every_visitor_meets(Nat::CarrierGrade).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_to_a_client_behind_a_symmetric_nat_with_random_ports() {
    every_visitor_meets(Nat::SymmetricRandom).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_to_a_client_behind_a_symmetric_nat_with_sequential_ports() {
    every_visitor_meets(Nat::SymmetricSequential).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn visits_to_a_client_without_udp() {
    every_visitor_meets(Nat::UdpBlocked).await;
}

/// What sprays, one visit after the other, and which of them came to nothing.
async fn sprays(client: Nat, visitor: Nat, visits: usize) -> Option<Vec<usize>> {
    let peers = Peers::start(Plan::new(client, visitor), async |at| Service::duplex(at).await).await?;
    let mut missed = Vec::new();
    for visit in 1..=visits {
        let program = peers.visitor().await;
        let started = Instant::now();
        let open = Visitor::connect(peers.entrance()).await;
        let Expected::Direct(limit) = BY_LUCK else { unreachable!("it may be direct") };
        match program.log().comes_within(limit, DIRECT).await {
            Some(line) => {
                eprintln!("{visitor:?} visits {client:?}, {visit}: direct after {:?}", line.at - started)
            }
            None => {
                eprintln!("{}\n{}", program.log().tail(), peers.client.log().tail());
                missed.push(visit);
            }
        }
        drop(open);
        program.kill().await;
    }
    Some(missed)
}

#[tokio::test(flavor = "multi_thread")]
async fn spraying_finds_a_path_in_twenty_four_of_twenty_five_visits() {
    const VISITS: usize = 5;
    let hard_to_easy = [Nat::SymmetricRandom, Nat::PortRestricted];
    let labs = (0..5).map(|lab| {
        let [client, visitor] =
            if lab % 2 == 0 { [0, 1] } else { [1, 0] }.map(|nat: usize| hard_to_easy[nat]);
        tokio::spawn(async move {
            let _place = LABS.acquire().await;
            sprays(client, visitor, VISITS).await
        })
    });
    let mut missed = 0;
    for lab in labs.collect::<Vec<_>>() {
        let Some(visits) = lab.await.expect("a lab does not fail") else { return };
        missed += visits.len();
    }
    assert!(missed <= 1, "{missed} of {} visits stayed relayed", 5 * VISITS);
}

#[tokio::test(flavor = "multi_thread")]
async fn firewalls_on_ipv6_are_passed_where_nats_are_not() {
    let _place = LABS.acquire().await;
    let access = Access::behind(Nat::SymmetricRandom).with_v6();
    meet(Plan::new(access, access), SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_that_take_note_of_what_comes_too_early_are_not_upset() {
    let _place = LABS.acquire().await;
    let access = Access::behind(Nat::PortRestricted).poisoned();
    meet(Plan::new(access, access), SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_on_one_network_meet_there() {
    let _place = LABS.acquire().await;
    let plan = Plan::together(Nat::PortRestricted);
    let Some(peers) = Peers::start(plan, async |at| Service::duplex(at).await).await else { return };
    let program = peers.visitor().await;
    visitor::download(peers.entrance(), 1, 1000).await;
    let line = program.line(DIRECT).await;
    assert!(line.text.contains(&peers.serving.address().to_string()), "{}", line.text);
    let before = peers.ways();
    let (digits, sent) = visitor::download(peers.entrance(), 2, 4 * MIB).await;
    assert_eq!(digits, sent);
    let went = peers.ways() - before;
    assert!(went.direct == 0 && went.relayed < MIB, "{went:?}");
}

/// The client hears of everything half a second after the visitor, which is more than a path takes to be made.
#[tokio::test(flavor = "multi_thread")]
async fn one_side_is_late() {
    let _place = LABS.acquire().await;
    for access in [Access::behind(Nat::PortRestricted), Access::behind(Nat::PortRestricted).poisoned()] {
        let plan = Plan::new(access, access);
        let Some(peers) = Peers::start(plan, async |at| Service::duplex(at).await).await else { return };
        peers.lab.delay(peers.serving.end(), peers.lab.server_end(), Duration::from_millis(500));
        let program = peers.visitor().await;
        let _open = Visitor::connect(peers.entrance()).await;
        said(&program, DIRECT, 1, Duration::from_secs(40)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_later_is_met_all_the_same() {
    let _place = LABS.acquire().await;
    let plan = Plan::new(Nat::PortRestricted, Nat::PortRestricted);
    let Some(mut peers) = Peers::start(plan, async |at| Service::duplex(at).await).await else { return };
    peers.client.kill().await;
    let program = peers.visitor().await;
    // The lateness is what this is about.
    tokio::time::sleep(Duration::from_secs(1)).await;
    peers.client = peers.client_launch.start();
    peers.client.line("start proxy success").await;
    visitor::download(peers.entrance(), 1, MIB).await;
    program.line(DIRECT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_comes_within_eight_round_trips() {
    const DELAY: Duration = Duration::from_millis(100);
    let _places = LABS.acquire_many(MOST_LABS).await;
    let plan = Plan::new(Nat::PortRestricted, Nat::PortRestricted);
    let plan = plan.across(Internet { delay: DELAY, ..Internet::FAR });
    let service = async |at| Service::greets_and_listens(at, "hello").await;
    let Some(peers) = Peers::start(plan, service).await else { return };
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        fastest = fastest.min(peers.first_byte().await);
    }
    let round_trips = fastest.as_secs_f64() / (2 * DELAY).as_secs_f64();
    eprintln!("first byte after {fastest:?}, {round_trips:.1} round trips to the server");
    assert!(round_trips <= 8.0, "{round_trips:.1}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_path_is_there_two_seconds_after_the_first_connection() {
    let _places = LABS.acquire_many(MOST_LABS).await;
    let plan = Plan::new(Nat::PortRestricted, Nat::PortRestricted);
    let Some(peers) = Peers::start(plan, async |at| Service::duplex(at).await).await else { return };
    let program = peers.visitor().await;
    let started = Instant::now();
    let _open = Visitor::connect(peers.entrance()).await;
    let took = program.line(DIRECT).await.at - started;
    eprintln!("direct after {took:?}");
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_connection_costs_one_round_trip() {
    let _places = LABS.acquire_many(MOST_LABS).await;
    let service = async |at| Service::greets_and_listens(at, "hello").await;
    for (visitor, round_trip) in
        [(Nat::UdpBlocked, 4 * Internet::FAR.delay), (Nat::PortRestricted, 4 * Internet::FAR.delay)]
    {
        let Some(peers) = Peers::start(Plan::new(Nat::PortRestricted, visitor), service).await else {
            return;
        };
        let program = peers.visitor().await;
        let _open = Visitor::connect(peers.entrance()).await;
        program.line(if visitor == Nat::UdpBlocked { NONE } else { DIRECT }).await;
        let mut fastest = Duration::MAX;
        for _ in 0..5 {
            let started = Instant::now();
            Visitor::connect(peers.entrance()).await.receive(5).await;
            fastest = fastest.min(started.elapsed());
        }
        eprintln!("a further connection over {round_trip:?}: {fastest:?}");
        assert!(fastest >= round_trip && fastest < round_trip * 3 / 2, "{fastest:?} over {round_trip:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_visitor_wants_relayed_is_relayed() {
    let _place = LABS.acquire().await;
    let plan = Plan::new(Nat::Public, Nat::Public);
    let Some(peers) = Peers::start(plan, async |at| Service::duplex(at).await).await else { return };
    let program = peers.visit(&["--relay-only", "--bind", "127.0.0.1:9000"]).start();
    program.line("listening on 127.0.0.1:9000").await;
    let mut visitor = Visitor::connect(peers.entrance()).await;
    visitor.send(format!("3 {MIB}\n").as_bytes()).await;
    visitor.finish().await;
    assert_eq!(visitor.receive_to_end().await, (digits_of(3, MIB), MIB));
    assert_eq!((peers.ways().direct, program.log().count(DIRECT)), (0, 0));
}
