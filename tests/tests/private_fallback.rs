//! Services of type xtcp over the relay: when visitors meet their client, and where connections go while they cannot.

use std::net::SocketAddr;
use std::time::Duration;

use tun_tests::forwarder::{Fault, Silence};
use tun_tests::net::{Loopback, SERVICE_PORT, source};
use tun_tests::patience::within;
use tun_tests::private::{Lines, NAME, Private, SECRET, VISIT_PORT, speak, visit_over};
use tun_tests::program::{Launch, Program};
use tun_tests::service::Service;
use tun_tests::terminal::OnTerminal;
use tun_tests::tunnel::{TOKEN, client_config};
use tun_tests::visitor::{self, End, Visitor};

/// What a connection may take that goes to another visitor at once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A visitor of type xtcp in a file, on the port [`VISIT_PORT`].
fn xtcp(private: &Private, proxy: &str, lines: &str) -> String {
    let ip = private.net.ip();
    format!(
        "[[visitors]]\nname = \"direct\"\ntype = \"xtcp\"\nserverName = \"{proxy}\"\nsecretKey = \"{SECRET}\"\n\
         bindAddr = \"{ip}\"\nbindPort = {VISIT_PORT}\n{lines}\n"
    )
}

/// A visitor of the private service that takes what others hand to it, and listens nowhere.
const RELAYED: &str = "[[visitors]]\nname = \"relayed\"\ntype = \"stcp\"\nserverName = \"vault\"\n\
                       secretKey = \"a secret for tests 5d11c0de\"\nbindPort = -1\n";

async fn start(private: &Private, visitors: &str) -> Program {
    let config = client_config(private.visitor_way.addr(), "", &[]) + visitors;
    let program = Launch::client().labelled("tunc visiting").config(&config).start();
    program.line("start visitor success").await;
    program.line("login to server success").await;
    program
}

/// A client that serves `service` as an xtcp proxy of its own, over a way of its own.
fn serving(way: SocketAddr, proxy: &str, service: &Service) -> Launch {
    let (ip, port) = (service.addr().ip(), service.addr().port());
    let proxy = format!(
        "[[proxies]]\nname = \"{proxy}\"\ntype = \"xtcp\"\nsecretKey = \"{SECRET}\"\nlocalIP = \"{ip}\"\n\
         localPort = {port}\n"
    );
    Launch::client().labelled("tunc serving too").config(&(client_config(way, "", &[]) + &proxy))
}

