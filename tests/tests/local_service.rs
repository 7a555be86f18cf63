//! The exposed service goes away and comes back.

use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::service::Service;
use tun_tests::tunnel::Setup;
use tun_tests::visitor::{self, Visitor};

#[tokio::test(flavor = "multi_thread")]
async fn visitors_of_a_service_that_is_down_are_sent_away_at_once_and_it_is_said_once() {
    let net = Loopback::claim();
    let local = net.at(SERVICE_PORT);
    let tunnel = Setup::new(net).proxy("web", local, REMOTE_PORT).start().await;
    let unreachable = format!("[web] local service {local} is unreachable");
    let answers = format!("[web] local service {local} answers again");
    let public = tunnel.public(REMOTE_PORT);

    for _ in 0..20 {
        visitor::sent_away(public).await;
    }
    tunnel.client.line(&unreachable).await;
    assert_eq!(tunnel.client.log().count(&unreachable), 1, "{}", tunnel.client.log().tail());

    let echo = Service::echo(local).await;
    visitor::echo(public).await;
    visitor::echo(public).await;
    tunnel.client.line(&answers).await;
    assert_eq!(tunnel.client.log().count(&answers), 1);

    echo.stop().await;
    for _ in 0..5 {
        visitor::sent_away(public).await;
    }
    tunnel.client.nth(&unreachable, 2).await;
    assert_eq!(tunnel.client.log().count(&unreachable), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_does_not_disturb_another() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let down = net.at(SERVICE_PORT + 1);
    let setup = Setup::new(net).proxy("up", echo.addr(), REMOTE_PORT).proxy("down", down, REMOTE_PORT + 1);
    let tunnel = setup.start().await;
    let mut steady = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    for seed in 0..20 {
        visitor::sent_away(tunnel.public(REMOTE_PORT + 1)).await;
        steady.echo(seed, 1000).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_ends_its_open_connections() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let tunnel = Setup::new(net).proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    visitor.echo(1, 100).await;
    echo.stop().await;
    visitor.end().await;
}
