//! Where the logs go, and in which form.

use serde_json::Value;
use tun_tests::eventually::eventually;
use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::program::Launch;
use tun_tests::service::Service;
use tun_tests::tunnel::{Setup, server_config};
use tun_tests::visitor;

#[tokio::test(flavor = "multi_thread")]
async fn logs_may_be_json() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let json = "log.format = \"json\"";
    let setup = Setup::new(net).server(json).client(json);
    let tunnel = setup.proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
    for program in [&tunnel.server, &tunnel.client] {
        for line in program.log().lines() {
            let parsed: Result<Value, _> = serde_json::from_str(&line.text);
            assert!(parsed.is_ok_and(|value| value.is_object()), "not JSON: {}", line.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_may_go_to_a_file() {
    let net = Loopback::claim();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tuns.log");
    let lines = format!("log.to = \"{}\"", path.display());
    let server = Launch::server().config(&server_config(&net, &lines)).start();
    let wanted = format!("listening on {}", net.at(BIND_PORT));
    eventually("the line is in some file there", || {
        let found = std::fs::read_dir(dir.path()).is_ok_and(|mut files| {
            files.any(|file| {
                let text = file.and_then(|file| std::fs::read_to_string(file.path()));
                text.is_ok_and(|text| text.contains(&wanted))
            })
        });
        std::future::ready(found.then_some(()))
    })
    .await;
    assert_eq!(server.log().count("listening on"), 0);
    server.terminate();
    assert_eq!(server.exit().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_hides_what_is_below_it() {
    let net = Loopback::claim();
    let server = Launch::server().config(&server_config(&net, "log.level = \"error\"")).start();
    eventually("the server listens", || async {
        tokio::net::TcpStream::connect(net.at(BIND_PORT)).await.ok()
    })
    .await;
    server.terminate();
    server.exit().await;
    assert_eq!(server.log().text(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_to_a_pipe_has_no_colours() {
    let net = Loopback::claim();
    let tunnel = Setup::new(net).start().await;
    tunnel.client.line("login to server success").await;
    for program in [&tunnel.server, &tunnel.client] {
        assert!(!program.log().text().contains('\u{1b}'));
    }
}
