//! The configuration as the two programs consume it: every value present, checked and in its own type.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use super::{BandwidthLimit, Secret};
use crate::link::quic::tunnel::Options;
use crate::link::upstream::Choice;
use crate::link::websocket::DEFAULT_PATH;
use tun_proto::limits::FLOW_IDLE;

/// What `tuns` runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where clients connect: an IP address; `::` listens on both families.
    pub bind_addr: String,
    /// Port of the above, TCP and, for QUIC and STUN, UDP. 0 takes any free port, which the log then announces.
    pub bind_port: u16,
    /// Further UDP ports at which clients connect by QUIC.
    pub quic_ports: QuicPorts,
    /// Address of the public ports of the proxies.
    pub proxy_bind_addr: String,
    /// What clients must prove to know; empty admits everyone who also has none.
    pub auth_token: Secret,
    /// How long a user's connection may wait for the client to open its stream.
    pub user_conn_timeout: Duration,
    /// Whether refusals tell the client the reason, which may name other clients' ports.
    pub detailed_errors_to_client: bool,
    /// Public ports one client may hold; 0 is unlimited.
    pub max_ports_per_client: u32,
    /// Ports that clients may ask for; empty admits all.
    pub allow_ports: Vec<RangeInclusive<u16>>,
    /// How clients learn how they are seen from outside.
    pub stun: StunConfig,
    /// Where and how much is logged.
    pub log: LogConfig,
    /// How tunnels behave.
    pub transport: ServerTransport,
}

/// The part of [`ServerConfig`] about QUIC's ports. 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuicPorts {
    /// `quicBindPort`.
    pub quic: u16,
    /// `kcpBindPort`: frp has a protocol of its own there.
    pub kcp: u16,
}

/// The part of [`ServerConfig`] about STUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StunConfig {
    /// Whether STUN is served.
    pub enable: bool,
    /// UDP port; `None`: the number of `bindPort`, if it is free.
    pub port: Option<u16>,
    /// Second UDP port; `None`: the one after the first, if it is free.
    pub alt_port: Option<u16>,
    /// A second address of the machine: tests of NATs need one to be complete.
    pub alt_addr: Option<IpAddr>,
}

impl Default for StunConfig {
    fn default() -> Self {
        Self { enable: true, port: None, alt_port: None, alt_addr: None }
    }
}

/// The part of [`ServerConfig`] about tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTransport {
    /// Whether clients are asked to begin with one tunnel and add more under load.
    pub tcp_mux: bool,
    /// Idle time before the kernel probes a connection; `None` leaves probing off.
    pub tcp_keepalive: Option<Duration>,
    /// A client silent for this long is taken for gone.
    pub heartbeat_timeout: Duration,
    /// Connections one client may open for its tunnels (1 to 64).
    pub max_tunnels_per_client: u8,
    /// Time that open streams get to finish when the server stops.
    pub drain_timeout: Duration,
    /// Streams one client may hold open at once; each costs buffers on both sides.
    pub max_streams_per_client: u32,
    /// Certificates.
    pub tls: ServerTls,
    /// Path at which web servers on the way find the tunnel.
    pub websocket_path: String,
    /// How tunnels over QUIC behave.
    pub quic: Options,
}

/// The server's side of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// Refuse clients that do not use TLS. Set by itself when `trusted_ca_file` is given.
    pub force: bool,
    /// Certificate chain, PEM. Without it the server makes one up at every start.
    pub cert_file: Option<PathBuf>,
    /// Private key of `cert_file`, PEM.
    pub key_file: Option<PathBuf>,
    /// Clients must show a certificate signed by one of these.
    pub trusted_ca_file: Option<PathBuf>,
}

