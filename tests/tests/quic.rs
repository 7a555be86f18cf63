//! QUIC between client and server: it shares its port, and outlives a change of address.

use std::net::SocketAddr;
use std::time::Duration;

use tun_tests::certs::Authority;
use tun_tests::datagram_forwarder::{DatagramFault, DatagramForwarder};
use tun_tests::datagrams::{Asker, Echo, roomy};
use tun_tests::forwarder::{Direction, Fault, Forwarder};
use tun_tests::net::{BIND_PORT, FORWARDER_PORT, Loopback, REMOTE_PORT, SERVICE_PORT, source};
use tun_tests::patience::alone;
use tun_tests::program::{Launch, Program};
use tun_tests::quic::QuicMitm;
use tun_tests::service::Service;
use tun_tests::tunnel::{Proxy, Served, Setup, client_config};
use tun_tests::visitor::{self, Visitor};

const MIB: u64 = 1 << 20;
const LEN: u64 = 64 * MIB;
const QUIC: &str = "transport.protocol = \"quic\"\n";
const AUTO: &str = "transport.protocol = \"auto\"\n";

/// A server, a client that serves downloads and uploads, and what lies between.
struct Scene {
    net: Loopback,
    served: Served,
    network: DatagramForwarder,
    client: Program,
    _services: [Service; 2],
}

impl Scene {
    async fn start(server_lines: &str, client_lines: &str) -> Self {
        let setup = Setup::new(Loopback::claim()).server(server_lines);
        let served = setup.serve().await;
        let net = setup.into_net();
        let network = DatagramForwarder::start(net.at(FORWARDER_PORT), net.at(BIND_PORT));
        let (client, services) = client(&net, network.addr(), client_lines).await;
        Scene { net, served, network, client, _services: services }
    }

    async fn both_ways(&self) {
        let (down, up) = (self.net.at(REMOTE_PORT), self.net.at(REMOTE_PORT + 1));
        let (download, upload) = tokio::join!(visitor::download(down, 3, LEN), visitor::upload(up, 4, LEN));
        assert_eq!(download.0, download.1, "the download");
        assert_eq!(upload.0, upload.1, "the upload");
    }
}

