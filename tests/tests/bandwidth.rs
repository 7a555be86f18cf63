//! Limits on what a proxy carries: kept exactly, by either side, shared by both directions and all connections, and felt by
//! nobody else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tun_tests::datagrams::{Asker, Echo};
use tun_tests::eventually::quiet;
use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::alone;
use tun_tests::pattern::digits_of;
use tun_tests::private::{Lines, Private};
use tun_tests::program::Launch;
use tun_tests::service::{Ended, Service};
use tun_tests::tunnel::{Setup, Tunnel, client_config};
use tun_tests::visitor::{self, Visitor};

const MIB: u64 = 1 << 20;

/// The limit of these tests, in bytes a second: 4MB as frp counts.
const RATE: u64 = 4 * MIB;

/// Who keeps a limit.
const MODES: [&str; 2] = ["client", "server"];

fn proxy(name: &str, kind: &str, local: SocketAddr, remote_port: u16, limit: &str) -> String {
    let (ip, port) = (local.ip(), local.port());
    format!(
        "[[proxies]]\nname = \"{name}\"\ntype = \"{kind}\"\nlocalIP = \"{ip}\"\nlocalPort = {port}\n\
         remotePort = {remote_port}\n{limit}\n"
    )
}

fn limit(mode: &str) -> String {
    format!("transport = {{ bandwidthLimit = \"4MB\", bandwidthLimitMode = \"{mode}\" }}")
}

/// A service behind a proxy with a limit.
async fn limited(net: Loopback, service: &Service, mode: &str) -> Tunnel {
    let lines = proxy("limited", "tcp", service.addr(), REMOTE_PORT, &limit(mode));
    let tunnel = Setup::new(net).client(&lines).start().await;
    tunnel.client.line("[limited] start proxy success").await;
    tunnel
}

