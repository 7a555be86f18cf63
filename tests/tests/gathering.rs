//! What clients find out about their place in the network.

use tun_tests::lab::{self, Lab, Nat, SERVER, Site};
use tun_tests::program::{Launch, Program};
use tun_tests::tunnel::TOKEN;

async fn serve(lab: &Lab) -> Program {
    let config = format!("bindAddr = \"{}\"\nauth.token = \"{TOKEN}\"\n", SERVER[0]);
    let server = Launch::server().within(lab.server()).config(&config).start();
    server.line(&format!("listening on {}:7000", SERVER[0])).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_this_machines_addresses_is_noticed_once_and_one_of_others_is_not() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Nat::PortRestricted);
    let _server = serve(&lab).await;
    let config = format!("serverAddr = \"{}\"\nauth.token = \"{TOKEN}\"\nlog.level = \"debug\"\n", SERVER[0]);
    let client = Launch::client().within(site.host()).config(&config).start();
    client.line("login to server success").await;
    let (host, old) = (site.host(), site.address());
    // A container's bridge, and an address that nobody is told.
    host.ip("link add docker0 type bridge");
    host.ip("addr add 172.17.0.1/16 dev docker0");
    host.ip("link set docker0 up");
    host.ip("addr add 169.254.7.7/16 dev eth0");
    host.ip("addr add 10.77.0.2/24 dev eth0");
    client.line(&format!("this machine's addresses are now [{old}, 10.77.0.2]")).await;
    host.ip("addr del 10.77.0.2/24 dev eth0");
    client.line(&format!("this machine's addresses are now [{old}]")).await;
    // Without the default route, a way to the internet is gone and no address is.
    host.ip("link set eth0 down");
    client.line("this machine's addresses are now []").await;
    assert_eq!(client.log().count("this machine's addresses are now"), 3);
}

/// Makes the site's router open ports on request: by UPnP, and if `more` by PCP and NAT-PMP.
///
/// It would refuse to work behind the lab's own public addresses, which are for documentation, so it is told another.
fn open_ports(site: &Site, more: bool) -> Option<Program> {
    let Some(program) = lab::find("miniupnpd") else {
        lab::skipped("miniupnpd (package miniupnpd-nftables) is not installed");
        return None;
    };
    let router = site.router()?;
    let more = if more { "yes" } else { "no" };
    router.nft(
        "table inet filter {
            chain forward {
                type filter hook forward priority 10; policy accept;
                jump miniupnpd
            }
            chain prerouting {
                type nat hook prerouting priority -90; policy accept;
                jump prerouting_miniupnpd
            }
            chain postrouting {
                type nat hook postrouting priority 90; policy accept;
                jump postrouting_miniupnpd
            }
            chain miniupnpd { }
            chain prerouting_miniupnpd { }
            chain postrouting_miniupnpd { }
        }",
    );
    let launch = Launch::of("miniupnpd", program).within(router);
    let config = launch.write(
        "miniupnpd.conf",
        &format!(
            "ext_ifname=wan\next_ip={EXTERNAL}\nlistening_ip=lan\nhttp_port=0\nenable_natpmp={more}\nenable_upnp=yes\n\
             secure_mode=yes\nuuid=00000000-0000-0000-0000-000000000001\nmin_lifetime=60\nmax_lifetime=86400\n\
             allow 1024-65535 0.0.0.0/0 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        ),
    );
    let pid = launch.dir().join("miniupnpd.pid");
    let arguments = ["-d".into(), "-f".into(), config.into_os_string(), "-P".into(), pid.into_os_string()];
    Some(launch.args(arguments).start())
}

/// A root server's, which certainly is a public one.
const EXTERNAL: &str = "198.41.0.4";

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_opens_ports_is_named_with_each_of_its_protocols() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Nat::PortRestricted);
    let _server = serve(&lab).await;
    let tunc_nat = |more: &[&str]| {
        let words = [&["nat", "-s", "198.51.100.1"], more].concat();
        Launch::client().within(site.host()).args(words.into_iter().map(str::to_owned))
    };
    tunc_nat(&[]).run().await.expect(0, &["port mapping   none: the router opens no ports on request"]);
    let Some(router) = open_ports(&site, true) else { return };
    router.line("HTTP listening on port").await;
    let finished = tunc_nat(&["--json"]).run().await;
    finished.expect(0, &[]);
    let seen = &finished.json()["portMapping"];
    for protocol in ["pcp", "natPMP", "upnp"] {
        assert_eq!(seen[protocol], EXTERNAL, "{seen:#}");
    }
    // It did not get in the way of the other measurements.
    assert_eq!(finished.json()["ipv4"]["kind"], "port-restricted cone NAT");
    assert_eq!(finished.json()["ipv4"]["ports"], "preserved");
    let text = format!("PCP ({EXTERNAL}), NAT-PMP ({EXTERNAL}), UPnP ({EXTERNAL}): the router opens ports");
    tunc_nat(&[]).run().await.expect(0, &[&text]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_router_is_told_so() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Nat::Public);
    let _server = serve(&lab).await;
    let words = ["nat", "-s", "198.51.100.1"].map(str::to_owned);
    let finished = Launch::client().within(site.host()).args(words).run().await;
    finished.expect(0, &["port mapping   none: this machine has no IPv4 router"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_opened_for_a_direct_path_and_closed_when_the_client_stops() {
    let Some(mut lab) = Lab::start() else { return };
    let (site, other) = (lab.site(Nat::PortRestricted), lab.site(Nat::Public));
    let _server = serve(&lab).await;
    let Some(router) = open_ports(&site, false) else { return };
    router.line("HTTP listening on port").await;
    let start = |label: &str, site: &Site, lines: &str| {
        let config = format!(
            "serverAddr = \"{}\"\nauth.token = \"{TOKEN}\"\nlog.level = \"debug\"\n{lines}",
            SERVER[0]
        );
        Launch::client().labelled(label).within(site.host()).config(&config).start()
    };
    let service = "name = \"web\"\ntype = \"xtcp\"\nsecretKey = \"a secret of theirs\"\n";
    let client = start("client", &site, &format!("[[proxies]]\n{service}localPort = 9\n"));
    client.line("start proxy success").await;
    let visitor =
        format!("[[visitors]]\n{service}serverName = \"web\"\nbindPort = 9000\nkeepTunnelOpen = true\n");
    let visitor = start("visitor", &other, &visitor);
    visitor.line("[web] direct connection to its client").await;
    client.line(&format!("the router's port {EXTERNAL}:")).await;
    router.line(&format!("to {}:", site.address())).await;
    client.terminate();
    client.line("by UPnP was given back").await;
    router.line("DeletePortMapping: external port").await;
}
