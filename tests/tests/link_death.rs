//! Links die in the middle of a transfer, in every way that networks have; the application does not notice.

use std::time::Duration;

use tun_tests::forwarder::{Direction, Fault, Silence};
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::{patience, within};
use tun_tests::pattern::digits_of;
use tun_tests::service::Service;
use tun_tests::tunnel::Setup;
use tun_tests::visitor::{self, Visitor};
use tun_tests::way::Way;

const MIB: u64 = 1 << 20;

tun_tests::over_ways! { tls websocket: {
    a_download_survives_a_reset_link,
    an_upload_survives_a_reset_link,
    a_download_survives_a_link_that_freezes,
    an_upload_survives_a_link_that_freezes,
    a_download_survives_a_link_that_swallows_everything,
    an_upload_survives_a_link_that_swallows_everything,
    a_download_survives_a_server_that_accepts_and_never_answers,
    an_upload_survives_a_server_that_accepts_and_never_answers,
    a_download_survives_a_link_that_swallows_acknowledgements_only,
    an_upload_survives_a_link_that_swallows_acknowledgements_only,
    a_transfer_survives_many_deaths_of_its_link,
    idle_connections_survive_a_silent_link,
} }

// Datagrams that are not read are lost, and there is nothing that could be reset.
tun_tests::over_ways! { quic: {
    a_download_survives_a_link_that_swallows_everything,
    an_upload_survives_a_link_that_swallows_everything,
    a_download_survives_a_server_that_accepts_and_never_answers,
    an_upload_survives_a_server_that_accepts_and_never_answers,
    a_download_survives_a_link_that_swallows_acknowledgements_only,
    an_upload_survives_a_link_that_swallows_acknowledgements_only,
    a_transfer_survives_many_deaths_of_its_link,
    idle_connections_survive_a_silent_link,
} }

// Links of the same kinds in other clothes. A silence takes five seconds, so one of them must do.
tun_tests::over_ways! { plain wss nginx http_proxy socks: {
    a_download_survives_a_reset_link,
    an_upload_survives_a_reset_link,
    a_download_survives_a_link_that_swallows_everything,
    a_transfer_survives_many_deaths_of_its_link,
} }

/// A silent link is noticed within this time.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// How much moves: more than all windows and buffers on the way hold, and on the usual way much more.
fn len(way: Way) -> u64 {
    if way == Way::Tls { 256 * MIB } else { 64 * MIB }
}

/// Moves much in `direction`, lets `fault` happen after a quarter, and checks that the same connection brings all of it,
/// over a link that was opened after the fault.
async fn transfer_through(way: Way, fault: Fault, direction: Direction) {
    let net = Loopback::claim();
    let service = match direction {
        Direction::Up => Service::source(net.at(SERVICE_PORT)).await,
        Direction::Down => Service::sink(net.at(SERVICE_PORT)).await,
    };
    let tunnel =
        Setup::new(net).over(way).forwarded().proxy("files", service.addr(), REMOTE_PORT).start().await;
    let (network, public) = (tunnel.network(), tunnel.public(REMOTE_PORT));
    let pending = network.fail_after(direction, len(way) / 4, fault);
    let transfer = async {
        match direction {
            Direction::Up => visitor::download(public, 21, len(way)).await,
            Direction::Down => visitor::upload(public, 22, len(way)).await,
        }
    };
    let outage = async {
        let failed = pending.happened().await;
        let noticed = tunnel.client.line("link to server lost").await.at;
        let took = noticed.saturating_duration_since(failed);
        assert!(took <= NOTICED_WITHIN, "the dead link was noticed after {took:?}");
        network.accepted_after(failed).await;
        if fault == Fault::NeverAnswer {
            network.heal();
        }
    };
    let ((digits, expected), ()) = tokio::join!(transfer, outage);
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

async fn a_download_survives_a_reset_link(way: Way) {
    transfer_through(way, Fault::Reset, Direction::Up).await;
}

async fn an_upload_survives_a_reset_link(way: Way) {
    transfer_through(way, Fault::Reset, Direction::Down).await;
}

async fn a_download_survives_a_link_that_freezes(way: Way) {
    transfer_through(way, Fault::Swallow(Silence::Stall), Direction::Up).await;
}

async fn an_upload_survives_a_link_that_freezes(way: Way) {
    transfer_through(way, Fault::Swallow(Silence::Stall), Direction::Down).await;
}

async fn a_download_survives_a_link_that_swallows_everything(way: Way) {
    transfer_through(way, Fault::Swallow(Silence::Discard), Direction::Up).await;
}

async fn an_upload_survives_a_link_that_swallows_everything(way: Way) {
    transfer_through(way, Fault::Swallow(Silence::Discard), Direction::Down).await;
}

async fn a_download_survives_a_server_that_accepts_and_never_answers(way: Way) {
    transfer_through(way, Fault::NeverAnswer, Direction::Up).await;
}

async fn an_upload_survives_a_server_that_accepts_and_never_answers(way: Way) {
    transfer_through(way, Fault::NeverAnswer, Direction::Down).await;
}

async fn a_download_survives_a_link_that_swallows_acknowledgements_only(way: Way) {
    transfer_through(way, Fault::SwallowOneWay(Direction::Down, Silence::Discard), Direction::Up).await;
}

async fn an_upload_survives_a_link_that_swallows_acknowledgements_only(way: Way) {
    transfer_through(way, Fault::SwallowOneWay(Direction::Up, Silence::Discard), Direction::Down).await;
}

async fn a_transfer_survives_many_deaths_of_its_link(way: Way) {
    // A silence takes its time to be noticed.
    let deaths = if way.death() == Fault::Reset { 10 } else { 3 };
    let net = Loopback::claim();
    let source = Service::source(net.at(SERVICE_PORT)).await;
    let tunnel =
        Setup::new(net).over(way).forwarded().proxy("files", source.addr(), REMOTE_PORT).start().await;
    let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    visitor.send(format!("25 {}\n", 64 * MIB).as_bytes()).await;
    let mut hash = tun_tests::pattern::Hash::default();
    for _ in 0..deaths {
        visitor.receive_into(&mut hash, 4 * MIB).await;
        tunnel.network().fail(way.death());
    }
    visitor.receive_into(&mut hash, (64 - 4 * deaths) * MIB).await;
    assert_eq!(hash.digits(), digits_of(25, 64 * MIB));
    assert_eq!(visitor.receive_to_end().await.1, 0);
    assert_eq!(tunnel.client.log().count("login to server success"), 1);
}

async fn idle_connections_survive_a_silent_link(way: Way) {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let tunnel = Setup::new(net).over(way).forwarded().proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    let mut visitors = Vec::new();
    for seed in 0..50 {
        let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
        visitor.echo(seed, 100).await;
        visitors.push(visitor);
    }
    tunnel.network().fail(Fault::Swallow(Silence::Discard));
    within(patience(), "the link is replaced", tunnel.client.line("link to server restored")).await;
    for (seed, visitor) in visitors.iter_mut().enumerate() {
        visitor.echo(100 + seed as u64, 100).await;
    }
    // The same fifty: nobody connected anew.
    drop(visitors);
    echo.nth_ended(50).await;
}
