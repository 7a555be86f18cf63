//! Decodes a client's file and those it includes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::link::upstream::Choice;

use super::{
    ClientConfig, ClientTls, ClientTransport, Env, Loader, Protocol,
    check::{check, field},
    flags::{dns_server, host_and_port},
    keys::{CLIENT, INCLUDED},
    problem::Report,
    read::read,
    schema::Section,
    services::Services,
    shared::{
        certificate_pair, host, keepalive, log, path, quic, seconds, seconds_or_none, token, websocket_path,
    },
    tree::{Node, Value},
};

/// The names in `start`, read before the check because the check depends on them.
pub(super) fn start(tree: &Node) -> Vec<String> {
    let items = match field(tree, "start").map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    let text = |item: &Node| match &item.value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    };
    items.iter().filter_map(text).collect()
}

pub(super) fn decode(tree: &Node, loader: &Loader, report: &mut Report) -> ClientConfig {
    let section = Section::new(tree, [CLIENT, &[]]);
    let default = ClientConfig::default();
    let transport = transport(section, report);
    let user = section.text("user").unwrap_or_default();
    let encrypted = transport.tls.enable || transport.protocol == Protocol::Quic;
    let mut services = Services::new(start(tree), user, encrypted);
    services.add(section, report);
    include(section, &loader.env, &mut services, report);
    services.check_fallbacks(report);
    services.warn_unstarted(section, report);
    let config = ClientConfig {
        server_addr: host(section, "serverAddr", "", report).unwrap_or(default.server_addr),
        server_port: section.int("serverPort").map_or(default.server_port, |port| port as u16),
        nat_hole_stun_server: stun_server(section, report),
        dns_server: parsed(section, "dnsServer", report, dns_server),
        user: user.to_owned(),
        client_id: section.text("clientID").map(str::to_owned),
        auth_token: token(section, loader, report),
        login_fail_exit: section.bool("loginFailExit").unwrap_or(default.login_fail_exit),
        metadatas: section.text_map("metadatas"),
        log: log(section),
        transport,
        proxies: services.proxies,
        visitors: services.visitors,
        source: report.file().map(Path::to_owned),
    };
    warn(&config, report);
    config
}

/// What the author should hear although it is allowed.
fn warn(config: &ClientConfig, report: &mut Report) {
    if config.auth_token.is_empty() && config.transport.tls.cert_file.is_none() {
        report
            .warning(None, "`auth.token` is empty: only a server that admits everyone will take this client");
    }
    let tls = &config.transport.tls;
    let unused = [&tls.cert_file, &tls.key_file, &tls.trusted_ca_file].into_iter().any(Option::is_some);
    let unused = unused || !tls.server_name.is_empty();
    match config.transport.protocol {
        _ if tls.enable => {}
        Protocol::Quic => {
            report.warning(None, "`transport.tls.enable` is false and has no effect: QUIC is always encrypted")
        }
        Protocol::Auto if unused => report.warning(
            None,
            "`transport.tls.enable` is false: the other keys of `transport.tls` have no effect but over QUIC, which is always encrypted",
        ),
        _ if unused => report.warning(
            None,
            "`transport.tls.enable` is false: the other keys of `transport.tls` have no effect",
        ),
        _ => {}
    }
}

fn stun_server(section: Section<'_>, report: &mut Report) -> Option<(String, Option<u16>)> {
    let key = "natHoleStunServer";
    match host_and_port(section.text(key).filter(|text| !text.is_empty())?) {
        Ok(server) => Some(server),
        Err(why) => {
            report.problem(section.line(key), format!("`{key}` must be HOST or HOST:PORT: {why}"));
            None
        }
    }
}

/// A text that means something else; `parse` says what is wrong with it.
fn parsed<T>(
    section: Section<'_>,
    key: &str,
    report: &mut Report,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    match parse(section.text(key)?) {
        Ok(value) => Some(value),
        Err(why) => {
            report.problem(section.line(key), format!("`{key}` {why}"));
            None
        }
    }
}

