//! Peers that are not ours: they are told so, and nobody else is any the worse.

use tokio::net::TcpStream;
use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::patience::alone;
use tun_tests::pattern;
use tun_tests::service::Service;
use tun_tests::stranger;
use tun_tests::tunnel::{Setup, Tunnel};
use tun_tests::visitor;

async fn echoing_tunnel() -> (Tunnel, Service) {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    (Setup::new(net).proxy("echo", echo.addr(), REMOTE_PORT).start().await, echo)
}

/// Says something to the server's own port, and returns what it answers before it hangs up.
async fn say(tunnel: &Tunnel, bytes: &[u8]) -> Vec<u8> {
    stranger::say(tunnel.net.at(BIND_PORT), bytes).await
}

/// The same inside TLS.
async fn say_in_tls(tunnel: &Tunnel, bytes: &[u8]) -> Vec<u8> {
    stranger::say_in_tls(tunnel.net.at(BIND_PORT), bytes).await
}

/// Nobody else noticed.
async fn unharmed(tunnel: &Tunnel) {
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
    assert!(tunnel.server.is_running());
    assert_eq!(tunnel.client.log().count("link to server lost"), 0);
    assert_eq!(tunnel.server.log().count("panicked"), 0);
    assert_eq!(tunnel.server.log().count("ERROR"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_told_that_this_is_no_web_server() {
    let (tunnel, _echo) = echoing_tunnel().await;
    let answer = say(&tunnel, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer:?}");
    tunnel
        .server
        .log()
        .nth_where("HTTP", 1, |line| line.contains("handshake with 127.") && line.contains("HTTP"))
        .await;
    unharmed(&tunnel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_are_cut_off() {
    let (tunnel, _echo) = echoing_tunnel().await;
    for seed in 0..50 {
        say(&tunnel, &pattern::bytes(seed, 1 + 137 * seed as usize)).await;
        say_in_tls(&tunnel, &pattern::bytes(1000 + seed, 4 + 137 * seed as usize)).await;
    }
    // What looks like TLS for a few bytes, and is not.
    for seed in 0..50 {
        let mut bytes = b"\x16\x03\x01\x02\x00".to_vec();
        bytes.extend(pattern::bytes(2000 + seed, 600));
        say(&tunnel, &bytes).await;
    }
    tunnel.server.nth("handshake with 127.", 100).await;
    unharmed(&tunnel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_version_is_told_so() {
    let (tunnel, _echo) = echoing_tunnel().await;
    for answer in [say(&tunnel, b"TUN\x63 and more").await, say_in_tls(&tunnel, b"TUN\x63 and more").await] {
        assert!(answer.starts_with(b"TUN\x01"), "our own version is the answer, not {answer:?}");
    }
    tunnel
        .server
        .log()
        .nth_where("the version", 2, |line| {
            line.contains("handshake with 127.") && line.contains("version 99")
        })
        .await;
    unharmed(&tunnel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_frp_client_is_recognised() {
    let (tunnel, _echo) = echoing_tunnel().await;
    // The login message of its first protocol: a type byte, a 64-bit length, JSON.
    let mut login = b"o\0\0\0\0\0\0\0\x12".to_vec();
    login.extend(b"{\"version\":\"0.61\"}");
    say(&tunnel, &login).await;
    tunnel
        .server
        .log()
        .nth_where("frp", 1, |line| line.contains("handshake with 127.") && line.contains("frp"))
        .await;
    unharmed(&tunnel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_announces_four_gib_is_refused_before_memory_is_taken() {
    let _turn = alone().await;
    let (tunnel, _echo) = echoing_tunnel().await;
    let before = tunnel.server.resident_kib();
    for _ in 0..20 {
        say_in_tls(&tunnel, b"TUN\x01\xff\xff\xff\xff{\"").await;
    }
    assert!(tunnel.server.resident_kib() < before + 16 * 1024);
    unharmed(&tunnel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_connections_do_not_upset_the_server() {
    let (tunnel, _echo) = echoing_tunnel().await;
    for n in 0..100 {
        let stream = TcpStream::connect(tunnel.net.at(BIND_PORT)).await.unwrap();
        if n % 2 == 0 {
            tun_tests::net::reset(stream);
        }
    }
    unharmed(&tunnel).await;
    assert_eq!(tunnel.server.log().count("WARN"), 0, "a port scan is nothing to warn about");
}
