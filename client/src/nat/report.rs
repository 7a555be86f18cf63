//! What was measured, in words and as JSON.

use super::lifetime::Lifetime;
use crate::p2p::portmap::{Offers, is_public};
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use tun_proto::p2p::nat::{Behaviour, Findings, Measured, Obstacle, Outlook, Ports, is_private};

/// All that is known.
pub(super) struct Report {
    /// As the user named it.
    pub(super) server: String,
    pub(super) ipv4: Family,
    pub(super) ipv6: Family,
    /// What the router offers; `None` without one.
    pub(super) mapping: Option<Offers>,
    /// Whether the server answers over TCP; asked only if it does not over UDP.
    pub(super) tcp: Option<bool>,
}

/// One version of IP.
pub(super) struct Family {
    /// This machine's address, if it has a route.
    pub(super) local: Option<IpAddr>,
    /// The server's, if it has one.
    pub(super) server: Option<SocketAddr>,
    /// What was found; nothing inside where the server did not answer.
    pub(super) result: Option<Result<Option<Findings>, String>>,
    /// How long mappings live, if that was asked; nothing inside where it could not be measured.
    pub(super) lifetime: Option<Option<Lifetime>>,
}

impl Family {
    fn findings(&self) -> Option<&Findings> {
        self.result.as_ref()?.as_ref().ok()?.as_ref()
    }

    /// Why there are no findings.
    fn why_not(&self) -> String {
        match (self.server, &self.result) {
            (None, _) => "not measured: the server has no such address".to_owned(),
            (Some(server), Some(Ok(_))) => format!("no answer from {server} over UDP"),
            (Some(server), Some(Err(error))) => format!("{server} cannot be asked: {error}"),
            (Some(_), None) => "not measured".to_owned(),
        }
    }
}

impl Report {
    /// True if the server answered over UDP.
    pub(super) fn is_reachable(&self) -> bool {
        self.ipv4.findings().is_some() || self.ipv6.findings().is_some()
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("STUN server {}\n", self.server);
        for (name, family) in [("IPv4", &self.ipv4), ("IPv6", &self.ipv6)] {
            let _ = writeln!(text, "\n{name}");
            if let Some(findings) = family.findings() {
                describe(&mut text, findings);
                if let Some(lifetime) = family.lifetime {
                    line(&mut text, "lifetime", lived(lifetime));
                }
            } else {
                match family.local {
                    Some(local) => line(&mut text, "local", local),
                    None => line(&mut text, "local", "no address with a route to the internet"),
                }
                line(&mut text, "NAT", family.why_not());
            }
        }
        let _ = writeln!(text, "\nRouter");
        line(&mut text, "port mapping", mapping(self.mapping));
        if let Some(verdict) = self.blocked() {
            let _ = writeln!(text, "\n{verdict}");
        }
        text
    }

    pub(super) fn json(&self) -> String {
        let mut value = json!({
            "server": self.server,
            "reachable": self.is_reachable(),
            "ipv4": family_json(&self.ipv4),
            "ipv6": family_json(&self.ipv6),
            "portMapping": {
                "pcp": self.mapping.and_then(|offers| offers.pcp),
                "natPMP": self.mapping.and_then(|offers| offers.nat_pmp),
                "upnp": self.mapping.and_then(|offers| offers.upnp),
                "meaning": mapping(self.mapping),
            },
        });
        if let Some(tcp) = self.tcp {
            value["reachableOverTCP"] = tcp.into();
            value["meaning"] = self.blocked().into();
        }
        format!("{value:#}\n")
    }

    fn blocked(&self) -> Option<String> {
        let server = &self.server;
        Some(match self.tcp? {
            true => format!(
                "UDP blocked: {server} answers over TCP and not over UDP. Either UDP is blocked on the way, or the \
                 server's STUN is off or behind a firewall. Without UDP there is no direct path; all goes through the \
                 server."
            ),
            false => format!(
                "{server} answers neither over UDP nor over TCP: is it running, and is the port right?"
            ),
        })
    }
}

fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "  {name:<14} {value}");
}

fn describe(text: &mut String, findings: &Findings) {
    let external: Vec<String> = findings.external.iter().map(ToString::to_string).collect();
    line(text, "local", findings.local);
    line(text, "external", external.join(", "));
    line(text, "kind", kind(findings));
    line(text, "mapping", measured(findings.mapping, MAPPING));
    line(text, "filtering", measured(findings.filtering, FILTERING));
    line(text, "ports", ports(findings.ports));
    line(
        text,
        "hairpinning",
        match findings.hairpinning {
            Some(true) => "yes: hosts behind this NAT reach each other by their external addresses",
            Some(false) => "no: hosts behind this NAT need each other's local addresses",
            None => "not needed without NAT",
        },
    );
    line(text, "hole punching", meaning(findings));
    if behind_another(findings) {
        line(
            text,
            "note",
            "the external address is not a public one: the server is in a private network itself, or another NAT follows",
        );
    }
}

/// What depends on what, in words: nothing, the address, address and port; then what one server address can tell.
type Words = [&'static str; 4];

const MAPPING: Words = [
    "all peers see the same external port",
    "each peer address sees another external port",
    "each peer address and port sees another external port",
    "all ports of one address see the same external port; whether other addresses do, one server address cannot tell",
];

const FILTERING: Words = [
    "anybody may send to an open port",
    "only addresses that were sent to may answer, from any port",
    "only endpoints that were sent to may answer",
    "any port of an address that was sent to may answer; whether others may, one server address cannot tell",
];

fn measured(measured: Measured, words: Words) -> String {
    let text = match measured {
        Measured::Is(Behaviour::EndpointIndependent) => words[0],
        Measured::Is(Behaviour::AddressDependent) => words[1],
        Measured::Is(Behaviour::AddressAndPortDependent) => words[2],
        Measured::EndpointIndependentOrAddressDependent => words[3],
        Measured::Unknown(Obstacle::OneServerPort) => "the server has no second port for that",
        Measured::Unknown(Obstacle::AlternateSilent) => "the server's second port or address does not answer",
    };
    format!("{}: {text}", name(measured).unwrap_or("not measurable"))
}

fn name(measured: Measured) -> Option<&'static str> {
    match measured {
        Measured::Is(behaviour) => Some(behaviour.name()),
        Measured::EndpointIndependentOrAddressDependent => Some("endpoint-independent or address-dependent"),
        Measured::Unknown(_) => None,
    }
}

fn ports(ports: Ports) -> String {
    match ports {
        Ports::Preserved => "preserved: external ports are the local ones".to_owned(),
        Ports::Sequential { step } => format!("sequential: a new mapping gets the next port ({step:+})"),
        Ports::Random => "random: external ports follow no rule".to_owned(),
    }
}

fn lived(lifetime: Option<Lifetime>) -> String {
    let Some(Lifetime { at_least, below }) = lifetime else {
        return "not measurable: the server or the NAT does not answer to another port".to_owned();
    };
    let at_least = at_least.as_secs();
    match below {
        Some(below) if at_least == 0 => format!("silent mappings are gone within {} s", below.as_secs()),
        Some(below) => format!("silent mappings live {at_least} s and are gone after {} s", below.as_secs()),
        None => format!("silent mappings live {at_least} s and more"),
    }
}

fn mapping(offers: Option<Offers>) -> String {
    let Some(Offers { pcp, nat_pmp, upnp }) = offers else {
        return "none: this machine has no IPv4 router".to_owned();
    };
    let offers = [("PCP", pcp), ("NAT-PMP", nat_pmp), ("UPnP", upnp)];
    let offers: Vec<(&str, IpAddr)> =
        offers.into_iter().filter_map(|(name, address)| Some((name, address?))).collect();
    if offers.is_empty() {
        return "none: the router opens no ports on request (PCP, NAT-PMP, UPnP)".to_owned();
    }
    let list: Vec<String> = offers.iter().map(|(name, address)| format!("{name} ({address})")).collect();
    let meaning = match offers.iter().any(|(_, address)| is_public(*address)) {
        true => "the router opens ports on request, so that every peer can send here directly",
        false => {
            "the router opens ports on request, but its own address is not public: another NAT follows, so that does not help"
        }
    };
    format!("{}: {meaning}", list.join(", "))
}

