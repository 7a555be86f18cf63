//! The harness itself, against plain TCP and ordinary programs: what it reports must be true before it judges.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tun_tests::certs::{careless_client, self_signed_server};
use tun_tests::eventually::quiet;
use tun_tests::forwarder::{Direction, Fault, Forwarder, Silence};
use tun_tests::lab::{self, Lab, Nat};
use tun_tests::mitm::Mitm;
use tun_tests::net::{FORWARDER_PORT, Loopback, SERVICE_PORT};
use tun_tests::pattern;
use tun_tests::program::Launch;
use tun_tests::service::nginx::Nginx;
use tun_tests::service::{Ended, Service};
use tun_tests::stall::Stall;
use tun_tests::visitor::{self, End, Visitor};
use tun_tests::{http, net};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn addresses_are_not_given_out_twice() {
    let claimed: Vec<Loopback> = (0..200).map(|_| Loopback::claim()).collect();
    let mut ips: Vec<_> = claimed.iter().map(Loopback::ip).collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), 200);
}

#[tokio::test]
async fn a_program_is_watched_signalled_and_ended() {
    // The tail leaves with the shell, however that goes, and wait is the one command that signals interrupt.
    let script = "echo one; echo two >&2; trap 'echo caught; exit 7' TERM; \
                  tail --pid=$$ -f /dev/null > /dev/null 2>&1 & echo ready; wait";
    let launch = Launch::of("sh", "/bin/sh").args(["-c", script]);
    let program = launch.start();
    program.line("two").await;
    assert!(program.nth("ready", 1).await.at >= program.started());
    assert!(program.resident_kib() > 100);
    program.terminate();
    assert_eq!(program.exit().await.code, Some(7));
    assert_eq!(program.log().count("caught"), 1);

    let again = launch.start();
    again.line("ready").await;
    again.kill().await;
    assert_eq!(again.exit().await.code, None);
    assert!(!again.is_running());
}

#[tokio::test]
async fn a_program_starts_without_any_environment() {
    let launch = Launch::of("env", "/usr/bin/env").empty_environment().env("ONLY", "this");
    let finished = launch.run().await;
    assert_eq!(finished.output, "ONLY=this\n");
    finished.expect(0, &["ONLY"]);
}

#[tokio::test]
#[should_panic(expected = "ended without the line")]
async fn waiting_for_a_line_of_a_program_that_ended_fails_at_once() {
    Launch::of("true", "/bin/true").start().line("never said").await;
}

#[tokio::test]
async fn services_behave_as_they_say() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    visitor::echo(echo.addr()).await;

    let source = Service::source(net.at(SERVICE_PORT + 1)).await;
    let (digits, expected) = visitor::download(source.addr(), 5, 3 * MIB + 1).await;
    assert_eq!(digits, expected);
    assert_eq!(source.sent(), 3 * MIB + 1);

    let sink = Service::sink(net.at(SERVICE_PORT + 2)).await;
    let (digits, expected) = visitor::upload(sink.addr(), 6, 3 * MIB + 1).await;
    assert_eq!(digits, expected);
    assert_eq!(sink.nth_ended(1).await, Ended::Properly(expected));

    let resets = Service::resets(net.at(SERVICE_PORT + 3)).await;
    let mut visitor = Visitor::connect(resets.addr()).await;
    visitor.send(b"x").await;
    assert_eq!(visitor.end().await, End::Reset);

    let visitor = Visitor::connect(echo.addr()).await;
    echo.nth_accepted(2).await;
    visitor.reset();
    assert_eq!(echo.nth_ended(2).await, Ended::Reset);

    let greeter = Service::greets_and_listens(net.at(SERVICE_PORT + 4), "hello").await;
    let mut visitor = Visitor::connect(greeter.addr()).await;
    assert_eq!(visitor.receive_text().await, "hello");
    let sent = visitor.send_pattern(8, MIB).await;
    visitor.finish().await;
    assert_eq!(greeter.nth_ended(1).await, Ended::Properly(sent));

    let duplex = Service::duplex(net.at(SERVICE_PORT + 5)).await;
    let mut visitor = Visitor::connect(duplex.addr()).await;
    visitor.send(b"9 100000000\n").await;
    let stuck_at = quiet("the source is stuck", || duplex.sent()).await;
    assert!(stuck_at < 100_000_000);
    let sent = visitor.send_pattern(10, 3 * MIB).await;
    visitor.finish().await;
    let (digits, _) = visitor.receive_to_end().await;
    assert_eq!(digits, pattern::digits_of(9, 100_000_000));
    assert_eq!(duplex.nth_ended(1).await, Ended::Properly(sent));

    let addr = echo.addr();
    echo.stop().await;
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn nginx_gives_and_takes_files() {
    let net = Loopback::claim();
    let nginx = Nginx::start(net.at(SERVICE_PORT)).await;
    std::fs::write(nginx.files().join("down"), pattern::bytes(1, 5_000_001)).unwrap();
    let answer = http::get(nginx.addr(), "/down").await;
    assert_eq!(
        (answer.status, answer.len, answer.digits),
        (200, 5_000_001, pattern::digits_of(1, 5_000_001))
    );
    let answer = http::put(nginx.addr(), "/up", 2, 5_000_001).await;
    assert_eq!(answer.status, 201);
    assert_eq!(std::fs::read(nginx.files().join("up")).unwrap(), pattern::bytes(2, 5_000_001));
}

