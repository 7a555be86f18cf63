//! The server's STUN and `tunc nat`, in front of NATs of every kind.

use std::time::Duration;

use serde_json::Value;
use tun_tests::lab::{self, Access, Lab, Nat, SERVER, SERVER_V6, Site};
use tun_tests::program::{Finished, Launch, Program};
use tun_tests::tunnel::TOKEN;

/// A server in the lab, with one address or both.
async fn serve(lab: &Lab, addresses: usize) -> Program {
    let [first, second] = SERVER;
    let other = if addresses == 2 { format!("stun.altAddr = \"{second}\"\n") } else { String::new() };
    let config = format!("bindAddr = \"{first}\"\nauth.token = \"{TOKEN}\"\n{other}");
    let server = Launch::server().within(lab.server()).config(&config).start();
    server.line(&format!("listening on {first}:7000")).await;
    server
}

async fn tunc_nat(site: &Site, server: &str, more: &[&str]) -> Finished {
    let words = ["nat", "-s", server].into_iter().chain(more.iter().copied());
    Launch::client().within(site.host()).args(words.map(str::to_owned)).run().await
}

async fn measured(site: &Site) -> Value {
    let finished = tunc_nat(site, &SERVER[0].to_string(), &["--json"]).await;
    finished.expect(0, &[]);
    finished.json()["ipv4"].clone()
}

/// Checks one kind with two server addresses and with one: what `tunc nat` says of mapping, filtering and ports.
async fn named(nat: Nat, full: [&str; 4], plain: [&str; 4]) {
    for (addresses, expected) in [(2, full), (1, plain)] {
        let Some(mut lab) = Lab::start() else { return };
        let site = lab.site(nat);
        let _server = serve(&lab, addresses).await;
        let seen = measured(&site).await;
        let said = ["kind", "mapping", "filtering", "ports"].map(|key| seen[key].as_str().unwrap_or("null"));
        assert_eq!(said, expected, "{nat:?}, {addresses} addresses: {seen:#}");
        assert_eq!(seen["serverAddresses"], addresses);
        assert_eq!(seen["translated"], nat != Nat::Public);
        for (key, address) in [("/external/0", site.public()), ("/local", site.address())] {
            let endpoint = seen.pointer(key).and_then(Value::as_str).unwrap_or_default();
            assert!(endpoint.starts_with(&format!("{address}:")), "{seen:#}");
        }
        let hairpins = match nat {
            Nat::Public => Value::Null,
            _ => (nat == Nat::FullCone).into(),
        };
        assert_eq!(seen["hairpinning"], hairpins, "{seen:#}");
    }
}

const EI: &str = "endpoint-independent";
const AD: &str = "address-dependent";
const APD: &str = "address-and-port-dependent";
/// What one server address cannot tell apart.
const NOT_APD: &str = "endpoint-independent or address-dependent";

