//! What the client was told, checked and ready to use.

use crate::dial::ways::Ways;
use crate::identity::identity;
use std::collections::BTreeMap;
use std::time::Duration;
use tun_common::config::{ClientConfig, Loader, Protocol, ProxyConfig};
use tun_common::lifecycle::Tasks;
use tun_common::link::quic::tunnel::Options;
use tun_common::link::resolve::Resolver;
use tun_common::link::tcp::Dialer;
use tun_common::link::tls::web::{Trust, WebTls};
use tun_common::link::tls::{ClientTls, Files, PeerTls};
use tun_common::link::upstream::{Upstream, authority};
use tun_common::random;
use tun_proto::auth::TokenKey;
use tun_proto::wire::login::Id;

/// Settings that the rooms of the client share.
pub(crate) struct Settings {
    pub(crate) server: (String, u16),
    pub(crate) key: TokenKey,
    pub(crate) tls: Option<ClientTls>,
    /// Within QUIC, which is never without.
    pub(crate) quic_tls: ClientTls,
    /// How tunnels over QUIC behave.
    pub(crate) quic: Options,
    /// The proxy on the way to the server.
    pub(crate) upstream: Option<Upstream>,
    /// With proxies that speak TLS.
    pub(crate) proxy_tls: WebTls,
    /// With web servers in front of the server.
    pub(crate) web_tls: WebTls,
    pub(crate) ways: Ways,
    /// Own what becomes of attempts that others were faster than.
    pub(crate) dialling: Tasks,
    pub(crate) websocket_path: String,
    /// Name of the web server in front of the server, perhaps with a port.
    pub(crate) websocket_host: Option<String>,
    /// Makes connections towards the server.
    pub(crate) dialer: Dialer,
    /// For what passes between visitors and clients.
    pub(crate) peer_tls: PeerTls,
    pub(crate) identity: String,
    pub(crate) user: String,
    /// This run of the program.
    pub(crate) instance: Id,
    pub(crate) metadatas: BTreeMap<String, String>,
    pub(crate) login_fail_exit: bool,
    pub(crate) dial_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) heartbeat_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    /// Tunnels held from the start.
    pub(crate) min_tunnels: u8,
    pub(crate) max_tunnels: u8,
    pub(crate) proxies: Vec<ProxyConfig>,
}

impl Settings {
    /// Reads the files that the configuration names.
    pub(crate) fn new(config: &ClientConfig, dialling: Tasks) -> anyhow::Result<Self> {
        let transport = &config.transport;
        let tls = &transport.tls;
        let files = Files {
            cert: tls.cert_file.clone(),
            key: tls.key_file.clone(),
            trusted_ca: tls.trusted_ca_file.clone(),
        };
        // What has no effect need not be right.
        let used = tls.enable || matches!(transport.protocol, Protocol::Quic | Protocol::Auto);
        let quic_tls = match used {
            true => ClientTls::new(&files, &tls.server_name, &config.server_addr)?,
            false => ClientTls::new(&Files::default(), "", &config.server_addr)?,
        };
        let tls = tls.enable.then(|| quic_tls.clone());
        let environment = Loader::default().env;
        let upstream = transport.proxy_url.resolve(&environment, &config.server_addr, config.server_port);
        let mut upstream = upstream.map_err(anyhow::Error::msg)?;
        if transport.protocol == Protocol::Quic && upstream.take().is_some() {
            tracing::info!("the proxy of the environment carries no QUIC, so it is not used");
        }
        Ok(Settings {
            server: (config.server_addr.clone(), config.server_port),
            key: TokenKey::new(config.auth_token.expose()),
            tls,
            quic_tls,
            quic: transport.quic.clone(),
            proxy_tls: WebTls::new(Trust::System),
            // With TLS of our own inside, which decides who the server is, the one outside is but an envelope.
            web_tls: WebTls::new(if transport.tls.enable { Trust::Any } else { Trust::System }),
            ways: Ways::new(transport.protocol, upstream.is_some()),
            dialling,
            upstream,
            websocket_path: transport.websocket_path.clone(),
            websocket_host: transport.websocket_host.clone(),
            dialer: Dialer {
                from: transport.connect_server_local_ip,
                resolver: config.dns_server.map(Resolver::asking).transpose()?.unwrap_or_default(),
                keepalive: transport.dial_server_keepalive,
            },
            peer_tls: PeerTls::new()?,
            identity: identity(config),
            user: config.user.clone(),
            instance: random::id(),
            metadatas: config.metadatas.clone(),
            login_fail_exit: config.login_fail_exit,
            dial_timeout: transport.dial_server_timeout,
            heartbeat_interval: transport.heartbeat_interval,
            heartbeat_timeout: transport.heartbeat_timeout,
            drain_timeout: transport.drain_timeout,
            min_tunnels: if transport.tcp_mux { 1 } else { transport.max_tunnels },
            max_tunnels: transport.max_tunnels,
            proxies: config.proxies.clone(),
        })
    }

    /// The server as the user named it.
    pub(crate) fn server_name(&self) -> String {
        let (host, port) = &self.server;
        authority(host, *port)
    }
}