/// An echo service behind a forwarder.
async fn forwarded_echo() -> (Loopback, Service, Forwarder) {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let forwarder = Forwarder::start(net.at(FORWARDER_PORT), echo.addr()).await;
    (net, echo, forwarder)
}

#[tokio::test]
async fn the_forwarder_passes_bytes_ends_and_resets() {
    let (_net, echo, forwarder) = forwarded_echo().await;
    visitor::echo(forwarder.addr()).await;
    assert_eq!((forwarder.passed(Direction::Up), forwarder.passed(Direction::Down)), (1000, 1000));
    let visitor = Visitor::connect(forwarder.addr()).await;
    echo.nth_accepted(2).await;
    visitor.reset();
    assert_eq!(echo.nth_ended(2).await, Ended::Reset);
    assert_eq!(forwarder.accepted(), 2);
}

#[tokio::test]
async fn the_forwarder_resets_on_command_and_passes_what_comes_later() {
    let (_net, echo, forwarder) = forwarded_echo().await;
    let mut visitor = Visitor::connect(forwarder.addr()).await;
    visitor.echo(1, 100).await;
    assert_eq!(forwarder.open(), 1);
    forwarder.fail(Fault::Reset);
    assert_eq!(visitor.end().await, End::Reset);
    assert_eq!(echo.nth_ended(1).await, Ended::Reset);
    visitor::echo(forwarder.addr()).await;
}

#[tokio::test]
async fn the_forwarder_swallows_in_the_middle_of_a_transfer() {
    const MUCH: u64 = 64 * MIB;
    for silence in [Silence::Stall, Silence::Discard] {
        let net = Loopback::claim();
        let sink = Service::sink(net.at(SERVICE_PORT)).await;
        let forwarder = Forwarder::start(net.at(FORWARDER_PORT), sink.addr()).await;
        let pending = forwarder.fail_after(Direction::Up, MIB, Fault::Swallow(silence));
        let mut visitor = Visitor::connect(forwarder.addr()).await;
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        let writer = tokio::spawn(async move {
            let chunk = pattern::bytes(1, 64 * 1024);
            while count.load(Ordering::Relaxed) < MUCH {
                visitor.send(&chunk).await;
                count.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            visitor
        });
        pending.happened().await;
        let total = quiet("the writer is done or stuck", || written.load(Ordering::Relaxed)).await;
        assert!(forwarder.passed(Direction::Up) < 2 * MIB);
        // What is discarded can be sent on and on; what is left to the kernel cannot.
        assert_eq!(total >= MUCH, silence == Silence::Discard);
        assert_eq!(forwarder.open(), 1);
        let (digits, expected) = visitor::upload(forwarder.addr(), 2, MIB).await;
        assert_eq!(digits, expected);
        writer.abort();
    }
}

#[tokio::test]
async fn the_forwarder_swallows_one_way_only() {
    let (net, _echo, _) = forwarded_echo().await;
    let greeter = Service::greets_and_listens(net.at(SERVICE_PORT + 1), "hello").await;
    let forwarder = Forwarder::start(net.at(FORWARDER_PORT + 1), greeter.addr()).await;
    let mut visitor = Visitor::connect(forwarder.addr()).await;
    visitor.receive(5).await;
    forwarder.fail(Fault::SwallowOneWay(Direction::Down, Silence::Discard));
    let sent = visitor.send_pattern(3, MIB).await;
    visitor.finish().await;
    assert_eq!(greeter.nth_ended(1).await, Ended::Properly(sent));
}

#[tokio::test]
async fn the_forwarder_accepts_and_never_answers_until_it_heals() {
    let (_net, echo, forwarder) = forwarded_echo().await;
    forwarder.fail(Fault::NeverAnswer);
    let mut dead = Visitor::connect(forwarder.addr()).await;
    forwarder.nth_accepted(1).await;
    dead.send(b"anybody?").await;
    forwarder.heal();
    visitor::echo(forwarder.addr()).await;
    echo.nth_accepted(1).await;
    assert_eq!(forwarder.passed(Direction::Up), 1000);
    forwarder.fail(Fault::Reset);
    assert_eq!(dead.end().await, End::Reset);
}

#[tokio::test]
async fn the_forwarder_limits_the_rate_and_chooses_the_source() {
    let net = Loopback::claim();
    let where_from = Service::start(net.at(SERVICE_PORT), |mut stream, _| async move {
        let from = stream.peer_addr()?.ip().to_string();
        stream.write_all(from.as_bytes()).await?;
        Ok(from)
    })
    .await;
    let source = net::source(7);
    let forwarder = Forwarder::start_from(net.at(FORWARDER_PORT), where_from.addr(), Some(source)).await;
    let mut visitor = Visitor::connect(forwarder.addr()).await;
    assert_eq!(visitor.receive_text().await, source.to_string());

    let sink = Service::sink(net.at(SERVICE_PORT + 1)).await;
    let forwarder = Forwarder::start(net.at(FORWARDER_PORT + 1), sink.addr()).await;
    forwarder.limit(10 * MIB);
    let started = Instant::now();
    let (digits, expected) = visitor::upload(forwarder.addr(), 1, 5 * MIB).await;
    assert_eq!(digits, expected);
    assert!(started.elapsed() >= Duration::from_millis(450));
}

/// A TLS service that echoes one message of five bytes.
async fn tls_echo(net: &Loopback) -> Service {
    let acceptor = TlsAcceptor::from(Arc::new(self_signed_server("localhost")));
    Service::start(net.at(SERVICE_PORT), move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut message = [0; 5];
            stream.read_exact(&mut message).await?;
            stream.write_all(&message).await?;
            stream.shutdown().await?;
            Ok(String::from_utf8_lossy(&message).into_owned())
        }
    })
    .await
}

