//! Who does not know the token is refused, told why, written down with its address, and slowed down.

use tun_tests::forwarder::Forwarder;
use tun_tests::net::{BIND_PORT, FORWARDER_PORT, Loopback, REMOTE_PORT, SERVICE_PORT, source};
use tun_tests::program::Launch;
use tun_tests::service::Service;
use tun_tests::tunnel::{Proxy, Setup, TOKEN, client_config};
use tun_tests::visitor;

const WRONG: &str = "auth.token = \"not the secret 77\"";

/// A client that reaches the server from the `n`-th source address.
async fn client_from(net: &Loopback, n: u16, lines: &str, proxies: &[Proxy]) -> (Launch, Forwarder) {
    let (listen, server) = (net.at(FORWARDER_PORT + n), net.at(BIND_PORT));
    let forwarder = Forwarder::start_from(listen, server, Some(source(n))).await;
    (Launch::client().config(&client_config(listen, lines, proxies)), forwarder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_refused_and_explained_on_both_sides() {
    let setup = Setup::new(Loopback::claim());
    let served = setup.serve().await;
    let (client, _way) = client_from(setup.net(), 1, WRONG, &[]).await;
    let finished = client.run().await;
    finished.expect(3, &["token"]);
    let refused = served.server.line(&format!("login refused from {}", source(1))).await;
    assert!(refused.text.contains("token"), "{}", refused.text);
    for said in [finished.output, served.server.log().text()] {
        assert!(
            !said.contains("not the secret 77") && !said.contains(TOKEN),
            "a secret is in the log:\n{said}"
        );
    }
    assert_eq!(served.server.log().count("logged in"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_token_is_refused() {
    let setup = Setup::new(Loopback::claim());
    let _served = setup.serve().await;
    let (client, _way) = client_from(setup.net(), 1, "auth.token = \"\"", &[]).await;
    client.run().await.expect(3, &["token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_empty_tokens_match_and_are_warned_about() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let empty = "auth.token = \"\"";
    let tunnel =
        Setup::new(net).server(empty).client(empty).proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
    tunnel
        .server
        .log()
        .nth_where("a warning", 1, |line| line.contains("WARN") && line.contains("token"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_fails_again_and_again_is_refused_early_and_others_are_not() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net);
    let served = setup.serve().await;
    let proxy = Proxy { name: "echo".to_owned(), local: echo.addr(), remote_port: REMOTE_PORT };

    let (wrong, way) = client_from(setup.net(), 1, WRONG, &[]).await;
    for _ in 0..12 {
        assert_ne!(wrong.run().await.exit.code, Some(0));
    }
    served.server.line(&format!("login refused from {}", source(1))).await;
    // From there not even the right token helps, for a while.
    let right = Launch::client().config(&client_config(way.addr(), "", std::slice::from_ref(&proxy)));
    let finished = right.run().await;
    assert_ne!(finished.exit.code, Some(0), "{}", finished.output);
    served
        .server
        .log()
        .nth_where("a refusal for too many failures", 1, |line| {
            line.contains(&source(1).to_string()) && line.contains("too many")
        })
        .await;

    let (elsewhere, _way) = client_from(setup.net(), 2, "", &[proxy]).await;
    let elsewhere = elsewhere.start();
    elsewhere.line("[echo] start proxy success").await;
    visitor::echo(setup.net().at(REMOTE_PORT)).await;
}