/// A client that serves downloads and uploads, once both are public.
async fn client(net: &Loopback, server: SocketAddr, lines: &str) -> (Program, [Service; 2]) {
    let services =
        [Service::source(net.at(SERVICE_PORT)).await, Service::sink(net.at(SERVICE_PORT + 1)).await];
    let proxies = [("down", &services[0], REMOTE_PORT), ("up", &services[1], REMOTE_PORT + 1)].map(
        |(name, service, remote_port)| Proxy { name: name.to_owned(), local: service.addr(), remote_port },
    );
    let client = Launch::client().config(&client_config(server, lines, &proxies)).start();
    for name in ["down", "up"] {
        client.line(&format!("[{name}] start proxy success")).await;
    }
    (client, services)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_clients_address_breaks_nothing() {
    let scene = Scene::start("", QUIC).await;
    let fault = DatagramFault::Readdress(source(700));
    let pending = scene.network.fail_after(Direction::Up, LEN / 4, fault);
    tokio::join!(scene.both_ways(), pending.happened());
    assert_eq!(scene.client.log().count("link to server lost"), 0);
    assert_eq!(scene.client.log().count("login to server success"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn frps_ports_are_served_as_well() {
    let lines = format!("quicBindPort = {}\nkcpBindPort = {}", BIND_PORT + 1, BIND_PORT + 2);
    // The first of them is the server's second port for STUN, too.
    for (port, protocol) in [(BIND_PORT + 1, "quic"), (BIND_PORT + 2, "kcp"), (BIND_PORT, "kcp")] {
        let setup = Setup::new(Loopback::claim()).server(&lines);
        let served = setup.serve().await;
        let lines = format!("transport.protocol = \"{protocol}\"");
        // Nobody listens for TCP there.
        let (client, _services) = client(setup.net(), setup.net().at(port), &lines).await;
        visitor::download(setup.net().at(REMOTE_PORT), 1, MIB).await;
        served.server.line("STUN on").await;
        assert_eq!(served.server.log().count("WARN") + client.log().count("WARN"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_travel_as_such() {
    let setup = Setup::new(Loopback::claim());
    let _served = setup.serve().await;
    let net = setup.net();
    let echo = Echo::start(net.at(SERVICE_PORT));
    let network = DatagramForwarder::start(net.at(FORWARDER_PORT), net.at(BIND_PORT));
    let config = client_config(network.addr(), QUIC, &[])
        + &format!(
            "[[proxies]]\nname = \"echo\"\ntype = \"udp\"\nlocalIP = \"{}\"\nlocalPort = {SERVICE_PORT}\nremotePort = {REMOTE_PORT}\n",
            net.ip()
        );
    let client = Launch::client().config(&config).start();
    client.line("[echo] start proxy success").await;
    let asker = Asker::new(net.at(REMOTE_PORT)).await;
    for (seed, len) in [(1, 0), (2, 200), (3, 1100), (4, 1500), (5, 65_507)] {
        asker.insist(seed, len).await;
    }
    network.fail(DatagramFault::Readdress(source(701)));
    asker.insist(6, 200).await;
    assert_eq!(echo.sources(), 1, "it is one flow all the while");
    assert_eq!(client.log().count("link to server lost"), 0);
}

mod the_port {
    use super::*;

    /// A Binding request (RFC 8489), and whether it is answered.
    async fn answers_stun(at: SocketAddr) -> bool {
        let asker = Asker::new(at).await;
        let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        asker.send(&request).await;
        let answer = asker.receive_within(Duration::from_secs(2)).await;
        answer.is_some_and(|answer| answer[..2] == [1, 1] && answer[4..20] == request[4..])
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn is_shared_with_stun() {
        let scene = Scene::start("", QUIC).await;
        let server = scene.net.at(BIND_PORT);
        let asking = async {
            for _ in 0..20 {
                assert!(answers_stun(server).await);
            }
        };
        tokio::join!(scene.both_ways(), asking);
        assert!(answers_stun(scene.net.at(BIND_PORT + 1)).await);
        assert_eq!(scene.client.log().count("link to server lost"), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn is_quics_alone_without_stun() {
        let scene = Scene::start("stun.enable = false", QUIC).await;
        assert!(!answers_stun(scene.net.at(BIND_PORT)).await);
        scene.both_ways().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn must_be_free_if_it_was_configured() {
        for key in ["quicBindPort", "kcpBindPort"] {
            let net = Loopback::claim();
            let _other = roomy(net.at(7050));
            let config = format!("bindAddr = \"{}\"\n{key} = 7050\n", net.ip());
            let finished = Launch::server().config(&config).run().await;
            finished.expect(1, &[key, "7050 (UDP", "in use"]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn need_not_be_free_if_it_was_not() {
        let net = Loopback::claim();
        let _other = roomy(net.at(BIND_PORT));
        let setup = Setup::new(net);
        let served = setup.serve().await;
        served.server.line("no QUIC on").await;
        let client = Launch::client().config(&client_config(setup.net().at(BIND_PORT), "", &[])).start();
        client.line("login to server success").await;
    }
}

mod trust {
    use super::*;

    fn key(name: &str, path: &std::path::Path) -> String {
        format!("transport.tls.{name} = \"{}\"\n", path.display())
    }

    async fn gets_in(server: &str, lines: &str) -> bool {
        gets_in_at(Loopback::claim(), server, lines).await
    }

    async fn gets_in_at(net: Loopback, server: &str, lines: &str) -> bool {
        let setup = Setup::new(net).server(server);
        let served = setup.serve().await;
        let config = client_config(setup.net().at(BIND_PORT), &(QUIC.to_owned() + lines), &[]);
        let client = Launch::client().config(&config).start();
        let said = client.log().nth_where("a verdict", 1, |line| {
            line.contains("login to server success") || line.starts_with("tunc: ")
        });
        let got_in = said.await.text.contains("login to server success");
        if got_in {
            served.server.line("logged in").await;
        } else {
            assert_eq!(served.server.log().count("logged in"), 0);
            assert!(client.log().text().contains("certificate"), "{}", client.log().text());
        }
        got_in
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_must_have_the_certificate_that_is_asked_for() {
        let (net, dir) = (Loopback::claim(), tempfile::tempdir().unwrap());
        let authority = Authority::new("proper");
        let files = authority.issue(&[&net.ip().to_string(), "tun.example"], dir.path(), "server");
        let own = key("certFile", &files.cert) + &key("keyFile", &files.key);
        let trusted = key("trustedCaFile", &authority.write(dir.path(), "ca.crt"));
        let foreign = key("trustedCaFile", &Authority::new("other").write(dir.path(), "foreign.crt"));
        assert!(gets_in_at(net, &own, &trusted).await);
        // The keys count although they are said to be off: there is no QUIC without.
        let named = "transport.tls.serverName = \"tun.example\"\ntransport.tls.enable = false\n";
        assert!(gets_in(&own, &(trusted.clone() + named)).await);
        assert!(!gets_in(&own, &trusted).await);
        assert!(!gets_in(&own, &(foreign + named)).await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn clients_must_have_one_if_the_server_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("clients");
        let trusted = key("trustedCaFile", &authority.write(dir.path(), "ca.crt"));
        let pair = |authority: &Authority, stem: &str| {
            let files = authority.issue(&["client"], dir.path(), stem);
            key("certFile", &files.cert) + &key("keyFile", &files.key)
        };
        assert!(gets_in(&trusted, &pair(&authority, "own")).await);
        assert!(!gets_in(&trusted, "").await);
        assert!(!gets_in(&trusted, &pair(&Authority::new("other"), "foreign")).await);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_man_in_the_middle_is_detected() {
        let setup = Setup::new(Loopback::claim());
        let served = setup.serve().await;
        let mitm = QuicMitm::start(setup.net().at(FORWARDER_PORT), setup.net().at(BIND_PORT));
        let finished = Launch::client().config(&client_config(mitm.addr(), QUIC, &[])).run().await;
        assert!(finished.output.contains("somebody in the middle"), "{}", finished.output);
        assert!(mitm.seen().starts_with(b"TUN"), "it did get to see the login");
        assert_eq!(served.server.log().count("logged in"), 0);
    }
}

mod automatically {
    use super::*;

    /// A server behind forwarders of both kinds at one port.
    async fn behind_both() -> (Loopback, Served, Forwarder, DatagramForwarder) {
        let setup = Setup::new(Loopback::claim());
        let served = setup.serve().await;
        let net = setup.into_net();
        let (at, server) = (net.at(FORWARDER_PORT), net.at(BIND_PORT));
        let streams = Forwarder::start(at, server).await;
        (net, served, streams, DatagramForwarder::start(at, server))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_blocked_udp_delays_nobody() {
        let _turn = alone().await;
        let (net, _served, streams, datagrams) = behind_both().await;
        datagrams.fail(DatagramFault::Block);
        let (client, _services) = client(&net, streams.addr(), AUTO).await;
        let took = client.line("login to server success").await.at - client.started();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(client.log().count("the server is reached by"), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_silent_tcp_port_is_given_up_for_quic_after_a_moment() {
        let _turn = alone().await;
        let (net, _served, streams, datagrams) = behind_both().await;
        streams.fail(Fault::NeverAnswer);
        let (client, _services) = client(&net, streams.addr(), AUTO).await;
        client.line("the server is reached by QUIC").await;
        let took = client.line("login to server success").await.at - client.started();
        assert!(took < Duration::from_secs(1), "{took:?}");
        visitor::download(net.at(REMOTE_PORT), 1, MIB).await;
        // Now it is the other way round.
        streams.heal();
        datagrams.fail(DatagramFault::Block);
        client.line("the server is reached by TCP").await;
        client.line("link to server restored").await;
        let (digits, expected) = visitor::download(net.at(REMOTE_PORT), 2, MIB).await;
        assert_eq!(digits, expected);
        assert_eq!(client.log().count("login to server success"), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn quic_is_taken_at_once_where_tcp_is_refused() {
        let _turn = alone().await;
        let setup = Setup::new(Loopback::claim());
        let _served = setup.serve().await;
        let net = setup.net();
        let datagrams = DatagramForwarder::start(net.at(FORWARDER_PORT), net.at(BIND_PORT));
        let client = Launch::client().config(&client_config(datagrams.addr(), AUTO, &[])).start();
        client.line("the server is reached by QUIC").await;
        let took = client.line("login to server success").await.at - client.started();
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_beyond_the_limit_of_streams_wait_for_a_place() {
    let net = Loopback::claim();
    let echo = Service::echo(net.at(SERVICE_PORT)).await;
    let lines = format!("{QUIC}transport.quic.maxIncomingStreams = 2\ntransport.maxTunnels = 1");
    let setup = Setup::new(net).client(&lines).proxy("echo", echo.addr(), REMOTE_PORT);
    let tunnel = setup.start().await;
    let mut served = Vec::new();
    for seed in 0..2 {
        let mut visitor = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
        visitor.echo(seed, 1000).await;
        served.push(visitor);
    }
    let mut waiting = Visitor::connect(tunnel.public(REMOTE_PORT)).await;
    waiting.send(b"anybody there?").await;
    for visitor in &mut served {
        visitor.echo(3, 100_000).await;
    }
    assert_eq!(echo.accepted(), 2);
    drop(served);
    assert_eq!(waiting.receive(14).await, b"anybody there?");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_is_missed_as_soon_as_it_is_back() {
    let scene = Scene::start("", &format!("{QUIC}transport.heartbeatInterval = 2")).await;
    scene.served.server.kill().await;
    let server = scene.served.launch.start();
    server.line("listening on").await;
    scene.client.line("link to server lost: the peer does not know the connection any more").await;
    scene.client.nth("[down] start proxy success", 2).await;
    let (digits, expected) = visitor::download(scene.net.at(REMOTE_PORT), 1, MIB).await;
    assert_eq!(digits, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_say_goodbye() {
    let scene = Scene::start("", QUIC).await;
    scene.client.terminate();
    assert_eq!(scene.client.exit().await.code, Some(0));
    scene.served.server.line("closed: ").await;
    let config = client_config(scene.network.addr(), QUIC, &[]);
    let client = Launch::client().labelled("tunc again").config(&config).start();
    client.line("login to server success").await;
    scene.served.server.terminate();
    assert_eq!(scene.served.server.exit().await.code, Some(0));
    client.line("session ended by the server: the server was stopped").await;
}

mod in_the_lab {
    use super::*;
    use tun_tests::eventually::eventually;
    use tun_tests::lab::{Internet, Lab, Nat, SERVER};
    use tun_tests::net::Place;
    use tun_tests::tunnel::TOKEN;

    /// Moves data in a direction while the client's address changes, its own or that of its router.
    async fn goes_on_from_another_address(nat: Nat, direction: Direction) {
        let Some(mut lab) = Lab::start_with(Internet::FAR) else { return };
        let mut site = lab.site(nat);
        let server_address = SocketAddr::from((SERVER[0], BIND_PORT));
        let config = format!("bindAddr = \"{}\"\nauth.token = \"{TOKEN}\"\n", SERVER[0]);
        let server = Launch::server().within(lab.server()).config(&config).start();
        server.line(&format!("listening on {server_address}")).await;
        let local = SocketAddr::from(([127, 0, 0, 1], SERVICE_PORT));
        let at = Place::from((site.host(), local));
        let _service = match direction {
            Direction::Up => Service::source(at).await,
            Direction::Down => Service::sink(at).await,
        };
        let proxy = Proxy { name: "files".to_owned(), local, remote_port: REMOTE_PORT };
        let config = client_config(server_address, QUIC, &[proxy]);
        let client = Launch::client().within(site.host()).config(&config).start();
        client.line("[files] start proxy success").await;

        let public = Place::from((lab.server(), SocketAddr::from((SERVER[0], REMOTE_PORT))));
        let transfer = async {
            match direction {
                Direction::Up => visitor::download(public, 5, LEN).await,
                Direction::Down => visitor::upload(public, 6, LEN).await,
            }
        };
        let move_away = async {
            eventually("a part of it has passed", || {
                let way = match direction {
                    Direction::Up => (site.end(), lab.server_end()),
                    Direction::Down => (lab.server_end(), site.end()),
                };
                let passed = lab.carried(way.0, way.1).udp > LEN / 4;
                std::future::ready(passed.then_some(()))
            })
            .await;
            lab.readdress(&mut site);
        };
        let ((digits, expected), ()) = tokio::join!(transfer, move_away);
        assert_eq!(digits, expected);
        assert_eq!(client.log().count("link to server lost"), 0, "{}", client.log().tail());
        assert_eq!(server.log().count(": link 1"), 0, "no other link was needed");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sender_goes_on_from_another_address_of_its_own() {
        goes_on_from_another_address(Nat::Public, Direction::Up).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_receiver_goes_on_from_another_address_of_its_own() {
        goes_on_from_another_address(Nat::Public, Direction::Down).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sender_goes_on_when_its_router_gets_another_address() {
        goes_on_from_another_address(Nat::PortRestricted, Direction::Up).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_receiver_goes_on_when_its_router_gets_another_address() {
        goes_on_from_another_address(Nat::PortRestricted, Direction::Down).await;
    }
}