/// What the service behind an address calls itself.
async fn name_at(address: SocketAddr) -> String {
    let mut visitor = Visitor::connect(address).await;
    visitor.finish().await;
    visitor.receive_text().await
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_go_elsewhere_at_once_while_nobody_serves_the_proxy() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let wish = "fallbackTo = \"relayed\"\nfallbackTimeoutMs = 20000";
    let visiting = start(&private, &(xtcp(&private, "absent", wish) + RELAYED)).await;
    let address = private.net.at(VISIT_PORT);
    for _ in 0..5 {
        within(AT_ONCE, "an echo from elsewhere", visitor::echo(address)).await;
    }
    visiting.line("[absent] cannot be visited: no such proxy for this user, or a wrong secret").await;
    visiting.line("a connection goes to [relayed]").await;
    let visits = (0..50).map(|_| tokio::spawn(visitor::echo(address)));
    for visit in visits.collect::<Vec<_>>() {
        visit.await.expect("no visit fails");
    }
    assert_eq!(echo.accepted(), 55);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_go_elsewhere_after_a_while_when_the_proxys_client_does_not_answer() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let silent = Service::named(net.at(SERVICE_PORT + 1), "silent").await;
    let private = Private::start(net, &echo).await;
    let way = private.way_from(2, source(3)).await;
    let serving = serving(way.addr(), "slow", &silent).start();
    serving.line("[slow] start proxy success").await;
    way.fail(Fault::Swallow(Silence::Discard));
    let wish = "fallbackTo = \"relayed\"\nfallbackTimeoutMs = 300";
    let visiting = start(&private, &(xtcp(&private, "slow", wish) + RELAYED)).await;
    within(2 * AT_ONCE, "an echo from elsewhere", visitor::echo(private.net.at(VISIT_PORT))).await;
    visiting.line("[slow] its client does not answer; a connection goes to [relayed]").await;
    assert_eq!((silent.accepted(), echo.accepted()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_come_back_when_somebody_serves_the_proxy() {
    let net = Loopback::claim();
    let (own, other) = (
        Service::named(net.at(SERVICE_PORT + 1), "its own").await,
        Service::named(net.at(SERVICE_PORT), "another").await,
    );
    let private = Private::start(net, &other).await;
    let visitors = xtcp(&private, "late", "fallbackTo = \"relayed\"") + RELAYED;
    let visiting = start(&private, &visitors).await;
    let address = private.net.at(VISIT_PORT);
    assert_eq!(name_at(address).await, "another");
    let way = private.way_from(2, source(3)).await;
    let serving = serving(way.addr(), "late", &own).start();
    serving.line("[late] start proxy success").await;
    // Each connection that goes elsewhere makes the visitor look for the client once more.
    tun_tests::eventually::eventually("the proxy's own service answers", async || {
        (name_at(address).await == "its own").then_some(())
    })
    .await;
    visiting.line("[late] connected to its client, relayed by ").await;
    for _ in 0..5 {
        assert_eq!(name_at(address).await, "its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_is_kept_open_needs_no_connection() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let way = private.way_from(2, source(3)).await;
    let launch = serving(way.addr(), "kept", &echo);
    let serving = launch.start();
    serving.line("[kept] start proxy success").await;
    let visiting = start(&private, &xtcp(&private, "kept", "keepTunnelOpen = true")).await;
    visiting.line("[kept] connected to its client, relayed by ").await;
    // The client comes back, and so does the way to it.
    serving.kill().await;
    visiting.line("[kept] the way to its client was lost").await;
    let again = launch.start();
    again.line("[kept] start proxy success").await;
    visiting.nth("[kept] connected to its client", 2).await;
    assert_eq!(echo.accepted(), 0);
    visitor::echo(private.net.at(VISIT_PORT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_is_not_kept_open_is_made_by_the_first_connection() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let visiting = start(&private, &xtcp(&private, NAME, "")).await;
    visitor::echo(private.net.at(VISIT_PORT)).await;
    visiting.line("[vault] connected to its client, relayed by ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_type_xtcp_is_visited_by_the_users_it_names() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start_with(net, &echo, Lines::default()).await;
    let (ip, port) = (echo.addr().ip().to_string(), echo.addr().port().to_string());
    let server = private.client_way.addr().to_string();
    let serving = Launch::client()
        .env("TUN_TOKEN", TOKEN)
        .env("TUN_SECRET", SECRET)
        .args(["xtcp", "-s", &server, "-i", &ip, "-l", &port, "-n", "db", "-u", "alice"])
        .args(["--allow-users", "bob"])
        .start();
    serving.line("[alice.db] start proxy success").await;
    for (user, code) in [("bob", 0), ("carol", 3), ("", 3)] {
        for more in [&[][..], &["--relay-only"]] {
            let args = [&["--stdio", "-u", user, "--server-user", "alice"], more].concat();
            let spoken = speak(&visit_over(&private.visitor_way, "db", SECRET, &args), b"hello").await;
            assert_eq!(spoken.code, Some(code), "{user:?}: {}", spoken.stderr);
            assert_eq!(spoken.stdout, if code == 0 { &b"hello"[..] } else { b"" });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_shows_how_a_visit_is_doing_below_the_log() {
    const CLEAR: &str = "\r\x1b[K";
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let address = private.net.at(VISIT_PORT);
    let mut terminal = OnTerminal::start(&private.visit(&["--bind", &address.to_string()]));
    terminal.written("the start", |screen| screen.contains("start visitor success")).await;
    let mut visitor = Visitor::connect(address).await;
    visitor.echo(81, 300_000).await;
    let server = private.visitor_way.addr();
    let begin = format!("{CLEAR}[{NAME}] relayed by {server}, 1 connection, up ");
    let shown = |screen: &str| {
        // 300 000 bytes are 293 KiB.
        screen.split(&begin).skip(1).any(|line| line.starts_with("29") && line.contains("KiB ("))
    };
    terminal.written("the bytes", shown).await;
    visitor.finish().await;
    assert_eq!(visitor.end().await, End::Closed);
    let begin = format!("{CLEAR}[{NAME}] relayed by {server}, 0 connections, ");
    terminal.written("the end of the connection", |screen| screen.contains(&begin)).await;
    let screen = terminal.interrupt().await;
    // What stands on each row in the end: a whole line of the log, and nothing of the status.
    for row in screen.split_terminator("\r\n") {
        let row = row.rsplit(CLEAR).next().unwrap_or_default();
        assert!(row.contains("Z\x1b[0m"), "{row:?} in {screen:?}");
    }
    assert!(screen.ends_with("stopped\r\n") || screen.ends_with(CLEAR), "{screen:?}");
}
