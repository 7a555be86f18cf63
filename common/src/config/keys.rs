//! The table of keys: every key of frps and frpc (v1), and ours. What is not built is listed too, so that it is
//! refused by name instead of being called unknown.

use super::schema::{
    Key, PORT, SECONDS, Status,
    Takes::{self, *},
    Type, covered, later, used,
};

/// Seconds that cannot be negative.
const PAUSE: Takes = Int(0, 31_536_000);
const LEVELS: &[&str] = &["trace", "debug", "info", "warn", "error"];

/// The top of a server's file.
pub(super) static SERVER: &[Key] = &[
    used("auth", Section(AUTH_SERVER)),
    used("bindAddr", Text),
    used("bindPort", PORT),
    used("kcpBindPort", PORT),
    used("quicBindPort", PORT),
    used("proxyBindAddr", Text),
    later("vhostHTTPPort", PORT),
    later("vhostHTTPTimeout", PAUSE),
    later("vhostHTTPSPort", PORT),
    later("tcpmuxHTTPConnectPort", PORT),
    later("tcpmuxPassthrough", Bool),
    later("subDomainHost", Text),
    later("custom404Page", Text),
    later("sshTunnelGateway", Section(SSH_GATEWAY)),
    later("webServer", Section(WEB_SERVER)),
    later("enablePrometheus", Bool),
    used("log", Section(LOG)),
    used("transport", Section(TRANSPORT_SERVER)),
    used("detailedErrorsToClient", Bool),
    used("maxPortsPerClient", Int(0, 65_535)),
    used("userConnTimeout", PAUSE),
    UDP_PACKET_SIZE,
    later("natholeAnalysisDataReserveHours", Int(0, 1_000_000)),
    used("allowPorts", Sections(PORT_RANGE)),
    used("stun", Section(STUN)),
    later("httpPlugins", Sections(HTTP_PLUGIN)),
    later("featureGates", Anything),
];

const STUN: &[Key] =
    &[used("enable", Bool), used("port", PORT), used("altPort", PORT), used("altAddr", Text)];

const PORT_RANGE: &[Key] = &[used("start", PORT), used("end", PORT), used("single", PORT)];

const TRANSPORT_SERVER: &[Key] = &[
    used("tcpMux", Bool),
    covered("tcpMuxKeepaliveInterval", SECONDS),
    used("tcpKeepalive", SECONDS),
    covered("maxPoolCount", Int(0, 1_000_000)),
    used("heartbeatTimeout", SECONDS),
    used("quic", Section(QUIC)),
    used("tls", Section(TLS_SERVER)),
    used("maxTunnelsPerClient", Int(1, 64)),
    used("drainTimeout", PAUSE),
    used("maxStreamsPerClient", Int(1, 1_048_576)),
    used("websocket", Section(&[used("path", Text)])),
];

const TLS_SERVER: &[Key] =
    &[used("force", Bool), used("certFile", Text), used("keyFile", Text), used("trustedCaFile", Text)];

/// The top of a client's file.
pub(super) static CLIENT: &[Key] = &[
    used("auth", Section(AUTH_CLIENT)),
    used("user", Text),
    used("clientID", Text),
    used("serverAddr", Text),
    used("serverPort", PORT),
    used("natHoleStunServer", Text),
    used("dnsServer", Text),
    used("loginFailExit", Bool),
    used("start", Texts(&[])),
    used("log", Section(LOG)),
    later("webServer", Section(WEB_SERVER)),
    used("transport", Section(TRANSPORT_CLIENT)),
    later("virtualNet", Section(&[later("address", Text)])),
    later("featureGates", Anything),
    UDP_PACKET_SIZE,
    used("metadatas", TextMap),
    used("includes", Texts(&[])),
    later("store", Section(&[later("path", Text)])),
    PROXIES,
    VISITORS,
];

/// All that a file named by `includes` may hold.
pub(super) static INCLUDED: &[Key] = &[PROXIES, VISITORS];

