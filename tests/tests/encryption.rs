//! TLS between client and server: on by default, checked as far as the configuration allows, and never fooled by
//! a man in the middle as long as there is a token.

use tun_tests::certs::{Authority, Files};
use tun_tests::mitm::Mitm;
use tun_tests::net::{BIND_PORT, FORWARDER_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::pattern;
use tun_tests::program::Launch;
use tun_tests::service::Service;
use tun_tests::tunnel::{Setup, TOKEN, client_config};
use tun_tests::visitor::{self, Visitor};

fn key(name: &str, path: &std::path::Path) -> String {
    format!("transport.tls.{name} = \"{}\"\n", path.display())
}

fn pair(files: &Files) -> String {
    key("certFile", &files.cert) + &key("keyFile", &files.key)
}

/// Starts a set-up with these lines, and visits it.
async fn works(net: Loopback, server: &str, client: &str) {
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net).server(server).client(client).proxy("echo", echo.addr(), REMOTE_PORT);
    let tunnel = setup.start().await;
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
}

/// Starts a server, and a client that must not get in; returns what the client said.
async fn refused(net: Loopback, server: &str, client: &str) -> String {
    let setup = Setup::new(net).server(server);
    let served = setup.serve().await;
    let launch = Launch::client().config(&client_config(setup.net().at(BIND_PORT), client, &[]));
    let finished = launch.run().await;
    assert!(matches!(finished.exit.code, Some(1 | 3)), "{:?}\n{}", finished.exit, finished.output);
    assert_eq!(served.server.log().count("logged in"), 0);
    finished.output
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_encrypted_by_default() {
    assert!(!visible("").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_can_be_switched_off() {
    assert!(visible("transport.tls.enable = false").await);
}

/// Sends a text through a tunnel, and tells whether it could be read on the way.
async fn visible(client: &str) -> bool {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net).client(client).forwarded();
    let tunnel = setup.proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    visitor.echo(31, 1000).await;
    let seen = tunnel.network().streams().seen();
    assert!(!holds(&seen, TOKEN.as_bytes()), "the token crossed the wire");
    // A frame may end anywhere, so a part of the text is enough.
    holds(&seen, &pattern::bytes(31, 1000)[400..500])
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_man_in_the_middle_is_detected_without_any_certificate_configured() {
    let setup = Setup::new(Loopback::claim());
    let served = setup.serve().await;
    let mitm = Mitm::start(setup.net().at(FORWARDER_PORT), setup.net().at(BIND_PORT)).await;
    let launch = Launch::client().config(&client_config(mitm.addr(), "", &[]));
    let finished = launch.run().await;
    assert!(matches!(finished.exit.code, Some(1 | 3)), "{:?}\n{}", finished.exit, finished.output);
    assert!(
        finished.output.contains("somebody in the middle"),
        "the client does not say it:\n{}",
        finished.output
    );
    assert!(!finished.output.contains("login to server success"));
    mitm.nth_ended(1).await;
    assert_eq!(served.server.log().count("logged in"), 0);
    // It did get to see the handshake, and the token was not in it.
    assert!(!mitm.seen().is_empty());
    assert!(!holds(&mitm.seen(), TOKEN.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_proper_certificate_is_accepted() {
    let (net, dir) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let authority = Authority::new("proper");
    let files = authority.issue(&[&net.ip().to_string()], dir.path(), "server");
    let trusted = key("trustedCaFile", &authority.write(dir.path(), "ca.crt"));
    works(net, &pair(&files), &trusted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_certificate_of_another_authority_is_refused() {
    let (net, dir) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let files = Authority::new("other").issue(&[&net.ip().to_string()], dir.path(), "server");
    let trusted = key("trustedCaFile", &Authority::new("proper").write(dir.path(), "ca.crt"));
    let said = refused(net, &pair(&files), &trusted).await;
    assert!(said.contains("certificate"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_certificate_is_refused_by_a_client_that_wants_one() {
    let (net, dir) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let trusted = key("trustedCaFile", &Authority::new("proper").write(dir.path(), "ca.crt"));
    let said = refused(net, "", &trusted).await;
    assert!(said.contains("certificate"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_in_the_certificate_counts() {
    let (net, dir) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let authority = Authority::new("proper");
    let files = authority.issue(&["tun.example"], dir.path(), "server");
    let trusted = key("trustedCaFile", &authority.write(dir.path(), "ca.crt"));
    let named = format!("{trusted}transport.tls.serverName = \"tun.example\"\n");
    works(net, &pair(&files), &named).await;
    refused(Loopback::claim(), &pair(&files), &trusted).await;
    let misnamed = format!("{trusted}transport.tls.serverName = \"other.example\"\n");
    refused(Loopback::claim(), &pair(&files), &misnamed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_trusts_an_authority_lets_only_its_clients_in() {
    let (net, dir) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let authority = Authority::new("clients");
    let trusted = key("trustedCaFile", &authority.write(dir.path(), "ca.crt"));
    let own = pair(&authority.issue(&["client"], dir.path(), "own"));
    let foreign = pair(&Authority::new("other").issue(&["client"], dir.path(), "foreign"));
    works(net, &trusted, &own).await;
    refused(Loopback::claim(), &trusted, "").await;
    refused(Loopback::claim(), &trusted, &foreign).await;
    refused(Loopback::claim(), &trusted, "transport.tls.enable = false").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_can_insist_on_encryption() {
    refused(Loopback::claim(), "transport.tls.force = true", "transport.tls.enable = false").await;
    works(Loopback::claim(), "transport.tls.force = true", "").await;
}
