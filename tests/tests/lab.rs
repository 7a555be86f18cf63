//! The network lab itself, with plain sockets: what it does to packets must be true before it judges.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tun_tests::lab::{Access, Internet, Lab, Nat, SERVER, SERVER_V6, Site, Space, Traffic};
use tun_tests::patience::alone;
use tun_tests::service::Service;
use tun_tests::visitor;

/// Where sockets in the lab listen.
const PORT: u16 = 40_000;

const DELAY: Duration = Internet::FAR.delay;

/// How much later than it should something may come on a busy machine.
const LATE: Duration = Duration::from_millis(60);

/// No longer than this does a test wait for what must not come.
const SILENCE: Duration = Duration::from_millis(250);

/// A UDP socket in a namespace, which waits for packets only so long.
fn udp(space: &Space, ip: impl Into<IpAddr>) -> UdpSocket {
    let address = at(ip);
    let socket = space.within(|| UdpSocket::bind(address)).expect("the port is free");
    socket.set_read_timeout(Some(SILENCE)).expect("it is a duration");
    socket
}

fn at(ip: impl Into<IpAddr>) -> SocketAddr {
    (ip.into(), PORT).into()
}

/// Whom the next packet comes from, and how it begins; none if none comes.
fn received(socket: &UdpSocket) -> Option<(SocketAddr, u8)> {
    let mut buffer = [0; 2048];
    match socket.recv_from(&mut buffer) {
        Ok((_, from)) => Some((from, buffer[0])),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            None
        }
    }
}

/// Sends one packet, and says whom the other socket saw it come from.
fn passes(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> Option<SocketAddr> {
    // Some packet may still be there that came too late for somebody.
    static NEXT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
    let mark = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    from.send_to(&[mark; 100], to).expect("a packet can be sent");
    while let Some((seen, first)) = received(receiver) {
        if first == mark {
            return Some(seen);
        }
    }
    None
}

/// A lab like [`Internet::FAR`], and a socket at its server.
fn far() -> Option<(Lab, UdpSocket)> {
    let lab = Lab::start_with(Internet::FAR)?;
    let server = udp(lab.server(), SERVER[0]);
    Some((lab, server))
}

fn socket_of(site: &Site) -> UdpSocket {
    udp(site.host(), Ipv4Addr::UNSPECIFIED)
}

#[test]
fn packets_take_their_time_in_both_families() {
    let Some((mut lab, server)) = far() else { return };
    let site = lab.site(Access::behind(Nat::Public).with_v6());
    let host = socket_of(&site);
    let sent = Instant::now();
    assert_eq!(passes(&host, at(SERVER[0]), &server), Some(at(site.public())));
    assert_eq!(passes(&server, at(site.public()), &host), Some(at(SERVER[0])));
    let took = sent.elapsed();
    assert!(took >= 2 * DELAY && took < 2 * DELAY + LATE, "{took:?}");

    let (host, server) = (udp(site.host(), site.v6(0)), udp(lab.server(), SERVER_V6));
    let sent = Instant::now();
    assert_eq!(passes(&host, at(SERVER_V6), &server), Some(at(site.v6(0))));
    let took = sent.elapsed();
    assert!(took >= DELAY && took < DELAY + LATE, "{took:?}");

    lab.delay(site.end(), lab.server_end(), 4 * DELAY);
    let sent = Instant::now();
    passes(&host, at(SERVER_V6), &server).expect("it arrives");
    assert!(sent.elapsed() >= 4 * DELAY, "{:?}", sent.elapsed());
}

#[test]
fn a_packet_that_may_not_go_far_dies_behind_the_first_router() {
    let Some((mut lab, server)) = far() else { return };
    for (access, enough) in [(Access::behind(Nat::Public).with_v6(), 6), (Nat::PortRestricted.into(), 7)] {
        let site = lab.site(access);
        let host = socket_of(&site);
        for (ttl, arrives) in [(4, false), (enough - 1, false), (enough, true), (64, true)] {
            host.set_ttl(ttl).unwrap();
            assert_eq!(passes(&host, at(SERVER[0]), &server).is_some(), arrives, "{access:?}, {ttl}");
        }
    }
}

#[test]
fn some_packets_are_lost_and_the_same_ones_each_time() {
    let arrived = || -> Option<Vec<u8>> {
        let mut lab = Lab::start_with(Internet { loss: 0.3, ..Internet::NEAR })?;
        let (site, server) = (lab.site(Nat::Public), udp(lab.server(), SERVER[0]));
        let host = socket_of(&site);
        for n in 0..200 {
            host.send_to(&[n], at(SERVER[0])).unwrap();
        }
        Some(std::iter::from_fn(|| received(&server).map(|(_, first)| first)).collect())
    };
    let Some(once) = arrived() else { return };
    assert!((110..170).contains(&once.len()), "{} of 200", once.len());
    assert_eq!(arrived(), Some(once));
}

#[test]
fn a_cut_concerns_one_way_or_both_and_udp_or_all_until_it_is_mended() {
    let Some((mut lab, server)) = far() else { return };
    let (one, other) = (lab.site(Nat::Public), lab.site(Nat::Public));
    let (first, second) = (socket_of(&one), socket_of(&other));
    let there = || passes(&first, at(other.public()), &second).is_some();
    let back = || passes(&second, at(one.public()), &first).is_some();
    assert!(there() && back());

    let cut = lab.cut(one.end(), other.end(), Traffic::Udp);
    assert!(!there() && !back());
    // What goes by the server goes on.
    assert!(passes(&first, at(SERVER[0]), &server).is_some());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let echo = Service::echo((other.host(), at(other.public()))).await;
        visitor::echo((one.host(), echo.addr())).await;
    });
    drop(cut);
    assert!(there() && back());

    let cut = lab.cut_one_way(one.end(), other.end(), Traffic::All);
    assert!(!there() && back());
    drop(cut);
    assert!(there() && back());
}

