//! Every way to the server carries the same things: transfers, links that die, refusals.

use std::net::SocketAddr;

use tun_tests::forwarder::{Direction, Fault, Forwarder, Silence};
use tun_tests::net::{BIND_PORT, FORWARDER_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::program::{Finished, Launch, Program};
use tun_tests::proxy::{self, Rules};
use tun_tests::service::Service;
use tun_tests::tunnel::{Proxy, Setup, client_config};
use tun_tests::visitor;

const MIB: u64 = 1 << 20;
const LEN: u64 = 64 * MIB;
const PROXY_PORT: u16 = 3128;

/// A way from a client to its server: the client's further lines and environment.
struct Way {
    server: SocketAddr,
    lines: String,
    environment: Vec<(&'static str, String)>,
}

impl Way {
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
    async fn start(&self, net: &Loopback, services: &Services) -> Program {
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

/// Moves data both ways, once in peace and once while the link dies: behind `forwarder`, which must be on the way.
async fn carries(net: &Loopback, way: &Way, forwarder: &Forwarder, fault: Fault) {
    let services = Services::start(net).await;
    let client = way.start(net, &services).await;
    let (down, up) = (net.at(REMOTE_PORT), net.at(REMOTE_PORT + 1));
    both(visitor::download(down, 1, LEN).await, visitor::upload(up, 2, LEN).await);
    let pending = forwarder.fail_after(Direction::Up, LEN / 4, fault);
    let (download, upload, _) =
        tokio::join!(visitor::download(down, 3, LEN), visitor::upload(up, 4, LEN), pending.happened());
    both(download, upload);
    client.line("link to server lost").await;
    assert_eq!(client.log().count("login to server success"), 1);
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

    async fn a_proxy_carries(kind: &str, url: &str, rules: impl FnOnce(SocketAddr) -> Rules, fault: Fault) {
        let (net, _server, forwarder) = served(Loopback::claim(), "").await;
        let at = net.at(PROXY_PORT);
        let rules = rules(forwarder.addr());
        let proxy = match kind {
            "http" => proxy::http(at, rules).await,
            _ => proxy::socks5(at, rules).await,
        };
        let lines = format!("transport.proxyURL = \"{}\"", url.replace("PROXY", &at.to_string()));
        carries(&net, &Way::new(forwarder.addr(), &lines), &forwarder, fault).await;
        assert!(proxy.accepted() >= 2, "the links went through the proxy");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_http_proxy_carries_everything() {
        a_proxy_carries("http", "http://PROXY", Rules::open, Fault::Reset).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_http_proxy_gets_its_credentials() {
        let rules = |names| Rules::for_user(names, "me", "p@ss:word");
        let fault = Fault::Swallow(Silence::Discard);
        a_proxy_carries("http", "http://me:p%40ss%3Aword@PROXY", rules, fault).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_socks_proxy_carries_everything() {
        a_proxy_carries("socks5", "socks5://PROXY", Rules::open, Fault::Reset).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_socks_proxy_gets_its_credentials() {
        let rules = |names| Rules::for_user(names, "me", "p@ss:word");
        let fault = Fault::Swallow(Silence::Stall);
        a_proxy_carries("socks5", "socks5h://me:p%40ss%3Aword@PROXY", rules, fault).await;
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
        let finished = Way::new(net.at(BIND_PORT), &lines).fails().await;
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
            let finished = Way::new(net.at(BIND_PORT), &lines).fails().await;
            finished.expect(1, &["does not answer as one", &service.addr().to_string()]);
            service.stop().await;
            let finished = Way::new(net.at(BIND_PORT), &lines).fails().await;
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
        let way = Way::new(net.at(BIND_PORT), "").env("HTTPS_PROXY", &nowhere);
        let client = way.launch(&[]).start();
        client.line("login to server success").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_address_of_links_can_be_chosen() {
    let (net, server, _forwarder) = served(Loopback::claim(), "").await;
    let way = Way::new(net.at(BIND_PORT), "transport.connectServerLocalIP = \"127.8.9.10\"");
    let client = way.launch(&[]).start();
    client.line("login to server success").await;
    server.line("logged in from 127.8.9.10:").await;
    let foreign = Way::new(net.at(BIND_PORT), "transport.connectServerLocalIP = \"::1\"").fails().await;
    foreign.expect(1, &["cannot be reached from ::1"]);
}
