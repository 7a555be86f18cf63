//! Decodes the proxies and visitors of a client's file and of those it includes.

use std::collections::HashMap;

use super::{
    ProxyConfig, ProxyKind, VisitorConfig, bandwidth,
    fallback::Fallbacks,
    keys::{PROXY, PROXY_TCP, PROXY_UDP, VISITOR},
    private,
    problem::Report,
    schema::Section,
    shared::host,
    tree::Node,
    types::full_name,
};

/// Collects them.
pub(super) struct Services<'a> {
    start: Vec<String>,
    user: &'a str,
    /// Whether links are encrypted, which `useEncryption` of a public proxy insists on.
    encrypted: bool,
    proxy_names: Names,
    visitor_names: Names,
    fallbacks: Fallbacks,
    /// Those that run.
    pub(super) proxies: Vec<ProxyConfig>,
    /// Those that run.
    pub(super) visitors: Vec<VisitorConfig>,
}

/// Every name seen, running or not, and where.
type Names = HashMap<String, String>;

impl<'a> Services<'a> {
    pub(super) fn new(start: Vec<String>, user: &'a str, encrypted: bool) -> Self {
        Self {
            start,
            user,
            encrypted,
            proxy_names: Names::new(),
            visitor_names: Names::new(),
            fallbacks: Fallbacks::default(),
            proxies: Vec::new(),
            visitors: Vec::new(),
        }
    }

    /// The names that are to run; when there are none, all do.
    pub(super) fn start(&self) -> &[String] {
        &self.start
    }

    /// Adds what one file holds.
    pub(super) fn add(&mut self, file: Section<'_>, report: &mut Report) {
        for (index, item) in file.items("proxies").iter().enumerate() {
            let path = format!("proxies[{index}]");
            let proxy = self.proxy(item, &path, report);
            self.proxies.extend(proxy);
        }
        for (index, item) in file.items("visitors").iter().enumerate() {
            let path = format!("visitors[{index}]");
            let visitor = self.visitor(item, &path, report);
            self.visitors.extend(visitor);
        }
    }

    fn proxy(&mut self, item: &Node, path: &str, report: &mut Report) -> Option<ProxyConfig> {
        let common = Section::new(item, [PROXY, &[]]);
        let name = admit(common, path, "proxies", &mut self.proxy_names, report)?;
        if !self.runs(common, name) {
            return None;
        }
        let kind = match common.text("type") {
            Some("tcp") => {
                self.insist_on_encryption(common, path, report);
                let section = Section::new(item, [PROXY, PROXY_TCP]);
                ProxyKind::Tcp { remote_port: section.int("remotePort").unwrap_or(0) as u16 }
            }
            Some("udp") => {
                self.insist_on_encryption(common, path, report);
                let section = Section::new(item, [PROXY, PROXY_UDP]);
                let remote_port = section.int("remotePort").unwrap_or(0) as u16;
                ProxyKind::Udp { remote_port, idle: private::udp_idle(section) }
            }
            kind => match kind.and_then(private::Kind::named) {
                // Encrypted from end to end, so `useEncryption` asks for nothing more.
                Some(kind) => private::proxy(item, kind, path, report),
                // The check has refused it, and of other types other things are missing.
                None => return None,
            },
        };
        let Some(local_port) = common.int("localPort") else {
            // A plugin, which the check has refused, needs none.
            if item.get("plugin").is_none() {
                report.missing(common, "localPort", path, " (a port from 1 to 65535)");
            }
            return None;
        };
        let private = matches!(kind, ProxyKind::Private { .. });
        Some(ProxyConfig {
            name: full_name(self.user, name),
            kind,
            bandwidth: bandwidth::limit(common, path, private, report),
            annotations: common.text_map("annotations"),
            metadatas: common.text_map("metadatas"),
            local_ip: common.text("localIP").unwrap_or("127.0.0.1").to_owned(),
            local_port: local_port as u16,
        })
    }

    fn insist_on_encryption(&self, section: Section<'_>, path: &str, report: &mut Report) {
        if section.bool("transport.useEncryption") == Some(true) && !self.encrypted {
            let message = format!("`{path}.transport.useEncryption` needs `transport.tls.enable` = true");
            report.problem(section.line("transport.useEncryption"), message);
        }
    }

    fn visitor(&mut self, item: &Node, path: &str, report: &mut Report) -> Option<VisitorConfig> {
        let section = Section::new(item, [VISITOR, &[]]);
        let name = admit(section, path, "visitors", &mut self.visitor_names, report)?;
        if !self.runs(section, name) {
            return None;
        }
        let kind = private::Kind::named(section.text("type")?)?;
        let private::Visit { kind, udp_idle, fallback } =
            private::visitor(item, kind, self.user, path, report);
        // Connections have no use for a visitor that takes datagrams.
        if udp_idle.is_none() {
            self.fallbacks.add(name, fallback, report);
        }
        let server_name = section.text("serverName");
        match server_name {
            None => report.missing(section, "serverName", path, " (the name of the proxy to visit)"),
            Some(name) => plain(section, "serverName", name, path, report),
        }
        let bind_port = section.int("bindPort");
        if bind_port.is_none() {
            let what = " (a port from 1 to 65535, or -1 for no listener)";
            report.missing(section, "bindPort", path, what);
        }
        let bind_addr = host(section, "bindAddr", path, report);
        let risk = "nothing proves that the other end is the one that is meant";
        let secret_key = private::secret_key(section, path, risk, report);
        Some(VisitorConfig {
            name: full_name(self.user, name),
            kind,
            server_name: full_name(section.text("serverUser").unwrap_or(self.user), server_name?),
            secret_key,
            bind_addr: bind_addr.unwrap_or_else(|| "127.0.0.1".to_owned()),
            bind_port: u16::try_from(bind_port?).ok(),
            udp_idle,
        })
    }

    fn runs(&self, section: Section<'_>, name: &str) -> bool {
        let listed = self.start.is_empty() || self.start.iter().any(|start| start == name);
        listed && section.bool("enabled") != Some(false)
    }

    /// Checks what needs all visitors to be known.
    pub(super) fn check_fallbacks(&self, report: &mut Report) {
        self.fallbacks.check(|name| self.visitor_names.contains_key(name), report);
    }

    pub(super) fn warn_unstarted(&self, section: Section<'_>, report: &mut Report) {
        for (line, name) in section.texts("start") {
            if !self.proxy_names.contains_key(name) && !self.visitor_names.contains_key(name) {
                let message = format!("`start` names {name:?}, but there is no such proxy or visitor");
                report.warning(line, message);
            }
        }
    }
}

/// The name, unless it is missing or taken.
fn admit<'n>(
    section: Section<'n>,
    path: &str,
    what: &str,
    seen: &mut Names,
    report: &mut Report,
) -> Option<&'n str> {
    let Some(name) = section.text("name") else {
        report.missing(section, "name", path, "");
        return None;
    };
    let line = section.line("name");
    let place = match report.file() {
        Some(file) => format!("{}:{line}", file.display()),
        None => format!("line {line}"),
    };
    if let Some(first) = seen.insert(name.to_owned(), place) {
        report.problem(line, format!("two {what} are named {name:?}; the first is at {first}"));
        return None;
    }
    plain(section, "name", name, path, report);
    Some(name)
}

/// Names end up in log lines.
fn plain(section: Section<'_>, key: &str, name: &str, path: &str, report: &mut Report) {
    if name.chars().any(char::is_control) {
        let message = format!("`{path}.{key}` must not hold control characters: {name:?}");
        report.problem(section.line(key), message);
    }
}