/// What `tunc` runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Host name or address of the server.
    pub server_addr: String,
    /// The server's `bindPort`.
    pub server_port: u16,
    /// Host and port of a STUN server to be asked instead of the server.
    pub nat_hole_stun_server: Option<(String, Option<u16>)>,
    /// DNS server to be asked instead of the system's.
    pub dns_server: Option<SocketAddr>,
    /// Prefix of proxy names, so that several users share one server; may be empty.
    pub user: String,
    /// A stable name of this client; `None`: made of the machine, the user and what is started.
    pub client_id: Option<String>,
    /// The secret shared with the server.
    pub auth_token: Secret,
    /// Whether the program gives up when the very first login fails.
    pub login_fail_exit: bool,
    /// Free-form facts sent along with the login.
    pub metadatas: BTreeMap<String, String>,
    /// Where and how much is logged.
    pub log: LogConfig,
    /// How tunnels behave.
    pub transport: ClientTransport,
    /// What to expose: only what is enabled and started, names already prefixed with `user.`.
    pub proxies: Vec<ProxyConfig>,
    /// Private services of others to reach: only what is enabled and started.
    pub visitors: Vec<VisitorConfig>,
    /// The file all of this came from; `None` when it came from the command line.
    pub source: Option<PathBuf>,
}

/// The part of [`ClientConfig`] about tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTransport {
    /// What the server is reached by.
    pub protocol: Protocol,
    /// Path of the tunnel on the web server.
    pub websocket_path: String,
    /// Name of the web server, perhaps with a port, if it is not `server_addr`.
    pub websocket_host: Option<String>,
    /// Time to reach the server before trying again.
    pub dial_server_timeout: Duration,
    /// Idle time before the kernel probes a connection; `None` leaves probing off.
    pub dial_server_keepalive: Option<Duration>,
    /// Local address that connections to the server come from; `None` leaves it to the system.
    pub connect_server_local_ip: Option<IpAddr>,
    /// The proxy on the way to the server.
    pub proxy_url: Choice,
    /// Begin with one tunnel and add more under load; otherwise open all at once.
    pub tcp_mux: bool,
    /// Pause between heartbeats.
    pub heartbeat_interval: Duration,
    /// A server silent for this long is taken for gone.
    pub heartbeat_timeout: Duration,
    /// Connections to the server at most (1 to 64).
    pub max_tunnels: u8,
    /// Time that open streams get to finish when the client stops.
    pub drain_timeout: Duration,
    /// How tunnels over QUIC behave.
    pub quic: Options,
    /// Certificates.
    pub tls: ClientTls,
}

/// What a client reaches its server by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP connection.
    #[default]
    Tcp,
    /// QUIC, over UDP.
    Quic,
    /// A WebSocket.
    WebSocket,
    /// A WebSocket in TLS, as web servers speak it.
    Wss,
    /// TCP, or what else works.
    Auto,
}

/// The client's side of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether tunnels are encrypted.
    pub enable: bool,
    /// Certificate to show to the server, PEM.
    pub cert_file: Option<PathBuf>,
    /// Private key of `cert_file`, PEM.
    pub key_file: Option<PathBuf>,
    /// The server must show a certificate signed by one of these; without it any is taken.
    pub trusted_ca_file: Option<PathBuf>,
    /// Name expected in the server's certificate; empty means `server_addr`.
    pub server_name: String,
}

/// One service that a client exposes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Unique on the server.
    pub name: String,
    /// How users reach it.
    pub kind: ProxyKind,
    /// How much it may carry; `None`: as much as it can.
    pub bandwidth: Option<BandwidthLimit>,
    /// Notes for people, shown where proxies are listed.
    pub annotations: BTreeMap<String, String>,
    /// Free-form facts, which stay here: frp's server hands them to its plugins.
    pub metadatas: BTreeMap<String, String>,
    /// Host of the local service.
    pub local_ip: String,
    /// Port of the local service, never 0.
    pub local_port: u16,
}

