//! The network lab itself, with plain sockets: what it does to packets must be true before it judges.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tun_tests::lab::probe::{self, Probe};
use tun_tests::lab::{Access, Carried, Internet, Lab, Nat, SERVER, SERVER_V6, Site, Traffic};
use tun_tests::patience::alone;
use tun_tests::service::Service;
use tun_tests::visitor;

const DELAY: Duration = Internet::FAR.delay;

/// How much later than it should the fastest of several packets may come, on a busy machine.
const LATE: Duration = Duration::from_millis(20);

fn at(ip: impl Into<IpAddr>) -> SocketAddr {
    (ip.into(), probe::PORT).into()
}

/// A lab like [`Internet::FAR`], and a socket at its server.
fn far() -> Option<(Lab, Probe)> {
    let lab = Lab::start_with(Internet::FAR)?;
    let server = Probe::at(lab.server(), SERVER[0]);
    Some((lab, server))
}

fn host_of(site: &Site) -> Probe {
    Probe::at(site.host(), Ipv4Addr::UNSPECIFIED)
}

/// How long the fastest of several takes.
fn fastest(action: impl Fn()) -> Duration {
    let times = (0..10).map(|_| {
        let started = Instant::now();
        action();
        started.elapsed()
    });
    times.min().unwrap_or_default()
}

#[test]
fn packets_take_their_time_in_both_families() {
    let Some((mut lab, server)) = far() else { return };
    let site = lab.site(Access::behind(Nat::Public).with_v6());
    let host = host_of(&site);
    let took = fastest(|| {
        assert_eq!(host.reaches(at(SERVER[0]), &server), at(site.public()));
        assert_eq!(server.reaches(at(site.public()), &host), at(SERVER[0]));
    });
    assert!(took >= 2 * DELAY && took < 2 * DELAY + LATE, "{took:?}");

    let (host, server) = (Probe::at(site.host(), site.v6(0)), Probe::at(lab.server(), SERVER_V6));
    let there = || assert_eq!(host.reaches(at(SERVER_V6), &server), at(site.v6(0)));
    let took = fastest(there);
    assert!(took >= DELAY && took < DELAY + LATE, "{took:?}");

    lab.delay(site.end(), lab.server_end(), 4 * DELAY);
    let took = fastest(there);
    assert!(took >= 4 * DELAY, "{took:?}");
}

#[test]
fn a_packet_that_may_not_go_far_dies_behind_the_first_router() {
    let Some((mut lab, server)) = far() else { return };
    for (access, enough) in [(Access::behind(Nat::Public), 6), (Nat::PortRestricted.into(), 7)] {
        let site = lab.site(access);
        let host = host_of(&site);
        for ttl in [4, enough - 1] {
            host.set_ttl(ttl);
            assert!(host.misses(at(SERVER[0]), &server), "{access:?}, {ttl}");
        }
        for ttl in [enough, 64] {
            host.set_ttl(ttl);
            host.reaches(at(SERVER[0]), &server);
        }
    }
}

