//! A planned stop lets open connections finish, for a while; a second request ends at once.

use std::time::Duration;

use tun_tests::eventually::eventually;
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::alone;
use tun_tests::pattern::digits_of;
use tun_tests::program::Program;
use tun_tests::service::Service;
use tun_tests::tunnel::{Setup, Tunnel};
use tun_tests::visitor::Visitor;

const MIB: u64 = 1 << 20;

/// More than all buffers on the way hold together, so that the transfer is open while its reader pauses.
const LEN: u64 = 200 * MIB;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Which {
    Server,
    Client,
}

impl Which {
    fn of(self, tunnel: &Tunnel) -> &Program {
        match self {
            Self::Server => &tunnel.server,
            Self::Client => &tunnel.client,
        }
    }
}

/// A tunnel with a download that has begun and is far from its end.
async fn downloading(lines: &str) -> (Tunnel, Service, Visitor) {
    let net = Loopback::claim();
    let source = Service::source(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net).server(lines).client(lines);
    let tunnel = setup.proxy("files", source.addr(), REMOTE_PORT).start().await;
    let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    visitor.send(format!("51 {LEN}\n").as_bytes()).await;
    visitor.receive(10).await;
    (tunnel, source, visitor)
}

async fn drains(which: Which, ask: impl Fn(&Program)) {
    let (tunnel, _source, visitor) = downloading("transport.drainTimeout = 30").await;
    let program = which.of(&tunnel);
    ask(program);
    program.line("stopping, draining for up to 30").await;
    let public = tunnel.public(REMOTE_PORT);
    eventually("no new visitors are let in", || async move {
        let Ok(mut stream) = tokio::net::TcpStream::connect(public).await else { return Some(()) };
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        // A visitor that is let in has its order carried out.
        let _ = stream.write_all(b"1 1\n").await;
        let mut byte = [0];
        matches!(stream.read(&mut byte).await, Ok(0) | Err(_)).then_some(())
    })
    .await;
    finish(visitor).await;
    assert_eq!(program.exit().await.code, Some(0), "{}", program.log().tail());
    assert_eq!(program.log().count(": stopped"), 1);
}

/// Reads the rest of a download that [`downloading`] began.
async fn finish(mut visitor: Visitor) {
    let (_, len) = visitor.receive_to_end().await;
    assert_eq!(len, LEN - 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_terminated_finishes_its_transfer() {
    drains(Which::Client, Program::terminate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_terminated_finishes_its_transfer() {
    drains(Which::Server, Program::terminate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_drains_a_client_as_well() {
    drains(Which::Client, Program::interrupt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_drains_a_server_as_well() {
    drains(Which::Server, Program::interrupt).await;
}

async fn ends_at_its_deadline(which: Which) {
    let _turn = alone().await;
    let (tunnel, _source, _stuck) = downloading("transport.drainTimeout = 1").await;
    let program = which.of(&tunnel);
    program.terminate();
    let asked = program.line("stopping, draining for up to 1").await.at;
    let exit = program.exit().await;
    assert_eq!(exit.code, Some(0), "{}", program.log().tail());
    let took = exit.at - asked;
    assert!(took >= Duration::from_millis(900) && took <= Duration::from_secs(4), "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_wait_for_ever() {
    ends_at_its_deadline(Which::Client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_wait_for_ever() {
    ends_at_its_deadline(Which::Server).await;
}

async fn second_signal_ends_at_once(which: Which) {
    let _turn = alone().await;
    let (tunnel, _source, _stuck) = downloading("").await;
    let program = which.of(&tunnel);
    program.terminate();
    let asked = program.line("stopping, draining for up to 10").await.at;
    program.terminate();
    let took = program.exit().await.at - asked;
    assert!(took <= Duration::from_secs(2), "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_client_at_once() {
    second_signal_ends_at_once(Which::Client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_server_at_once() {
    second_signal_ends_at_once(Which::Server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_with_nothing_to_drain_stop_at_once() {
    let _turn = alone().await;
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let tunnel = Setup::new(net).proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    for program in [&tunnel.client, &tunnel.server] {
        program.terminate();
        let asked = program.line("stopping").await.at;
        let exit = program.exit().await;
        assert_eq!(exit.code, Some(0), "{}", program.log().tail());
        assert!(exit.at - asked <= Duration::from_secs(2), "it took {:?}", exit.at - asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_lets_a_whole_download_through_unchanged() {
    let (tunnel, _source, mut visitor) = downloading("transport.drainTimeout = 60").await;
    tunnel.server.terminate();
    tunnel.server.line("stopping").await;
    let mut hash = tun_tests::pattern::Hash::default();
    hash.feed(&tun_tests::pattern::bytes(51, 10));
    visitor.receive_into(&mut hash, LEN - 10).await;
    assert_eq!(hash.digits(), digits_of(51, LEN));
}
