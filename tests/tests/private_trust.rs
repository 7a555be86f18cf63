//! Who is let in to a private service, how often one may guess, and that the server learns nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tun_tests::eventually::quiet;
use tun_tests::forwarder::Direction;
use tun_tests::memory::{holds, memory_holds};
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT, source};
use tun_tests::patience::alone;
use tun_tests::private::{Lines, NAME, Private, SECRET, VISIT_PORT, speak, visit_over};
use tun_tests::service::Service;
use tun_tests::tunnel::TOKEN;
use tun_tests::visitor::Visitor;

const WRONG: &str = "not the secret 77";

/// A private service of alice's, for the users in `allow`.
async fn of_alice(allow: &str) -> (Private, Service) {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let lines = Lines { client: "user = \"alice\"", proxy: allow, ..Lines::default() };
    (Private::start_with(net, &echo, lines).await, echo)
}

async fn lets_in(private: &Private, user: &str) -> bool {
    let args = ["--stdio", "-u", user, "--server-user", "alice"];
    let spoken = speak(&private.visit(&args), b"hello").await;
    match spoken.code {
        Some(0) => assert_eq!(spoken.stdout, b"hello"),
        code => assert_eq!((code, spoken.stdout.len()), (Some(3), 0), "{}", spoken.stderr),
    }
    spoken.code == Some(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_only_the_same_user_is_let_in() {
    let (private, echo) = of_alice("").await;
    assert!(lets_in(&private, "alice").await);
    assert!(!lets_in(&private, "bob").await && !lets_in(&private, "").await);
    assert_eq!(echo.accepted(), 1);
    let own = speak(&private.visit(&["--stdio", "-u", "alice"]), b"hello").await;
    assert_eq!(own.stdout, b"hello", "{}", own.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_lets_in_whom_it_names() {
    let (private, echo) = of_alice("allowUsers = [\"bob\"]").await;
    assert!(lets_in(&private, "bob").await);
    assert!(!lets_in(&private, "carol").await && !lets_in(&private, "").await);
    assert_eq!(echo.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_lets_everybody_in() {
    let (private, _echo) = of_alice("allowUsers = [\"*\"]").await;
    for user in ["alice", "bob", ""] {
        assert!(lets_in(&private, user).await, "{user:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_guesses_again_and_again_is_refused_early_and_others_are_not() {
    const GUESSES: u16 = 60;
    let _turn = alone().await;
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let private = Private::start(net, &echo).await;
    let mut secrets: Vec<String> = (0..GUESSES).map(|n| format!("{WRONG}{n}")).collect();
    secrets.push(SECRET.to_owned());
    let _guesser = private.visitors_in_a_file("", &secrets).await;
    let mut guesses = Vec::new();
    for n in 0..GUESSES {
        guesses.extend(Visitor::try_connect(private.net.at(VISIT_PORT + n)).await);
    }
    let refused = private.client.line("too many wrong secrets").await;
    assert!(refused.text.contains(&source(2).to_string()), "{}", refused.text);
    // From there not even the right secret helps now. It may after 6 s, when one more guess is forgiven.
    if let Some(mut visitor) = Visitor::try_connect(private.net.at(VISIT_PORT + GUESSES)).await {
        let _ = tokio::time::timeout(Duration::from_secs(3), visitor.end()).await;
    }
    assert_eq!(echo.accepted(), 0);

    let elsewhere = private.way_from(2, source(3)).await;
    let welcome = speak(&visit_over(&elsewhere, NAME, SECRET, &["--stdio"]), b"hello").await;
    assert_eq!(welcome.stdout, b"hello", "{}", welcome.stderr);
    // Five are forgiven; then four at once may be on their way whenever one more is, while connections wait.
    for mut guess in guesses {
        guess.end().await;
    }
    let tried = private.client.log().count("it does not know the secret");
    assert!(tried <= 24, "{tried} secrets were tried");
}

/// What crosses a connection, again and again, towards the service and back.
const UP: &[u8] = b"<up-marker-1b6f0e47a2>";
const DOWN: &[u8] = b"<down-marker-93c5d8e610>";

/// A service that sends [`DOWN`] as long as somebody takes it, and reads nothing.
async fn talkative(addr: SocketAddr) -> Service {
    Service::start(addr, |mut stream, sent| async move {
        let words = DOWN.repeat(1000);
        loop {
            stream.write_all(&words).await?;
            sent.fetch_add(words.len() as u64, Ordering::Relaxed);
        }
    })
    .await
}

/// Fills a connection in both directions, and returns when all buffers on its way are full.
async fn fill(addr: SocketAddr, service: &Service) -> tokio::task::JoinHandle<()> {
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let mut visitor = Visitor::connect(addr).await;
    // Some of it arrives.
    assert!(visitor.receive(10_000).await.starts_with(DOWN));
    let writer = tokio::spawn(async move {
        let words = UP.repeat(1000);
        loop {
            visitor.send(&words).await;
            count.fetch_add(words.len() as u64, Ordering::Relaxed);
        }
    });
    quiet("all buffers are full", || written.load(Ordering::Relaxed) + service.sent()).await;
    assert!(written.load(Ordering::Relaxed) > 0);
    writer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_learns_neither_the_secret_nor_what_is_said() {
    let net = Loopback::claim();
    let private_service = talkative(net.at(SERVICE_PORT)).await;
    let public_service = talkative(net.at(SERVICE_PORT + 1)).await;
    // Nothing but the encryption from end to end hides anything here.
    let public = format!(
        "[[proxies]]\nname = \"public\"\ntype = \"tcp\"\nlocalIP = \"{}\"\nlocalPort = {}\nremotePort = {REMOTE_PORT}",
        net.ip(),
        SERVICE_PORT + 1
    );
    let lines = Lines {
        client: "transport.tls.enable = false",
        proxy: &public,
        server: "transport.tls.force = false",
    };
    let private = Private::start_with(net, &private_service, lines).await;
    private.client.line("[public] start proxy success").await;
    let ways = [&private.client_way, &private.visitor_way];
    for way in ways {
        way.record();
    }
    let wire_holds = |needle: &[u8]| {
        [Direction::Up, Direction::Down]
            .map(|direction| ways.map(|way| holds(&way.recorded(direction), needle)))
    };
    let lines = "transport.tls.enable = false";
    let visiting = private.visitors_in_a_file(lines, &[SECRET.to_owned()]).await;
    let filled = fill(private.net.at(VISIT_PORT), &private_service).await;
    visiting.line("connected to its client").await;

    // The scan finds what is there: the server knows the token.
    let (pid, secret) = (private.server.pid(), SECRET.as_bytes());
    assert_eq!(memory_holds(pid, [UP, DOWN, secret, TOKEN.as_bytes()]), [false, false, false, true]);
    for needle in [UP, DOWN, secret] {
        assert_eq!(wire_holds(needle), [[false; 2]; 2], "{}", String::from_utf8_lossy(needle));
    }
    // The name of the proxy is no secret; the wire carries it.
    assert!(wire_holds(NAME.as_bytes())[0][1]);
    filled.abort();

    // And the same said over a public port is found everywhere.
    let filled = fill(private.net.at(REMOTE_PORT), &public_service).await;
    assert_eq!(memory_holds(pid, [UP, DOWN, secret]), [true, true, false]);
    assert!(holds(&private.client_way.recorded(Direction::Up), DOWN));
    assert!(holds(&private.client_way.recorded(Direction::Down), UP));
    filled.abort();
}