const TRANSPORT_CLIENT: &[Key] = &[
    used("protocol", OneOf(&["tcp", "quic", "kcp", "websocket", "wss", "auto"], &[])),
    covered("wireProtocol", OneOf(&["v1", "v2"], &[])),
    used("dialServerTimeout", PAUSE),
    used("dialServerKeepalive", SECONDS),
    used("connectServerLocalIP", Text),
    used("proxyURL", Text),
    covered("poolCount", Int(0, 1_000_000)),
    used("tcpMux", Bool),
    covered("tcpMuxKeepaliveInterval", SECONDS),
    used("quic", Section(QUIC)),
    used("heartbeatInterval", SECONDS),
    used("heartbeatTimeout", SECONDS),
    used("tls", Section(TLS_CLIENT)),
    used("websocket", Section(&[used("path", Text), used("host", Text)])),
    used("maxTunnels", Int(1, 64)),
    used("drainTimeout", PAUSE),
];

const TLS_CLIENT: &[Key] = &[
    used("enable", Bool),
    covered("disableCustomTLSFirstByte", Bool),
    used("certFile", Text),
    used("keyFile", Text),
    used("trustedCaFile", Text),
    used("serverName", Text),
];

// === shared by both files ===

/// Datagrams of every size pass.
const UDP_PACKET_SIZE: Key = covered("udpPacketSize", Int(0, 65_535));

const LOG: &[Key] = &[
    used("to", Text),
    used("level", OneOf(LEVELS, &[])),
    used("maxDays", Int(0, 36_500)),
    used("disablePrintColor", Bool),
    used("format", OneOf(&["text", "json"], &[])),
];

const AUTH_SERVER: &[Key] = &[
    AUTH_METHOD,
    AUTH_SCOPES,
    used("token", Text),
    used("tokenSource", Section(VALUE_SOURCE)),
    later("oidc", Section(OIDC_SERVER)),
];

const AUTH_CLIENT: &[Key] = &[
    AUTH_METHOD,
    AUTH_SCOPES,
    used("token", Text),
    used("tokenSource", Section(VALUE_SOURCE)),
    later("oidc", Section(OIDC_CLIENT)),
];

const AUTH_METHOD: Key = used("method", OneOf(&["token"], &["oidc"]));
/// Everything on a link happens within its login, so heartbeats and streams are always authenticated.
const AUTH_SCOPES: Key = covered("additionalScopes", Texts(&["HeartBeats", "NewWorkConns"]));

const VALUE_SOURCE: &[Key] = &[
    used("type", OneOf(&["file"], &["exec"])),
    used("file", Section(&[used("path", Text)])),
    later(
        "exec",
        Section(&[later("command", Text), later("args", Texts(&[])), later("env", Sections(NAME_VALUE))]),
    ),
];

const NAME_VALUE: &[Key] = &[later("name", Text), later("value", Text)];

const OIDC_SERVER: &[Key] = &[
    later("issuer", Text),
    later("audience", Text),
    later("skipExpiryCheck", Bool),
    later("skipIssuerCheck", Bool),
];

const OIDC_CLIENT: &[Key] = &[
    later("clientID", Text),
    later("clientSecret", Text),
    later("audience", Text),
    later("scope", Text),
    later("tokenEndpointURL", Text),
    later("additionalEndpointParams", TextMap),
    later("trustedCaFile", Text),
    later("insecureSkipVerify", Bool),
    later("proxyURL", Text),
    later("tokenSource", Anything),
];

const WEB_SERVER: &[Key] = &[
    later("addr", Text),
    later("port", PORT),
    later("user", Text),
    later("password", Text),
    later("assetsDir", Text),
    later("pprofEnable", Bool),
    later(
        "tls",
        Section(&[
            later("certFile", Text),
            later("keyFile", Text),
            later("trustedCaFile", Text),
            later("serverName", Text),
        ]),
    ),
];