#[tokio::test(flavor = "multi_thread")]
async fn a_public_host() {
    named(
        Nat::Public,
        ["no NAT, no firewall", EI, EI, "preserved"],
        ["no NAT", NOT_APD, NOT_APD, "preserved"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cone() {
    let plain = ["full cone or address-restricted cone NAT", NOT_APD, NOT_APD, "preserved"];
    named(Nat::FullCone, ["full cone NAT", EI, EI, "preserved"], plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_restricted_cone() {
    let plain = ["full cone or address-restricted cone NAT", NOT_APD, NOT_APD, "preserved"];
    named(Nat::AddressRestricted, ["address-restricted cone NAT", EI, AD, "preserved"], plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_restricted_cone() {
    let name = "port-restricted cone NAT";
    named(Nat::PortRestricted, [name, EI, APD, "preserved"], [name, NOT_APD, APD, "preserved"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_grade_nat() {
    let name = "port-restricted cone NAT";
    named(Nat::CarrierGrade, [name, EI, APD, "preserved"], [name, NOT_APD, APD, "preserved"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symmetric_nat_with_random_ports() {
    let said = ["symmetric NAT", APD, APD, "random"];
    named(Nat::SymmetricRandom, said, said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symmetric_nat_with_sequential_ports() {
    let said = ["symmetric NAT", APD, APD, "sequential"];
    named(Nat::SymmetricSequential, said, said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_udp() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Nat::UdpBlocked);
    let _server = serve(&lab, 2).await;
    let finished = tunc_nat(&site, &SERVER[0].to_string(), &[]).await;
    finished.expect(1, &["UDP blocked", "answers over TCP"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_told_what_it_means() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Nat::SymmetricRandom);
    let _server = serve(&lab, 1).await;
    let finished = tunc_nat(&site, &SERVER[0].to_string(), &[]).await;
    let texts = ["symmetric NAT", "hole punching", "only by trying many ports", &site.public().to_string()];
    finished.expect(0, &texts);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_a_silent_mapping_lives() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Nat::PortRestricted);
    site.set_mapping_lifetime(Duration::from_secs(8));
    let _server = serve(&lab, 1).await;
    let finished = tunc_nat(&site, &SERVER[0].to_string(), &["--json", "--lifetime"]).await;
    finished.expect(0, &[]);
    let seen = &finished.json()["ipv4"];
    assert_eq!((&seen["lifetimeAtLeast"], &seen["lifetimeBelow"]), (&5.into(), &10.into()), "{seen:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_firewall_on_ipv6() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Access::behind(Nat::PortRestricted).with_v6());
    let config = format!("bindAddr = \"::\"\nauth.token = \"{TOKEN}\"\n");
    let server = Launch::server().within(lab.server()).config(&config).start();
    server.line("listening on [::]:7000").await;
    let finished = tunc_nat(&site, &SERVER_V6.to_string(), &[]).await;
    finished.expect(0, &["no NAT, a stateful firewall", &format!("filtering      {APD}")]);
    // The same sockets serve IPv4, and see plain addresses.
    let finished = tunc_nat(&site, &SERVER[0].to_string(), &[]).await;
    finished.expect(0, &["port-restricted cone NAT", &site.public().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_all_addresses_answers_from_the_one_that_was_asked() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Nat::PortRestricted);
    let config = format!("auth.token = \"{TOKEN}\"\n");
    let server = Launch::server().within(lab.server()).config(&config).start();
    server.line("listening on 0.0.0.0:7000").await;
    for address in SERVER {
        tunc_nat(&site, &address.to_string(), &[]).await.expect(0, &["port-restricted cone NAT"]);
    }
}

/// A program of coturn's, which knows nothing of ours.
fn coturn(site: &Site, name: &str) -> Option<Launch> {
    let Some(program) = lab::find(name) else {
        lab::skipped(&format!("{name} (package coturn) is not installed"));
        return None;
    };
    Some(Launch::of(name, program).within(site.host()))
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_is_told_how_it_is_seen() {
    let Some(mut lab) = Lab::start() else { return };
    let site = lab.site(Access::behind(Nat::PortRestricted).with_v6());
    let Some(client) = coturn(&site, "turnutils_stunclient") else { return };
    let server = Launch::server().within(lab.server()).config("bindAddr = \"::\"").start();
    server.line("listening on [::]:7000").await;
    for port in ["7000", "7001"] {
        let finished = client.clone().args(["-p", port, &SERVER[0].to_string()]).run().await;
        finished.expect(0, &[&format!("UDP reflexive addr: {}:", site.public())]);
    }
    let finished = client.args(["-p", "7000", &SERVER_V6.to_string()]).run().await;
    finished.expect(0, &["IPv6. UDP reflexive addr"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_discovery_finds_out_the_same() {
    for (nat, mapping, filtering) in [
        (Nat::FullCone, "NAT with Endpoint Independent Mapping!", "NAT with Endpoint Independent Filtering!"),
        (
            Nat::PortRestricted,
            "NAT with Endpoint Independent Mapping!",
            "NAT with Address and Port Dependent Filtering!",
        ),
        (
            Nat::SymmetricRandom,
            "NAT with Address and Port Dependent Mapping!",
            "Address and Port Dependent Filtering!",
        ),
    ] {
        let Some(mut lab) = Lab::start() else { return };
        let site = lab.site(nat);
        let Some(client) = coturn(&site, "turnutils_natdiscovery") else { return };
        let _server = serve(&lab, 2).await;
        for (test, verdict) in [("-m", mapping), ("-f", filtering)] {
            let finished = client.clone().args([test, "-p", "7000", &SERVER[0].to_string()]).run().await;
            finished.expect(0, &[verdict, &format!("Other addr: : {}:7001", SERVER[1])]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_was_configured_must_be_free_and_a_default_need_not() {
    let Some(lab) = Lab::start() else { return };
    let stun = "bindAddr = \"127.0.0.1\"\n";
    let holder = Launch::server().labelled("holder").within(lab.server()).config(stun).start();
    holder.line("listening on").await;
    let launch = |lines: &str| {
        Launch::server().within(lab.server()).config(&format!("{stun}bindPort = 6999\n{lines}"))
    };
    // The default ports are 6999 and 7000, which is taken.
    let second = launch("").start();
    second.line("no STUN on 127.0.0.1:7000 (UDP)").await;
    second.line("listening on 127.0.0.1:6999").await;
    drop(second);
    launch("stun.altPort = 7000\n").run().await.expect(1, &["cannot serve STUN on 127.0.0.1:7000"]);
    launch("stun.altAddr = \"192.0.2.99\"\nstun.altPort = 8000\n")
        .run()
        .await
        .expect(1, &["cannot serve STUN on 192.0.2.99:6999"]);
    let off = launch("stun.enable = false\nstun.altPort = 7000\n").start();
    off.line("listening on").await;
    assert_eq!(off.log().count("STUN"), 0);
}
