//! Networks that let little out: `transport.protocol = "auto"` gets a client through them, with no other key.
//!
//! Whatever is not allowed vanishes in the router, all UDP with it.

use std::net::SocketAddr;
use std::time::Duration;

use tun_tests::lab::{Lab, Nat, SERVER, Site, Space, Traffic};
use tun_tests::net::{BIND_PORT, PROXY_PORT, Place, REMOTE_PORT, SERVICE_PORT};
use tun_tests::program::{Launch, Program};
use tun_tests::proxy::{self, Rules};
use tun_tests::service::Service;
use tun_tests::tunnel::TOKEN;
use tun_tests::visitor::{self, Visitor};

const MIB: u64 = 1 << 20;

/// How long a client may take to find out what is allowed and to log in. Nothing tells it that it is not.
const IN_WITHIN: Duration = Duration::from_secs(5);

const WEB_PORT: u16 = 443;

/// A server, and a host behind a router that lets nothing out yet.
struct Company {
    lab: Lab,
    site: Site,
    server: Program,
}

impl Company {
    async fn start(bind_port: u16) -> Option<Self> {
        let mut lab = Lab::start()?;
        let site = lab.site(Nat::PortRestricted);
        let address = SocketAddr::from((SERVER[0], bind_port));
        let config =
            format!("bindAddr = \"{}\"\nbindPort = {bind_port}\nauth.token = \"{TOKEN}\"\n", SERVER[0]);
        let server = Launch::server().within(lab.server()).config(&config).start();
        server.line(&format!("listening on {address}")).await;
        let company = Self { lab, site, server };
        company.rule("type filter hook forward priority 0; policy drop;", "forward");
        Some(company)
    }

    fn gateway(&self) -> &Space {
        match self.site.router() {
            Some(router) => router,
            None => unreachable!("a site behind a NAT has a router"),
        }
    }

    /// Adds rules to the router, one a line.
    fn rule(&self, rules: &str, chain: &str) {
        self.gateway().nft(&format!("table ip company {{\n chain {chain} {{\n{rules}\n }}\n}}\n"));
    }

    /// Lets connections to this port of whatever host out.
    fn allow(&self, port: u16) {
        self.rule(&format!("ct state established,related accept\ntcp dport {port} accept"), "forward");
    }

    /// The router as its host knows it, and where that is.
    fn router(&self) -> (SocketAddr, Place) {
        let [a, b, c, _] = self.site.address().octets();
        let at = SocketAddr::from(([a, b, c, 1], PROXY_PORT));
        (at, Place::from((self.gateway(), at)))
    }

    /// Where the server is for those beyond the router.
    fn beyond(&self) -> Place {
        let server = SocketAddr::from((SERVER[0], BIND_PORT));
        Place::from((self.gateway(), server))
    }

    /// Starts a client with `auto` and this environment, and checks that it gets in, carries and comes back.
    async fn is_passed(&self, environment: &[(&str, &str)], by_the_web: bool) {
        let at = |n: u16| SocketAddr::from(([127, 0, 0, 1], SERVICE_PORT + n));
        let host = self.site.host();
        let _echo = Service::echo(Place::from((host, at(0)))).await;
        let _source = Service::source(Place::from((host, at(1)))).await;
        let _sink = Service::sink(Place::from((host, at(2)))).await;
        let mut config = format!(
            "serverAddr = \"{}\"\nauth.token = \"{TOKEN}\"\ntransport.protocol = \"auto\"\n",
            SERVER[0]
        );
        for n in 0..3 {
            let (local, remote) = (at(n).port(), REMOTE_PORT + n);
            config += &format!(
                "[[proxies]]\nname = \"p{n}\"\ntype = \"tcp\"\nlocalPort = {local}\nremotePort = {remote}\n"
            );
        }
        let launch = Launch::client().within(host).config(&config);
        let launch = environment.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        let client = launch.start();
        let took = client.line("login to server success").await.at - client.started();
        assert!(took <= IN_WITHIN, "it took {took:?} to get in");
        client.nth("start proxy success", 3).await;
        let said = client.log().count("the server is reached by WebSocket over TLS, port 443");
        assert_eq!(said, usize::from(by_the_web), "{}", client.log().text());

        let public = |n| Place::from((self.lab.server(), SocketAddr::from((SERVER[0], REMOTE_PORT + n))));
        let mut steady = Visitor::connect(public(0)).await;
        steady.echo(1, 1000).await;
        let (download, upload) =
            tokio::join!(visitor::download(public(1), 2, 16 * MIB), visitor::upload(public(2), 3, 16 * MIB));
        assert_eq!(download.0, download.1, "the download");
        assert_eq!(upload.0, upload.1, "the upload");

        // It comes back after an outage, and the connection that was open goes on.
        let cut = self.lab.cut(self.site.end(), self.lab.server_end(), Traffic::All);
        client.line("link to server lost").await;
        drop(cut);
        client.line("link to server restored").await;
        steady.echo(4, 1000).await;
        assert_eq!(self.server.log().count("logged in"), 1);
        assert_eq!(self.lab.carried(self.site.end(), self.lab.server_end()).udp, 0, "nothing of UDP got out");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_lets_nothing_but_tcp_443_out_is_passed() {
    let Some(company) = Company::start(WEB_PORT).await else { return };
    company.allow(WEB_PORT);
    company.is_passed(&[], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_refuses_all_but_tcp_443_is_passed() {
    let Some(company) = Company::start(WEB_PORT).await else { return };
    company.allow(WEB_PORT);
    company.rule("reject with icmp admin-prohibited", "forward");
    company.is_passed(&[], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_with_an_http_proxy_is_passed() {
    let Some(company) = Company::start(WEB_PORT).await else { return };
    let (address, at) = company.router();
    // As most of them do, it connects to where the web is encrypted, and to nothing else.
    let rules = Rules { only: Some(WEB_PORT), ..Rules::open(company.beyond()) };
    let proxy = proxy::http(at, rules).await;
    company.is_passed(&[("HTTPS_PROXY", &format!("http://{address}"))], true).await;
    assert!(proxy.accepted() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_with_a_socks_proxy_is_passed() {
    let Some(company) = Company::start(BIND_PORT).await else { return };
    let (address, at) = company.router();
    let proxy = proxy::socks5(at, Rules::open(company.beyond())).await;
    company.is_passed(&[("ALL_PROXY", &format!("socks5://{address}"))], false).await;
    assert!(proxy.accepted() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_lets_nothing_out_is_not_passed() {
    let Some(company) = Company::start(WEB_PORT).await else { return };
    let config = format!(
        "serverAddr = \"{}\"\nauth.token = \"{TOKEN}\"\ntransport.protocol = \"auto\"\n\
         transport.dialServerTimeout = 1\n",
        SERVER[0]
    );
    let finished = Launch::client().within(company.site.host()).config(&config).run().await;
    finished.expect(1, &["within 1 s"]);
    assert_eq!(company.server.log().count("handshake"), 0);
}