const SSH_GATEWAY: &[Key] = &[
    later("bindPort", PORT),
    later("privateKeyFile", Text),
    later("autoGenPrivateKeyPath", Text),
    later("authorizedKeysFile", Text),
];

const QUIC: &[Key] = &[
    used("keepalivePeriod", PAUSE),
    used("maxIdleTimeout", PAUSE),
    used("maxIncomingStreams", Int(0, i64::MAX)),
];

const HTTP_PLUGIN: &[Key] = &[
    later("name", Text),
    later("addr", Text),
    later("path", Text),
    later("ops", Texts(&[])),
    later("tlsVerify", Bool),
];

// === proxies and visitors ===

const PROXIES: Key = used("proxies", Typed(PROXY, PROXY_TYPES));
const VISITORS: Key = used("visitors", Typed(VISITOR, VISITOR_TYPES));

/// What every proxy takes.
pub(super) const PROXY: &[Key] = &[
    used("name", Text),
    used("type", Text),
    used("enabled", Bool),
    used("annotations", TextMap),
    used("metadatas", TextMap),
    used("transport", Section(PROXY_TRANSPORT)),
    later("loadBalancer", Section(&[later("group", Text), later("groupKey", Text)])),
    later("healthCheck", Section(HEALTH_CHECK)),
    used("localIP", Text),
    used("localPort", PORT),
    later("plugin", Anything),
];

/// What a `tcp` proxy takes besides.
pub(super) const PROXY_TCP: &[Key] = &[REMOTE_PORT];
/// What a `udp` proxy takes besides.
pub(super) const PROXY_UDP: &[Key] = &[REMOTE_PORT, UDP_IDLE_TIMEOUT];
/// What an `stcp` proxy takes besides.
pub(super) const PROXY_STCP: &[Key] = &[SECRET_KEY, ALLOW_USERS];
/// What an `xtcp` proxy takes besides.
pub(super) const PROXY_XTCP: &[Key] = &[SECRET_KEY, ALLOW_USERS, NAT_TRAVERSAL];

/// What an `sudp` proxy takes besides.
pub(super) const PROXY_SUDP: &[Key] = &[SECRET_KEY, ALLOW_USERS, UDP_IDLE_TIMEOUT];
/// What an `xudp` proxy takes besides.
pub(super) const PROXY_XUDP: &[Key] = &[SECRET_KEY, ALLOW_USERS, NAT_TRAVERSAL, UDP_IDLE_TIMEOUT];

const PROXY_TRANSPORT: &[Key] = &[
    used("useEncryption", Bool),
    later("useCompression", Bool),
    used("bandwidthLimit", Text),
    used("bandwidthLimitMode", OneOf(&["client", "server"], &[])),
    later("proxyProtocolVersion", OneOf(&["v1", "v2"], &[])),
];

const HEALTH_CHECK: &[Key] = &[
    later("type", OneOf(&["tcp", "http"], &[])),
    later("timeoutSeconds", PAUSE),
    later("maxFailed", Int(0, 1_000_000)),
    later("intervalSeconds", PAUSE),
    later("path", Text),
    later("httpHeaders", Sections(NAME_VALUE)),
];

const HEADERS: &[Key] = &[later("set", TextMap)];
const REMOTE_PORT: Key = used("remotePort", PORT);
const DOMAINS: Key = later("customDomains", Texts(&[]));
const SUBDOMAIN: Key = later("subdomain", Text);
const HTTP_USER: Key = later("httpUser", Text);
const HTTP_PASSWORD: Key = later("httpPassword", Text);
const ROUTE_BY_USER: Key = later("routeByHTTPUser", Text);
const SECRET_KEY: Key = used("secretKey", Text);
const UDP_IDLE_TIMEOUT: Key = used("udpIdleTimeout", Int(1, 86_400));
const ALLOW_USERS: Key = used("allowUsers", Texts(&[]));
const NAT_TRAVERSAL: Key = used(
    "natTraversal",
    Section(&[
        used("disableAssistedAddrs", Bool),
        used("spray", Bool),
        used("portMapping", Bool),
        used("addresses", Texts(&[])),
        used("port", PORT),
    ]),
);

