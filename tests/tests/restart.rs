//! Either program dies without a word and comes back; so does the service, by itself, at the same address.

use std::time::Duration;

use tun_tests::eventually::eventually;
use tun_tests::forwarder::{Direction, Fault};
use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::alone;
use tun_tests::program::Program;
use tun_tests::service::Service;
use tun_tests::tunnel::{Setup, Tunnel, port_at_end};
use tun_tests::visitor;
use tun_tests::way::Way;

tun_tests::over_ways! { all: {
    clients_are_back_within_three_seconds_of_a_killed_server,
    clients_are_back_within_three_seconds_of_a_server_restarted_at_once,
    a_killed_client_has_its_ports_again_within_a_second,
    a_killed_client_with_an_identity_has_its_ports_again_within_a_second,
    a_client_whose_host_froze_is_replaced_within_a_second,
    the_public_ports_of_a_client_that_died_are_closed,
    a_port_that_the_server_chose_is_kept_when_the_link_is_replaced,
} }

/// An echo service on a fixed public port and on one that the server chose.
async fn echo_on_two_ports(way: Way, client_lines: &str) -> (Tunnel, Service) {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let tunnel = Setup::new(net)
        .over(way)
        .forwarded()
        .client(client_lines)
        .proxy("fixed", echo.addr(), REMOTE_PORT)
        .proxy("chosen", echo.addr(), 0)
        .start()
        .await;
    (tunnel, echo)
}

/// Waits until the client has made both proxies public for the `n`-th time, and returns the moment and the port
/// that the server chose.
async fn public_again(client: &Program, n: usize) -> (std::time::Instant, u16) {
    let fixed = client.nth("[fixed] start proxy success", n).await;
    let chosen = client.nth("[chosen] start proxy success", n).await;
    (fixed.at.max(chosen.at), port_at_end(&chosen.text))
}

async fn clients_are_back_within_three_seconds_of_a_killed_server(way: Way) {
    let _turn = alone().await;
    let (tunnel, _echo) = echo_on_two_ports(way, "").await;
    let (_, chosen) = public_again(&tunnel.client, 1).await;
    tunnel.server.kill().await;
    // A long outage: the client has tried in vain many times when the server returns. Where nothing refuses a packet, it
    // waits for an answer each time.
    let attempts = if way.has_connections() { 7 } else { 3 };
    tunnel.network().nth_accepted(attempts).await;

    let server = tunnel.server_launch.start();
    let returned = server.line(&format!("listening on {}", tunnel.net.at(BIND_PORT))).await.at;
    let (back, still_chosen) = public_again(&tunnel.client, 2).await;
    assert!(back - returned <= Duration::from_secs(3), "back after {:?}", back - returned);
    assert_eq!(still_chosen, chosen);
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
    visitor::echo(tunnel.public(chosen)).await;
    assert_eq!(tunnel.client.log().count("login to server success"), 2);
}

async fn clients_are_back_within_three_seconds_of_a_server_restarted_at_once(way: Way) {
    let _turn = alone().await;
    let (tunnel, _echo) = echo_on_two_ports(way, "").await;
    let (_, chosen) = public_again(&tunnel.client, 1).await;
    tunnel.server.kill().await;
    let server = tunnel.server_launch.start();
    let returned = server.line("listening on").await.at;
    let (back, still_chosen) = public_again(&tunnel.client, 2).await;
    assert!(back - returned <= Duration::from_secs(3), "back after {:?}", back - returned);
    assert_eq!(still_chosen, chosen);
    visitor::echo(tunnel.public(chosen)).await;
}

/// Kills the client, starts it again at once, and checks that both ports are its own again within a second.
async fn restart_client(way: Way, client_lines: &str) {
    let _turn = alone().await;
    let (tunnel, _echo) = echo_on_two_ports(way, client_lines).await;
    let (_, chosen) = public_again(&tunnel.client, 1).await;
    visitor::echo(tunnel.public(chosen)).await;
    tunnel.client.kill().await;
    let client = tunnel.client_launch.start();
    let (back, still_chosen) = public_again(&client, 1).await;
    assert!(back - client.started() <= Duration::from_secs(1), "back after {:?}", back - client.started());
    assert_eq!(still_chosen, chosen);
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
    visitor::echo(tunnel.public(chosen)).await;
    assert_eq!(client.log().count("start proxy error"), 0);
}

async fn a_killed_client_has_its_ports_again_within_a_second(way: Way) {
    restart_client(way, "").await;
}

async fn a_killed_client_with_an_identity_has_its_ports_again_within_a_second(way: Way) {
    restart_client(way, "clientID = \"home\"").await;
}

async fn a_client_whose_host_froze_is_replaced_within_a_second(way: Way) {
    let _turn = alone().await;
    let (tunnel, _echo) = echo_on_two_ports(way, "clientID = \"home\"").await;
    // The server does not hear that the first client is gone: its packets are lost.
    tunnel.network().fail(Fault::SwallowOneWay(Direction::Up, tun_tests::forwarder::Silence::Stall));
    tunnel.client.kill().await;
    let client = tunnel.client_launch.start();
    let (back, _) = public_again(&client, 1).await;
    assert!(back - client.started() <= Duration::from_secs(1), "back after {:?}", back - client.started());
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
}

async fn the_public_ports_of_a_client_that_died_are_closed(way: Way) {
    let (tunnel, _echo) = echo_on_two_ports(way, "").await;
    tunnel.client.kill().await;
    let public = tunnel.public(REMOTE_PORT);
    eventually("the port refuses connections", || async move {
        tokio::net::TcpStream::connect(public).await.is_err().then_some(())
    })
    .await;
}

async fn a_port_that_the_server_chose_is_kept_when_the_link_is_replaced(way: Way) {
    let (tunnel, _echo) = echo_on_two_ports(way, "").await;
    let (_, chosen) = public_again(&tunnel.client, 1).await;
    tunnel.network().fail(way.death());
    tunnel.client.line("link to server restored").await;
    visitor::echo(tunnel.public(chosen)).await;
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
}