/// The names that people know.
fn kind(findings: &Findings) -> &'static str {
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    if !findings.is_translated() {
        return match findings.filtering {
            Measured::Is(EndpointIndependent) => "no NAT, no firewall",
            Measured::Is(_) => "no NAT, a stateful firewall",
            _ => "no NAT",
        };
    }
    match (findings.mapping, findings.filtering) {
        (Measured::Is(AddressDependent | AddressAndPortDependent), _) => "symmetric NAT",
        (Measured::Unknown(_), _) => "NAT",
        (_, Measured::Is(EndpointIndependent)) => "full cone NAT",
        (_, Measured::Is(AddressDependent)) => "address-restricted cone NAT",
        (_, Measured::Is(AddressAndPortDependent)) => "port-restricted cone NAT",
        (_, Measured::EndpointIndependentOrAddressDependent) => "full cone or address-restricted cone NAT",
        (_, Measured::Unknown(_)) => "cone NAT",
    }
}

fn meaning(findings: &Findings) -> String {
    let text = match findings.outlook() {
        Outlook::Open => "not needed: every peer can send here directly",
        Outlook::Easy => "easy: works with peers behind every kind of NAT",
        Outlook::Restricted => {
            "works with all peers but those behind a symmetric NAT; with these only by guessing or trying many ports"
        }
        Outlook::Predictable => {
            "works with peers that are public or behind a full or address-restricted cone; the next port can be guessed, \
             so port-restricted peers are possible; not with another symmetric NAT"
        }
        Outlook::Hard => {
            "works with peers that are public or behind a full or address-restricted cone; with port-restricted ones only \
             by trying many ports; not with another symmetric NAT"
        }
        Outlook::Unknown => "cannot be told: the server's second port is needed to know more",
    };
    match findings.mapping {
        Measured::EndpointIndependentOrAddressDependent => {
            format!("{text} (if other addresses see the same external port)")
        }
        _ => text.to_owned(),
    }
}

/// The server is inside some network and sees addresses of that.
fn behind_another(findings: &Findings) -> bool {
    findings.is_translated() && findings.external.iter().any(|external| is_private(external.ip()))
}