/// That so many bytes took as long as the limit says: up to a tenth of a second's worth may be saved up.
fn assert_rate(what: &str, bytes: u64, took: Duration) {
    let due = bytes as f64 / RATE as f64;
    let (least, most) = (due - 0.1 - due * 0.03, due * 1.05 + 0.15);
    assert!((least..=most).contains(&took.as_secs_f64()), "{what}: {took:?} for what should take {due:.2} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_directions_share_a_limit_and_keep_it_exactly() {
    const LEN: u64 = 6 * MIB;
    let _turn = alone().await;
    for mode in MODES {
        let net = Loopback::claim();
        let service = Service::duplex(net.at(SERVICE_PORT)).await;
        let tunnel = limited(net, &service, mode).await;
        let before = (tunnel.server.resident_kib(), tunnel.client.resident_kib());
        let started = Instant::now();
        let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
        visitor.send(format!("51 {LEN}\n").as_bytes()).await;
        let (uploaded, received) = visitor.exchange(52, LEN).await;
        assert_eq!(received, (digits_of(51, LEN), LEN));
        assert_eq!(service.nth_ended(1).await, Ended::Properly(uploaded));
        assert_rate(mode, 2 * LEN, started.elapsed());
        for (name, program, before) in
            [("server", &tunnel.server, before.0), ("client", &tunnel.client, before.1)]
        {
            let grown = program.resident_kib().saturating_sub(before);
            assert!(grown < 16 * 1024, "{mode}: the {name} holds {grown} KiB of what has to wait");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_that_has_finished_sending_gets_its_answer_under_a_limit() {
    let _turn = alone().await;
    for mode in MODES {
        let net = Loopback::claim();
        let service = Service::sink(net.at(SERVICE_PORT)).await;
        let tunnel = limited(net, &service, mode).await;
        for len in [0, 1, 3 * MIB] {
            let started = Instant::now();
            let (digits, sent) = visitor::upload(tunnel.public(REMOTE_PORT), 53, len).await;
            assert_eq!(digits, sent, "{mode}: {len} bytes");
            if len > RATE / 10 {
                assert_rate(mode, len, started.elapsed());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_share_a_limit_fairly_and_one_that_does_not_read_holds_up_nobody() {
    const LEN: u64 = 2 * MIB;
    let _turn = alone().await;
    for mode in MODES {
        let net = Loopback::claim();
        let service = Service::source(net.at(SERVICE_PORT)).await;
        let tunnel = limited(net, &service, mode).await;
        let public = tunnel.public(REMOTE_PORT);
        let mut stuck = Visitor::connect(public).await;
        stuck.send(format!("54 {}\n", 100 * MIB).as_bytes()).await;
        // It stays connected, and gets what fits into buffers.
        quiet("the stuck visitor's service is stopped", || service.sent()).await;
        // What the limit has saved up is gone before those begin whose shares are compared: it would be the first one's.
        let mut earlier = Visitor::connect(public).await;
        earlier.send(format!("55 {}\n", 100 * MIB).as_bytes()).await;
        earlier.receive(MIB as usize).await;
        let earlier = tokio::spawn(async move { earlier.receive_to_end().await });
        let started = Instant::now();
        let downloads = (0..6).map(|seed| async move {
            let (digits, expected) = visitor::download(public, seed, LEN).await;
            assert_eq!(digits, expected);
            started.elapsed()
        });
        let mut took = Vec::new();
        for download in downloads.map(tokio::spawn).collect::<Vec<_>>() {
            took.push(download.await.unwrap());
        }
        let (first, last) = (took.iter().min().unwrap(), took.iter().max().unwrap());
        assert_rate(mode, 7 * LEN, *last);
        assert!(
            *first > *last * 9 / 10,
            "{mode}: one had {LEN} bytes after {first:?}, another after {last:?}"
        );
        earlier.abort();
        drop(stuck);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_proxy_of_the_same_client_feels_no_limit() {
    const LEN: u64 = 64 * MIB;
    let _turn = alone().await;
    for mode in MODES {
        let net = Loopback::claim();
        let service = Service::source(net.at(SERVICE_PORT)).await;
        let free = Service::source(net.at(SERVICE_PORT + 1)).await;
        let echo = Service::echo(net.at(SERVICE_PORT + 2)).await;
        let lines = proxy("limited", "tcp", service.addr(), REMOTE_PORT, &limit(mode));
        let setup = Setup::new(net).client(&lines).proxy("free", free.addr(), REMOTE_PORT + 1);
        let tunnel = setup.proxy("echo", echo.addr(), REMOTE_PORT + 2).start().await;
        tunnel.client.line("[limited] start proxy success").await;
        let public = tunnel.public(REMOTE_PORT);
        let busy = tokio::spawn(async move { visitor::download(public, 55, 400 * MIB).await });
        service.nth_accepted(1).await;
        let started = Instant::now();
        let (digits, expected) = visitor::download(tunnel.public(REMOTE_PORT + 1), 56, LEN).await;
        assert_eq!(digits, expected);
        let took = started.elapsed().as_secs_f64();
        assert!(took < LEN as f64 / RATE as f64 / 4.0, "{mode}: {took:.1} s");
        let started = Instant::now();
        visitor::echo(tunnel.public(REMOTE_PORT + 2)).await;
        assert!(started.elapsed() < Duration::from_millis(500), "{mode}: {:?}", started.elapsed());
        busy.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_with_another_limit_has_that_one() {
    let _turn = alone().await;
    let net = Loopback::claim();
    let service = Service::source(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net);
    let _served = setup.serve().await;
    let at = setup.net().at(REMOTE_PORT);
    let launch = |limit: &str| {
        let lines =
            "clientID = \"box\"\n".to_owned() + &proxy("limited", "tcp", service.addr(), REMOTE_PORT, limit);
        Launch::client().config(&client_config(setup.net().at(BIND_PORT), &lines, &[]))
    };
    let first = launch("transport = { bandwidthLimit = \"64KB\", bandwidthLimitMode = \"server\" }").start();
    first.line("[limited] start proxy success").await;
    let second = launch(&limit("server")).start();
    second.line("[limited] start proxy success").await;
    let started = Instant::now();
    let (digits, expected) = visitor::download(at, 57, 6 * MIB).await;
    assert_eq!(digits, expected);
    assert_rate("the second", 6 * MIB, started.elapsed());
    let third = launch("").start();
    third.line("[limited] start proxy success").await;
    let started = Instant::now();
    visitor::download(at, 58, 32 * MIB).await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_services_limit_is_kept_by_its_client_whoever_was_to_keep_it() {
    let _turn = alone().await;
    for mode in MODES {
        let net = Loopback::claim();
        let service = Service::source(net.at(SERVICE_PORT)).await;
        let proxy = limit(mode);
        let lines = Lines { proxy: &proxy, ..Lines::default() };
        let private = Private::start_with(net, &service, lines).await;
        let (_visitor, at) = private.visitor().await;
        let started = Instant::now();
        let (digits, expected) = visitor::download(at, 59, 6 * MIB).await;
        assert_eq!(digits, expected);
        assert_rate(mode, 6 * MIB, started.elapsed());
        let warned = private.client.log().count("so the client keeps the limit");
        assert_eq!(warned, usize::from(mode == "server"));
    }
}

/// Bytes of a datagram of a flood.
const PAYLOAD: usize = 1200;

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_beyond_a_limit_are_dropped_and_another_source_does_not_wait() {
    const RATE: f64 = 1024.0 * 1024.0;
    const FLOOD: Duration = Duration::from_secs(3);
    let _turn = alone().await;
    for mode in MODES {
        let net = Loopback::claim();
        let echo = Echo::start(net.at(SERVICE_PORT));
        let limit = format!("transport = {{ bandwidthLimit = \"1MB\", bandwidthLimitMode = \"{mode}\" }}");
        let lines = proxy("limited", "udp", echo.addr(), REMOTE_PORT, &limit);
        let tunnel = Setup::new(net).client(&lines).start().await;
        tunnel.client.line("[limited] start proxy success").await;
        let other = Asker::new(tunnel.public(REMOTE_PORT)).await;
        other.insist(60, 100).await;
        let flooder = Asker::new(tunnel.public(REMOTE_PORT)).await;
        let (started, before) = (Instant::now(), echo.count());
        let flooding = async {
            // Five times the limit.
            let mut pace = tokio::time::interval(Duration::from_millis(1));
            while started.elapsed() < FLOOD {
                pace.tick().await;
                for _ in 0..4 {
                    flooder.send(&[0; PAYLOAD]).await;
                }
            }
        };
        let answers = async {
            let mut answers = 0;
            while started.elapsed() < FLOOD {
                answers += u64::from(flooder.receive_within(Duration::from_millis(50)).await.is_some());
            }
            answers
        };
        let asking = async {
            let mut slowest = Duration::ZERO;
            for seed in 0..10 {
                let asked = Instant::now();
                other.echo(seed, 100).await;
                slowest = slowest.max(asked.elapsed());
            }
            slowest
        };
        let ((), answers, slowest) = tokio::join!(flooding, answers, asking);
        let (took, arrived) = (started.elapsed().as_secs_f64(), echo.count() - before);
        let rate = (arrived + answers) as f64 * PAYLOAD as f64 / took;
        assert!((0.93..1.1).contains(&(rate / RATE)), "{mode}: {:.0} KiB/s", rate / 1024.0);
        assert!(slowest < Duration::from_millis(300), "{mode}: the other source waited for {slowest:?}");
    }
}
