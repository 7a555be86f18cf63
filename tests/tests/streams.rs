//! What TCP means end to end is kept: half-close, reset, and a slow reader that slows its sender down and nobody
//! else.

use tun_tests::eventually::quiet;
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::alone;
use tun_tests::pattern::digits_of;
use tun_tests::program::Program;
use tun_tests::service::{Ended, Service};
use tun_tests::tunnel::{Setup, Tunnel};
use tun_tests::visitor::{self, End, Visitor};
use tun_tests::way::Way;

const MIB: u64 = 1 << 20;

tun_tests::over_ways! { all: {
    a_visitor_that_has_finished_sending_still_gets_its_answer,
    a_service_that_has_finished_sending_still_hears_its_visitor,
    a_service_that_speaks_first_is_heard,
    a_reset_by_the_visitor_reaches_the_service,
    a_reset_by_the_service_reaches_the_visitor,
    a_visitor_that_does_not_read_stops_its_service_and_nobody_else,
    a_service_that_does_not_read_stops_its_visitor_and_nobody_else,
    a_hundred_stuck_readers_cost_a_bounded_memory_and_stop_nobody_else,
} }

async fn tunnel_to(way: Way, net: Loopback, service: &Service) -> Tunnel {
    Setup::new(net).over(way).proxy("service", service.addr(), REMOTE_PORT).start().await
}

async fn a_visitor_that_has_finished_sending_still_gets_its_answer(way: Way) {
    let net = Loopback::claim();
    let service = Service::sink(net.at(SERVICE_PORT)).await;
    let tunnel = tunnel_to(way, net, &service).await;
    for len in [0, 1, 3 * MIB] {
        let (digits, sent) = visitor::upload(tunnel.public(REMOTE_PORT), 41, len).await;
        assert_eq!(digits, sent, "{len} bytes");
    }
}

async fn a_service_that_has_finished_sending_still_hears_its_visitor(way: Way) {
    let net = Loopback::claim();
    let service = Service::greets_and_listens(net.at(SERVICE_PORT), "that is all").await;
    let tunnel = tunnel_to(way, net, &service).await;
    let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    assert_eq!(visitor.receive_text().await, "that is all");
    let sent = visitor.send_pattern(42, 3 * MIB).await;
    visitor.finish().await;
    assert_eq!(service.nth_ended(1).await, Ended::Properly(sent));
}

async fn a_service_that_speaks_first_is_heard(way: Way) {
    let net = Loopback::claim();
    let service = Service::named(net.at(SERVICE_PORT), "220 ready").await;
    let tunnel = tunnel_to(way, net, &service).await;
    let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    assert_eq!(visitor.receive(9).await, b"220 ready");
}

async fn a_reset_by_the_visitor_reaches_the_service(way: Way) {
    let net = Loopback::claim();
    let service = Service::echo(net.at(SERVICE_PORT)).await;
    let tunnel = tunnel_to(way, net, &service).await;
    let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    visitor.echo(43, 1000).await;
    visitor.reset();
    assert_eq!(service.nth_ended(1).await, Ended::Reset);
}

async fn a_reset_by_the_service_reaches_the_visitor(way: Way) {
    let net = Loopback::claim();
    let service = Service::resets(net.at(SERVICE_PORT)).await;
    let tunnel = tunnel_to(way, net, &service).await;
    let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    visitor.send(b"x").await;
    assert_eq!(visitor.end().await, End::Reset);
}

/// How much either program may grow when readers are stuck, in KiB: the window of a stream on both its ends, with
/// room for what the allocator keeps.
const STUCK_READER: u64 = 48 * 1024;

/// The same for many stuck readers together: the budget of a session, not the sum of all windows.
const MANY_STUCK_READERS: u64 = 144 * 1024;

fn grown(program: &Program, before: u64) -> u64 {
    program.resident_kib().saturating_sub(before)
}

