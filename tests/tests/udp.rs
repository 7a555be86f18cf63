//! Datagrams: public UDP ports, private ones, and what becomes of flows when something breaks.

use std::time::{Duration, Instant};

use tun_tests::datagrams::{Asker, Echo, LONGEST, roomy};
use tun_tests::eventually::eventually;
use tun_tests::forwarder::{Fault, Forwarder};
use tun_tests::net::{BIND_PORT, FORWARDER_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::{alone, soon};
use tun_tests::private::{NAME, SECRET, VISIT_PORT};
use tun_tests::program::{Launch, Program, raise_open_files};
use tun_tests::tunnel::{Served, Setup, TOKEN, client_config, port_at_end};

/// A server, a client with a proxy of datagrams, and a way between them that can fail.
struct Scene {
    net: Loopback,
    way: Forwarder,
    client_launch: Launch,
    server_launch: Launch,
    client: Program,
    server: Program,
}

impl Scene {
    /// With a `udp` proxy in front of the service port.
    async fn public(lines: &str) -> Self {
        let net = Loopback::claim();
        let ip = net.ip();
        Self::start(
            net,
            &format!(
                "[[proxies]]\nname = \"echo\"\ntype = \"udp\"\nlocalIP = \"{ip}\"\nlocalPort = {SERVICE_PORT}\n\
                 remotePort = {REMOTE_PORT}\n{lines}\n"
            ),
        )
        .await
    }

    /// With a private proxy in front of it.
    async fn private(kind: &str) -> Self {
        let net = Loopback::claim();
        let ip = net.ip();
        Self::start(
            net,
            &format!(
                "[[proxies]]\nname = \"{NAME}\"\ntype = \"{kind}\"\nsecretKey = \"{SECRET}\"\nlocalIP = \"{ip}\"\n\
                 localPort = {SERVICE_PORT}\n"
            ),
        )
        .await
    }

    async fn start(net: Loopback, proxy: &str) -> Self {
        let setup = Setup::new(net);
        let Served { launch: server_launch, server } = setup.serve().await;
        let net = setup.into_net();
        let way = Forwarder::start(net.at(FORWARDER_PORT), net.at(BIND_PORT)).await;
        let config = client_config(way.addr(), "", &[]) + proxy;
        let client_launch = Launch::client().config(&config);
        let client = client_launch.start();
        client.line("start proxy success").await;
        Self { net, way, client_launch, server_launch, client, server }
    }

    fn echo(&self) -> Echo {
        Echo::start(self.net.at(SERVICE_PORT))
    }

    async fn asker(&self) -> Asker {
        Asker::new(self.net.at(REMOTE_PORT)).await
    }

    /// A running visitor for datagrams.
    async fn visitor(&self, args: &[&str]) -> Program {
        let address = self.net.at(VISIT_PORT);
        let visitor = Launch::client()
            .labelled("tunc visit")
            .env("TUN_TOKEN", TOKEN)
            .env("TUN_SECRET", SECRET)
            .args(["visit", NAME, "--udp", "-s", &self.net.at(BIND_PORT).to_string()])
            .args(["--bind", &address.to_string()])
            .args(args)
            .start();
        visitor.line(&format!("start visitor success, listening on {address} (UDP)")).await;
        visitor
    }

    async fn visiting_asker(&self) -> Asker {
        Asker::new(self.net.at(VISIT_PORT)).await
    }
}

/// Sockets of a running program.
fn sockets(pid: i32) -> usize {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_every_size_come_back_as_they_were() {
    let scene = Scene::public("").await;
    let echo = scene.echo();
    let asker = scene.asker().await;
    for (seed, len) in [0, 1, 2, 127, 128, 1400, 1473, 9000, 32_768, LONGEST].into_iter().enumerate() {
        asker.echo(seed as u64, len).await;
    }
    assert_eq!((echo.count(), echo.sources()), (10, 1), "the service saw each once, from one socket");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sources_at_once_get_their_own_answers() {
    let _turn = alone().await;
    raise_open_files();
    let scene = Scene::public("").await;
    let echo = scene.echo();
    let mut askers = Vec::new();
    for n in 0..1000 {
        let asker = scene.asker().await;
        askers.push(tokio::spawn(async move {
            for round in 0..3 {
                asker.insist(n * 10 + round, 200).await;
            }
            // Kept, so that nobody else gets its port.
            asker
        }));
    }
    let mut kept = Vec::new();
    for asker in askers {
        kept.push(asker.await.unwrap());
    }
    assert_eq!(echo.sources(), 1000, "each source has a socket of its own at the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_nobody_reads_holds_up_no_other() {
    let scene = Scene::public("").await;
    let _echo = scene.echo();
    let (flood, calm) = (scene.asker().await, scene.asker().await);
    calm.echo(1, 100).await;
    let flooding = tokio::spawn(async move {
        let datagram = vec![7; 1400];
        loop {
            // The answers are never read.
            for _ in 0..100 {
                flood.send(&datagram).await;
            }
            tokio::task::yield_now().await;
        }
    });
    let mut slowest = Duration::ZERO;
    for n in 0..50 {
        let asked = Instant::now();
        calm.insist(100 + n, 300).await;
        slowest = slowest.max(asked.elapsed());
    }
    flooding.abort();
    // A second attempt after 500 ms may be needed where the kernel's own buffers are full.
    assert!(slowest < Duration::from_secs(5), "an answer took {slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_flow_is_forgotten_and_the_next_datagram_begins_another() {
    let scene = Scene::public("udpIdleTimeout = 1").await;
    let echo = scene.echo();
    let asker = scene.asker().await;
    let busy = scene.asker().await;
    asker.echo(1, 10).await;
    asker.echo(2, 10).await;
    busy.echo(3, 10).await;
    assert_eq!(echo.sources(), 2);
    let before = sockets(scene.client.pid());
    eventually("the socket of the idle flow is closed", || async {
        busy.echo(4, 10).await;
        (sockets(scene.client.pid()) < before).then_some(())
    })
    .await;
    assert_eq!(echo.sources(), 2, "what is in use keeps its socket");
    asker.echo(5, 10).await;
    assert_eq!(echo.sources(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_go_on_over_the_next_link() {
    for fault in [Fault::Reset, Fault::NeverAnswer] {
        let scene = Scene::public("").await;
        let echo = scene.echo();
        let asker = scene.asker().await;
        asker.echo(1, 1000).await;
        scene.way.fail(fault);
        scene.client.line("link to server lost").await;
        if fault == Fault::NeverAnswer {
            scene.way.heal();
        }
        asker.insist(2, 1000).await;
        asker.echo(3, LONGEST).await;
        assert_eq!(echo.sources(), 1, "the service sees the same flow after {fault:?}");
        assert_eq!(scene.client.log().count("login to server success"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_go_on_speaking_while_its_listener_is_silent() {
    let scene = Scene::public("").await;
    let service = roomy(scene.net.at(SERVICE_PORT));
    let asker = scene.asker().await;
    asker.send(b"go on").await;
    let mut buffer = [0; 16];
    let (_, source) = soon("the first datagram", service.recv_from(&mut buffer)).await.unwrap();
    scene.way.fail(Fault::Reset);
    scene.client.line("link to server restored").await;
    eventually("the service is heard over the next link", || async {
        service.send_to(b"still here", source).await.unwrap();
        asker.receive_within(Duration::from_millis(200)).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_or_a_client_that_restarts_serves_the_same_port() {
    let scene = Scene::public("").await;
    let _echo = scene.echo();
    let asker = scene.asker().await;
    asker.echo(1, 100).await;
    scene.client.kill().await;
    let client = scene.client_launch.start();
    client.line("start proxy success").await;
    asker.insist(2, 100).await;
    scene.server.kill().await;
    let server = scene.server_launch.start();
    server.line(&format!("listening on {}", scene.net.at(REMOTE_PORT))).await;
    asker.insist(3, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_the_server_chose_is_kept() {
    let net = Loopback::claim();
    let ip = net.ip();
    let proxy = format!(
        "[[proxies]]\nname = \"echo\"\ntype = \"udp\"\nlocalIP = \"{ip}\"\nlocalPort = {SERVICE_PORT}\n"
    );
    let scene = Scene::start(net, &proxy).await;
    let _echo = scene.echo();
    let told = scene.client.line("start proxy success, public address ").await;
    let port = port_at_end(&told.text);
    Asker::new(scene.net.at(port)).await.echo(1, 100).await;
    scene.client.terminate();
    scene.client.exit().await;
    let client = scene.client_launch.start();
    let told = client.line("start proxy success, public address ").await;
    assert_eq!(port_at_end(&told.text), port);
    Asker::new(scene.net.at(port)).await.insist(2, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_refused_with_a_reason_and_tcp_may_have_the_same_number() {
    let net = Loopback::claim();
    let _taken = roomy(net.at(REMOTE_PORT));
    let setup = Setup::new(net);
    let served = setup.serve().await;
    let net = setup.into_net();
    let proxy = |name: &str, kind: &str, port: u16| {
        format!("[[proxies]]\nname = \"{name}\"\ntype = \"{kind}\"\nlocalPort = 1\nremotePort = {port}\n")
    };
    let other = REMOTE_PORT + 1;
    let config = client_config(net.at(BIND_PORT), "", &[])
        + &[
            proxy("taken", "udp", REMOTE_PORT),
            proxy("web", "tcp", REMOTE_PORT),
            proxy("one", "udp", other),
            proxy("two", "udp", other),
            proxy("three", "tcp", other),
        ]
        .concat();
    let client = Launch::client().config(&config).start();
    client.line(&format!("[taken] start proxy error: port {REMOTE_PORT} cannot be bound (UDP)")).await;
    client.line("[web] start proxy success").await;
    client.line("[one] start proxy success").await;
    client.line(&format!("[two] start proxy error: port {other} is in use by proxy \"one\"")).await;
    client.line("[three] start proxy success").await;
    drop(served);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_is_said_once_and_found_again() {
    let scene = Scene::public("").await;
    let asker = scene.asker().await;
    for _ in 0..5 {
        asker.send(b"anybody?").await;
        asker.receive_within(Duration::from_millis(50)).await;
    }
    scene.client.line("(UDP) is unreachable").await;
    let _echo = scene.echo();
    asker.insist(1, 100).await;
    scene.client.line("(UDP) answers again").await;
    assert_eq!(scene.client.log().count("(UDP) is unreachable"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_towards_a_stalled_service_costs_bounded_memory() {
    let _turn = alone().await;
    let scene = Scene::public("").await;
    // Bound, and never read.
    let _stalled = roomy(scene.net.at(SERVICE_PORT));
    let asker = scene.asker().await;
    let datagram = vec![7; 8000];
    asker.send(&datagram).await;
    let before = (scene.client.resident_kib(), scene.server.resident_kib());
    // The link takes far less than what comes.
    scene.way.limit(1 << 20);
    let end = Instant::now() + Duration::from_secs(5);
    let mut sent = 0u64;
    while Instant::now() < end {
        for _ in 0..100 {
            asker.send(&datagram).await;
            sent += 1;
        }
        tokio::task::yield_now().await;
    }
    let after = (scene.client.resident_kib(), scene.server.resident_kib());
    let grown = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    assert!(sent > 10_000, "that was no flood: {sent}");
    assert!(grown.0 < 24 * 1024 && grown.1 < 24 * 1024, "{sent} datagrams, grown by {grown:?} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_in_one_direction_over_quic_do_not_stop_what_follows() {
    const LAST: &[u8] = b"what follows";
    const ASKS: usize = 8;
    let setup = Setup::new(Loopback::claim());
    let _served = setup.serve().await;
    let net = setup.net();
    let config = client_config(net.at(BIND_PORT), "transport.protocol = \"quic\"", &[])
        + &format!(
            "[[proxies]]\nname = \"sink\"\ntype = \"udp\"\nlocalIP = \"{}\"\nlocalPort = {SERVICE_PORT}\n\
             remotePort = {REMOTE_PORT}\n",
            net.ip()
        );
    let client = Launch::client().config(&config).start();
    client.line("[sink] start proxy success").await;
    // It never answers: an answer would set things going again.
    let sink = roomy(net.at(SERVICE_PORT));
    let asker = Asker::new(net.at(REMOTE_PORT)).await;
    for burst in 0..10 {
        let mut arrived = false;
        // The first may get lost with the end of a burst.
        for _ in 0..ASKS {
            asker.send(LAST).await;
            let mut buffer = [0; 1000];
            let arriving = async { while sink.recv(&mut buffer).await.ok() != Some(LAST.len()) {} };
            arrived = tokio::time::timeout(Duration::from_millis(500), arriving).await.is_ok();
            if arrived {
                break;
            }
        }
        assert!(arrived, "nothing arrives after {burst} bursts");
        for _ in 0..2000 {
            asker.send(&[7; 200]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_service_is_visited_over_the_relay() {
    let scene = Scene::private("sudp").await;
    let echo = scene.echo();
    let visitor = scene.visitor(&["--relay-only"]).await;
    let asker = scene.visiting_asker().await;
    // The first one waits until the visitor has met the client.
    for (seed, len) in [1, 0, 1400, LONGEST].into_iter().enumerate() {
        asker.echo(seed as u64, len).await;
    }
    visitor.line("connected to its client, relayed by").await;
    let other = scene.visiting_asker().await;
    other.echo(9, 500).await;
    assert_eq!(echo.sources(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_service_is_visited_directly() {
    let scene = Scene::private("xudp").await;
    let echo = scene.echo();
    let visitor = scene.visitor(&[]).await;
    let asker = scene.visiting_asker().await;
    asker.echo(0, 100).await;
    visitor.line("direct connection to its client at").await;
    for (seed, len) in [1, 0, 1000, 1400, 9000, LONGEST].into_iter().enumerate() {
        asker.insist(10 + seed as u64, len).await;
    }
    // The relay is gone, and the datagrams take the other way.
    let before = scene.way.passed(tun_tests::forwarder::Direction::Up);
    for seed in 0..50 {
        asker.insist(100 + seed, 1000).await;
    }
    let relayed = scene.way.passed(tun_tests::forwarder::Direction::Up) - before;
    assert!(relayed < 20_000, "{relayed} bytes went over the server");
    assert_eq!(echo.sources(), 1, "the flow is the same on either way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_flow_survives_the_server() {
    let scene = Scene::private("sudp").await;
    let _echo = scene.echo();
    let _visitor = scene.visitor(&["--relay-only"]).await;
    let asker = scene.visiting_asker().await;
    asker.echo(1, 100).await;
    scene.server.kill().await;
    let _server = scene.server_launch.start();
    asker.insist(2, 100).await;
}