/// The kinds of proxies that are built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// A public TCP port.
    Tcp {
        /// The port on the server; 0 lets the server choose.
        remote_port: u16,
    },
    /// A public UDP port.
    Udp {
        /// The port on the server; 0 lets the server choose.
        remote_port: u16,
        /// How long a flow, all that passes between one source and the service, may be idle.
        idle: Duration,
    },
    /// No public port: only visitors that know the secret reach it. In files `stcp` and `xtcp`, and for datagrams `sudp`
    /// and `xudp`.
    Private {
        /// What visitors must prove to know; may be empty. The server never learns it.
        secret_key: Secret,
        /// Users whose visitors are let in: `*` is all of them, none is only this client's own user.
        allow_users: Vec<String>,
        /// How visitors are met directly; `None` (`stcp`, `sudp`): they come over the server's relay alone.
        direct: Option<NatTraversal>,
        /// For datagrams: how long a flow may be idle. `None`: the service takes connections.
        udp_idle: Option<Duration>,
    },
}

/// How a direct path between a visitor and the client of a proxy is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatTraversal {
    /// Whether the peer is kept from learning the addresses of this machine's own interfaces.
    pub disable_assisted_addrs: bool,
    /// Whether many ports are tried at once when a NAT gives every peer another one.
    pub spray: bool,
    /// Whether routers are asked to map a port (PCP, NAT-PMP, UPnP).
    pub port_mapping: bool,
    /// Addresses at which this side can be reached besides those that are found out, such as forwarded ports.
    pub addresses: Vec<SocketAddr>,
    /// Local UDP port; 0 takes any free one.
    pub port: u16,
}

impl Default for NatTraversal {
    fn default() -> Self {
        Self {
            disable_assisted_addrs: false,
            spray: true,
            port_mapping: true,
            addresses: Vec::new(),
            port: 0,
        }
    }
}

/// One private service of another client that this one reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisitorConfig {
    /// Unique among the visitors of this client, prefixed like the names of proxies.
    pub name: String,
    /// How the service is reached.
    pub kind: VisitorKind,
    /// The proxy's full name on the server, with the prefix of the user who exposes it.
    pub server_name: String,
    /// The `secretKey` of that proxy; may be empty.
    pub secret_key: Secret,
    /// Address of the local listener.
    pub bind_addr: String,
    /// Port of the local listener; `None`: there is no listener. Files give no 0, but from the command line it takes
    /// any free port, to be announced.
    pub bind_port: Option<u16>,
    /// For datagrams: how long a flow may be idle. `None`: the service takes connections.
    pub udp_idle: Option<Duration>,
}

/// The kinds of visitors that are built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VisitorKind {
    /// Over the server's relay alone.
    Stcp,
    /// Directly where that is possible, over the relay otherwise.
    Xtcp(XtcpVisitor),
}

/// What an `xtcp` visitor adds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XtcpVisitor {
    /// How the direct path is looked for.
    pub nat_traversal: NatTraversal,
    /// Whether the proxy's client is met at the start and kept although no connection is open.
    pub keep_tunnel_open: bool,
    /// Attempts at a direct path in an hour, at most.
    pub max_retries_an_hour: u32,
    /// Pause between two attempts at a direct path that nothing else asks for.
    pub min_retry_interval: Duration,
    /// Where connections go while the proxy's client cannot be met.
    pub fallback: Option<Fallback>,
}

/// Where a visitor's connections go while its proxy cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Name of another visitor of this client, as in [`VisitorConfig::name`]; it is there, and it leads back to no
    /// visitor before it.
    pub to: String,
    /// How long a connection waits for its own visitor first.
    pub timeout: Duration,
}

impl Default for XtcpVisitor {
    fn default() -> Self {
        Self {
            nat_traversal: NatTraversal::default(),
            keep_tunnel_open: false,
            max_retries_an_hour: 8,
            min_retry_interval: Duration::from_secs(90),
            fallback: None,
        }
    }
}

impl VisitorConfig {
    /// What an `xtcp` visitor adds; `None` for the others.
    pub fn xtcp(&self) -> Option<&XtcpVisitor> {
        match &self.kind {
            VisitorKind::Xtcp(xtcp) => Some(xtcp),
            VisitorKind::Stcp => None,
        }
    }
}

/// Where and how much is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Console or a file.
    pub to: LogTarget,
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Days that rotated files are kept.
    pub max_days: u32,
    /// No colours, even on a terminal.
    pub disable_print_color: bool,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