async fn a_visitor_that_does_not_read_stops_its_service_and_nobody_else(way: Way) {
    const LEN: u64 = 400 * MIB;
    let _turn = alone().await;
    let net = Loopback::claim();
    let service = Service::duplex(net.at(SERVICE_PORT)).await;
    let tunnel = tunnel_to(way, net, &service).await;
    let before = (tunnel.server.resident_kib(), tunnel.client.resident_kib());
    let mut stuck = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    stuck.send(format!("44 {LEN}\n").as_bytes()).await;
    let sent = quiet("the service is stopped", || service.sent()).await;
    assert!(sent > 0 && sent < 100 * MIB, "{sent} bytes are on the way to a reader that does not read");
    assert!(
        grown(&tunnel.server, before.0) <= STUCK_READER,
        "server: {} KiB",
        grown(&tunnel.server, before.0)
    );
    assert!(
        grown(&tunnel.client, before.1) <= STUCK_READER,
        "client: {} KiB",
        grown(&tunnel.client, before.1)
    );

    // The other direction of the same connection flows, and so do others.
    let uploaded = stuck.send_pattern(45, 64 * MIB).await;
    stuck.finish().await;
    let mut other = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    other.send(format!("46 {}\n", 8 * MIB).as_bytes()).await;
    assert_eq!(other.receive_to_end().await, (digits_of(46, 8 * MIB), 8 * MIB));

    // Nothing was lost meanwhile.
    assert_eq!(stuck.receive_to_end().await, (digits_of(44, LEN), LEN));
    drop(other);
    let ends = [service.nth_ended(1).await, service.nth_ended(2).await];
    assert!(ends.contains(&Ended::Properly(uploaded)), "{ends:?}");
}

async fn a_service_that_does_not_read_stops_its_visitor_and_nobody_else(way: Way) {
    let _turn = alone().await;
    let net = Loopback::claim();
    let deaf = Service::never_reads(net.at(SERVICE_PORT)).await;
    let echo = Service::echo(net.at(SERVICE_PORT + 1)).await;
    let setup = Setup::new(net).over(way).proxy("deaf", deaf.addr(), REMOTE_PORT);
    let tunnel = setup.proxy("echo", echo.addr(), REMOTE_PORT + 1).start().await;
    let before = (tunnel.server.resident_kib(), tunnel.client.resident_kib());
    let written = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = std::sync::Arc::clone(&written);
    let public = tunnel.public(REMOTE_PORT);
    let writer = tokio::spawn(async move {
        let mut visitor = Visitor::connect(public).await;
        loop {
            visitor.send(&[7; 65536]).await;
            count.fetch_add(65536, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let sent = quiet("the visitor is stopped", || written.load(std::sync::atomic::Ordering::Relaxed)).await;
    assert!(sent > 0 && sent < 100 * MIB, "{sent} bytes are on the way to a service that does not read");
    assert!(
        grown(&tunnel.server, before.0) <= STUCK_READER,
        "server: {} KiB",
        grown(&tunnel.server, before.0)
    );
    assert!(
        grown(&tunnel.client, before.1) <= STUCK_READER,
        "client: {} KiB",
        grown(&tunnel.client, before.1)
    );
    visitor::echo(tunnel.public(REMOTE_PORT + 1)).await;
    writer.abort();
}

async fn a_hundred_stuck_readers_cost_a_bounded_memory_and_stop_nobody_else(way: Way) {
    let _turn = alone().await;
    let net = Loopback::claim();
    let source = Service::source(net.at(SERVICE_PORT)).await;
    let tunnel = tunnel_to(way, net, &source).await;
    let before = (tunnel.server.resident_kib(), tunnel.client.resident_kib());
    let mut stuck = Vec::new();
    for seed in 0..100 {
        let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
        visitor.send(format!("{seed} {}\n", 20 * MIB).as_bytes()).await;
        stuck.push(visitor);
    }
    quiet("the services are stopped", || source.sent()).await;
    for (name, program, before) in
        [("server", &tunnel.server, before.0), ("client", &tunnel.client, before.1)]
    {
        assert!(grown(program, before) <= MANY_STUCK_READERS, "{name}: {} KiB", grown(program, before));
    }
    let (digits, expected) = visitor::download(tunnel.public(REMOTE_PORT), 200, MIB).await;
    assert_eq!(digits, expected);
    for (seed, visitor) in stuck.iter_mut().enumerate().take(3) {
        assert_eq!(visitor.receive_to_end().await, (digits_of(seed as u64, 20 * MIB), 20 * MIB));
    }
}
