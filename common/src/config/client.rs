//! Decodes a client's file and those it includes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    ClientConfig, ClientTls, ClientTransport, Env, Loader, ProxyConfig, ProxyKind,
    check::{check, field},
    keys::{CLIENT, INCLUDED, PROXY, PROXY_TCP},
    problem::Report,
    read::read,
    schema::Section,
    shared::{certificate_pair, host, keepalive, log, path, seconds, seconds_or_none, token},
    tree::{Node, Value},
    types::full_name,
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
    let mut proxies = Proxies {
        start: start(tree),
        user,
        encrypted: transport.tls.enable,
        seen: HashMap::new(),
        running: Vec::new(),
    };
    proxies.add(section.items("proxies"), report);
    include(section, &loader.env, &mut proxies, report);
    proxies.warn_unstarted(section, report);
    let config = ClientConfig {
        server_addr: host(section, "serverAddr", report).unwrap_or(default.server_addr),
        server_port: section.int("serverPort").map_or(default.server_port, |port| port as u16),
        user: user.to_owned(),
        client_id: section.text("clientID").map(str::to_owned),
        auth_token: token(section, loader, report),
        login_fail_exit: section.bool("loginFailExit").unwrap_or(default.login_fail_exit),
        metadatas: section.text_map("metadatas"),
        log: log(section),
        transport,
        proxies: proxies.running,
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
    if !tls.enable && (unused || !tls.server_name.is_empty()) {
        report.warning(
            None,
            "`transport.tls.enable` is false: the other keys of `transport.tls` have no effect",
        );
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
    ClientTransport {
        dial_server_timeout: seconds(section, "transport.dialServerTimeout", default.dial_server_timeout),
        dial_server_keepalive: keepalive(
            section,
            "transport.dialServerKeepalive",
            default.dial_server_keepalive,
        ),
        tcp_mux: section.bool("transport.tcpMux").unwrap_or(default.tcp_mux),
        heartbeat_interval: interval,
        heartbeat_timeout: timeout,
        max_tunnels: section.int("transport.maxTunnels").map_or(default.max_tunnels, |n| n as u8),
        drain_timeout: seconds_or_none(section, "transport.drainTimeout", default.drain_timeout),
        tls: ClientTls {
            enable: section.bool("transport.tls.enable").unwrap_or(default.tls.enable),
            cert_file: path(section, "transport.tls.certFile"),
            key_file: path(section, "transport.tls.keyFile"),
            trusted_ca_file: path(section, "transport.tls.trustedCaFile"),
            server_name: section.text("transport.tls.serverName").unwrap_or_default().to_owned(),
        },
    }
}

// === proxies ===

/// Collects the proxies of a file and of those it includes.
struct Proxies<'a> {
    start: Vec<String>,
    user: &'a str,
    /// Whether links are encrypted, which `useEncryption` insists on.
    encrypted: bool,
    /// Every name seen, running or not, and where.
    seen: HashMap<String, String>,
    running: Vec<ProxyConfig>,
}

impl Proxies<'_> {
    fn add(&mut self, items: &[Node], report: &mut Report) {
        for (index, item) in items.iter().enumerate() {
            self.add_one(item, &format!("proxies[{index}]"), report);
        }
    }

    fn add_one(&mut self, item: &Node, path: &str, report: &mut Report) {
        let section = Section::new(item, [PROXY, PROXY_TCP]);
        let Some(name) = section.text("name") else {
            report.missing(section, "name", path, "");
            return;
        };
        let line = section.line("name");
        let place = match report.file() {
            Some(file) => format!("{}:{line}", file.display()),
            None => format!("line {line}"),
        };
        if let Some(first) = self.seen.insert(name.to_owned(), place) {
            report.problem(line, format!("two proxies are named {name:?}; the first is at {first}"));
            return;
        }
        if name.chars().any(char::is_control) {
            report.problem(line, format!("`{path}.name` must not hold control characters: {name:?}"));
        }
        let listed = self.start.is_empty() || self.start.iter().any(|start| start == name);
        if !listed || section.bool("enabled") == Some(false) {
            return;
        }
        if section.bool("transport.useEncryption") == Some(true) && !self.encrypted {
            let message = format!("`{path}.transport.useEncryption` needs `transport.tls.enable` = true");
            report.problem(section.line("transport.useEncryption"), message);
        }
        // Of other types and with plugins, which the check has refused, other things are missing.
        if section.text("type") != Some("tcp") || item.get("plugin").is_some() {
            return;
        }
        let Some(local_port) = section.int("localPort") else {
            report.missing(section, "localPort", path, " (a port from 1 to 65535)");
            return;
        };
        self.running.push(ProxyConfig {
            name: full_name(self.user, name),
            kind: ProxyKind::Tcp { remote_port: section.int("remotePort").unwrap_or(0) as u16 },
            annotations: section.text_map("annotations"),
            metadatas: section.text_map("metadatas"),
            local_ip: section.text("localIP").unwrap_or("127.0.0.1").to_owned(),
            local_port: local_port as u16,
        });
    }

    fn warn_unstarted(&self, section: Section<'_>, report: &mut Report) {
        for (line, name) in section.texts("start") {
            if !self.seen.contains_key(name) {
                report.warning(line, format!("`start` names {name:?}, but there is no such proxy"));
            }
        }
    }
}

// === includes ===

fn include(section: Section<'_>, env: &Env, proxies: &mut Proxies<'_>, report: &mut Report) {
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
                check(&mut tree, INCLUDED, &proxies.start, &mut inner);
                proxies.add(Section::new(&tree, [INCLUDED, &[]]).items("proxies"), &mut inner);
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