/// Where log lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    #[default]
    Console,
    /// Standard error, for commands whose standard output carries data. Files cannot ask for it.
    Stderr,
    /// A file that is renamed once a day.
    File(PathBuf),
}

/// How severe a line must be to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything, including each stream.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What an operator wants to see.
    #[default]
    Info,
    /// What may need a hand.
    Warn,
    /// What failed.
    Error,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `time LEVEL target: message`.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl ClientConfig {
    /// A proxy's name on the server: users that share a server keep apart by their prefix.
    pub fn full_name(&self, name: &str) -> String {
        full_name(&self.user, name)
    }
}

/// A name on the server: that of a user, or of nobody when `user` is empty.
pub fn full_name(user: &str, name: &str) -> String {
    if user.is_empty() { name.to_owned() } else { format!("{user}.{name}") }
}

// === defaults ===

/// The port that clients dial when nothing else is said; frp's number.
pub const DEFAULT_PORT: u16 = 7000;
/// Pause between heartbeats. Short, because a lost link should be noticed before users notice.
pub const DEFAULT_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
/// Three lost heartbeats.
pub const DEFAULT_HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(9);
/// Two hours, as kernels and frp have it; heartbeats find dead links long before.
pub const DEFAULT_TCP_KEEPALIVE: Duration = Duration::from_secs(7200);
/// How long a flow of datagrams may be idle, both ways.
pub const DEFAULT_UDP_IDLE: Duration = FLOW_IDLE;
/// How long a stopping program waits for open streams.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            bind_addr: "0.0.0.0".to_owned(),
            bind_port: DEFAULT_PORT,
            quic_ports: QuicPorts::default(),
            proxy_bind_addr: "0.0.0.0".to_owned(),
            auth_token: Secret::default(),
            user_conn_timeout: Duration::from_secs(10),
            detailed_errors_to_client: true,
            max_ports_per_client: 0,
            allow_ports: Vec::new(),
            stun: StunConfig::default(),
            log: LogConfig::default(),
            transport: ServerTransport::default(),
        }
    }
}

impl Default for ServerTransport {
    fn default() -> Self {
        Self {
            tcp_mux: true,
            tcp_keepalive: Some(DEFAULT_TCP_KEEPALIVE),
            heartbeat_timeout: DEFAULT_HEARTBEAT_TIMEOUT,
            max_tunnels_per_client: 8,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            max_streams_per_client: 16_384,
            tls: ServerTls::default(),
            websocket_path: DEFAULT_PATH.to_owned(),
            quic: Options::default(),
        }
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            server_addr: "127.0.0.1".to_owned(),
            server_port: DEFAULT_PORT,
            nat_hole_stun_server: None,
            dns_server: None,
            user: String::new(),
            client_id: None,
            auth_token: Secret::default(),
            login_fail_exit: true,
            metadatas: BTreeMap::new(),
            log: LogConfig::default(),
            transport: ClientTransport::default(),
            proxies: Vec::new(),
            visitors: Vec::new(),
            source: None,
        }
    }
}

impl Default for ClientTransport {
    fn default() -> Self {
        Self {
            protocol: Protocol::default(),
            websocket_path: DEFAULT_PATH.to_owned(),
            websocket_host: None,
            dial_server_timeout: Duration::from_secs(10),
            dial_server_keepalive: Some(DEFAULT_TCP_KEEPALIVE),
            connect_server_local_ip: None,
            proxy_url: Choice::default(),
            tcp_mux: true,
            heartbeat_interval: DEFAULT_HEARTBEAT_INTERVAL,
            heartbeat_timeout: DEFAULT_HEARTBEAT_TIMEOUT,
            max_tunnels: 4,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
            quic: Options::default(),
            tls: ClientTls::default(),
        }
    }
}

impl Default for ClientTls {
    fn default() -> Self {
        Self {
            enable: true,
            cert_file: None,
            key_file: None,
            trusted_ca_file: None,
            server_name: String::new(),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            to: LogTarget::Console,
            level: LogLevel::Info,
            max_days: 3,
            disable_print_color: false,
            format: LogFormat::Text,
        }
    }
}
