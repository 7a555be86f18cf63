//! The discovery against simulated NATs of every kind.

use super::*;
use std::collections::HashMap;

const SERVER: &str = "192.0.2.1:3478";
const OTHER: &str = "192.0.2.2:3479";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[derive(Clone, Copy, PartialEq)]
enum Choice {
    Preserve,
    Count(i32),
    Scatter,
}

/// A NAT as RFC 4787 describes them.
struct Nat {
    mapping: Behaviour,
    filtering: Behaviour,
    choice: Choice,
    hairpins: bool,
    made: Vec<(SocketAddr, Option<IpAddr>, Option<u16>, SocketAddr)>,
    contacted: HashMap<SocketAddr, Vec<SocketAddr>>,
}

impl Nat {
    fn new(mapping: Behaviour, filtering: Behaviour, choice: Choice) -> Self {
        Nat { mapping, filtering, choice, hairpins: true, made: Vec::new(), contacted: HashMap::new() }
    }

    fn out(&mut self, from: SocketAddr, to: SocketAddr) -> SocketAddr {
        let ip = (self.mapping != Behaviour::EndpointIndependent).then_some(to.ip());
        let port = (self.mapping == Behaviour::AddressAndPortDependent).then_some(to.port());
        let known = self.made.iter().find(|(f, i, p, _)| (*f, *i, *p) == (from, ip, port)).map(|made| made.3);
        let number = self.made.len() as i32;
        let external = known.unwrap_or_else(|| {
            let port = match self.choice {
                Choice::Preserve => {
                    i32::from(from.port())
                        + self.made.iter().filter(|made| made.0 == from).count() as i32 * 7919
                }
                Choice::Count(step) => 20_000 + number * step,
                Choice::Scatter => 1024 + (number * 24_001 + 1717) % 60_000,
            };
            SocketAddr::new("198.51.100.7".parse().unwrap(), port as u16)
        });
        if known.is_none() {
            self.made.push((from, ip, port, external));
        }
        self.contacted.entry(external).or_default().push(to);
        external
    }

    fn lets_in(&self, to: SocketAddr, from: SocketAddr) -> bool {
        let contacted = self.contacted.get(&to).map_or(&[][..], Vec::as_slice);
        match self.filtering {
            Behaviour::EndpointIndependent => !contacted.is_empty(),
            Behaviour::AddressDependent => contacted.iter().any(|peer| peer.ip() == from.ip()),
            Behaviour::AddressAndPortDependent => contacted.contains(&from),
        }
    }
}

#[derive(Clone, Copy)]
struct Server {
    two_addresses: bool,
    second_port: bool,
    /// Whether what is not the main endpoint can be reached.
    alternates_work: bool,
}

const FULL: Server = Server { two_addresses: true, second_port: true, alternates_work: true };
const PLAIN: Server = Server { two_addresses: false, second_port: true, alternates_work: true };

fn discover(nat: &mut Nat, server: Server) -> Findings {
    let local = |socket| match socket {
        Socket::Mapping => at("10.0.0.2:40000"),
        Socket::Filtering => at("10.0.0.2:40001"),
    };
    let (main, other) = (at(SERVER), at(OTHER));
    let mut discovery = Discovery::new(main, local(Socket::Mapping), local(Socket::Filtering));
    for _ in 0..20 {
        let Some(action) = discovery.poll_action() else { return discovery.findings().unwrap() };
        assert_eq!(discovery.poll_action(), Some(action));
        match action {
            Action::Ask { socket, to, change, .. } => {
                let mapped = nat.out(local(socket), to);
                let from = SocketAddr::new(
                    if change.address { other.ip() } else { to.ip() },
                    if change.port { other.port() } else { to.port() },
                );
                let outcome = if to != main && !server.alternates_work {
                    Outcome::Silent
                } else if (change.address && !server.two_addresses) || (change.port && !server.second_port) {
                    Outcome::Refused
                } else if nat.lets_in(mapped, from) {
                    Outcome::Answered(Answer {
                        mapped,
                        other: server.two_addresses.then_some(other),
                        second_port: (!server.two_addresses && server.second_port).then_some(other.port()),
                    })
                } else {
                    Outcome::Silent
                };
                discovery.handle_outcome(outcome);
            }
            Action::Hairpin { mapping, filtering } => {
                assert_ne!(mapping, filtering);
                discovery.handle_hairpin(nat.hairpins);
            }
        }
    }
    panic!("the discovery does not end");
}