fn transport(section: Section<'_>, report: &mut Report) -> ClientTransport {
    let default = ClientTransport::default();
    certificate_pair(section, report);
    let interval = seconds(section, "transport.heartbeatInterval", default.heartbeat_interval);
    // Whoever sets only the interval means to be patient, so the default timeout grows with it.
    let patience = default.heartbeat_timeout.max(interval.saturating_mul(3));
    let timeout = seconds(section, "transport.heartbeatTimeout", patience);
    if timeout < interval {
        let line = section.line("transport.heartbeatTimeout");
        let [timeout, interval] = [timeout, interval].map(|d: Duration| d.as_secs());
        let message = format!(
            "`transport.heartbeatTimeout` ({timeout} s) must not be shorter than `transport.heartbeatInterval` ({interval} s)"
        );
        report.problem(line, message);
    }
    // A URL may hold a password, so the message does not repeat it.
    let proxy_url = parsed(section, "transport.proxyURL", report, str::parse).unwrap_or_default();
    let protocol = section.text("transport.protocol");
    if let (Some(protocol @ ("quic" | "kcp")), Choice::Through(_)) = (protocol, &proxy_url) {
        let line = section.line("transport.proxyURL");
        report.problem(
            line,
            format!(
                "`transport.proxyURL`: no proxy carries `transport.protocol` = {protocol:?}, which is UDP; \"auto\" takes what the proxy carries"
            ),
        );
    }
    ClientTransport {
        protocol: match protocol {
            // One protocol serves both names.
            Some("quic" | "kcp") => Protocol::Quic,
            Some("websocket") => Protocol::WebSocket,
            Some("wss") => Protocol::Wss,
            Some("auto") => Protocol::Auto,
            _ => Protocol::Tcp,
        },
        websocket_path: websocket_path(section, report).unwrap_or(default.websocket_path),
        websocket_host: host(section, "transport.websocket.host", "", report),
        dial_server_timeout: seconds(section, "transport.dialServerTimeout", default.dial_server_timeout),
        dial_server_keepalive: keepalive(
            section,
            "transport.dialServerKeepalive",
            default.dial_server_keepalive,
        ),
        connect_server_local_ip: parsed(section, "transport.connectServerLocalIP", report, |text| {
            text.parse().map_err(|_| format!("must be an IP address of this machine, not {text:?}"))
        }),
        proxy_url,
        tcp_mux: section.bool("transport.tcpMux").unwrap_or(default.tcp_mux),
        heartbeat_interval: interval,
        heartbeat_timeout: timeout,
        max_tunnels: section.int("transport.maxTunnels").map_or(default.max_tunnels, |n| n as u8),
        drain_timeout: seconds_or_none(section, "transport.drainTimeout", default.drain_timeout),
        quic: quic(section),
        tls: ClientTls {
            enable: section.bool("transport.tls.enable").unwrap_or(default.tls.enable),
            cert_file: path(section, "transport.tls.certFile"),
            key_file: path(section, "transport.tls.keyFile"),
            trusted_ca_file: path(section, "transport.tls.trustedCaFile"),
            server_name: section.text("transport.tls.serverName").unwrap_or_default().to_owned(),
        },
    }
}

// === includes ===

fn include(section: Section<'_>, env: &Env, services: &mut Services<'_>, report: &mut Report) {
    let own = report.file().map(Path::to_owned);
    let directory = own.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    for (line, pattern) in section.texts("includes") {
        let files = match matches(directory, pattern) {
            Ok(files) => files,
            Err(why) => {
                report.problem(line, format!("`includes`: {pattern:?} {why}"));
                continue;
            }
        };
        if files.is_empty() {
            // A directory that is still empty is a normal state; a file that is named is not.
            match pattern.contains(['*', '?', '[']) {
                true => report.warning(line, format!("`includes`: no file matches {pattern:?}")),
                false => report.problem(line, format!("`includes`: there is no file {pattern:?}")),
            }
        }
        for file in files {
            if own.as_deref().is_some_and(|own| same_file(own, &file)) {
                report.problem(line, format!("`includes`: {pattern:?} matches this very file"));
                continue;
            }
            let mut inner = report.for_file(&file);
            if let Some(mut tree) = read(&file, env, &mut inner) {
                check(&mut tree, INCLUDED, services.start(), &mut inner);
                services.add(Section::new(&tree, [INCLUDED, &[]]), &mut inner);
            }
            report.absorb(inner);
        }
    }
}

fn matches(directory: &Path, pattern: &str) -> Result<Vec<PathBuf>, String> {
    // The directory's own name may hold characters that mean something in a pattern.
    let prefix = glob::Pattern::escape(&directory.to_string_lossy());
    let full = Path::new(&prefix).join(pattern);
    let paths = glob::glob(&full.to_string_lossy()).map_err(|e| format!("is not a valid pattern: {e}"))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|e| format!("cannot be followed: {e}"))?;
        if !path.is_dir() {
            files.push(path);
        }
    }
    Ok(files)
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}
