//! Bytes arrive as they were sent: large files through a real web server, and many connections at once.

use tokio::task::JoinSet;
use tun_tests::http;
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::{alone, transfer_patience, within};
use tun_tests::pattern::digits_of;
use tun_tests::service::Service;
use tun_tests::service::nginx::Nginx;
use tun_tests::tunnel::{Setup, Tunnel};
use tun_tests::visitor::Visitor;
use tun_tests::way::Way;

const GIB: u64 = 1 << 30;

/// How long large files are: shorter where the way is another's in other clothes.
fn large(way: Way) -> u64 {
    match way {
        Way::Tls | Way::Quic | Way::WebSocket => GIB,
        Way::Plain | Way::Wss | Way::Nginx | Way::HttpProxy | Way::Socks => GIB / 4,
    }
}

tun_tests::over_ways! { all: {
    a_large_file_is_downloaded_unchanged,
    a_large_file_is_uploaded_unchanged,
    five_hundred_connections_at_once_keep_their_own_data,
} }

async fn tunnel_to_nginx(way: Way) -> (Tunnel, Nginx) {
    let net = Loopback::claim();
    let nginx = Nginx::start(net.at(SERVICE_PORT)).await;
    let tunnel = Setup::new(net).over(way).proxy("web", nginx.addr(), REMOTE_PORT).start().await;
    (tunnel, nginx)
}

async fn a_large_file_is_downloaded_unchanged(way: Way) {
    let _turn = alone().await;
    let (tunnel, nginx) = tunnel_to_nginx(way).await;
    let written = nginx.write_pattern("big", 11, large(way));
    let answer =
        within(transfer_patience(), "the download", http::get(tunnel.public(REMOTE_PORT), "/big")).await;
    assert_eq!((answer.status, answer.len), (200, large(way)));
    assert_eq!(answer.digits, written);
}

async fn a_large_file_is_uploaded_unchanged(way: Way) {
    let _turn = alone().await;
    let (tunnel, nginx) = tunnel_to_nginx(way).await;
    let public = tunnel.public(REMOTE_PORT);
    let answer = within(transfer_patience(), "the upload", http::put(public, "/big", 12, large(way))).await;
    assert_eq!(answer.status, 201);
    assert_eq!(nginx.digits_of("big"), (large(way), digits_of(12, large(way))));
}

async fn five_hundred_connections_at_once_keep_their_own_data(way: Way) {
    const CONNECTIONS: u64 = 500;
    const EACH: usize = 300_000;
    let _turn = alone().await;
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let tunnel = Setup::new(net).over(way).proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    let public = tunnel.public(REMOTE_PORT);

    // All are open before the first byte moves, and all move bytes at once.
    let mut visitors = Vec::new();
    for seed in 0..CONNECTIONS {
        let mut visitor = Visitor::connect(public).await;
        visitor.send(&seed.to_be_bytes()).await;
        visitors.push((seed, visitor));
    }
    echo.nth_accepted(CONNECTIONS as usize).await;
    let mut echoes = JoinSet::new();
    for (seed, mut visitor) in visitors {
        echoes.spawn(async move {
            assert_eq!(visitor.receive(8).await, seed.to_be_bytes());
            visitor.echo(seed, EACH).await;
            visitor.finish().await;
            visitor.receive_to_end().await.1
        });
    }
    let left_over = within(transfer_patience(), "all echoes", echoes.join_all()).await;
    assert_eq!(left_over.iter().sum::<u64>(), 0);
    assert_eq!(left_over.len() as u64, CONNECTIONS);
}
