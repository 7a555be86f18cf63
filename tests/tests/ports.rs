//! Which public ports a client gets, and what it is told when it gets none.

use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::program::Launch;
use tun_tests::service::Service;
use tun_tests::tunnel::{Proxy, Setup, Tunnel, client_config};
use tun_tests::visitor;

/// Checks that a refusal was logged for `proxy`, and that its reason holds all of these words.
async fn refused(tunnel: &Tunnel, proxy: &str, words: &[&str]) {
    let line = tunnel.client.line(&format!("[{proxy}] start proxy error: ")).await.text;
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
    assert_eq!(tunnel.client.log().count(&format!("[{proxy}] start proxy success")), 0);
    assert!(tunnel.client.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_ports_are_given() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let allowed = "allowPorts = [{ start = 6000, end = 6001 }, { single = 6005 }]";
    let setup = Setup::new(net).server(allowed).proxy("fine", echo.addr(), 6000);
    let setup = setup.attempt("outside", echo.addr(), 6002).proxy("single", echo.addr(), 6005);
    let tunnel = setup.proxy("chosen", echo.addr(), 0).start().await;
    refused(&tunnel, "outside", &["6002", "allow"]).await;
    assert_eq!(tunnel.told("chosen").await.port(), 6001, "the one allowed port that is left");
    for port in [6000, 6001, 6005] {
        visitor::echo(tunnel.public(port)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_no_more_ports_than_it_may_have() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net).server("maxPortsPerClient = 2").proxy("first", echo.addr(), REMOTE_PORT);
    let setup = setup.proxy("second", echo.addr(), REMOTE_PORT + 1);
    let tunnel = setup.attempt("third", echo.addr(), REMOTE_PORT + 2).start().await;
    refused(&tunnel, "third", &["2"]).await;
    visitor::echo(tunnel.public(REMOTE_PORT + 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_holds_is_refused() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let _holder = Service::echo(net.at(REMOTE_PORT + 1)).await;
    let setup = Setup::new(net).proxy("fine", echo.addr(), REMOTE_PORT);
    let tunnel = setup.attempt("taken", echo.addr(), REMOTE_PORT + 1).start().await;
    refused(&tunnel, "taken", &["6001", "in use"]).await;
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_another_client_is_refused_and_stays_with_it() {
    let net = Loopback::claim();
    let (mine, theirs) = (
        Service::named(net.at(SERVICE_PORT), "mine").await,
        Service::named(net.at(SERVICE_PORT + 1), "theirs").await,
    );
    let tunnel =
        Setup::new(net).client("clientID = \"mine\"").proxy("mine", mine.addr(), REMOTE_PORT).start().await;
    let proxy = Proxy { name: "theirs".to_owned(), local: theirs.addr(), remote_port: REMOTE_PORT };
    let config = client_config(tunnel.net.at(BIND_PORT), "clientID = \"theirs\"", &[proxy]);
    let other = Launch::client().labelled("tunc other").config(&config).start();
    let line = other.line("[theirs] start proxy error: ").await.text;
    assert!(line.contains("6000") && line.contains("in use"), "{line:?}");
    let mut visitor = visitor::Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    visitor.finish().await;
    assert_eq!(visitor.receive_text().await, "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_chooses_different_ports_and_tells_them() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net).proxy("a", echo.addr(), 0).proxy("b", echo.addr(), 0);
    let tunnel = setup.start().await;
    let (a, b) = (tunnel.told("a").await, tunnel.told("b").await);
    assert_ne!(a, b);
    visitor::echo(a).await;
    visitor::echo(b).await;
    tunnel.server.line(&format!("[a] listening on {a}")).await;
    tunnel.server.line(&format!("[b] listening on {b}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn public_ports_listen_where_they_are_told_to() {
    let net = Loopback::claim();
    let elsewhere = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net).server(&format!("proxyBindAddr = \"{}\"", elsewhere.ip()));
    let tunnel = setup.proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    visitor::echo(elsewhere.at(REMOTE_PORT)).await;
    assert!(tokio::net::TcpStream::connect(tunnel.public(REMOTE_PORT)).await.is_err());
}
