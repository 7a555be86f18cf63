//! One connection that never ends, while the path under it comes, goes, and comes back.
//!
//! The application's connection is the same all the time and brings every byte once; the lab counts which way they took.

use std::time::{Duration, Instant};

use tun_tests::lab::{Access, Cut, Internet, Nat, Traffic};
use tun_tests::p2p::flow::{Direction, Flow, Valve};
use tun_tests::p2p::{DIRECT, LOST, Peers, Plan, Ways, said};
use tun_tests::patience::alone;
use tun_tests::program::Program;

const MIB: u64 = 1 << 20;

/// What is moved in all before a flow is over, at least.
const MUCH: u64 = 512 * MIB;

/// The same where what happens does not depend on how much is moved.
const ENOUGH: u64 = 128 * MIB;

/// From visitor to client and back by the server.
const RELAY_ROUND_TRIP: Duration = Internet::FAR.delay.saturating_mul(4);

/// The longest silence after a direct path went dead without a word.
const FALLBACK: Duration = Duration::from_millis(600);

/// The longest silence when the client's connection to the server dies with the direct path, and both are made anew.
const BOTH_LOST: Duration = Duration::from_secs(2);

/// How long a new direct path may take: attempts at a path that just died pause for half a minute.
const AGAIN: Duration = Duration::from_secs(60);

/// How old a path must be for its loss not to count as a failure, and a bit.
const ESTABLISHED: Duration = Duration::from_millis(10_500);

