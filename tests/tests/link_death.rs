//! Links die in the middle of a transfer, in every way that networks have; the application does not notice.

use std::time::Duration;

use tun_tests::forwarder::{Direction, Fault, Silence};
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::{patience, within};
use tun_tests::pattern::digits_of;
use tun_tests::service::Service;
use tun_tests::tunnel::Setup;
use tun_tests::visitor::{self, Visitor};

const MIB: u64 = 1 << 20;
const LEN: u64 = 256 * MIB;

/// A silent link is noticed within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// Moves 256 MiB in `direction`, lets `fault` happen after 64 MiB of them, and checks that the same connection
/// brings all of them, over a link that was opened after the fault.
async fn transfer_through(fault: Fault, direction: Direction) {
    let net = Loopback::claim();
    let service = match direction {
        Direction::Up => Service::source(net.at(SERVICE_PORT)).await,
        Direction::Down => Service::sink(net.at(SERVICE_PORT)).await,
    };
    let tunnel = Setup::new(net).forwarded().proxy("files", service.addr(), REMOTE_PORT).start().await;
    let (forwarder, public) = (tunnel.forwarder(), tunnel.public(REMOTE_PORT));
    let pending = forwarder.fail_after(direction, 64 * MIB, fault);
    let transfer = async {
        match direction {
            Direction::Up => visitor::download(public, 21, LEN).await,
            Direction::Down => visitor::upload(public, 22, LEN).await,
        }
    };
    let network = async {
        let failed = pending.happened().await;
        let noticed = tunnel.client.line("link to server lost").await.at;
        let took = noticed.saturating_duration_since(failed);
        assert!(took <= NOTICED_WITHIN, "the dead link was noticed after {took:?}");
        forwarder.accepted_after(failed).await;
        if fault == Fault::NeverAnswer {
            forwarder.heal();
        }
    };
    let ((digits, expected), ()) = tokio::join!(transfer, network);
    assert_eq!(digits, expected);
    // The session was resumed, not begun anew, and is as good as before.
    tunnel.client.line("link to server restored").await;
    assert_eq!(tunnel.client.log().count("login to server success"), 1);
    let (digits, expected) = match direction {
        Direction::Up => visitor::download(public, 23, MIB).await,
        Direction::Down => visitor::upload(public, 24, MIB).await,
    };
    assert_eq!(digits, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_a_reset_link() {
    transfer_through(Fault::Reset, Direction::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_reset_link() {
    transfer_through(Fault::Reset, Direction::Down).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_a_link_that_freezes() {
    transfer_through(Fault::Swallow(Silence::Stall), Direction::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_link_that_freezes() {
    transfer_through(Fault::Swallow(Silence::Stall), Direction::Down).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_a_link_that_swallows_everything() {
    transfer_through(Fault::Swallow(Silence::Discard), Direction::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_link_that_swallows_everything() {
    transfer_through(Fault::Swallow(Silence::Discard), Direction::Down).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_a_server_that_accepts_and_never_answers() {
    transfer_through(Fault::NeverAnswer, Direction::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_server_that_accepts_and_never_answers() {
    transfer_through(Fault::NeverAnswer, Direction::Down).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_a_link_that_swallows_acknowledgements_only() {
    transfer_through(Fault::SwallowOneWay(Direction::Down, Silence::Discard), Direction::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_link_that_swallows_acknowledgements_only() {
    transfer_through(Fault::SwallowOneWay(Direction::Up, Silence::Discard), Direction::Down).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_survives_ten_deaths_of_its_link() {
    let net = Loopback::claim();
    let source = Service::source(net.at(SERVICE_PORT)).await;
    let tunnel = Setup::new(net).forwarded().proxy("files", source.addr(), REMOTE_PORT).start().await;
    let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    visitor.send(format!("25 {}\n", 64 * MIB).as_bytes()).await;
    let mut hash = tun_tests::pattern::Hash::default();
    for _ in 0..10 {
        visitor.receive_into(&mut hash, 4 * MIB).await;
        tunnel.forwarder().fail(Fault::Reset);
    }
    visitor.receive_into(&mut hash, 24 * MIB).await;
    assert_eq!(hash.digits(), digits_of(25, 64 * MIB));
    assert_eq!(visitor.receive_to_end().await.1, 0);
    assert_eq!(tunnel.client.log().count("login to server success"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_survive_a_silent_link() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let tunnel = Setup::new(net).forwarded().proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    let mut visitors = Vec::new();
    for seed in 0..50 {
        let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
        visitor.echo(seed, 100).await;
        visitors.push(visitor);
    }
    tunnel.forwarder().fail(Fault::Swallow(Silence::Discard));
    within(patience(), "the link is replaced", tunnel.client.line("link to server restored")).await;
    for (seed, visitor) in visitors.iter_mut().enumerate() {
        visitor.echo(100 + seed as u64, 100).await;
    }
    // The same fifty: nobody connected anew.
    drop(visitors);
    echo.nth_ended(50).await;
}