#[test]
fn a_router_forgets_its_mappings_on_command() {
    let Some((mut lab, server)) = far() else { return };
    for nat in [Nat::FullCone, Nat::AddressRestricted, Nat::PortRestricted, Nat::CarrierGrade] {
        let site = lab.site(nat);
        let host = socket_of(&site);
        let seen = passes(&host, at(SERVER[0]), &server).expect("a packet goes out");
        assert!(passes(&server, seen, &host).is_some(), "{nat:?}");
        site.forget_connections();
        assert_eq!(passes(&server, seen, &host), None, "{nat:?}");
        assert_eq!(passes(&host, at(SERVER[0]), &server), Some(seen), "{nat:?}");
        assert!(passes(&server, seen, &host).is_some(), "{nat:?}");
    }
}

#[test]
fn a_mapping_lives_as_long_as_it_is_told() {
    let Some((mut lab, server)) = far() else { return };
    let site = lab.site(Nat::PortRestricted);
    site.set_mapping_lifetime(Duration::from_secs(1));
    let host = socket_of(&site);
    let seen = passes(&host, at(SERVER[0]), &server).expect("a packet goes out");
    assert!(passes(&server, seen, &host).is_some());
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(passes(&server, seen, &host), None);
}

#[test]
fn a_site_gets_another_address_and_nobody_has_the_old_one() {
    let Some((mut lab, server)) = far() else { return };
    for nat in [Nat::Public, Nat::FullCone, Nat::PortRestricted, Nat::SymmetricRandom, Nat::CarrierGrade] {
        let mut site = lab.site(nat);
        let host = socket_of(&site);
        let before = passes(&host, at(SERVER[0]), &server).expect("a packet goes out");
        assert_eq!(before.ip(), site.public());
        lab.readdress(&mut site);
        assert_ne!(before.ip(), site.public());
        assert_eq!(passes(&server, before, &host), None, "{nat:?}");
        let after = passes(&host, at(SERVER[0]), &server).expect("a packet goes out");
        assert_eq!(after.ip(), site.public(), "{nat:?}");
        assert!(passes(&server, after, &host).is_some(), "{nat:?}");
    }
}

#[test]
fn behind_a_carriers_nat_the_port_stays_and_only_who_was_asked_may_answer() {
    let Some((mut lab, server)) = far() else { return };
    let second = udp(lab.server(), SERVER[1]);
    let (site, stranger) = (lab.site(Nat::CarrierGrade), lab.site(Nat::Public));
    let (host, stranger) = (socket_of(&site), socket_of(&stranger));
    let seen = passes(&host, at(SERVER[0]), &server).expect("a packet goes out");
    assert_eq!(seen, at(site.public()));
    assert_eq!(passes(&host, at(SERVER[1]), &second), Some(seen));
    assert!(passes(&server, seen, &host).is_some());
    assert_eq!(passes(&stranger, seen, &host), None);
    let other_port = lab.server().within(|| UdpSocket::bind((SERVER[0], 0))).unwrap();
    assert_eq!(passes(&other_port, seen, &host), None);
}

