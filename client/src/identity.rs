//! The name under which the server knows this client, where the configuration gives none.
//!
//! It must be the same when the client is started again, so that it gets its place back at once, and differ between
//! clients, so that they do not take each other's. So it is made of the machine, the user and what was started: the
//! configuration file, or the services named on the command line. Visits without a port of their own have none to get back,
//! and several may run at once: each is a new client.

use ring::digest::{Context, SHA256};
use tun_common::config::{ClientConfig, ProxyKind};
use tun_common::random;

/// The configured name, or one made up from what is stable.
pub(crate) fn identity(config: &ClientConfig) -> String {
    if let Some(id) = &config.client_id {
        return config.full_name(id);
    }
    let host = host_name();
    let mut digest = Context::new(&SHA256);
    let mut add = |part: &str| {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    };
    add(&machine_id());
    add(&user_id());
    add(&config.user);
    match &config.source {
        Some(path) => add(&path.canonicalize().unwrap_or_else(|_| path.clone()).to_string_lossy()),
        None => {
            for proxy in &config.proxies {
                let place = match &proxy.kind {
                    ProxyKind::Tcp { remote_port } => remote_port.to_string(),
                    ProxyKind::Udp { remote_port, .. } => format!("{remote_port}/udp"),
                    ProxyKind::Private { .. } => "private".to_owned(),
                };
                add(&format!("{} {}:{} {place}", proxy.name, proxy.local_ip, proxy.local_port));
            }
            for visitor in &config.visitors {
                let place = match visitor.bind_port {
                    Some(port) if port > 0 => {
                        let kind = if visitor.udp_idle.is_some() { "/udp" } else { "" };
                        format!("{}:{port}{kind}", visitor.bind_addr)
                    }
                    // Such visits run side by side, each as a client of its own.
                    _ => format!("{:?}", random::bytes::<16>()),
                };
                add(&format!("{} {place}", visitor.server_name));
            }
        }
    }
    let digest = digest.finish();
    let suffix: String = digest.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    config.full_name(&format!("{host}-{suffix}"))
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn user_id() -> String {
    rustix::process::getuid().as_raw().to_string()
}

/// Tells apart machines of one name, such as containers made from one image; empty where there is no such file.
fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use tun_common::config::{VisitorConfig, VisitorKind};

    #[test]
    fn a_name_is_stable_for_one_file_and_differs_between_files_users_and_configured_names() {
        let of = |path: &str, user: &str| {
            identity(&ClientConfig {
                source: Some(PathBuf::from(path)),
                user: user.into(),
                ..ClientConfig::default()
            })
        };
        assert_eq!(of("/etc/a.toml", ""), of("/etc/a.toml", ""));
        assert_ne!(of("/etc/a.toml", ""), of("/etc/b.toml", ""));
        assert_ne!(of("/etc/a.toml", ""), of("/etc/a.toml", "me"));
        let named = ClientConfig { client_id: Some("home".into()), ..ClientConfig::default() };
        assert_eq!(identity(&named), "home");
    }

    #[test]
    fn visits_to_one_service_take_each_others_place_only_on_one_port() {
        let of = |bind_port| {
            let visitor = VisitorConfig {
                name: "ssh".into(),
                kind: VisitorKind::Stcp,
                server_name: "ssh".into(),
                secret_key: Default::default(),
                bind_addr: "127.0.0.1".into(),
                bind_port,
                udp_idle: None,
            };
            identity(&ClientConfig { visitors: vec![visitor], ..ClientConfig::default() })
        };
        assert_eq!(of(Some(9000)), of(Some(9000)));
        assert_ne!(of(Some(9000)), of(Some(9001)));
        assert_ne!(of(Some(0)), of(Some(0)));
        assert_ne!(of(None), of(None));
    }
}