fn family_json(family: &Family) -> Value {
    let Some(findings) = family.findings() else {
        return json!({ "local": family.local, "reason": family.why_not() });
    };
    let step = match findings.ports {
        Ports::Sequential { step } => Some(step),
        _ => None,
    };
    let lifetime = family.lifetime.flatten();
    json!({
        "local": findings.local,
        "external": findings.external,
        "server": family.server,
        "serverAddresses": findings.server_addresses,
        "translated": findings.is_translated(),
        "kind": kind(findings),
        "mapping": name(findings.mapping),
        "filtering": name(findings.filtering),
        "ports": match findings.ports {
            Ports::Preserved => "preserved",
            Ports::Sequential { .. } => "sequential",
            Ports::Random => "random",
        },
        "portStep": step,
        "hairpinning": findings.hairpinning,
        "lifetimeAtLeast": lifetime.map(|lifetime| lifetime.at_least.as_secs()),
        "lifetimeBelow": lifetime.and_then(|lifetime| lifetime.below).map(|below| below.as_secs()),
        "outlook": match findings.outlook() {
            Outlook::Open => "open",
            Outlook::Easy => "easy",
            Outlook::Restricted => "restricted",
            Outlook::Predictable => "predictable",
            Outlook::Hard => "hard",
            Outlook::Unknown => "unknown",
        },
        "meaning": meaning(findings),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn findings(mapping: Measured, filtering: Measured, external: &str) -> Findings {
        Findings {
            local: "10.0.0.2:40000".parse().unwrap(),
            external: vec![external.parse().unwrap()],
            server_addresses: 1,
            mapping,
            filtering,
            ports: Ports::Random,
            hairpinning: Some(false),
        }
    }

    fn report(findings: Option<Findings>) -> Report {
        let family = |result| Family {
            local: Some([10, 0, 0, 2].into()),
            server: Some("203.0.113.1:7000".parse().unwrap()),
            result,
            lifetime: Some(Some(Lifetime {
                at_least: Duration::from_secs(29),
                below: Some(Duration::from_secs(45)),
            })),
        };
        let tcp = findings.is_none().then_some(true);
        let ipv6 = Family { local: None, server: None, result: None, lifetime: None };
        let mapping = None;
        Report { server: "example.com:7000".to_owned(), ipv4: family(Some(Ok(findings))), ipv6, mapping, tcp }
    }

    #[test]
    fn text_and_json_say_the_same() {
        let hard = Measured::Is(Behaviour::AddressAndPortDependent);
        let report = report(Some(findings(hard, hard, "198.51.100.1:1")));
        let text = report.text();
        for part in [
            "symmetric NAT",
            "address-and-port-dependent",
            "random",
            "live 29 s and are gone after 45 s",
            "IPv6\n  local          no address",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let value: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(value["ipv4"]["mapping"], "address-and-port-dependent");
        assert_eq!(value["ipv4"]["outlook"], "hard");
        assert_eq!(
            (&value["ipv4"]["lifetimeAtLeast"], &value["ipv4"]["lifetimeBelow"]),
            (&29.into(), &45.into())
        );
        assert_eq!((&value["reachable"], &value["ipv6"]["local"]), (&Value::Bool(true), &Value::Null));
    }

    #[test]
    fn what_one_server_address_cannot_tell_is_said_so() {
        let open = Measured::EndpointIndependentOrAddressDependent;
        let text = report(Some(findings(open, open, "198.51.100.1:1"))).text();
        assert!(text.contains("full cone or address-restricted cone NAT"), "{text}");
        assert_eq!(text.matches("one server address cannot tell").count(), 2, "{text}");
    }

    #[test]
    fn blocked_udp_is_named() {
        let report = report(None);
        assert!(!report.is_reachable());
        assert!(report.text().contains("UDP blocked: example.com:7000 answers over TCP"));
        let value: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(
            (&value["reachable"], &value["reachableOverTCP"]),
            (&Value::Bool(false), &Value::Bool(true))
        );
    }

    #[test]
    fn addresses_from_inside_are_no_public_ones() {
        let easy = Measured::Is(Behaviour::EndpointIndependent);
        assert!(report(Some(findings(easy, easy, "100.64.0.9:1"))).text().contains("another NAT follows"));
        assert!(!report(Some(findings(easy, easy, "198.51.100.1:1"))).text().contains("another NAT follows"));
    }

    #[test]
    fn what_the_router_offers_is_said_with_what_it_is_good_for() {
        let mut report = report(None);
        assert!(report.text().contains("port mapping   none: this machine has no IPv4 router"));
        report.mapping = Some(Offers::default());
        assert!(report.text().contains("none: the router opens no ports on request"));
        report.mapping = Some(Offers { nat_pmp: Some([100, 64, 0, 9].into()), ..Offers::default() });
        assert!(report.text().contains("NAT-PMP (100.64.0.9): the router opens ports on request, but"));
        let public = Some([198, 51, 100, 9].into());
        report.mapping = Some(Offers { pcp: public, upnp: public, nat_pmp: None });
        assert!(report.text().contains("PCP (198.51.100.9), UPnP (198.51.100.9): the router opens ports"));
        let value: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(value["portMapping"]["pcp"], "198.51.100.9");
        assert_eq!(value["portMapping"]["natPMP"], Value::Null);
    }
}
