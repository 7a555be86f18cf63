//! Configuration files as their users meet them: every format, and errors that say where and what to write.

use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::program::{Finished, Launch};
use tun_tests::service::Service;
use tun_tests::tunnel::{Setup, TOKEN};
use tun_tests::visitor;

/// Runs `verify` on a file with this text.
async fn verify(program: Launch, text: &str) -> Finished {
    let path = program.write("file", text);
    program.args(["verify".into(), "-c".into(), path.into_os_string()]).run().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_file_is_said_to_be_good() {
    let server = "bindPort = 7000\nauth.token = \"x\"\nallowPorts = [{ start = 1, end = 9 }]\n";
    let finished = verify(Launch::server(), server).await;
    finished.expect(0, &["tuns: the configuration file ", "file syntax is ok"]);
    let client =
        "serverPort = 7000\n[[proxies]]\nname = \"a\"\ntype = \"tcp\"\nlocalPort = 80\nremotePort = 8080\n";
    verify(Launch::client(), client).await.expect(0, &["tunc: the configuration file ", "file syntax is ok"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_refused_with_its_place_and_a_suggestion() {
    let finished = verify(Launch::server(), "bindPort = 7000\nbindAdr = \"127.0.0.1\"\n").await;
    finished.expect(2, &["file:2", "bindAdr", "bindAddr"]);
    assert!(!finished.output.contains("syntax is ok"));
    let finished = verify(Launch::client(), "# a comment\nserverPrt = 7000\n").await;
    finished.expect(2, &["file:2", "serverPrt", "serverPort"]);
    let nested = "serverPort = 7000\n\n[transport.tls]\nenabel = true\n";
    verify(Launch::client(), nested).await.expect(2, &["file:4", "enabel", "enable"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_cannot_be_are_refused_with_their_place() {
    verify(Launch::server(), "\nbindPort = 70000\n").await.expect(2, &["file:2", "bindPort"]);
    verify(Launch::server(), "bindPort = \"many\"\n").await.expect(2, &["file:1", "bindPort"]);
    let proxy = "[[proxies]]\nname = \"a\"\ntype = \"tpc\"\nlocalPort = 80\n";
    verify(Launch::client(), proxy).await.expect(2, &["file:3", "tpc", "tcp"]);
    let no_port = "[[proxies]]\nname = \"a\"\ntype = \"tcp\"\nremotePort = 80\n";
    verify(Launch::client(), no_port).await.expect(2, &["localPort"]);
    let twice = "[[proxies]]\nname = \"a\"\ntype = \"tcp\"\nlocalPort = 80\n".repeat(2);
    verify(Launch::client(), &twice).await.expect(2, &["\"a\""]);
    verify(Launch::client(), "serverPort = = 7\n").await.expect(2, &["file:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_built_is_refused_by_name() {
    verify(Launch::server(), "vhostHTTPPort = 7000\n").await.expect(2, &["vhostHTTPPort", "not supported"]);
    let http = "[[proxies]]\nname = \"web\"\ntype = \"http\"\nlocalPort = 80\n";
    verify(Launch::client(), http).await.expect(2, &["http", "not supported"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_themselves_refuse_a_bad_file_too() {
    let bad = "bindPort = 7000\nbindAdr = \"127.0.0.1\"\n";
    Launch::server().config(bad).run().await.expect(2, &["tuns.toml:2", "bindAddr"]);
    Launch::client().config("serverPrt = 1\n").run().await.expect(2, &["tunc.toml:1", "serverPort"]);
    let missing = Launch::client().args(["-c", "no-such-file"]).run().await;
    missing.expect(2, &["no-such-file"]);
}

/// Starts both programs from files with these texts, and visits the one proxy.
async fn works(net: Loopback, server: &str, client: &str) {
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let start = |launch: Launch, text: &str| {
        // No extension: the format is known by its content.
        let path = launch.write("config", text);
        launch.env("SECRET", TOKEN).args(["-c".into(), path.into_os_string()]).start()
    };
    let server = start(Launch::server(), server);
    server.line("listening on").await;
    let client = start(Launch::client(), client);
    client.line("[echo] start proxy success").await;
    visitor::echo(net.at(REMOTE_PORT)).await;
    drop(echo);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_may_be_yaml() {
    let net = Loopback::claim();
    let ip = net.ip();
    let server = format!("bindAddr: {ip}\nbindPort: {BIND_PORT}\nauth:\n  token: {TOKEN}\n");
    let client = format!(
        "serverAddr: {ip}\nserverPort: {BIND_PORT}\nauth:\n  token: {TOKEN}\nproxies:\n- name: echo\n  type: tcp\n  \
         localIP: {ip}\n  localPort: {SERVICE_PORT}\n  remotePort: {REMOTE_PORT}\n"
    );
    works(net, &server, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_may_be_json() {
    let net = Loopback::claim();
    let ip = net.ip();
    let server = format!(
        "{{\"bindAddr\": \"{ip}\", \"bindPort\": {BIND_PORT}, \"auth\": {{\"token\": \"{TOKEN}\"}}}}"
    );
    let client = format!(
        "{{\"serverAddr\": \"{ip}\", \"serverPort\": {BIND_PORT}, \"auth\": {{\"token\": \"{TOKEN}\"}}, \"proxies\": \
         [{{\"name\": \"echo\", \"type\": \"tcp\", \"localIP\": \"{ip}\", \"localPort\": {SERVICE_PORT}, \
         \"remotePort\": {REMOTE_PORT}}}]}}"
    );
    works(net, &server, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_match_without_regard_to_case_and_values_come_from_the_environment() {
    let net = Loopback::claim();
    let ip = net.ip();
    let server =
        format!("BindAddr = \"{ip}\"\nbindport = {BIND_PORT}\nauth.token = \"{{{{ .Envs.SECRET }}}}\"\n");
    let client = format!(
        "serveraddr = \"{ip}\"\nserverPort = {BIND_PORT}\nAuth.Token = \"{{{{ .Envs.SECRET }}}}\"\n[[Proxies]]\n\
         name = \"echo\"\ntype = \"tcp\"\nlocalIp = \"{ip}\"\nlocalport = {SERVICE_PORT}\nRemotePort = {REMOTE_PORT}\n"
    );
    works(net, &server, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn further_files_are_included() {
    let net = Loopback::claim();
    let ip = net.ip();
    let dir = tempfile::tempdir().unwrap();
    let proxy = format!(
        "[[proxies]]\nname = \"echo\"\ntype = \"tcp\"\nlocalIP = \"{ip}\"\nlocalPort = {SERVICE_PORT}\n\
         remotePort = {REMOTE_PORT}\n"
    );
    std::fs::write(dir.path().join("one.toml"), proxy).unwrap();
    let server = format!("bindAddr = \"{ip}\"\nbindPort = {BIND_PORT}\nauth.token = \"{TOKEN}\"\n");
    let client = format!(
        "serverAddr = \"{ip}\"\nserverPort = {BIND_PORT}\nauth.token = \"{TOKEN}\"\nincludes = [\"{}/*.toml\"]\n",
        dir.path().display()
    );
    works(net, &server, &client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_may_come_from_a_file() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("  {TOKEN}\n")).unwrap();
    let lines =
        format!("auth.tokenSource.type = \"file\"\nauth.tokenSource.file.path = \"{}\"", file.display());
    let tunnel = Setup::new(net).server(&lines).proxy("echo", echo.addr(), REMOTE_PORT).start().await;
    visitor::echo(tunnel.public(REMOTE_PORT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_proxies_that_are_wanted_run() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let setup = Setup::new(net).client("user = \"ann\"\nstart = [\"wanted\"]");
    let ip = echo.addr().ip();
    let tunnel = setup.start().await;
    let config = std::fs::read_to_string(tunnel.client_launch.dir().join("tunc.toml")).unwrap();
    let proxies: String = [("wanted", 6000), ("other", 6001)]
        .iter()
        .map(|(name, port)| {
            format!(
                "[[proxies]]\nname = \"{name}\"\ntype = \"tcp\"\nlocalIP = \"{ip}\"\nlocalPort = {SERVICE_PORT}\n\
                 remotePort = {port}\n"
            )
        })
        .collect();
    let client = Launch::client().config(&(config + &proxies)).start();
    client.line("[ann.wanted] start proxy success").await;
    visitor::echo(tunnel.public(6000)).await;
    assert!(tokio::net::TcpStream::connect(tunnel.public(6001)).await.is_err());
    assert_eq!(client.log().count("other"), 0);
}
