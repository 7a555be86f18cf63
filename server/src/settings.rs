//! What the server was told, checked and ready to use.

use anyhow::Context;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tun_common::config::ServerConfig;
use tun_common::link::quic::tunnel::Options;
use tun_common::link::tls::{Files, ServerTls};
use tun_common::random;
use tun_proto::auth::TokenKey;

/// Settings that the rooms of the server share.
pub(crate) struct Settings {
    pub(crate) bind: SocketAddr,
    pub(crate) proxy_bind: IpAddr,
    pub(crate) key: TokenKey,
    /// Whether there is a token.
    guarded: bool,
    pub(crate) tls: ServerTls,
    pub(crate) force_tls: bool,
    /// Where web servers on the way find the tunnel.
    pub(crate) websocket_path: String,
    /// How tunnels over QUIC behave.
    pub(crate) quic: Options,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) heartbeat_timeout: Duration,
    pub(crate) user_conn_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) detailed_errors: bool,
    pub(crate) max_links: u8,
    pub(crate) max_streams: usize,
}

impl Settings {
    /// Resolves addresses and reads files.
    pub(crate) fn new(config: &ServerConfig) -> anyhow::Result<Self> {
        let address = |key: &str, text: &str| -> anyhow::Result<IpAddr> {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            bare.parse().with_context(|| format!("{key} = \"{text}\" is not an IP address"))
        };
        let transport = &config.transport;
        let files = Files {
            cert: transport.tls.cert_file.clone(),
            key: transport.tls.key_file.clone(),
            trusted_ca: transport.tls.trusted_ca_file.clone(),
        };
        Ok(Settings {
            bind: SocketAddr::new(address("bindAddr", &config.bind_addr)?, config.bind_port),
            proxy_bind: address("proxyBindAddr", &config.proxy_bind_addr)?,
            key: TokenKey::new(config.auth_token.expose()),
            guarded: !config.auth_token.is_empty(),
            tls: ServerTls::new(&files)?,
            // frp's rule: whoever names a CA for clients wants no client without a certificate.
            force_tls: transport.tls.force || transport.tls.trusted_ca_file.is_some(),
            websocket_path: transport.websocket_path.clone(),
            quic: transport.quic.clone(),
            keepalive: transport.tcp_keepalive,
            heartbeat_timeout: transport.heartbeat_timeout,
            user_conn_timeout: config.user_conn_timeout,
            drain_timeout: transport.drain_timeout,
            detailed_errors: config.detailed_errors_to_client,
            max_links: transport.max_tunnels_per_client,
            max_streams: transport.max_streams_per_client as usize,
        })
    }

    /// By what the clients of a killed server are told, when it is back on a port, that their connections are no more
    /// (RFC 9000 §10.3). Who has it can end connections, so there must be a token to keep it from others.
    pub(crate) fn reset_key(&self, address: SocketAddr) -> [u8; 32] {
        match self.guarded {
            true => self.key.own_secret(b"quic stateless reset", address.to_string().as_bytes()),
            false => random::bytes(),
        }
    }

    /// An error as the client may read it.
    pub(crate) fn for_client(&self, error: &dyn std::fmt::Display) -> String {
        if self.detailed_errors {
            error.to_string()
        } else {
            "refused by the server (detailedErrorsToClient is off, its log has the reason)".to_owned()
        }
    }
}
