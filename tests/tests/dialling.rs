//! How connections to the server are made, and how long one waits for them.

use std::net::SocketAddr;
use std::time::Duration;

use tun_tests::eventually::eventually;
use tun_tests::forwarder::{Fault, Forwarder};
use tun_tests::net::{BIND_PORT, FORWARDER_PORT, Loopback};
use tun_tests::program::Launch;
use tun_tests::tunnel::{Setup, client_config};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_given_up_when_the_configuration_says() {
    let setup = Setup::new(Loopback::claim());
    let _served = setup.serve().await;
    let silent = Forwarder::start(setup.net().at(FORWARDER_PORT), setup.net().at(BIND_PORT)).await;
    silent.fail(Fault::NeverAnswer);
    let config = client_config(silent.addr(), "transport.dialServerTimeout = 1", &[]);
    let started = std::time::Instant::now();
    Launch::client().config(&config).run().await.expect(1, &["within 1 s (transport.dialServerTimeout)"]);
    let took = started.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_asks_an_idle_server_for_a_sign_of_life_when_the_configuration_says() {
    let setup = Setup::new(Loopback::claim());
    let _served = setup.serve().await;
    let server = setup.net().at(BIND_PORT);
    for (line, wanted) in [("600", Some(600)), ("-1", None)] {
        let config = client_config(server, &format!("transport.dialServerKeepalive = {line}"), &[]);
        let client = Launch::client().config(&config).start();
        client.line("login to server success").await;
        let what = format!("the right timer for dialServerKeepalive = {line}");
        eventually(&what, || async {
            // Where there are other timers the kernel shows those first, but not for long.
            match (keepalive(server)?, wanted) {
                (None, None) => Some(()),
                (Some(seconds), Some(wanted)) => (wanted - 60..=wanted).contains(&seconds).then_some(()),
                _ => None,
            }
        })
        .await;
        client.terminate();
        client.exit().await;
    }
}

/// Seconds until the kernel asks on the connection to `server`: `Some(None)` if no timer runs on it, `None` if there is no
/// such connection or another timer runs.
fn keepalive(server: SocketAddr) -> Option<Option<u64>> {
    const ESTABLISHED: &str = "01";
    const TICKS_A_SECOND: u64 = 100;
    let SocketAddr::V4(server) = server else { unreachable!("tests have IPv4 addresses") };
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(server.ip().octets()), server.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields[2] == wanted && fields[3] == ESTABLISHED)?;
    let (kind, due) = found[5].split_once(':')?;
    match kind {
        "00" => Some(None),
        "02" => Some(Some(u64::from_str_radix(due, 16).ok()? / TICKS_A_SECOND)),
        _ => None,
    }
}
