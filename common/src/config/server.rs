//! Decodes a server's file.

use std::ops::RangeInclusive;

use super::{
    Loader, QuicPorts, ServerConfig, ServerTls, ServerTransport, StunConfig,
    keys::SERVER,
    problem::Report,
    schema::Section,
    shared::{
        certificate_pair, host, keepalive, log, path, quic, seconds, seconds_or_none, token, websocket_path,
    },
    tree::Node,
};

pub(super) fn decode(tree: &Node, loader: &Loader, report: &mut Report) -> ServerConfig {
    let section = Section::new(tree, [SERVER, &[]]);
    let default = ServerConfig::default();
    let bind_addr = host(section, "bindAddr", "", report).unwrap_or(default.bind_addr);
    let config = ServerConfig {
        proxy_bind_addr: host(section, "proxyBindAddr", "", report).unwrap_or_else(|| bind_addr.clone()),
        bind_addr,
        bind_port: section.given_int("bindPort").map_or(default.bind_port, |port| port as u16),
        quic_ports: QuicPorts {
            quic: section.int("quicBindPort").unwrap_or(0) as u16,
            kcp: section.int("kcpBindPort").unwrap_or(0) as u16,
        },
        auth_token: token(section, loader, report),
        user_conn_timeout: seconds(section, "userConnTimeout", default.user_conn_timeout),
        detailed_errors_to_client: section.bool("detailedErrorsToClient").unwrap_or(true),
        max_ports_per_client: section.int("maxPortsPerClient").unwrap_or(0) as u32,
        allow_ports: allow_ports(section, report),
        stun: stun(section, report),
        log: log(section),
        transport: transport(section, report),
    };
    warn(&config, report);
    config
}

/// What the author should hear although it is allowed.
fn warn(config: &ServerConfig, report: &mut Report) {
    if config.auth_token.is_empty() && config.transport.tls.trusted_ca_file.is_none() {
        report
            .warning(None, "`auth.token` is empty: everyone who reaches the port may log in and open ports");
    }
}

fn stun(section: Section<'_>, report: &mut Report) -> StunConfig {
    let port = |key: &str| section.int(key).map(|port| port as u16);
    let alt_addr = host(section, "stun.altAddr", "", report).and_then(|text| {
        let address = text.parse().ok();
        if address.is_none() {
            let line = section.line("stun.altAddr");
            report
                .problem(line, format!("`stun.altAddr` must be an IP address of this machine, not {text:?}"));
        }
        address
    });
    let stun = StunConfig {
        enable: section.bool("stun.enable").unwrap_or(true),
        port: port("stun.port"),
        alt_port: port("stun.altPort"),
        alt_addr,
    };
    if stun.port.is_some() && stun.port == stun.alt_port {
        let line = section.line("stun.altPort");
        report.problem(line, "`stun.altPort` must be another port than `stun.port`");
    }
    stun
}

fn transport(section: Section<'_>, report: &mut Report) -> ServerTransport {
    let default = ServerTransport::default();
    certificate_pair(section, report);
    let trusted_ca_file = path(section, "transport.tls.trustedCaFile");
    ServerTransport {
        tcp_mux: section.bool("transport.tcpMux").unwrap_or(default.tcp_mux),
        tcp_keepalive: keepalive(section, "transport.tcpKeepalive", default.tcp_keepalive),
        heartbeat_timeout: seconds(section, "transport.heartbeatTimeout", default.heartbeat_timeout),
        max_tunnels_per_client: section
            .int("transport.maxTunnelsPerClient")
            .map_or(default.max_tunnels_per_client, |n| n as u8),
        drain_timeout: seconds_or_none(section, "transport.drainTimeout", default.drain_timeout),
        max_streams_per_client: section
            .int("transport.maxStreamsPerClient")
            .map_or(default.max_streams_per_client, |n| n as u32),
        tls: ServerTls {
            // A client that shows no certificate because it speaks no TLS must not get around the CA.
            force: section.bool("transport.tls.force").unwrap_or(false) || trusted_ca_file.is_some(),
            cert_file: path(section, "transport.tls.certFile"),
            key_file: path(section, "transport.tls.keyFile"),
            trusted_ca_file,
        },
        websocket_path: websocket_path(section, report).unwrap_or(default.websocket_path),
        quic: quic(section),
    }
}

fn allow_ports(section: Section<'_>, report: &mut Report) -> Vec<RangeInclusive<u16>> {
    let mut ranges = Vec::new();
    for (index, item) in section.items("allowPorts").iter().enumerate() {
        let port = |name: &str| match item.get(name).map(|node| &node.value) {
            Some(super::tree::Value::Int(port)) => u16::try_from(*port).ok().filter(|port| *port > 0),
            _ => None,
        };
        match (port("single"), port("start"), port("end")) {
            (Some(single), None, None) => ranges.push(single..=single),
            (None, Some(start), Some(end)) if start <= end => ranges.push(start..=end),
            (None, Some(start), Some(end)) => {
                let message = format!("`allowPorts[{index}]` ends ({end}) before it starts ({start})");
                report.problem(item.line, message);
            }
            _ => report
                .problem(item.line, format!("`allowPorts[{index}]` needs `start` and `end`, or `single`")),
        }
    }
    ranges
}