const PROXY_TYPES: &[Type] = &[
    Type { name: "tcp", keys: PROXY_TCP, status: Status::Used },
    Type { name: "udp", keys: PROXY_UDP, status: Status::Used },
    Type {
        name: "http",
        keys: &[
            DOMAINS,
            SUBDOMAIN,
            later("locations", Texts(&[])),
            HTTP_USER,
            HTTP_PASSWORD,
            later("hostHeaderRewrite", Text),
            later("requestHeaders", Section(HEADERS)),
            later("responseHeaders", Section(HEADERS)),
            ROUTE_BY_USER,
        ],
        status: Status::Later,
    },
    Type { name: "https", keys: &[DOMAINS, SUBDOMAIN], status: Status::Later },
    Type {
        name: "tcpmux",
        keys: &[DOMAINS, SUBDOMAIN, HTTP_USER, HTTP_PASSWORD, ROUTE_BY_USER, later("multiplexer", Text)],
        status: Status::Later,
    },
    Type { name: "stcp", keys: PROXY_STCP, status: Status::Used },
    Type { name: "sudp", keys: PROXY_SUDP, status: Status::Used },
    Type { name: "xtcp", keys: PROXY_XTCP, status: Status::Used },
    Type { name: "xudp", keys: PROXY_XUDP, status: Status::Used },
];

/// What every visitor takes.
pub(super) const VISITOR: &[Key] = &[
    used("name", Text),
    used("type", Text),
    used("enabled", Bool),
    used("transport", Section(VISITOR_TRANSPORT)),
    SECRET_KEY,
    used("serverUser", Text),
    used("serverName", Text),
    used("bindAddr", Text),
    used("bindPort", Int(-1, 65_535)),
    later("plugin", Anything),
];

/// What visitors carry is encrypted from end to end, whatever the links do.
const VISITOR_TRANSPORT: &[Key] = &[covered("useEncryption", Bool), later("useCompression", Bool)];

/// What an `xtcp` visitor takes besides.
pub(super) const VISITOR_XTCP: &[Key] = &[
    XTCP_PROTOCOL,
    KEEP_TUNNEL_OPEN,
    MAX_RETRIES_AN_HOUR,
    MIN_RETRY_INTERVAL,
    used("fallbackTo", Text),
    used("fallbackTimeoutMs", Int(0, 3_600_000)),
    NAT_TRAVERSAL,
];

/// What an `sudp` visitor takes besides.
pub(super) const VISITOR_SUDP: &[Key] = &[UDP_IDLE_TIMEOUT];

/// What an `xudp` visitor takes besides.
pub(super) const VISITOR_XUDP: &[Key] = &[
    XTCP_PROTOCOL,
    KEEP_TUNNEL_OPEN,
    MAX_RETRIES_AN_HOUR,
    MIN_RETRY_INTERVAL,
    NAT_TRAVERSAL,
    UDP_IDLE_TIMEOUT,
];

/// One protocol serves both names.
const XTCP_PROTOCOL: Key = covered("protocol", OneOf(&["quic", "kcp"], &[]));
const KEEP_TUNNEL_OPEN: Key = used("keepTunnelOpen", Bool);
const MAX_RETRIES_AN_HOUR: Key = used("maxRetriesAnHour", Int(0, 1_000_000));
const MIN_RETRY_INTERVAL: Key = used("minRetryInterval", PAUSE);

const VISITOR_TYPES: &[Type] = &[
    Type { name: "stcp", keys: &[], status: Status::Used },
    Type { name: "sudp", keys: VISITOR_SUDP, status: Status::Used },
    Type { name: "xtcp", keys: VISITOR_XTCP, status: Status::Used },
    Type { name: "xudp", keys: VISITOR_XUDP, status: Status::Used },
];
