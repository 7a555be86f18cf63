//! The ways to the server: what is particular about each, and which of them is taken. What is the same on all of them is
//! tested in streams.rs, link_death.rs and others.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tun_tests::certs::{self, Authority};
use tun_tests::dns::Dns;
use tun_tests::forwarder::{Fault, Forwarder};
use tun_tests::mitm::Mitm;
use tun_tests::net::{BIND_PORT, FORWARDER_PORT, Loopback, PROXY_PORT, REMOTE_PORT, SERVICE_PORT};
use tun_tests::program::{Finished, Launch, Program};
use tun_tests::proxy::{self, Rules};
use tun_tests::service::Service;
use tun_tests::service::nginx::Nginx;
use tun_tests::tunnel::{Proxy, Setup, client_config};
use tun_tests::visitor;

const MIB: u64 = 1 << 20;
const LEN: u64 = 16 * MIB;

/// How a client is told to reach its server: further lines, and the environment.
struct Route {
    server: SocketAddr,
    lines: String,
    environment: Vec<(&'static str, String)>,
}

impl Route {
    fn new(server: SocketAddr, lines: &str) -> Self {
        Self { server, lines: lines.to_owned(), environment: Vec::new() }
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    fn launch(&self, proxies: &[Proxy]) -> Launch {
        let config = client_config(self.server, &self.lines, proxies);
        let launch = Launch::client().config(&config);
        self.environment.iter().fold(launch, |launch, (name, value)| launch.env(name, value))
    }

    /// A client with proxies for downloads and uploads, when both are public.
    async fn start(&self, services: &Services) -> Program {
        let proxy = |name: &str, service: &Service, port| Proxy {
            name: name.to_owned(),
            local: service.addr(),
            remote_port: port,
        };
        let proxies =
            [proxy("down", &services.source, REMOTE_PORT), proxy("up", &services.sink, REMOTE_PORT + 1)];
        let client = self.launch(&proxies).start();
        for name in ["down", "up"] {
            client.line(&format!("[{name}] start proxy success")).await;
        }
        client
    }

    /// A client that is expected not to get in.
    async fn fails(&self) -> Finished {
        self.launch(&[]).run().await
    }
}

struct Services {
    source: Service,
    sink: Service,
}

impl Services {
    async fn start(net: &Loopback) -> Self {
        Self {
            source: Service::source(net.at(SERVICE_PORT)).await,
            sink: Service::sink(net.at(SERVICE_PORT + 1)).await,
        }
    }
}

/// Moves data both ways.
async fn carries(net: &Loopback, route: &Route) {
    let services = Services::start(net).await;
    let _client = route.start(&services).await;
    let (down, up) = (net.at(REMOTE_PORT), net.at(REMOTE_PORT + 1));
    both(visitor::download(down, 1, LEN).await, visitor::upload(up, 2, LEN).await);
}

#[track_caller]
fn both(download: (String, String), upload: (String, String)) {
    assert_eq!(download.0, download.1, "the download");
    assert_eq!(upload.0, upload.1, "the upload");
}

/// A server, and a forwarder in front of it.
async fn served(net: Loopback, lines: &str) -> (Loopback, Program, Forwarder) {
    let setup = Setup::new(net).server(lines);
    let server = setup.serve().await.server;
    let net = setup.into_net();
    let forwarder = Forwarder::start(net.at(FORWARDER_PORT), net.at(BIND_PORT)).await;
    (net, server, forwarder)
}

mod through_a_proxy {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_proxy_gets_its_credentials() {
        for (kind, scheme) in [("http", "http"), ("socks5", "socks5"), ("socks5", "socks5h")] {
            let (net, _server, _forwarder) = served(Loopback::claim(), "").await;
            let at = net.at(PROXY_PORT);
            let rules = Rules::for_user(net.at(BIND_PORT), "me", "p@ss:word");
            let proxy = match kind {
                "http" => proxy::http(at, rules).await,
                _ => proxy::socks5(at, rules).await,
            };
            let lines = format!("transport.proxyURL = \"{scheme}://me:p%40ss%3Aword@{at}\"");
            carries(&net, &Route::new(net.at(BIND_PORT), &lines)).await;
            assert!(proxy.accepted() >= 1, "the link went through the proxy");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_proxy_in_tls_must_have_a_certificate_of_an_authority() {
        let (net, _server, _forwarder) = served(Loopback::claim(), "").await;
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("company");
        let files = authority.issue(&[&net.ip().to_string()], dir.path(), "proxy");
        let plain = proxy::http(net.at(PROXY_PORT), Rules::for_user(net.at(BIND_PORT), "me", "hush")).await;
        let proxy = proxy::tls(net.at(PROXY_PORT + 1), &files, plain.addr()).await;
        let lines = format!("transport.proxyURL = \"https://me:hush@{}\"", proxy.addr());
        let way = || Route::new(net.at(BIND_PORT), &lines);
        let known = authority.write(dir.path(), "known.crt").display().to_string();
        let foreign = Authority::new("foreign").write(dir.path(), "foreign.crt").display().to_string();
        // Whoever poses as the proxy does not get the password.
        way().env("SSL_CERT_FILE", &foreign).fails().await.expect(1, &["TLS with the proxy", "certificate"]);
        assert_eq!(plain.accepted(), 0);
        let client = way().env("SSL_CERT_FILE", &known).launch(&[]).start();
        client.line("login to server success").await;
        assert_eq!(plain.accepted(), 1);
    }

    /// What a client says whose proxy does not let it through.
    async fn refused(kind: &str, url: &str, rules: impl FnOnce(SocketAddr) -> Rules) -> Finished {
        let (net, server, _forwarder) = served(Loopback::claim(), "").await;
        let at = net.at(PROXY_PORT);
        let rules = rules(net.at(BIND_PORT));
        let _proxy = match kind {
            "http" => proxy::http(at, rules).await,
            _ => proxy::socks5(at, rules).await,
        };
        let lines = format!("transport.proxyURL = \"{}\"", url.replace("PROXY", &at.to_string()));
        let finished = Route::new(net.at(BIND_PORT), &lines).fails().await;
        assert_eq!(server.log().count("logged in"), 0);
        assert!(finished.output.contains(&at.to_string()), "the proxy is named:\n{}", finished.output);
        assert!(!finished.output.contains("hush"), "no password is shown:\n{}", finished.output);
        finished
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn missing_and_wrong_credentials_are_told_apart() {
        let rules = |names| Rules::for_user(names, "me", "right");
        for kind in ["http", "socks5"] {
            let missing = refused(kind, &format!("{kind}://PROXY"), rules).await;
            missing.expect(1, &["wants credentials", "USER:PASSWORD@"]);
            let wrong = refused(kind, &format!("{kind}://me:hush@PROXY"), rules).await;
            wrong.expect(1, &["does not take these credentials"]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_proxy_that_refuses_is_quoted() {
        let rules = |names| Rules { closed: true, ..Rules::open(names) };
        let http = refused("http", "http://PROXY", rules).await;
        http.expect(1, &["does not connect to", "403 Forbidden"]);
        let socks = refused("socks5", "socks5://PROXY", rules).await;
        socks.expect(1, &["does not connect to", "not allowed by ruleset"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_no_proxy_is_called_so() {
        for scheme in ["http", "socks5"] {
            let net = Loopback::claim();
            let service = Service::named(net.at(PROXY_PORT), "SSH-2.0-x\r\n").await;
            let lines = format!("transport.proxyURL = \"{scheme}://{}\"", service.addr());
            let finished = Route::new(net.at(BIND_PORT), &lines).fails().await;
            finished.expect(1, &["does not answer as one", &service.addr().to_string()]);
            service.stop().await;
            let finished = Route::new(net.at(BIND_PORT), &lines).fails().await;
            finished.expect(1, &["cannot connect to the proxy"]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_environment_names_a_proxy_that_resolves_the_server() {
        for (kind, variable) in [("http", "HTTPS_PROXY"), ("socks5", "ALL_PROXY"), ("http", "http_proxy")] {
            let (net, server, _forwarder) = served(Loopback::claim(), "").await;
            let at = net.at(PROXY_PORT);
            let rules = Rules::open(net.at(BIND_PORT));
            let proxy = match kind {
                "http" => proxy::http(at, rules).await,
                _ => proxy::socks5(at, rules).await,
            };
            let config = client_config(net.at(BIND_PORT), "", &[])
                .replace(&format!("\"{}\"", net.ip()), "\"only.the.proxy.knows.test\"");
            let client = Launch::client().config(&config).env(variable, &format!("{kind}://{at}")).start();
            client.line("login to server success").await;
            server.line("logged in").await;
            assert_eq!(proxy.accepted(), 1);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_on_this_machine_needs_no_proxy_of_the_environment() {
        let (net, _server, _forwarder) = served(Loopback::claim(), "").await;
        let nowhere = format!("http://{}", net.at(PROXY_PORT));
        let way = Route::new(net.at(BIND_PORT), "").env("HTTPS_PROXY", &nowhere);
        let client = way.launch(&[]).start();
        client.line("login to server success").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dns_server_of_ones_own_is_asked() {
    let (net, server, _forwarder) = served(Loopback::claim(), "").await;
    let IpAddr::V4(ip) = net.ip() else { unreachable!("tests have IPv4 addresses") };
    let _dns = Dns::start(net.at(5353), ip).await;
    let named = |dns: SocketAddr| {
        let config = client_config(net.at(BIND_PORT), &format!("dnsServer = \"{dns}\""), &[]);
        Launch::client().config(&config.replace(&format!("\"{ip}\""), "\"nobody.else.knows.test\""))
    };
    let client = named(net.at(5353)).start();
    client.line("login to server success").await;
    server.line("logged in").await;
    named(net.at(5354)).run().await.expect(1, &["nobody.else.knows.test", "dnsServer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_address_of_links_can_be_chosen() {
    let (net, server, _forwarder) = served(Loopback::claim(), "").await;
    let way = Route::new(net.at(BIND_PORT), "transport.connectServerLocalIP = \"127.8.9.10\"");
    let client = way.launch(&[]).start();
    client.line("login to server success").await;
    server.line("logged in from 127.8.9.10:").await;
    let foreign = Route::new(net.at(BIND_PORT), "transport.connectServerLocalIP = \"::1\"").fails().await;
    foreign.expect(1, &["cannot be reached from ::1"]);
}

mod over_a_websocket {
    use super::*;

    fn over(protocol: &str) -> String {
        format!("transport.protocol = \"{protocol}\"\n")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_upgrade_is_what_crosses_the_network() {
        let (net, server, forwarder) = served(Loopback::claim(), "").await;
        carries(&net, &Route::new(forwarder.addr(), &over("websocket"))).await;
        assert!(forwarder.seen().starts_with(b"GET /~!tun HTTP/1.1\r\n"));
        assert_eq!(server.log().count("WARN"), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tls_is_what_crosses_the_network_where_that_is_asked_for() {
        let (net, _server, forwarder) = served(Loopback::claim(), "").await;
        carries(&net, &Route::new(forwarder.addr(), &over("wss"))).await;
        assert_eq!(forwarder.seen()[0], 0x16);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_websocket_without_encryption_carries_everything() {
        let (net, _server, forwarder) = served(Loopback::claim(), "").await;
        let lines = over("websocket") + "transport.tls.enable = false";
        carries(&net, &Route::new(forwarder.addr(), &lines)).await;
    }

    /// nginx in front of the server, with a path and a name of its own.
    async fn behind_nginx(protocol: &str, scheme: &str) {
        let (net, _server, _forwarder) =
            served(Loopback::claim(), "transport.websocket.path = \"/tunnel\"").await;
        let (_dir, files) = certs::unknown("web.test");
        let tls = (protocol == "wss").then_some(&files);
        let target = format!("{scheme}://{}", net.at(BIND_PORT));
        let nginx = Nginx::in_front_of(net.at(PROXY_PORT), "/tunnel", &target, tls).await;
        let lines = over(protocol)
            + "transport.websocket.path = \"/tunnel\"\ntransport.websocket.host = \"web.test\"";
        carries(&net, &Route::new(nginx.addr(), &lines)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nginx_passes_websockets_on() {
        behind_nginx("websocket", "http").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nginx_speaks_tls_to_the_server_as_well() {
        behind_nginx("wss", "https").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_web_server_that_knows_no_tunnel_is_quoted() {
        let (net, _server, _forwarder) = served(Loopback::claim(), "").await;
        let nginx = Nginx::start(net.at(PROXY_PORT)).await;
        let finished = Route::new(nginx.addr(), &over("websocket")).fails().await;
        finished.expect(1, &["404 Not Found", "/~!tun", "transport.websocket.path"]);
        let front = Nginx::in_front_of(
            net.at(PROXY_PORT + 1),
            "/~!tun",
            &format!("http://{}", net.at(PROXY_PORT + 2)),
            None,
        )
        .await;
        let finished = Route::new(front.addr(), &over("websocket")).fails().await;
        finished.expect(1, &["502 Bad Gateway", "does not reach tuns"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_path_must_be_the_one_of_the_server() {
        let (net, server, _forwarder) = served(Loopback::claim(), "").await;
        let lines = over("websocket") + "transport.websocket.path = \"/other\"";
        let finished = Route::new(net.at(BIND_PORT), &lines).fails().await;
        finished.expect(1, &["404 Not Found", "transport.websocket.path"]);
        server.line("asks for \"/other\"").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wrong_token_is_refused_on_every_way() {
        let (net, _server, _forwarder) = served(Loopback::claim(), "").await;
        for protocol in ["tcp", "quic", "websocket", "wss", "auto"] {
            let lines = over(protocol) + "auth.token = \"wrong\"";
            let finished = Route::new(net.at(BIND_PORT), &lines).fails().await;
            finished.expect(3, &["auth.token must be the same on both sides"]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_ends_the_encryption_outside_does_not_see_inside() {
        // TLS of our own ends in the middle, whatever is around it.
        let (net, _server, _forwarder) = served(Loopback::claim(), "").await;
        let mitm = Mitm::start(net.at(PROXY_PORT), net.at(BIND_PORT)).await;
        let finished = Route::new(mitm.addr(), &over("tcp")).fails().await;
        assert!(finished.output.contains("somebody in the middle"), "{}", finished.output);
        // Around a WebSocket an interceptor sees TLS of our own, and what is in it stays between the two ends.
        let mitm = Mitm::start(net.at(PROXY_PORT + 1), net.at(BIND_PORT)).await;
        let client = Route::new(mitm.addr(), &over("wss")).launch(&[]).start();
        client.line("login to server success").await;
        assert!(mitm.seen().windows(4).any(|bytes| bytes == b"GET "));
        assert!(!mitm.seen().windows(4).any(|bytes| bytes == b"TUN\x01"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_encryption_inside_the_web_servers_certificate_counts() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("web");
        let files = authority.issue(&["web.test"], dir.path(), "web");
        let roots = authority.write(dir.path(), "roots.crt");
        let own = format!(
            "transport.tls.certFile = {:?}\ntransport.tls.keyFile = {:?}",
            files.cert.display().to_string(),
            files.key.display().to_string()
        );
        let (net, _server, _forwarder) = served(Loopback::claim(), &own).await;
        let lines = over("wss") + "transport.tls.enable = false\ntransport.websocket.host = \"web.test\"";
        let way = Route::new(net.at(BIND_PORT), &lines).env("SSL_CERT_FILE", roots.to_str().unwrap());
        let client = way.launch(&[]).start();
        client.line("login to server success").await;
        let foreign = Authority::new("foreign").write(dir.path(), "foreign.crt");
        let way = Route::new(net.at(BIND_PORT), &lines).env("SSL_CERT_FILE", foreign.to_str().unwrap());
        way.fails().await.expect(1, &["certificate"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_insists_on_encryption_wants_it_inside_the_websocket() {
        let (net, server, _forwarder) = served(Loopback::claim(), "transport.tls.force = true").await;
        let plain = over("websocket") + "transport.tls.enable = false";
        let finished = Route::new(net.at(BIND_PORT), &plain).fails().await;
        assert_eq!(finished.exit.code, Some(1));
        server.line("which transport.tls.force demands").await;
        let client = Route::new(net.at(BIND_PORT), &over("websocket")).launch(&[]).start();
        client.line("login to server success").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn certificates_of_clients_are_asked_for_inside_the_websocket() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("clients");
        let trusted = format!(
            "transport.tls.trustedCaFile = {:?}",
            authority.write(dir.path(), "ca.crt").display().to_string()
        );
        let files = authority.issue(&["client"], dir.path(), "client");
        let (net, server, _forwarder) = served(Loopback::claim(), &trusted).await;
        let bind = net.at(BIND_PORT);
        for protocol in ["websocket", "wss"] {
            let own = over(protocol)
                + &format!(
                    "transport.tls.certFile = {:?}\ntransport.tls.keyFile = {:?}",
                    files.cert.display().to_string(),
                    files.key.display().to_string()
                );
            let client = Route::new(bind, &own).launch(&[]).start();
            client.line("login to server success").await;
            drop(client);
            Route::new(bind, &over(protocol)).fails().await;
            Route::new(bind, &(over(protocol) + "transport.tls.enable = false")).fails().await;
        }
        assert_eq!(server.log().count("logged in"), 2);
    }
}

mod by_itself {
    use super::*;

    const AUTO: &str = "transport.protocol = \"auto\"";

    #[tokio::test(flavor = "multi_thread")]
    async fn tcp_is_taken_where_it_works() {
        let (net, _server, forwarder) = served(Loopback::claim(), "").await;
        let web = Forwarder::start(net.at(443), net.at(BIND_PORT)).await;
        carries(&net, &Route::new(forwarder.addr(), AUTO)).await;
        assert_eq!(web.accepted(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_web_is_taken_where_tcp_is_refused() {
        let (net, _server, _forwarder) = served(Loopback::claim(), "").await;
        let web = Forwarder::start(net.at(443), net.at(BIND_PORT)).await;
        // Nobody listens there.
        let way = Route::new(net.at(PROXY_PORT), AUTO);
        carries(&net, &way).await;
        assert!(web.accepted() > 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_web_is_taken_through_a_proxy_that_allows_nothing_else() {
        let (net, _server, _forwarder) = served(Loopback::claim(), "").await;
        let web = Forwarder::start(net.at(443), net.at(BIND_PORT)).await;
        let rules = Rules { only: Some(443), ..Rules::open(web.addr()) };
        let proxy = proxy::http(net.at(PROXY_PORT), rules).await;
        let lines = format!("{AUTO}\ntransport.proxyURL = \"http://{}\"", proxy.addr());
        carries(&net, &Route::new(net.at(BIND_PORT), &lines)).await;
        assert!(web.accepted() > 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_web_is_taken_beside_a_silent_tcp_port_and_remembered() {
        let (net, _server, forwarder) = served(Loopback::claim(), "").await;
        let web = Forwarder::start(net.at(443), net.at(BIND_PORT)).await;
        forwarder.fail(Fault::NeverAnswer);
        let client = Route::new(forwarder.addr(), AUTO).launch(&[]).start();
        client.line("the server is reached by WebSocket over TLS, port 443").await;
        let took = client.line("login to server success").await.at - client.started();
        assert!(took < Duration::from_secs(5), "{took:?}");
        let tried = forwarder.accepted();
        web.fail(Fault::Reset);
        client.line("link to server restored").await;
        assert_eq!(forwarder.accepted(), tried, "the way that worked is taken again, alone");
        // It fails and the other one works: that is the way now.
        drop(web);
        forwarder.heal();
        client.line("the server is reached by TCP").await;
    }
}
