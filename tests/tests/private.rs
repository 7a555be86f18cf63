//! Private services: visitors that know the secret reach them as if they were public, nobody else does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tun_tests::eventually::quiet;
use tun_tests::net::{Loopback, SERVICE_PORT, source};
use tun_tests::patience::alone;
use tun_tests::pattern::{self, digits_of};
use tun_tests::private::{NAME, Private, SECRET, VISIT_PORT, speak, visit_over};
use tun_tests::program::Program;
use tun_tests::service::{Ended, Service};
use tun_tests::tunnel::TOKEN;
use tun_tests::visitor::{self, End, Visitor};

const MIB: u64 = 1 << 20;

/// Said of a wrong secret, a proxy that does not exist and one that is for others.
const REFUSED: &str = "no such proxy for this user, or a wrong secret";

const WRONG: &str = "not the secret 77";

/// A private service with a visitor at an address.
async fn visited(
    service: impl Future<Output = Service>,
    net: Loopback,
) -> (Private, Service, Program, SocketAddr) {
    let service = service.await;
    let private = Private::start(net, &service).await;
    let (program, address) = private.visitor().await;
    (private, service, program, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_in_a_file_reaches_the_service() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let _visitor = private.visitors_in_a_file("", &[SECRET.to_owned()]).await;
    visitor::echo(private.net.at(VISIT_PORT)).await;
    Visitor::connect(private.net.at(VISIT_PORT)).await.echo(61, 3_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visit_from_the_command_line_brings_all_bytes_in_both_directions() {
    let net = Loopback::claim();
    let service = Service::duplex(net.at(SERVICE_PORT));
    let (_private, service, _program, address) = visited(service, net).await;
    let mut visitor = Visitor::connect(address).await;
    visitor.send(format!("62 {}\n", 16 * MIB).as_bytes()).await;
    let sent = visitor.send_pattern(63, 16 * MIB).await;
    visitor.finish().await;
    assert_eq!(visitor.receive_to_end().await, (digits_of(62, 16 * MIB), 16 * MIB));
    assert_eq!(service.nth_ended(1).await, Ended::Properly(sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_started_from_the_command_line_can_be_visited() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let (ip, port) = (echo.addr().ip().to_string(), echo.addr().port().to_string());
    let server = private.client_way.addr().to_string();
    let serving = tun_tests::program::Launch::client()
        .env("TUN_TOKEN", TOKEN)
        .env("TUN_SECRET", "another secret")
        .args(["stcp", "-s", &server, "-i", &ip, "-l", &port, "-n", "second"])
        .start();
    serving.line("[second] start proxy success").await;
    let visit = visit_over(&private.visitor_way, "second", "another secret", &["--stdio"]);
    assert_eq!(speak(&visit, b"hello").await.stdout, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_connections_at_once_each_have_their_own_bytes() {
    let net = Loopback::claim();
    let uploads = Service::sink(net.at(SERVICE_PORT)).await;
    let (_private, _uploads, _program, address) = visited(async { uploads }, net).await;
    let visits = (0..100).map(|seed| tokio::spawn(visitor::upload(address, seed, 200_000 + seed)));
    for visit in visits.collect::<Vec<_>>() {
        let (digits, sent) = visit.await.expect("no visit fails");
        assert_eq!(digits, sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_services_that_finish_first_still_hear_their_visitors() {
    let net = Loopback::claim();
    let service = Service::greets_and_listens(net.at(SERVICE_PORT), "that is all");
    let (_private, service, _program, address) = visited(service, net).await;
    let visits = (0..100).map(|seed| {
        tokio::spawn(async move {
            let mut visitor = Visitor::connect(address).await;
            assert_eq!(visitor.receive_text().await, "that is all");
            let sent = visitor.send_pattern(seed, 200_000 + seed).await;
            visitor.finish().await;
            sent
        })
    });
    let mut sent = Vec::new();
    for visit in visits.collect::<Vec<_>>() {
        sent.push(Ended::Properly(visit.await.expect("no visit fails")));
    }
    let mut heard = Vec::new();
    for n in 1..=100 {
        heard.push(service.nth_ended(n).await);
    }
    let order = |ended: &Ended| format!("{ended:?}");
    sent.sort_by_key(order);
    heard.sort_by_key(order);
    assert_eq!(heard, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_reach_the_other_end_from_either_side() {
    let net = Loopback::claim();
    let (echo, resets) =
        (Service::echo(net.at(SERVICE_PORT)), Service::resets(net.at(SERVICE_PORT + 1)).await);
    let (_private, echo, _program, address) = visited(echo, net).await;
    let mut visitor = Visitor::connect(address).await;
    visitor.echo(64, 1000).await;
    visitor.reset();
    assert_eq!(echo.nth_ended(1).await, Ended::Reset);

    let private = Private::start(Loopback::claim(), &resets).await;
    let (_program, address) = private.visitor().await;
    let mut visitor = Visitor::connect(address).await;
    visitor.send(b"x").await;
    assert_eq!(visitor.end().await, End::Reset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_that_does_not_read_stops_its_service_and_nobody_else() {
    const LEN: u64 = 300 * MIB;
    let _turn = alone().await;
    let net = Loopback::claim();
    let service = Service::source(net.at(SERVICE_PORT));
    let (private, service, program, address) = visited(service, net).await;
    let programs = [&private.server, &private.client, &program];
    let before = programs.map(Program::resident_kib);
    let mut stuck = Visitor::connect(address).await;
    stuck.send(format!("65 {LEN}\n").as_bytes()).await;
    let sent = quiet("the service is stopped", || service.sent()).await;
    assert!(sent > 0 && sent < 100 * MIB, "{sent} bytes are on the way to a reader that does not read");
    for (program, before) in programs.iter().zip(before) {
        let grown = program.resident_kib().saturating_sub(before);
        assert!(grown <= 48 * 1024, "{grown} KiB\n{}", program.log().tail());
    }
    let (digits, expected) = visitor::download(address, 66, 8 * MIB).await;
    assert_eq!(digits, expected);
    assert_eq!(stuck.receive_to_end().await, (digits_of(65, LEN), LEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_read_stops_its_visitor() {
    let _turn = alone().await;
    let net = Loopback::claim();
    let service = Service::never_reads(net.at(SERVICE_PORT));
    let (_private, _service, _program, address) = visited(service, net).await;
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let writer = tokio::spawn(async move {
        let mut visitor = Visitor::connect(address).await;
        loop {
            visitor.send(&[7; 65536]).await;
            count.fetch_add(65536, Ordering::Relaxed);
        }
    });
    let sent = quiet("the visitor is stopped", || written.load(Ordering::Relaxed)).await;
    writer.abort();
    assert!(sent > 0 && sent < 100 * MIB, "{sent} bytes are on the way to a service that does not read");
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_and_output_are_a_connection() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let request = pattern::bytes(67, 3_000_000);
    let spoken = speak(&private.visit(&["--stdio"]), &request).await;
    assert_eq!(spoken.code, Some(0), "{}", spoken.stderr);
    assert!(spoken.stdout == request, "{} bytes came back\n{}", spoken.stdout.len(), spoken.stderr);
    assert_eq!(spoken.stderr, "");
    // Asked for, the log does not get between the answer.
    let spoken = speak(&private.visit(&["--stdio", "--log-level", "debug"]), b"hello").await;
    assert_eq!((spoken.code, &spoken.stdout[..]), (Some(0), &b"hello"[..]));
    assert!(spoken.stderr.contains("login to server success"), "{}", spoken.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_ends_the_connection_ends_standard_output() {
    let net = Loopback::claim();
    let service = Service::start(net.at(SERVICE_PORT), |mut stream, _| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = [0; 4];
        stream.read_exact(&mut request).await?;
        stream.write_all(b"done").await?;
        Ok(String::new())
    })
    .await;
    let private = Private::start(net, &service).await;
    let spoken = speak(&private.visit(&["--stdio"]), b"do it").await;
    assert_eq!(spoken.stdout, b"done", "{}", spoken.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_refused_and_looks_like_a_proxy_that_is_not_there() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let wrong = speak(&private.visit_knowing(WRONG, &["--stdio"]), b"hello").await;
    assert_eq!(wrong.code, Some(3), "{}", wrong.stderr);
    assert!(wrong.stderr.contains(REFUSED), "{}", wrong.stderr);
    let logged = private.client.line(&format!("[{NAME}] visitor from {}", source(2))).await;
    assert!(logged.text.contains("refused: it does not know the secret"), "{}", logged.text);

    let unknown = speak(&visit_over(&private.visitor_way, "safe", SECRET, &["--stdio"]), b"hello").await;
    assert_eq!(unknown.code, Some(3), "{}", unknown.stderr);
    let last = |text: &str| text.lines().last().unwrap_or_default().to_owned();
    assert_eq!(last(&unknown.stderr), last(&wrong.stderr));
    assert_eq!((wrong.stdout.len(), unknown.stdout.len(), echo.accepted()), (0, 0, 0));

    // A visitor with a port ends as well, when it is used for the first time.
    let bound = private.visit_knowing(WRONG, &[]).start();
    let listening = bound.line("listening on ").await.text;
    let port = tun_tests::tunnel::port_at_end(&listening);
    visitor::Visitor::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.end().await;
    assert_eq!(bound.exit().await.code, Some(3));
    bound.line(REFUSED).await;
    for said in [wrong.stderr, private.client.log().text(), private.server.log().text()] {
        assert!(!said.contains(SECRET) && !said.contains(WRONG), "a secret is in the log:\n{said}");
    }
}