#[test]
fn a_poisoned_router_moves_a_mapping_that_somebody_asked_for_too_early() {
    let Some((mut lab, server)) = far() else { return };
    let early = lab.site(Nat::Public);
    let early_socket = socket_of(&early);
    let plain = Access::behind(Nat::PortRestricted);
    for (access, keeps) in [(plain, true), (plain.poisoned(), false)] {
        let site = lab.site(access);
        let host = socket_of(&site);
        let known = passes(&host, at(SERVER[0]), &server).expect("a packet goes out");
        assert_eq!(known, at(site.public()));
        assert_eq!(passes(&early_socket, known, &host), None);
        let seen = passes(&host, at(early.public()), &early_socket).expect("a packet goes out");
        assert_eq!(seen == known, keeps, "{access:?}: {seen}");
    }
}

#[test]
fn hosts_on_one_network_reach_each_other_without_the_internet() {
    let Some((mut lab, server)) = far() else { return };
    let mut site = lab.site(Access::behind(Nat::PortRestricted).with_v6());
    lab.add_host(&mut site);
    let [one, other] = [0, 1].map(|n| udp(&site.hosts()[n], Ipv4Addr::UNSPECIFIED));
    let sent = Instant::now();
    assert_eq!(passes(&other, at(site.address()), &one).map(|from| from.ip()), Some([10, 0, 1, 3].into()));
    assert!(sent.elapsed() < DELAY, "{:?}", sent.elapsed());
    assert_eq!(passes(&one, at(SERVER[0]), &server), Some(at(site.public())));
    // The second one cannot have the same port outside.
    let seen = passes(&other, at(SERVER[0]), &server).expect("a packet goes out");
    assert!(seen.ip() == site.public() && seen.port() != PORT, "{seen}");
    let [one, other] = [0, 1].map(|n| udp(&site.hosts()[n], site.v6(n)));
    assert!(passes(&other, at(site.v6(0)), &one).is_some());
}

#[test]
fn a_firewall_on_ipv6_lets_answers_in_and_nothing_else() {
    let Some((mut lab, _)) = far() else { return };
    let server = udp(lab.server(), SERVER_V6);
    for nat in [Nat::PortRestricted, Nat::CarrierGrade, Nat::UdpBlocked] {
        let site = lab.site(Access::behind(nat).with_v6());
        let (host, works) = (udp(site.host(), site.v6(0)), nat != Nat::UdpBlocked);
        assert_eq!(passes(&server, at(site.v6(0)), &host), None, "{nat:?}");
        let seen = passes(&host, at(SERVER_V6), &server);
        assert_eq!(seen, works.then(|| at(site.v6(0))), "{nat:?}");
        assert_eq!(passes(&server, at(site.v6(0)), &host).is_some(), works, "{nat:?}");
    }
    let site = lab.site(Nat::PortRestricted);
    let host = site.host().within(|| UdpSocket::bind("[::]:0")).unwrap();
    assert!(host.send_to(b"x", at(SERVER_V6)).is_err(), "a site has no IPv6 unless it is asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_which_way_is_counted() {
    const LEN: u64 = 1 << 20;
    let Some(mut lab) = Lab::start_with(Internet::FAR) else { return };
    let (one, other) = (lab.site(Nat::PortRestricted), lab.site(Nat::PortRestricted));
    let echo = Service::sink((lab.server(), at(SERVER[0]))).await;
    let (digits, expected) = visitor::upload((one.host(), echo.addr()), 1, LEN).await;
    assert_eq!(digits, expected);
    let up = lab.carried(one.end(), lab.server_end());
    assert!(up.udp == 0 && up.tcp > LEN && up.tcp < LEN * 11 / 10, "{up:?}");
    assert!(lab.carried(lab.server_end(), one.end()).tcp > 0);
    assert_eq!(lab.carried(other.end(), lab.server_end()), Default::default());

    let (first, second) = (socket_of(&one), socket_of(&other));
    passes(&first, at(other.public()), &second);
    assert_eq!(lab.carried(one.end(), other.end()).udp, 128);
    assert!(passes(&second, at(one.public()), &first).is_some());
    assert_eq!(lab.carried(other.end(), one.end()).udp, 128);
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

#[test]
fn a_full_cone_turns_packets_to_its_own_outside_around() {
    let Some((mut lab, server)) = far() else { return };
    let site = lab.site(Nat::FullCone);
    let host = socket_of(&site);
    let other = site.host().within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    let seen = passes(&host, at(SERVER[0]), &server).expect("a packet goes out");
    assert!(passes(&other, seen, &host).is_some());
    assert!(passes(&host, seen, &host).is_some());
}
