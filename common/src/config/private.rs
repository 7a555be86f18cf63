//! Decodes what private services have besides what every proxy and visitor has.

use std::{net::SocketAddr, time::Duration};

use super::{
    DEFAULT_UDP_IDLE, Fallback, NatTraversal, ProxyKind, Secret, VisitorKind, XtcpVisitor,
    fallback::Wish,
    keys::{
        PROXY, PROXY_STCP, PROXY_SUDP, PROXY_XTCP, PROXY_XUDP, VISITOR, VISITOR_SUDP, VISITOR_XTCP,
        VISITOR_XUDP,
    },
    problem::Report,
    schema::{Key, Section},
    shared::seconds,
    tree::Node,
    types::full_name,
};

/// The kinds of private services, by what their files call them.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    direct: bool,
    datagrams: bool,
}

impl Kind {
    /// `None` if it is no private service.
    pub(super) fn named(name: &str) -> Option<Self> {
        let (direct, datagrams) = match name {
            "stcp" => (false, false),
            "xtcp" => (true, false),
            "sudp" => (false, true),
            "xudp" => (true, true),
            _ => return None,
        };
        Some(Self { direct, datagrams })
    }

    fn of_proxy(self) -> &'static [Key] {
        match self {
            Self { direct: false, datagrams: false } => PROXY_STCP,
            Self { direct: true, datagrams: false } => PROXY_XTCP,
            Self { direct: false, datagrams: true } => PROXY_SUDP,
            Self { direct: true, datagrams: true } => PROXY_XUDP,
        }
    }

    fn of_visitor(self) -> &'static [Key] {
        match self {
            Self { direct: false, datagrams: false } => &[],
            Self { direct: true, datagrams: false } => VISITOR_XTCP,
            Self { direct: false, datagrams: true } => VISITOR_SUDP,
            Self { direct: true, datagrams: true } => VISITOR_XUDP,
        }
    }
}

pub(super) fn proxy(item: &Node, kind: Kind, path: &str, report: &mut Report) -> ProxyKind {
    let section = Section::new(item, [PROXY, kind.of_proxy()]);
    let risk = "the server, and every client that `allowUsers` admits, can reach this service";
    ProxyKind::Private {
        secret_key: secret_key(section, path, risk, report),
        allow_users: section.texts("allowUsers").into_iter().map(|(_, user)| user.to_owned()).collect(),
        direct: kind.direct.then(|| nat_traversal(section, path, report)),
        udp_idle: kind.datagrams.then(|| udp_idle(section)),
    }
}

/// How long flows may be idle, in a section whose type has datagrams.
pub(super) fn udp_idle(section: Section<'_>) -> Duration {
    seconds(section, "udpIdleTimeout", DEFAULT_UDP_IDLE)
}

/// What the kind of a visitor says.
pub(super) struct Visit {
    pub(super) kind: VisitorKind,
    pub(super) udp_idle: Option<Duration>,
    /// The visitor it would fall back to, which has to be looked for when all are known.
    pub(super) fallback: Option<Wish>,
}

pub(super) fn visitor(item: &Node, kind: Kind, user: &str, path: &str, report: &mut Report) -> Visit {
    let section = Section::new(item, [VISITOR, kind.of_visitor()]);
    let udp_idle = kind.datagrams.then(|| udp_idle(section));
    if !kind.direct {
        return Visit { kind: VisitorKind::Stcp, udp_idle, fallback: None };
    }
    let default = XtcpVisitor::default();
    let (fallback, wish) = match kind.datagrams {
        true => (None, None),
        false => fallback(section, user, path),
    };
    let retries = section.int("maxRetriesAnHour").and_then(|number| u32::try_from(number).ok());
    let kind = VisitorKind::Xtcp(XtcpVisitor {
        nat_traversal: nat_traversal(section, path, report),
        keep_tunnel_open: section.bool("keepTunnelOpen").unwrap_or(default.keep_tunnel_open),
        max_retries_an_hour: retries.unwrap_or(default.max_retries_an_hour),
        min_retry_interval: seconds(section, "minRetryInterval", default.min_retry_interval),
        fallback,
    });
    Visit { kind, udp_idle, fallback: wish }
}

fn fallback(section: Section<'_>, user: &str, path: &str) -> (Option<Fallback>, Option<Wish>) {
    let Some(to) = section.text("fallbackTo") else { return (None, None) };
    let timeout = section.int("fallbackTimeoutMs").and_then(|ms| u64::try_from(ms).ok());
    let fallback = Fallback {
        to: full_name(user, to),
        timeout: timeout.map_or(DEFAULT_FALLBACK_TIMEOUT, Duration::from_millis),
    };
    let wish =
        Wish { to: to.to_owned(), key: format!("{path}.fallbackTo"), line: section.line("fallbackTo") };
    (Some(fallback), Some(wish))
}

/// frp's number.
const DEFAULT_FALLBACK_TIMEOUT: Duration = Duration::from_millis(1000);

fn nat_traversal(section: Section<'_>, path: &str, report: &mut Report) -> NatTraversal {
    let default = NatTraversal::default();
    let switch = |key: &str, default| section.bool(key).unwrap_or(default);
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for (line, text) in section.texts("natTraversal.addresses") {
        match text.parse::<SocketAddr>() {
            Ok(address) if is_peers_goal(address) => addresses.push(address),
            _ => {
                let message = format!(
                    "`{path}.natTraversal.addresses` must hold addresses with ports, such as \
                     \"192.0.2.7:7010\" or \"[2001:db8::7]:7010\", not {text:?}"
                );
                report.problem(line, message);
            }
        }
    }
    NatTraversal {
        disable_assisted_addrs: switch("natTraversal.disableAssistedAddrs", default.disable_assisted_addrs),
        spray: switch("natTraversal.spray", default.spray),
        port_mapping: switch("natTraversal.portMapping", default.port_mapping),
        addresses,
        port: section.int("natTraversal.port").map_or(default.port, |port| port as u16),
    }
}

/// Whether a peer could send anything there.
fn is_peers_goal(address: SocketAddr) -> bool {
    let ip = address.ip();
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()
}

/// Having no secret is allowed, as in frp's files, but worth a word.
pub(super) fn secret_key(section: Section<'_>, path: &str, risk: &str, report: &mut Report) -> Secret {
    let secret = section.text("secretKey").map(Secret::new).unwrap_or_default();
    if secret.is_empty() {
        report.warning(section.line("secretKey"), format!("`{path}.secretKey` is empty: {risk}"));
    }
    secret
}