const ALL: [Behaviour; 3] =
    [Behaviour::EndpointIndependent, Behaviour::AddressDependent, Behaviour::AddressAndPortDependent];

#[test]
fn with_two_server_addresses_every_kind_is_named() {
    for mapping in ALL {
        for filtering in ALL {
            for choice in [Choice::Preserve, Choice::Count(1), Choice::Scatter] {
                let findings = discover(&mut Nat::new(mapping, filtering, choice), FULL);
                assert_eq!(findings.mapping, Measured::Is(mapping));
                assert_eq!(findings.filtering, Measured::Is(filtering));
                assert_eq!(findings.server_addresses, 2);
                assert_eq!(findings.hairpinning, Some(true));
                assert!(findings.is_translated());
            }
        }
    }
}

#[test]
fn with_one_server_address_nothing_is_claimed_that_was_not_measured() {
    for mapping in ALL {
        for filtering in ALL {
            let findings = discover(&mut Nat::new(mapping, filtering, Choice::Scatter), PLAIN);
            let seen = |behaviour| match behaviour {
                Behaviour::AddressAndPortDependent => Measured::Is(behaviour),
                _ => Measured::EndpointIndependentOrAddressDependent,
            };
            assert_eq!(findings.mapping, seen(mapping));
            assert_eq!(findings.filtering, seen(filtering));
            assert_eq!(findings.server_addresses, 1);
        }
    }
}

#[test]
fn a_server_without_or_with_silent_alternates_measures_nothing() {
    let nat = || Nat::new(ALL[0], ALL[2], Choice::Scatter);
    let bare = Server { two_addresses: false, second_port: false, alternates_work: true };
    let findings = discover(&mut nat(), bare);
    assert_eq!(findings.mapping, Measured::Unknown(Obstacle::OneServerPort));
    assert_eq!(findings.filtering, Measured::Unknown(Obstacle::OneServerPort));
    let findings = discover(&mut nat(), Server { alternates_work: false, ..FULL });
    assert_eq!(findings.mapping, Measured::Unknown(Obstacle::AlternateSilent));
    assert_eq!(findings.filtering, Measured::Unknown(Obstacle::AlternateSilent));
    assert_eq!(findings.outlook(), Outlook::Unknown);
}

#[test]
fn ports_in_a_row_are_told_from_random_ones() {
    let hard = Behaviour::AddressAndPortDependent;
    for server in [FULL, PLAIN] {
        for step in [1, 2, -1] {
            let findings = discover(&mut Nat::new(hard, hard, Choice::Count(step)), server);
            assert_eq!(findings.ports, Ports::Sequential { step });
            assert_eq!(findings.outlook(), Outlook::Predictable);
        }
        let findings = discover(&mut Nat::new(hard, hard, Choice::Scatter), server);
        assert_eq!((findings.ports, findings.outlook()), (Ports::Random, Outlook::Hard));
    }
    let findings = discover(&mut Nat::new(ALL[0], hard, Choice::Preserve), FULL);
    assert_eq!((findings.ports, findings.outlook()), (Ports::Preserved, Outlook::Restricted));
    let findings = discover(&mut Nat::new(ALL[0], ALL[1], Choice::Preserve), FULL);
    assert_eq!(findings.outlook(), Outlook::Easy);
}

#[test]
fn a_silent_server_ends_the_discovery() {
    let mut discovery = Discovery::new(at(SERVER), at("10.0.0.2:1"), at("10.0.0.2:2"));
    assert!(discovery.poll_action().is_some());
    discovery.handle_outcome(Outcome::Silent);
    assert_eq!(discovery.poll_action(), None);
    assert_eq!(discovery.findings(), None);
}

#[test]
fn private_addresses_are_known() {
    for text in ["10.1.2.3", "192.168.0.1", "172.31.0.1", "100.64.0.1", "169.254.0.1", "fd00::1", "fe80::1"] {
        assert!(is_private(text.parse().unwrap()), "{text}");
    }
    for text in ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2001:db8::1"] {
        assert!(!is_private(text.parse().unwrap()), "{text}");
    }
}