/// A way to cut, and how it is called.
type Cutting = (&'static str, fn(&Peers) -> Cut);

/// Peers with one flow between them.
struct Scene {
    peers: Peers,
    program: Program,
    flow: Flow,
    direction: Direction,
    /// How many direct connections there have been.
    connections: usize,
}

impl Scene {
    /// Two peers, whose flow begins over the relay.
    async fn begin(
        client: impl Into<Access>,
        visitor: impl Into<Access>,
        direction: Direction,
    ) -> Option<Self> {
        let valve = Valve::default();
        let service = async |at| valve.serve(at, direction).await;
        let peers = Peers::start(Plan::new(client, visitor), service).await?;
        let program = peers.visitor().await;
        let flow = valve.open(peers.entrance(), direction).await;
        flow.advance(1).await;
        Some(Self { peers, program, flow, direction, connections: 0 })
    }

    /// The same, when they have met directly.
    async fn direct(
        client: impl Into<Access>,
        visitor: impl Into<Access>,
        direction: Direction,
    ) -> Option<Self> {
        let mut scene = Self::begin(client, visitor, direction).await?;
        scene.meets().await;
        Some(scene)
    }

    /// Waits for the next direct connection, which carries everything then, and says when it came.
    async fn meets(&mut self) -> Instant {
        self.connections += 1;
        let line = said(&self.program, DIRECT, self.connections, AGAIN).await;
        self.goes(Ways::is_direct).await;
        line.at
    }

    /// Waits until four megabytes go this way and no other.
    async fn goes(&self, way: fn(Ways, u64) -> bool) {
        const LEN: u64 = 4 * MIB;
        let deadline = Instant::now() + AGAIN;
        loop {
            let before = self.peers.ways();
            self.flow.advance(LEN).await;
            let went = self.peers.ways() - before;
            // Some of what arrived was on the way before.
            if way(went, LEN / 2) {
                return;
            }
            assert!(Instant::now() < deadline, "it still goes another way: {went:?}");
        }
    }

    /// Cuts the direct path when it is not young any more, and measures the silence until the relay carries everything.
    async fn falls_back(&mut self, met: Instant, cut: impl FnOnce(&Peers) -> Cut) -> Duration {
        self.flow.flow_until(met + ESTABLISHED).await;
        let moment = Instant::now();
        let cut = cut(&self.peers);
        said(&self.program, LOST, self.connections, AGAIN).await;
        self.goes(Ways::is_relayed).await;
        drop(cut);
        self.flow.longest_pause_since(moment)
    }

    /// Lets the flow come to its end, with so much behind it and not a byte amiss.
    async fn finish(self, len: u64) {
        let Self { peers, flow, direction, .. } = self;
        flow.advance(len.saturating_sub(flow.received())).await;
        flow.finish(&peers.service, 1, direction).await;
    }
}

/// What shall be true of both directions.
async fn both_ways(scene: impl AsyncFn(Direction)) {
    let _turn = alone().await;
    for direction in [Direction::Download, Direction::Upload] {
        scene(direction).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_moves_to_the_direct_path_without_a_pause() {
    both_ways(async |direction| {
        let started = Instant::now();
        let Some(mut scene) = Scene::begin(Nat::PortRestricted, Nat::PortRestricted, direction).await else {
            return;
        };
        assert!(scene.peers.ways().relayed > 0);
        // The first bytes come when a slow start has come to them.
        scene.flow.advance(MIB).await;
        let moment = Instant::now();
        let met = scene.meets().await;
        let pause = scene.flow.longest_pause_since(moment);
        eprintln!("{direction:?}: direct after {:?}, longest pause {pause:?}", met - started);
        assert!(pause <= RELAY_ROUND_TRIP, "{pause:?}");
        scene.finish(MUCH).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_cut_sends_a_transfer_over_the_relay_until_it_is_mended() {
    both_ways(async |direction| {
        let scene = Scene::begin(Nat::PortRestricted, Nat::PortRestricted, direction).await;
        let Some(mut scene) = scene else { return };
        let cuts: [Cutting; 3] = [
            ("both ways", Peers::cut),
            ("towards the visitor", Peers::cut_towards_visitor),
            ("towards the client", Peers::cut_towards_client),
        ];
        let mut met = scene.meets().await;
        for (which, cut) in cuts {
            let pause = scene.falls_back(met, cut).await;
            eprintln!("{direction:?}, cut {which}: silent for {pause:?}");
            assert!(pause <= FALLBACK, "{direction:?}, cut {which}: {pause:?}");
            met = scene.meets().await;
        }
        scene.finish(MUCH).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_that_forget_everything_do_not_end_a_transfer() {
    both_ways(async |direction| {
        // Ports change with the mappings of the last two only, those of TCP as well.
        for (client, visitor, limit) in [
            (Nat::PortRestricted, Nat::PortRestricted, FALLBACK),
            (Nat::SymmetricRandom, Nat::Public, BOTH_LOST),
            (Nat::Public, Nat::SymmetricRandom, BOTH_LOST),
        ] {
            let Some(scene) = Scene::direct(client, visitor, direction).await else { return };
            for whose in ["client's", "visitor's"] {
                let moment = Instant::now();
                let site = if whose == "client's" { &scene.peers.serving } else { scene.peers.visiting() };
                site.forget_connections();
                scene.flow.advance(8 * MIB).await;
                scene.goes(Ways::is_direct).await;
                let pause = scene.flow.longest_pause_since(moment);
                eprintln!("{direction:?}, {visitor:?} visits {client:?}, the {whose} router forgets: silent for {pause:?}");
                assert!(pause <= limit, "{pause:?}");
            }
            scene.finish(ENOUGH).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_dies_at_a_regular_age_is_replaced_before() {
    const AGE: Duration = Duration::from_secs(12);
    let _turn = alone().await;
    let direction = Direction::Download;
    let Some(mut scene) = Scene::begin(Nat::SymmetricRandom, Nat::Public, direction).await else { return };
    let mut met = scene.meets().await;
    for _ in 0..2 {
        scene.flow.flow_until(met + AGE).await;
        scene.peers.serving.forget_connections();
        met = scene.meets().await;
    }
    let renewed = said(&scene.program, DIRECT, scene.connections + 1, AGE).await.at;
    scene.goes(Ways::is_direct).await;
    let pause = scene.flow.longest_pause_since(met + Duration::from_secs(1));
    eprintln!("replaced at the age of {:?}: silent for {pause:?}", renewed - met);
    assert!(renewed < met + AGE, "{:?}", renewed - met);
    assert!(pause <= RELAY_ROUND_TRIP, "{pause:?}");
    scene.finish(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_public_address_changes_is_met_again() {
    both_ways(async |direction| {
        let Some(mut scene) = Scene::direct(Nat::PortRestricted, Nat::PortRestricted, direction).await else {
            return;
        };
        let moment = Instant::now();
        scene.peers.readdress_client();
        scene.flow.advance(8 * MIB).await;
        let pause = scene.flow.longest_pause_since(moment);
        eprintln!("{direction:?}, another address: silent for {pause:?}");
        assert!(pause <= BOTH_LOST, "{pause:?}");
        scene.goes(Ways::is_direct).await;
        scene.finish(ENOUGH).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_transfer_does_not_notice_a_restart_of_the_server() {
    both_ways(async |direction| {
        let Some(mut scene) = Scene::direct(Nat::PortRestricted, Nat::PortRestricted, direction).await else {
            return;
        };
        let moment = Instant::now();
        scene.peers.server.kill().await;
        scene.flow.advance(32 * MIB).await;
        scene.peers.start_server().await;
        for program in [&scene.peers.client, &scene.program] {
            program.nth("login to server success", 2).await;
        }
        scene.flow.advance(32 * MIB).await;
        let pause = scene.flow.longest_pause_since(moment);
        eprintln!("{direction:?}, direct while the server restarts: silent for {pause:?}");
        assert!(pause <= RELAY_ROUND_TRIP, "{pause:?}");
        scene.finish(ENOUGH).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relayed_transfer_waits_for_a_server_that_restarts() {
    both_ways(async |direction| {
        let Some(mut scene) = Scene::direct(Nat::PortRestricted, Nat::PortRestricted, direction).await else {
            return;
        };
        let (one, other) = (scene.peers.serving.end(), scene.peers.visiting().end());
        let cut = scene.peers.lab.cut(one, other, Traffic::Udp);
        scene.goes(Ways::is_relayed).await;
        scene.peers.restart_server().await;
        let moment = Instant::now();
        scene.flow.advance(32 * MIB).await;
        eprintln!(
            "{direction:?}, relayed by a server that restarted: silent for {:?} more",
            scene.flow.longest_pause_since(moment)
        );
        scene.goes(Ways::is_relayed).await;
        drop(cut);
        scene.meets().await;
        scene.finish(ENOUGH).await;
    })
    .await;
}