#[tokio::test]
async fn the_man_in_the_middle_reads_along_where_nobody_checks() {
    let net = Loopback::claim();
    let service = tls_echo(&net).await;
    let mitm = Mitm::start(net.at(FORWARDER_PORT), service.addr()).await;
    let stream = TcpStream::connect(mitm.addr()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(careless_client()));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    stream.write_all(b"plain").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    drop(stream);
    mitm.nth_ended(1).await;
    assert_eq!((&answer, &mitm.seen()[..]), (b"plain", &b"plainplain"[..]));
    assert_eq!(service.nth_ended(1).await, Ended::Properly("plain".to_owned()));
}

#[tokio::test]
async fn stalling_peers_stall_until_they_are_cut() {
    for stall in [Stall::TcpOnly, Stall::HalfHello, Stall::TlsWithoutLogin] {
        let net = Loopback::claim();
        let service = tls_echo(&net).await;
        let mut stalled = stall.at(service.addr(), 50, 4).await;
        assert_eq!((stalled.waiting(), stalled.refused()), (50, 0), "{stall:?}");
        service.nth_accepted(50).await;
        service.stop().await;
        assert!(stalled.all_cut().await < Duration::from_secs(20), "{stall:?}");
    }
}

#[tokio::test]
async fn a_lab_goes_with_its_test_and_leaves_nothing() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Nat::PortRestricted);
    let names = [lab.server().name().to_owned(), site.host().name().to_owned()];
    assert!(names.iter().all(|name| lab::names().contains(name)));
    drop((lab, site));
    assert!(!names.iter().any(|name| lab::names().contains(name)));
}

#[tokio::test]
async fn what_a_dead_process_left_is_swept() {
    let Some(_lab) = Lab::start() else { return };
    // A process that has ended, and its lab with a program in it.
    let maker = Launch::of("true", "/bin/true").start();
    maker.exit().await;
    let left = lab::leave(u32::try_from(maker.pid()).unwrap());
    let script = "echo inside; exec tail -f /dev/null";
    let forgotten = Launch::of("tail", "/bin/sh").within(&left).args(["-c", script]).start();
    forgotten.line("inside").await;
    let name = left.name().to_owned();
    // Nobody cleans up.
    std::mem::forget(left);
    lab::sweep();
    assert_eq!(forgotten.exit().await.code, None);
    assert!(!lab::names().contains(&name));
}
