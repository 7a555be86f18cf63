//! How many connections a client holds to its server: one under light load, more when load asks for them, never
//! more than it may.

use tokio::task::JoinSet;
use tun_tests::forwarder::{Direction, Fault, Silence};
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::{transfer_patience, within};
use tun_tests::service::Service;
use tun_tests::tunnel::{Setup, Tunnel};
use tun_tests::visitor;
use tun_tests::way::Way;

const MIB: u64 = 1 << 20;

// Narrow links take their time, so not on all of them: on one of each kind.
tun_tests::over_ways! { tls quic websocket: {
    a_client_under_light_load_holds_exactly_one_connection,
    load_opens_more_connections_and_never_too_many,
    a_client_that_may_have_one_connection_stays_with_it,
    without_multiplexing_all_connections_are_opened_at_once,
    a_silent_connection_is_replaced_by_one_and_no_more,
} }

async fn tunnel(way: Way, client_lines: &str) -> (Tunnel, Service) {
    let net = Loopback::claim();
    let source = Service::source(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net).over(way).forwarded().client(client_lines);
    (setup.proxy("files", source.addr(), REMOTE_PORT).start().await, source)
}

/// Twelve downloads at once over links of 4 MiB/s.
async fn heavy_load(tunnel: &Tunnel) {
    tunnel.network().limit(4 * MIB);
    let mut downloads = JoinSet::new();
    for seed in 0..12 {
        downloads.spawn(visitor::download(tunnel.public(REMOTE_PORT), seed, 4 * MIB));
    }
    for (digits, expected) in within(transfer_patience(), "all downloads", downloads.join_all()).await {
        assert_eq!(digits, expected);
    }
}

async fn a_client_under_light_load_holds_exactly_one_connection(way: Way) {
    let (tunnel, _source) = tunnel(way, "log.level = \"debug\"\ntransport.heartbeatInterval = 1").await;
    for seed in 0..50 {
        let (digits, expected) = visitor::download(tunnel.public(REMOTE_PORT), seed, 10_000).await;
        assert_eq!(digits, expected);
    }
    // Heartbeats travel on it too.
    tunnel.client.nth("send heartbeat to server", 3).await;
    assert_eq!(tunnel.network().accepted(), 1);
    assert!(tunnel.network().passed(Direction::Up) > 500_000);
}

async fn load_opens_more_connections_and_never_too_many(way: Way) {
    let (tunnel, _source) = tunnel(way, "transport.maxTunnels = 3").await;
    let public = tunnel.public(REMOTE_PORT);
    // Downloads, one after the other in six places, as fast as they go, until it has an effect.
    let downloading = async {
        let mut downloads = JoinSet::new();
        for seed in 0..6 {
            downloads.spawn(async move {
                loop {
                    let (digits, expected) = visitor::download(public, seed, 16 * MIB).await;
                    assert_eq!(digits, expected);
                }
            });
        }
        downloads.join_all().await
    };
    tokio::select! {
        _ = downloading => (),
        _ = tunnel.network().nth_accepted(2) => (),
    }
    heavy_load(&tunnel).await;
    let opened = tunnel.network().accepted();
    assert!((2..=3).contains(&opened), "{opened} connections were opened");
    assert_eq!(tunnel.client.log().count("link to server lost"), 0);
}

async fn a_client_that_may_have_one_connection_stays_with_it(way: Way) {
    let (tunnel, _source) = tunnel(way, "transport.maxTunnels = 1").await;
    heavy_load(&tunnel).await;
    assert_eq!(tunnel.network().accepted(), 1);
}

async fn without_multiplexing_all_connections_are_opened_at_once(way: Way) {
    let (tunnel, _source) = tunnel(way, "transport.tcpMux = false\ntransport.maxTunnels = 4").await;
    tunnel.network().nth_accepted(4).await;
    heavy_load(&tunnel).await;
    assert_eq!(tunnel.network().accepted(), 4);
}

async fn a_silent_connection_is_replaced_by_one_and_no_more(way: Way) {
    let (tunnel, _source) = tunnel(way, "log.level = \"debug\"\ntransport.heartbeatInterval = 1").await;
    tunnel.network().fail(Fault::Swallow(Silence::Discard));
    tunnel.client.line("link to server restored").await;
    let sent = tunnel.client.log().count("send heartbeat to server");
    tunnel.client.nth("send heartbeat to server", sent + 4).await;
    assert_eq!(tunnel.network().accepted(), 2);
}
