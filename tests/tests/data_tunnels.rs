//! How many connections a client holds to its server: one under light load, more when load asks for them, never
//! more than it may.

use tokio::task::JoinSet;
use tun_tests::forwarder::Direction;
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::{transfer_patience, within};
use tun_tests::service::Service;
use tun_tests::tunnel::{Setup, Tunnel};
use tun_tests::visitor;

const MIB: u64 = 1 << 20;

async fn tunnel(client_lines: &str) -> (Tunnel, Service) {
    let net = Loopback::claim();
    let source = Service::source(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net).forwarded().client(client_lines);
    (setup.proxy("files", source.addr(), REMOTE_PORT).start().await, source)
}

/// Twelve downloads at once over links of 4 MiB/s.
async fn heavy_load(tunnel: &Tunnel) {
    tunnel.forwarder().limit(4 * MIB);
    let mut downloads = JoinSet::new();
    for seed in 0..12 {
        downloads.spawn(visitor::download(tunnel.public(REMOTE_PORT), seed, 4 * MIB));
    }
    for (digits, expected) in within(transfer_patience(), "all downloads", downloads.join_all()).await {
        assert_eq!(digits, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_under_light_load_holds_exactly_one_connection() {
    let (tunnel, _source) = tunnel("log.level = \"debug\"\ntransport.heartbeatInterval = 1").await;
    for seed in 0..50 {
        let (digits, expected) = visitor::download(tunnel.public(REMOTE_PORT), seed, 10_000).await;
        assert_eq!(digits, expected);
    }
    // Heartbeats travel on it too.
    tunnel.client.nth("send heartbeat to server", 3).await;
    assert_eq!(tunnel.forwarder().accepted(), 1);
    assert!(tunnel.forwarder().passed(Direction::Up) > 500_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn load_opens_more_connections_and_never_too_many() {
    let (tunnel, _source) = tunnel("transport.maxTunnels = 3").await;
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
        _ = tunnel.forwarder().nth_accepted(2) => (),
    }
    heavy_load(&tunnel).await;
    let opened = tunnel.forwarder().accepted();
    assert!((2..=3).contains(&opened), "{opened} connections were opened");
    assert_eq!(tunnel.client.log().count("link to server lost"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_may_have_one_connection_stays_with_it() {
    let (tunnel, _source) = tunnel("transport.maxTunnels = 1").await;
    heavy_load(&tunnel).await;
    assert_eq!(tunnel.forwarder().accepted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_multiplexing_all_connections_are_opened_at_once() {
    let (tunnel, _source) = tunnel("transport.tcpMux = false\ntransport.maxTunnels = 4").await;
    tunnel.forwarder().nth_accepted(4).await;
    heavy_load(&tunnel).await;
    assert_eq!(tunnel.forwarder().accepted(), 4);
}
