//! The command lines of both programs, and what their exit codes say.

use tun_tests::forwarder::Forwarder;
use tun_tests::net::{BIND_PORT, FORWARDER_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::program::Launch;
use tun_tests::service::Service;
use tun_tests::tunnel::{Proxy, Setup, TOKEN, client_config, port_at_end, server_config};
use tun_tests::visitor;

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_say_what_they_are() {
    let version = env!("CARGO_PKG_VERSION");
    Launch::server().args(["--version"]).run().await.expect(0, &[version]);
    Launch::client().args(["--version"]).run().await.expect(0, &[version]);
    Launch::server().args(["--help"]).run().await.expect(0, &["--bind-port", "verify"]);
    Launch::client().args(["--help"]).run().await.expect(0, &["verify", "tcp"]);
    Launch::client().args(["tcp", "--help"]).run().await.expect(0, &["--local-port", "--remote-port"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        Launch::server().args(["completions", shell]).run().await.expect(0, &["tuns"]);
        Launch::client().args(["completions", shell]).run().await.expect(0, &["tunc"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_command_line_is_refused() {
    Launch::server().args(["--no-such-flag"]).run().await.expect(2, &["--no-such-flag"]);
    Launch::client().args(["--no-such-flag"]).run().await.expect(2, &["--no-such-flag"]);
    Launch::server().args(["--bind-port", "70000"]).run().await.expect(2, &["70000"]);
    Launch::client().args(["tcp", "-r", "6000", "-n", "x"]).run().await.expect(2, &["local"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_exposes_a_service() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let ip = net.ip().to_string();
    let server = Launch::server().args(["--bind-addr", &ip, "-p", "0", "-t", TOKEN]).start();
    let listening = server.line(&format!("listening on {ip}:")).await.text;
    let (server_port, local_port) = (port_at_end(&listening).to_string(), echo.addr().port().to_string());
    let client = Launch::client()
        .args(["tcp", "-s", &ip, "-P", &server_port, "-t", TOKEN])
        .args(["-i", &ip, "-l", &local_port, "-r", "0", "-n", "web"])
        .start();
    let told = client.line("[web] start proxy success, public address ").await.text;
    visitor::echo(net.at(port_at_end(&told))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_flags_may_be_written_with_underscores_and_the_address_with_its_port() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let (ip, port) = (net.ip().to_string(), BIND_PORT.to_string());
    let server = Launch::server()
        .args(["--bind_addr", &ip, "--bind_port", &port, "--token", TOKEN, "--allow_ports", "6000-6001,6005"])
        .args(["--max_ports_per_client", "1", "--log_level", "debug", "--disable_log_color"])
        .start();
    server.line(&format!("listening on {ip}:{port}")).await;
    let (address, local_port) = (format!("{ip}:{port}"), echo.addr().port().to_string());
    let tcp = |extra: &[&str]| {
        let words = [
            "tcp",
            "--server_addr",
            &address,
            "--token",
            TOKEN,
            "--local_ip",
            &ip,
            "--local_port",
            &local_port,
        ];
        Launch::client().args(words).args(extra.iter().map(|&word| word.to_owned()))
    };
    let client = tcp(&["--remote_port", "6005", "--proxy_name", "web", "--user", "ann"]).start();
    client.line("[ann.web] start proxy success").await;
    visitor::echo(net.at(6005)).await;
    let outside = tcp(&["--remote-port", "6002", "-n", "out", "--client-id", "two"]).start();
    outside.line("[out] start proxy error: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_need_not_be_on_the_command_line() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let (ip, port) = (net.ip().to_string(), BIND_PORT.to_string());
    let launch = Launch::server();
    let file = launch.write("token", &format!("{TOKEN}\n"));
    let server =
        launch.args(["--bind-addr", &ip, "-p", &port, "--token-file"]).args([file.into_os_string()]).start();
    server.line("listening on").await;
    let local_port = echo.addr().port().to_string();
    let client = Launch::client()
        .env("TUN_TOKEN", TOKEN)
        .args(["tcp", "-s", &ip, "-P", &port, "-i", &ip, "-l", &local_port, "-r", "6000", "-n", "web"])
        .start();
    client.line("[web] start proxy success").await;
    visitor::echo(net.at(REMOTE_PORT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_programs_run_in_an_empty_environment() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let server = Launch::server().empty_environment().config(&server_config(&net, "")).start();
    server.line("listening on").await;
    let proxy = Proxy { name: "echo".to_owned(), local: echo.addr(), remote_port: REMOTE_PORT };
    let config = client_config(net.at(BIND_PORT), "", &[proxy]);
    let client = Launch::client().empty_environment().config(&config).start();
    client.line("login to server success").await;
    client.line("[echo] start proxy success").await;
    visitor::echo(net.at(REMOTE_PORT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_port_is_taken_says_so_and_fails() {
    let net = Loopback::claim();
    let _holder = Service::echo(net.at(BIND_PORT)).await;
    let finished = Launch::server().config(&server_config(&net, "")).run().await;
    finished.expect(1, &[&net.at(BIND_PORT).to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_server_fails_or_waits_as_it_is_told() {
    let net = Loopback::claim();
    let config = client_config(net.at(FORWARDER_PORT), "", &[]);
    Launch::client().config(&config).run().await.expect(1, &[&net.at(FORWARDER_PORT).to_string()]);

    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let proxy = Proxy { name: "echo".to_owned(), local: echo.addr(), remote_port: REMOTE_PORT };
    // Nobody is behind the forwarder yet: every attempt ends at once.
    let forwarder = Forwarder::start(net.at(FORWARDER_PORT), net.at(BIND_PORT)).await;
    let patient = client_config(forwarder.addr(), "loginFailExit = false", &[proxy]);
    let client = Launch::client().config(&patient).start();
    forwarder.nth_accepted(3).await;
    let setup = Setup::new(net);
    let _served = setup.serve().await;
    client.line("[echo] start proxy success").await;
    visitor::echo(setup.net().at(REMOTE_PORT)).await;
}
