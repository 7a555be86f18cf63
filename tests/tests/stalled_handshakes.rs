//! A thousand peers that begin a handshake and then say nothing, or a byte now and then: nobody else waits for them, they
//! cost little, and one deadline ends them all, whatever way they came.

use std::time::{Duration, Instant};

use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::alone;
use tun_tests::program::Launch;
use tun_tests::quic::QuicStall;
use tun_tests::service::Service;
use tun_tests::stall::{Slow, Stall};
use tun_tests::tunnel::{Proxy, Setup, client_config};
use tun_tests::visitor;
use tun_tests::way::Way;

const PEERS: u16 = 1000;

/// Longest life of a connection that does not log in. The deadline itself is shorter; a busy machine may be late.
const CUT_WITHIN: Duration = Duration::from_secs(12);

/// What they may cost the server together, in KiB: an open session of TLS holds a few buffers, a handshake of QUIC a
/// connection of TLS and its packets.
const COST: u64 = 64 * 1024;

/// Brings so many peers into these states, `per_source` from one address, and lets a client come on `way` meanwhile.
async fn a_thousand(stalls: &[Stall], per_source: u16, way: Way) {
    let _turn = alone().await;
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    // One client is there already; another comes in the worst moment.
    let tunnel = Setup::new(net).over(way).proxy("early", echo.addr(), REMOTE_PORT).start().await;
    let before = tunnel.server.resident_kib();
    let bind = tunnel.net.at(BIND_PORT);
    let started = Instant::now();
    let stalled = Stall::each_at(stalls, bind, PEERS, per_source).await;

    let proxy = Proxy { name: "late".to_owned(), local: echo.addr(), remote_port: REMOTE_PORT + 1 };
    let lines = format!("clientID = \"late\"\n{}", way.lines());
    let late = Launch::client().labelled("tunc late").config(&client_config(bind, &lines, &[proxy])).start();
    let public = late.line("[late] start proxy success").await.at;
    assert!(
        public - late.started() <= Duration::from_secs(2),
        "logged in after {:?}",
        public - late.started()
    );
    assert!(started.elapsed() < CUT_WITHIN, "the stalled peers were gone before the client came");
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
    visitor::echo(tunnel.public(REMOTE_PORT + 1)).await;

    let cost = tunnel.server.resident_kib().saturating_sub(before);
    assert!(cost <= COST, "{PEERS} stalled handshakes cost {cost} KiB");
    let longest = stalled.all_cut().await;
    assert!(longest <= CUT_WITHIN, "one lasted {longest:?}");
    visitor::echo(tunnel.public(REMOTE_PORT + 1)).await;
    assert!(tunnel.server.is_running() && tunnel.client.is_running());
    assert_eq!(tunnel.client.log().count("link to server lost"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_without_a_byte_delay_nobody() {
    a_thousand(&[Stall::TcpOnly], 4, Way::Plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unfinished_handshakes_of_tls_delay_nobody() {
    a_thousand(&[Stall::HalfHello, Stall::TlsWithoutLogin], 4, Way::Tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unfinished_websockets_delay_nobody() {
    a_thousand(&[Stall::HalfUpgrade, Stall::UpgradeWithoutLogin], 4, Way::WebSocket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unfinished_websockets_in_tls_delay_nobody() {
    a_thousand(&[Stall::WebWithoutRequest, Stall::WebWithoutLogin], 4, Way::Wss).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_that_send_a_byte_at_a_time_delay_nobody() {
    a_thousand(&Slow::ALL, 4, Way::Tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_stalled_connections_of_one_address_delay_nobody_elsewhere() {
    a_thousand(&[Stall::TcpOnly], PEERS, Way::Tls).await;
}

mod quic {
    use super::*;

    async fn a_thousand(stall: QuicStall, per_source: u16) {
        super::a_thousand(&[Stall::Quic(stall)], per_source, Way::Quic).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_first_packets_delay_nobody() {
        a_thousand(QuicStall::FirstPacket, 4).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_handshakes_without_a_login_delay_nobody() {
        a_thousand(QuicStall::WithoutLogin, 4).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_that_log_in_a_byte_at_a_time_delay_nobody() {
        a_thousand(QuicStall::SlowLogin, 4).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_handshakes_of_one_address_delay_nobody_elsewhere() {
        a_thousand(QuicStall::WithoutLogin, PEERS).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn datagrams_without_a_login_cost_nothing() {
        a_thousand(QuicStall::UnwantedDatagram, 50).await;
    }
}