#[test]
fn some_packets_are_lost_and_the_same_ones_each_time() {
    let arrived = || -> Option<Vec<u8>> {
        let mut lab = Lab::start_with(Internet { loss: 0.3, ..Internet::NEAR })?;
        let (site, server) = (lab.site(Nat::Public), Probe::at(lab.server(), SERVER[0]));
        let host = host_of(&site);
        for n in 0..200 {
            assert!(host.send(&[n], at(SERVER[0])));
        }
        Some(server.drain())
    };
    let Some(once) = arrived() else { return };
    assert!((110..170).contains(&once.len()), "{} of 200", once.len());
    assert_eq!(arrived(), Some(once));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_concerns_one_way_or_both_and_udp_or_all_until_it_is_mended() {
    let Some((mut lab, server)) = far() else { return };
    let (one, other) = (lab.site(Nat::Public), lab.site(Nat::Public));
    let (first, second) = (host_of(&one), host_of(&other));
    let (to_first, to_second) = (at(one.public()), at(other.public()));
    let both_pass = || {
        first.reaches(to_second, &second);
        second.reaches(to_first, &first);
    };
    both_pass();

    let cut = lab.cut(one.end(), other.end(), Traffic::Udp);
    assert!(first.misses(to_second, &second) && second.misses(to_first, &first));
    // What goes to the server, or over TCP, goes on.
    first.reaches(at(SERVER[0]), &server);
    let echo = Service::echo((other.host(), to_second)).await;
    visitor::echo((one.host(), echo.addr())).await;
    drop(cut);
    both_pass();

    let cut = lab.cut_one_way(one.end(), other.end(), Traffic::All);
    assert!(first.misses(to_second, &second));
    second.reaches(to_first, &first);
    drop(cut);
    both_pass();
}

#[test]
fn routers_forget_their_mappings_on_command() {
    let Some((mut lab, server)) = far() else { return };
    for nat in [Nat::FullCone, Nat::AddressRestricted, Nat::PortRestricted, Nat::CarrierGrade] {
        let site = lab.site(nat);
        let host = host_of(&site);
        let seen = host.reaches(at(SERVER[0]), &server);
        server.reaches(seen, &host);
        site.forget_connections();
        assert!(server.misses(seen, &host), "{nat:?}");
        assert_eq!(host.reaches(at(SERVER[0]), &server), seen, "{nat:?}");
        server.reaches(seen, &host);
    }
}

#[test]
fn a_mapping_lives_as_long_as_it_is_told() {
    let Some((mut lab, server)) = far() else { return };
    let site = lab.site(Nat::PortRestricted);
    let host = host_of(&site);
    for (lifetime, lives) in [(1, false), (120, true)] {
        site.set_mapping_lifetime(Duration::from_secs(lifetime));
        let seen = host.reaches(at(SERVER[0]), &server);
        server.reaches(seen, &host);
        // Silence is what it is about.
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(!server.misses(seen, &host), lives, "{lifetime} s");
    }
}

#[test]
fn a_site_gets_another_address_and_nobody_has_the_old_one() {
    let Some((mut lab, server)) = far() else { return };
    for nat in [Nat::Public, Nat::FullCone, Nat::PortRestricted, Nat::SymmetricRandom, Nat::CarrierGrade] {
        let mut site = lab.site(nat);
        let host = host_of(&site);
        let before = host.reaches(at(SERVER[0]), &server);
        assert_eq!(before.ip(), site.public());
        lab.readdress(&mut site);
        assert_ne!(before.ip(), site.public());
        assert!(server.misses(before, &host), "{nat:?}");
        let after = host.reaches(at(SERVER[0]), &server);
        assert_eq!(after.ip(), site.public(), "{nat:?}");
        server.reaches(after, &host);
    }
}

#[test]
fn behind_a_carriers_nat_the_port_stays_and_only_who_was_asked_may_answer() {
    let Some((mut lab, server)) = far() else { return };
    let second = Probe::at(lab.server(), SERVER[1]);
    let (site, stranger) = (lab.site(Nat::CarrierGrade), lab.site(Nat::Public));
    let (host, stranger) = (host_of(&site), host_of(&stranger));
    let seen = host.reaches(at(SERVER[0]), &server);
    assert_eq!(seen, at(site.public()));
    assert_eq!(host.reaches(at(SERVER[1]), &second), seen);
    server.reaches(seen, &host);
    assert!(stranger.misses(seen, &host));
    let other_port = Probe::bound(lab.server(), (SERVER[0], 0).into());
    assert!(other_port.misses(seen, &host));
}

#[test]
fn a_poisoned_router_moves_a_mapping_that_somebody_asked_for_too_early() {
    let Some((mut lab, server)) = far() else { return };
    let early = lab.site(Nat::Public);
    let early_host = host_of(&early);
    let plain = Access::behind(Nat::PortRestricted);
    for (access, keeps) in [(plain, true), (plain.poisoned(), false)] {
        let site = lab.site(access);
        let host = host_of(&site);
        let known = host.reaches(at(SERVER[0]), &server);
        assert_eq!(known, at(site.public()));
        assert!(early_host.misses(known, &host));
        let seen = host.reaches(at(early.public()), &early_host);
        assert_eq!(seen == known, keeps, "{access:?}: {seen}");
    }
}

#[test]
fn a_full_cone_turns_packets_to_its_own_outside_around() {
    let Some((mut lab, server)) = far() else { return };
    let site = lab.site(Nat::FullCone);
    let (host, other) = (host_of(&site), Probe::bound(site.host(), (Ipv4Addr::UNSPECIFIED, 0).into()));
    let seen = host.reaches(at(SERVER[0]), &server);
    other.reaches(seen, &host);
    host.reaches(seen, &host);
}

#[test]
fn hosts_on_one_network_reach_each_other_without_the_internet() {
    let Some((mut lab, server)) = far() else { return };
    let mut site = lab.site(Access::behind(Nat::PortRestricted).with_v6());
    lab.add_host(&mut site);
    let [one, other] = [0, 1].map(|n| Probe::at(&site.hosts()[n], Ipv4Addr::UNSPECIFIED));
    let took = fastest(|| {
        let seen = other.reaches(at(site.address()), &one);
        assert_eq!(seen, at([10, 0, 1, 3]));
    });
    assert!(took < DELAY, "{took:?}");
    assert_eq!(one.reaches(at(SERVER[0]), &server), at(site.public()));
    // The second one cannot have the same port outside.
    let seen = other.reaches(at(SERVER[0]), &server);
    assert!(seen.ip() == site.public() && seen.port() != probe::PORT, "{seen}");
    let [one, other] = [0, 1].map(|n| Probe::at(&site.hosts()[n], site.v6(n)));
    other.reaches(at(site.v6(0)), &one);
}

#[test]
fn a_firewall_on_ipv6_lets_answers_in_and_nothing_else() {
    let Some((mut lab, _)) = far() else { return };
    let server = Probe::at(lab.server(), SERVER_V6);
    for nat in [Nat::PortRestricted, Nat::CarrierGrade] {
        let site = lab.site(Access::behind(nat).with_v6());
        let (host, address) = (Probe::at(site.host(), site.v6(0)), at(site.v6(0)));
        assert!(server.misses(address, &host), "{nat:?}");
        assert_eq!(host.reaches(at(SERVER_V6), &server), address, "{nat:?}");
        server.reaches(address, &host);
    }
    let site = lab.site(Access::behind(Nat::UdpBlocked).with_v6());
    assert!(Probe::at(site.host(), site.v6(0)).misses(at(SERVER_V6), &server));
    let site = lab.site(Nat::PortRestricted);
    let host = Probe::bound(site.host(), "[::]:0".parse().unwrap());
    assert!(!host.send(b"x", at(SERVER_V6)), "a site has no IPv6 unless it is asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_which_way_is_counted() {
    const LEN: u64 = 1 << 20;
    let Some(mut lab) = Lab::start_with(Internet::FAR) else { return };
    let (one, other) = (lab.site(Nat::PortRestricted), lab.site(Nat::PortRestricted));
    let sink = Service::sink((lab.server(), at(SERVER[0]))).await;
    let (digits, expected) = visitor::upload((one.host(), sink.addr()), 1, LEN).await;
    assert_eq!(digits, expected);
    let up = lab.carried(one.end(), lab.server_end());
    assert!(up.udp == 0 && up.tcp > LEN && up.tcp < LEN * 11 / 10, "{up:?}");
    assert!(lab.carried(lab.server_end(), one.end()).tcp > 0);
    assert_eq!(lab.carried(other.end(), lab.server_end()), Carried::default());

    let (first, second) = (host_of(&one), host_of(&other));
    assert!(first.misses(at(other.public()), &second));
    second.reaches(at(one.public()), &first);
    let packet = (probe::HEADERS + probe::LEN) as u64;
    for (from, to) in [(&one, &other), (&other, &one)] {
        assert_eq!(lab.carried(from.end(), to.end()), Carried { udp: packet, tcp: 0 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_internet_is_fast_and_as_slow_as_it_is_told() {
    let _turn = alone().await;
    const LEN: u64 = 256 << 20;
    for (rate, len) in [(None, LEN), (Some(10_000_000), 20_000_000)] {
        let Some(mut lab) = Lab::start_with(Internet { rate, ..Internet::FAR }) else { return };
        let (one, other) = (lab.site(Nat::PortRestricted), lab.site(Nat::Public));
        let source = Service::source((other.host(), at(other.public()))).await;
        let started = Instant::now();
        let (digits, expected) = visitor::download((one.host(), source.addr()), 1, len).await;
        assert_eq!(digits, expected);
        let speed = len as f64 / started.elapsed().as_secs_f64();
        eprintln!("{:.0} Mbit/s", speed * 8e-6);
        match rate {
            Some(rate) => assert!(speed < rate as f64 && speed > rate as f64 / 2.0, "{speed}"),
            None => assert!(speed > 12e6, "{speed} bytes a second"),
        }
    }
}
