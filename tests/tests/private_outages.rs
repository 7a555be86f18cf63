//! The network and the programs fail under a private service; its connections go on, or end when they must.

use std::net::SocketAddr;
use std::time::Duration;

use tun_tests::eventually::eventually;
use tun_tests::forwarder::{Direction, Fault, Forwarder, Silence};
use tun_tests::net::{BIND_PORT, Loopback, SERVICE_PORT};
use tun_tests::patience::{alone, within};
use tun_tests::private::{Lines, Private};
use tun_tests::program::Program;
use tun_tests::service::Service;
use tun_tests::visitor::{self, Visitor};

const MIB: u64 = 1 << 20;
const LEN: u64 = 64 * MIB;

/// How long a visitor's connection may outlive the client that served it.
const BOUND: Duration = Duration::from_secs(10);

/// Where bytes go, seen from the visitor.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Transfer {
    Download,
    Upload,
}

/// Whose connection to the server fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Whose {
    Visitor,
    Client,
}

impl Transfer {
    async fn service(self, addr: SocketAddr) -> Service {
        match self {
            Self::Download => Service::source(addr).await,
            Self::Upload => Service::sink(addr).await,
        }
    }

    async fn run(self, addr: SocketAddr, seed: u64, len: u64) {
        let (digits, expected) = match self {
            Self::Download => visitor::download(addr, seed, len).await,
            Self::Upload => visitor::upload(addr, seed, len).await,
        };
        assert_eq!(digits, expected, "{self:?}");
    }

    /// The direction in which its bytes cross somebody's connection to the server.
    fn direction(self, whose: Whose) -> Direction {
        match (self, whose) {
            (Self::Download, Whose::Visitor) | (Self::Upload, Whose::Client) => Direction::Down,
            (Self::Upload, Whose::Visitor) | (Self::Download, Whose::Client) => Direction::Up,
        }
    }
}

impl Whose {
    fn way(self, private: &Private) -> &Forwarder {
        match self {
            Self::Visitor => &private.visitor_way,
            Self::Client => &private.client_way,
        }
    }
}

/// Moves 64 MiB, lets `fault` happen after 16 MiB of them, and checks that the same connection brings all of them.
async fn transfer_through(fault: Fault, whose: Whose, transfer: Transfer) {
    let net = Loopback::claim();
    let service = transfer.service(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &service).await;
    let (visiting, address) = private.visitor().await;
    let way = whose.way(&private);
    let pending = way.fail_after(transfer.direction(whose), 16 * MIB, fault);
    let network = async {
        let failed = pending.happened().await;
        way.accepted_after(failed).await;
    };
    tokio::join!(transfer.run(address, 71, LEN), network);
    assert_eq!(service.accepted(), 1);
    // The sessions were resumed, not begun anew, and are as good as before.
    for program in [&private.client, &visiting] {
        assert_eq!(program.log().count("login to server success"), 1);
    }
    transfer.run(address, 72, MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_survive_a_reset_of_the_visitors_connection() {
    transfer_through(Fault::Reset, Whose::Visitor, Transfer::Download).await;
    transfer_through(Fault::Reset, Whose::Visitor, Transfer::Upload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_survive_a_reset_of_the_clients_connection() {
    transfer_through(Fault::Reset, Whose::Client, Transfer::Download).await;
    transfer_through(Fault::Reset, Whose::Client, Transfer::Upload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_a_visitors_connection_that_swallows_everything() {
    transfer_through(Fault::Swallow(Silence::Discard), Whose::Visitor, Transfer::Download).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_visitors_connection_that_swallows_everything() {
    transfer_through(Fault::Swallow(Silence::Discard), Whose::Visitor, Transfer::Upload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_a_clients_connection_that_swallows_everything() {
    transfer_through(Fault::Swallow(Silence::Discard), Whose::Client, Transfer::Download).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_clients_connection_that_freezes() {
    transfer_through(Fault::Swallow(Silence::Stall), Whose::Client, Transfer::Upload).await;
}

/// Kills the server after 16 MiB of a transfer and starts it again; the same connection brings all bytes.
async fn transfer_through_a_restart(transfer: Transfer) {
    let net = Loopback::claim();
    let service = transfer.service(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &service).await;
    let (visiting, address) = private.visitor().await;
    // A fault that changes nothing more than the kill that follows it.
    let direction = transfer.direction(Whose::Visitor);
    let pending = private.visitor_way.fail_after(direction, 16 * MIB, Fault::Reset);
    let restart = async {
        pending.happened().await;
        private.server.kill().await;
        let server = private.server_launch.start();
        server.line(&format!("listening on {}", private.net.at(BIND_PORT))).await;
        server
    };
    let ((), _server) = tokio::join!(transfer.run(address, 73, LEN), restart);
    assert_eq!(service.accepted(), 1);
    for program in [&private.client, &visiting] {
        assert_eq!(program.log().count("login to server success"), 2);
    }
    visiting.line("connected to its client again").await;
    transfer.run(address, 74, MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_survives_a_server_that_is_killed_and_comes_back() {
    transfer_through_a_restart(Transfer::Download).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_a_server_that_is_killed_and_comes_back() {
    transfer_through_a_restart(Transfer::Upload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_killed_and_comes_back_ends_old_connections_and_serves_new_ones() {
    let _turn = alone().await;
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let (_visiting, address) = private.visitor().await;
    let mut old = Visitor::connect(address).await;
    old.echo(75, 1000).await;
    private.client.kill().await;
    let client = private.client_launch.start();
    client.line("start proxy success").await;
    within(BOUND, "the old connection ends", old.end()).await;
    visitor::echo(address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_is_let_in_again_after_a_long_absence_of_the_client() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let (visiting, address) = private.visitor().await;
    visitor::echo(address).await;
    // It says goodbye: the proxy does not exist for a while.
    private.client.terminate();
    assert_eq!(private.client.exit().await.code, Some(0));
    let client = private.client_launch.start();
    client.line("start proxy success").await;
    assert!(visiting.is_running());
    eventually("the visitor reaches the service", || async {
        visitor::try_echo(address).await.then_some(())
    })
    .await;
}

/// A set-up with one idle connection through it.
async fn idle() -> (Private, Service, Program, Visitor) {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start_with(net, &echo, Lines::default()).await;
    let (visiting, address) = private.visitor().await;
    let mut visitor = Visitor::connect(address).await;
    visitor.echo(76, 1000).await;
    visitor.finish().await;
    visitor.end().await;
    (private, echo, visiting, visitor)
}

async fn stops_within(program: &Program, limit: Duration) {
    let asked = program.line("stopping").await.at;
    let exit = program.exit().await;
    assert_eq!(exit.code, Some(0), "{}", program.log().tail());
    assert!(exit.at - asked <= limit, "it took {:?}\n{}", exit.at - asked, program.log().tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_visitor_stops_at_once() {
    let _turn = alone().await;
    let (_private, _echo, visiting, _visitor) = idle().await;
    visiting.interrupt();
    stops_within(&visiting, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_an_idle_visitor_stops_at_once() {
    let _turn = alone().await;
    let (private, _echo, visiting, _visitor) = idle().await;
    private.client.interrupt();
    stops_within(&private.client, Duration::from_secs(2)).await;
    assert!(visiting.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_an_idle_visitor_stops_at_once() {
    let _turn = alone().await;
    let (private, _echo, visiting, _visitor) = idle().await;
    private.server.terminate();
    stops_within(&private.server, Duration::from_secs(3)).await;
    assert!(visiting.is_running() && private.client.is_running());
}
