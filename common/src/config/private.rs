//! Decodes what private services have besides what every proxy and visitor has.

use std::{net::SocketAddr, time::Duration};

use super::{
    Fallback, NatTraversal, ProxyKind, Secret, VisitorKind, XtcpVisitor,
    fallback::Wish,
    keys::{PROXY, PROXY_STCP, PROXY_XTCP, VISITOR, VISITOR_XTCP},
    problem::Report,
    schema::Section,
    shared::seconds,
    tree::Node,
    types::full_name,
};

pub(super) fn proxy(item: &Node, direct: bool, path: &str, report: &mut Report) -> ProxyKind {
    let section = Section::new(item, [PROXY, if direct { PROXY_XTCP } else { PROXY_STCP }]);
    let risk = "the server, and every client that `allowUsers` admits, can reach this service";
    ProxyKind::Private {
        secret_key: secret_key(section, path, risk, report),
        allow_users: section.texts("allowUsers").into_iter().map(|(_, user)| user.to_owned()).collect(),
        direct: direct.then(|| nat_traversal(section, path, report)),
    }
}

/// The kind, and the visitor it would fall back to, which has to be looked for when all are known.
pub(super) fn visitor(
    item: &Node,
    direct: bool,
    user: &str,
    path: &str,
    report: &mut Report,
) -> (VisitorKind, Option<Wish>) {
    if !direct {
        return (VisitorKind::Stcp, None);
    }
    let section = Section::new(item, [VISITOR, VISITOR_XTCP]);
    let default = XtcpVisitor::default();
    let to = section.text("fallbackTo");
    let timeout = section.int("fallbackTimeoutMs").and_then(|ms| u64::try_from(ms).ok());
    let fallback = to.map(|to| Fallback {
        to: full_name(user, to),
        timeout: timeout.map_or(DEFAULT_FALLBACK_TIMEOUT, Duration::from_millis),
    });
    let wish = to.map(|to| Wish {
        to: to.to_owned(),
        key: format!("{path}.fallbackTo"),
        line: section.line("fallbackTo"),
    });
    let retries = section.int("maxRetriesAnHour").and_then(|number| u32::try_from(number).ok());
    let kind = VisitorKind::Xtcp(XtcpVisitor {
        nat_traversal: nat_traversal(section, path, report),
        keep_tunnel_open: section.bool("keepTunnelOpen").unwrap_or(default.keep_tunnel_open),
        max_retries_an_hour: retries.unwrap_or(default.max_retries_an_hour),
        min_retry_interval: seconds(section, "minRetryInterval", default.min_retry_interval),
        fallback,
    });
    (kind, wish)
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
