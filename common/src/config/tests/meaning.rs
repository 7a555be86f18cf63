//! What sound files mean.

use std::num::NonZeroU64;
use std::time::Duration;

use super::*;
use crate::link::quic::tunnel::Options;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What the files of these tests say.
const QUIC: Options = Options { keep_alive: seconds(5), idle_timeout: seconds(20), max_streams: 100 };

#[test]
fn an_empty_file_is_all_defaults() {
    for text in ["", "\n\n", "# only a comment\n", "\u{feff}", "{}", "{ }\n", "---\n", "~"] {
        assert_eq!(server(text), ServerConfig::default(), "{text:?}");
        assert_eq!(client(text), ClientConfig::default(), "{text:?}");
    }
}

#[test]
fn every_key_of_a_server_arrives() {
    let config = server(
        r#"
        bindAddr = "::"
        bindPort = 7001
        quicBindPort = 7002
        kcpBindPort = 7003
        proxyBindAddr = "127.0.0.1"
        userConnTimeout = 4
        detailedErrorsToClient = false
        maxPortsPerClient = 5
        allowPorts = [{ start = 1000, end = 2000 }, { single = 3000 }]
        auth.token = "secret"
        stun = { enable = false, port = 3478, altPort = 3479, altAddr = "2001:db8::2" }
        log = { to = "/var/log/tuns.log", level = "trace", maxDays = 9, disablePrintColor = true, format = "json" }
        [transport]
        tcpMux = false
        tcpKeepalive = -1
        heartbeatTimeout = 90
        maxTunnelsPerClient = 64
        drainTimeout = 0
        maxStreamsPerClient = 100
        tls = { certFile = "c", keyFile = "k", trustedCaFile = "ca" }
        websocket.path = "/tunnel"
        quic = { keepalivePeriod = 5, maxIdleTimeout = 20, maxIncomingStreams = 100 }
        "#,
    );
    let want = ServerConfig {
        bind_addr: "::".into(),
        bind_port: 7001,
        quic_ports: QuicPorts { quic: 7002, kcp: 7003 },
        proxy_bind_addr: "127.0.0.1".into(),
        auth_token: Secret::new("secret"),
        user_conn_timeout: seconds(4),
        detailed_errors_to_client: false,
        max_ports_per_client: 5,
        allow_ports: vec![1000..=2000, 3000..=3000],
        stun: StunConfig {
            enable: false,
            port: Some(3478),
            alt_port: Some(3479),
            alt_addr: Some("2001:db8::2".parse().unwrap()),
        },
        log: LogConfig {
            to: LogTarget::File("/var/log/tuns.log".into()),
            level: LogLevel::Trace,
            max_days: 9,
            disable_print_color: true,
            format: LogFormat::Json,
        },
        transport: ServerTransport {
            tcp_mux: false,
            tcp_keepalive: None,
            heartbeat_timeout: seconds(90),
            max_tunnels_per_client: 64,
            drain_timeout: seconds(0),
            max_streams_per_client: 100,
            websocket_path: "/tunnel".into(),
            quic: QUIC,
            tls: ServerTls {
                force: true, // because of the CA
                cert_file: Some("c".into()),
                key_file: Some("k".into()),
                trusted_ca_file: Some("ca".into()),
            },
        },
    };
    assert_eq!(config, want);
}

#[test]
fn every_key_of_a_client_arrives() {
    let config = client(
        r#"
        serverAddr = "example.com"
        serverPort = 7001
        natHoleStunServer = "[2001:db8::1]:3479"
        user = "alice"
        clientID = "box"
        loginFailExit = false
        metadatas = { a = "1" }
        auth.token = "secret"
        dnsServer = "2001:db8::53"
        [transport]
        protocol = "wss"
        websocket = { path = "/tunnel", host = "cdn.example:8443" }
        dialServerTimeout = 5
        dialServerKeepalive = 60
        connectServerLocalIP = "192.0.2.5"
        proxyURL = "socks5://me:secret@proxy:1081"
        tcpMux = false
        heartbeatInterval = 1
        heartbeatTimeout = 4
        maxTunnels = 1
        drainTimeout = 2
        quic = { keepalivePeriod = 5, maxIdleTimeout = 20, maxIncomingStreams = 100 }
        tls = { enable = false, certFile = "c", keyFile = "k", trustedCaFile = "ca", serverName = "n" }
        [[proxies]]
        name = "web"
        type = "tcp"
        localIP = "10.0.0.1"
        localPort = 80
        remotePort = 8080
        annotations = { "example.com/owner" = "web" }
        metadatas = { b = "2" }
        transport = { bandwidthLimit = "1.5MB", bandwidthLimitMode = "server" }
        "#,
    );
    let want = ClientConfig {
        server_addr: "example.com".into(),
        server_port: 7001,
        nat_hole_stun_server: Some(("2001:db8::1".to_owned(), Some(3479))),
        dns_server: Some("[2001:db8::53]:53".parse().unwrap()),
        user: "alice".into(),
        client_id: Some("box".into()),
        auth_token: Secret::new("secret"),
        login_fail_exit: false,
        metadatas: [("a".into(), "1".into())].into(),
        log: LogConfig::default(),
        transport: ClientTransport {
            protocol: Protocol::Wss,
            websocket_path: "/tunnel".into(),
            websocket_host: Some("cdn.example:8443".into()),
            dial_server_timeout: seconds(5),
            dial_server_keepalive: Some(seconds(60)),
            connect_server_local_ip: Some("192.0.2.5".parse().unwrap()),
            proxy_url: "socks5://me:secret@proxy:1081".parse().unwrap(),
            tcp_mux: false,
            heartbeat_interval: seconds(1),
            heartbeat_timeout: seconds(4),
            max_tunnels: 1,
            drain_timeout: seconds(2),
            quic: QUIC,
            tls: ClientTls {
                enable: false,
                cert_file: Some("c".into()),
                key_file: Some("k".into()),
                trusted_ca_file: Some("ca".into()),
                server_name: "n".into(),
            },
        },
        proxies: vec![ProxyConfig {
            name: "alice.web".into(),
            kind: ProxyKind::Tcp { remote_port: 8080 },
            bandwidth: NonZeroU64::new(1536 * 1024)
                .map(|rate| BandwidthLimit { rate, mode: LimitMode::Server }),
            annotations: [("example.com/owner".into(), "web".into())].into(),
            metadatas: [("b".into(), "2".into())].into(),
            local_ip: "10.0.0.1".into(),
            local_port: 80,
        }],
        visitors: Vec::new(),
        source: None,
    };
    assert_eq!(config, want);
}

#[test]
fn every_key_of_a_private_service_arrives() {
    let config = client(
        r#"
        user = "alice"
        transport.tls.enable = false
        [[proxies]]
        name = "ssh"
        type = "stcp"
        secretKey = "knock"
        allowUsers = ["bob", "*"]
        localIP = "10.0.0.1"
        localPort = 22
        transport.useEncryption = true
        [[visitors]]
        name = "ssh"
        type = "stcp"
        enabled = true
        serverUser = "carol"
        serverName = "db"
        secretKey = "open"
        bindAddr = "[::1]"
        bindPort = 9000
        transport = { useEncryption = true, useCompression = false }
        [[visitors]]
        name = "quiet"
        type = "stcp"
        serverName = "own"
        secretKey = "sesame"
        bindPort = -1
        "#,
    );
    let proxy = ProxyConfig {
        name: "alice.ssh".into(),
        kind: ProxyKind::Private {
            secret_key: Secret::new("knock"),
            allow_users: vec!["bob".into(), "*".into()],
            direct: None,
            udp_idle: None,
        },
        bandwidth: None,
        annotations: Default::default(),
        metadatas: Default::default(),
        local_ip: "10.0.0.1".into(),
        local_port: 22,
    };
    assert_eq!(config.proxies, [proxy]);
    let visitors = [
        VisitorConfig {
            name: "alice.ssh".into(),
            kind: VisitorKind::Stcp,
            server_name: "carol.db".into(),
            secret_key: Secret::new("open"),
            bind_addr: "::1".into(),
            bind_port: Some(9000),
            udp_idle: None,
        },
        VisitorConfig {
            name: "alice.quiet".into(),
            kind: VisitorKind::Stcp,
            server_name: "alice.own".into(),
            secret_key: Secret::new("sesame"),
            bind_addr: "127.0.0.1".into(),
            bind_port: None,
            udp_idle: None,
        },
    ];
    assert_eq!(config.visitors, visitors);
    assert_eq!(client(VISITOR).visitors[0].server_name, "web", "without users there is no prefix");
}

#[test]
fn every_key_of_a_service_that_is_met_directly_arrives() {
    let config = client(
        r#"
        user = "alice"
        [[proxies]]
        name = "ssh"
        type = "xtcp"
        secretKey = "knock"
        allowUsers = ["bob"]
        localPort = 22
        [proxies.natTraversal]
        disableAssistedAddrs = true
        spray = false
        portMapping = false
        addresses = ["192.0.2.7:7010", "[2001:db8::7]:7010"]
        port = 7010
        [[visitors]]
        name = "db"
        type = "xtcp"
        serverUser = "carol"
        serverName = "db"
        secretKey = "open"
        bindPort = 9000
        protocol = "kcp"
        keepTunnelOpen = true
        maxRetriesAnHour = 3
        minRetryInterval = 30
        fallbackTo = "relayed"
        fallbackTimeoutMs = 250
        natTraversal.port = 7011
        [[visitors]]
        name = "relayed"
        type = "xtcp"
        serverName = "db"
        secretKey = "open"
        bindPort = -1
        "#,
    );
    let traversal = NatTraversal {
        disable_assisted_addrs: true,
        spray: false,
        port_mapping: false,
        addresses: vec!["192.0.2.7:7010".parse().unwrap(), "[2001:db8::7]:7010".parse().unwrap()],
        port: 7010,
    };
    let kind = ProxyKind::Private {
        secret_key: Secret::new("knock"),
        allow_users: vec!["bob".into()],
        direct: Some(traversal),
        udp_idle: None,
    };
    assert_eq!(config.proxies[0].kind, kind);
    let visitor = XtcpVisitor {
        nat_traversal: NatTraversal { port: 7011, ..NatTraversal::default() },
        keep_tunnel_open: true,
        max_retries_an_hour: 3,
        min_retry_interval: seconds(30),
        fallback: Some(Fallback { to: "alice.relayed".into(), timeout: Duration::from_millis(250) }),
    };
    assert_eq!(config.visitors[0].xtcp(), Some(&visitor));
    assert_eq!(config.visitors[1].xtcp(), Some(&XtcpVisitor::default()));
    assert_eq!(config.visitors[1].name, "alice.relayed");
    let short = client(&format!(
        "{}fallbackTo = 'w'\nfallbackTimeoutMs = 0{}",
        VISITOR.replace("stcp", "xtcp"),
        VISITOR.replace("\"v\"", "'w'")
    ));
    let fallback = short.visitors[0].xtcp().and_then(|xtcp| xtcp.fallback.clone()).unwrap();
    assert_eq!(fallback.timeout, seconds(1));
}

#[test]
fn a_visitor_may_fall_back_to_one_of_another_file() {
    let directory = tempfile::tempdir().unwrap();
    let [main, more] = ["main.toml", "more.toml"].map(|name| directory.path().join(name));
    let visitor = VISITOR.replace("stcp", "xtcp");
    std::fs::write(&main, format!("includes = ['more.toml']\n{visitor}fallbackTo = 'w'")).unwrap();
    std::fs::write(&more, VISITOR.replace("\"v\"", "'w'")).unwrap();
    assert_eq!(loader().client(&main).unwrap().config.visitors.len(), 2);
    std::fs::write(&more, visitor.replace("\"v\"", "'w'") + "fallbackTo = 'v'").unwrap();
    let error = loader().client(&main).unwrap_err();
    let places: Vec<_> =
        error.problems().iter().map(|p| (p.file.clone().unwrap(), p.line.unwrap())).collect();
    assert_eq!(places, [(main, 9), (more, 8)]);
}

#[test]
fn a_private_service_without_a_secret_is_worth_a_warning_each() {
    let text = format!(
        "auth.token = 'x'\n[[proxies]]\nname = 'p'\ntype = 'stcp'\nlocalPort = 1{}",
        VISITOR.replace("secretKey = \"s\"", "secretKey = ''")
    );
    let loaded = loader().client_from_str(&text).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(|w| (w.line.unwrap(), w.message.as_str())).collect();
    let [(2, proxy), (10, visitor)] = warnings[..] else { panic!("two warnings: {warnings:?}") };
    assert!(proxy.starts_with("`proxies[0].secretKey` is empty: "), "{proxy}");
    assert!(visitor.starts_with("`visitors[0].secretKey` is empty: "), "{visitor}");
}

#[test]
fn the_three_formats_say_the_same() {
    let toml = client(
        "serverAddr = 'a'\n[[proxies]]\nname = 'w'\ntype = 'tcp'\nlocalPort = 80\nmetadatas.k = 'v'\n[transport.tls]\nenable = false",
    );
    let json = client(
        r#"{ "serverAddr": "a", "transport": { "tls": { "enable": false } },
             "proxies": [{ "name": "w", "type": "tcp", "localPort": 80, "metadatas": { "k": "v" } }] }"#,
    );
    let yaml = client(
        "serverAddr: a\nproxies:\n- name: w\n  type: tcp\n  localPort: 80\n  metadatas: {k: v}\ntransport:\n  tls:\n    enable: false\n",
    );
    assert_eq!(toml, json);
    assert_eq!(toml, yaml);
}

#[test]
fn keys_match_without_regard_to_case_and_lines_may_be_indented_and_end_as_on_windows() {
    let config =
        server("\u{feff}\tBINDPORT = 7001\r\n\t[Transport]\r\n\t\tTcpMUX = false\r\n\ttls.FORCE = true\r\n");
    assert_eq!((config.bind_port, config.transport.tcp_mux, config.transport.tls.force), (7001, false, true));
}

#[test]
fn zero_and_empty_mean_the_default_as_in_frp() {
    let text = "bindAddr = ''\nproxyBindAddr = ''\nuserConnTimeout = 0\nallowPorts = []\nlog = { to = '', level = '', maxDays = 0 }\n\
                transport = { heartbeatTimeout = 0, tcpKeepalive = 0 }";
    assert_eq!(server(text), ServerConfig::default());
    let text = "serverAddr = ''\nserverPort = 0\nuser = ''\nclientID = ''\nstart = []\n\
                transport = { heartbeatInterval = 0, heartbeatTimeout = -1, dialServerTimeout = 0, protocol = '' }";
    assert_eq!(client(text), ClientConfig::default());
    assert_eq!(server("log:\nbindAddr: ~\n"), ServerConfig::default());
}

#[test]
fn bind_port_0_is_kept_because_it_means_any_port() {
    assert_eq!(server("bindPort = 0").bind_port, 0);
}

#[test]
fn public_ports_listen_where_clients_connect_unless_told_otherwise() {
    assert_eq!(server("bindAddr = '127.0.0.1'").proxy_bind_addr, "127.0.0.1");
}

#[test]
fn a_longer_heartbeat_interval_makes_the_default_timeout_longer() {
    assert_eq!(client("transport.heartbeatInterval = 30").transport.heartbeat_timeout, seconds(90));
    assert_eq!(client("transport.heartbeatInterval = 1").transport.heartbeat_timeout, seconds(9));
}

#[test]
fn what_is_always_so_may_be_asked_for() {
    client(&format!(
        "auth.additionalScopes = ['HeartBeats', 'NewWorkConns']\nauth.method = 'token'\n[transport]\npoolCount = 5\n\
         wireProtocol = 'v2'\ntcpMuxKeepaliveInterval = 30\ntls.disableCustomTLSFirstByte = false\n{PROXY}\
         transport.useEncryption = true\ntransport.useCompression = false\ntransport.bandwidthLimit = ''"
    ));
    server("transport.maxPoolCount = 5\ntransport.tcpMuxKeepaliveInterval = 30");
}

#[test]
fn keys_that_are_not_built_may_say_that_they_are_off() {
    server(
        "vhostHTTPPort = 0\nkcpBindPort = 0\nsubDomainHost = ''\nenablePrometheus = false\nwebServer = { port = 0, user = '' }",
    );
    client(&format!("dnsServer = ''\nvisitors = []\n{PROXY}healthCheck.type = ''\nplugin = {{}}"));
}

#[test]
fn only_enabled_proxies_that_are_on_the_start_list_run() {
    let proxy = |name: &str, more: &str| {
        format!("[[proxies]]\nname = '{name}'\ntype = 'tcp'\nlocalPort = 1\n{more}\n")
    };
    let all = [proxy("a", ""), proxy("b", "enabled = false"), proxy("c", "enabled = true")].concat();
    let names = |text: &str| client(text).proxies.into_iter().map(|p| p.name).collect::<Vec<_>>();
    assert_eq!(names(&all), ["a", "c"]);
    assert_eq!(names(&format!("user = 'u'\nstart = ['c', 'b']\n{all}")), ["u.c"]);
    let loaded = loader().client_from_str(&format!("start = [\n'x']\n{all}")).unwrap();
    assert!(loaded.config.proxies.is_empty());
    assert!(loaded.warnings.iter().any(|w| w.line == Some(2) && w.message.contains("no such proxy")));
}

#[test]
fn only_enabled_visitors_that_are_on_the_start_list_run() {
    let visitor = |name: &str, more: &str| VISITOR.replace("\"v\"", &format!("'{name}'")) + more;
    // Proxies and visitors have their names apart.
    let all = [visitor("a", ""), visitor("b", "enabled = false"), visitor("web", ""), PROXY.into()].concat();
    let names = |text: &str| client(text).visitors.into_iter().map(|v| v.name).collect::<Vec<_>>();
    assert_eq!(names(&all), ["a", "web"]);
    let some = client(&format!("user = 'u'\nstart = ['a', 'b']\n{all}"));
    assert_eq!((some.visitors.len(), some.proxies.len()), (1, 0));
    assert_eq!(some.visitors[0].name, "u.a");
    let loaded = loader().client_from_str(&format!("auth.token = 'x'\nstart = ['a', 'web']\n{all}")).unwrap();
    assert_eq!(loaded.warnings, []);
}

#[test]
fn what_does_not_run_need_not_be_built() {
    let text =
        "[[proxies]]\nname = 'a'\ntype = 'udp'\nlocalPort = 1\nenabled = false\nloadBalancer.group = 'g'";
    assert!(client(text).proxies.is_empty());
    let text = "[[visitors]]\nname = 'a'\ntype = 'sudp'\nenabled = false";
    assert!(client(text).visitors.is_empty());
}

#[test]
fn an_empty_token_is_worth_one_warning() {
    let warnings = |text: &str| loader().server_from_str(text).unwrap().warnings;
    let [warning] = &warnings("")[..] else { panic!("one warning") };
    assert!(warning.to_string().starts_with("`auth.token` is empty"), "{warning}");
    assert_eq!(warnings("auth.token = 'x'"), []);
}

#[test]
fn the_token_comes_from_flag_file_and_environment_in_this_order() {
    let mut loader = loader();
    loader.env.insert(TOKEN_VARIABLE.into(), "env\n".into());
    let token = |loader: &Loader, text| loader.server_from_str(text).unwrap().config.auth_token;
    assert_eq!(token(&loader, "").expose(), "env");
    assert_eq!(token(&loader, "auth.token = ''").expose(), "env");
    assert_eq!(token(&loader, "auth.token = 'file'").expose(), "file");
    loader.token = Some("flag".into());
    assert_eq!(token(&loader, "auth.token = 'file'").expose(), "flag");
}

#[test]
fn unknown_keys_are_only_warnings_when_asked() {
    let tolerant = Loader { strict: false, ..loader() };
    let loaded = tolerant.server_from_str("auth.token = 'x'\nbindPrt = 1\nbindPort = 7001").unwrap();
    assert_eq!(loaded.config.bind_port, 7001);
    let [warning] = &loaded.warnings[..] else { panic!("one warning") };
    assert!(warning.line == Some(2) && warning.message.contains("did you mean `bindPort`"), "{warning}");
    // What is known and not built is still refused, and so are wrong values.
    assert!(tolerant.server_from_str("vhostHTTPPort = 1").is_err());
    assert!(tolerant.server_from_str("bindPort = -1").is_err());
}

#[test]
fn services_of_datagrams_mean_what_they_say() {
    let proxy = |text: &str| {
        client(&format!("[[proxies]]\nname = 'a'\nlocalPort = 53\n{text}")).proxies.remove(0).kind
    };
    assert_eq!(proxy("type = 'udp'"), ProxyKind::Udp { remote_port: 0, idle: DEFAULT_UDP_IDLE });
    let kind = proxy("type = 'udp'\nremotePort = 6053\nudpIdleTimeout = 5");
    assert_eq!(kind, ProxyKind::Udp { remote_port: 6053, idle: Duration::from_secs(5) });
    for (name, directly) in [("sudp", false), ("xudp", true)] {
        let kind = proxy(&format!("type = '{name}'\nsecretKey = 's'\nudpIdleTimeout = 7"));
        let ProxyKind::Private { direct, udp_idle, .. } = kind else { panic!("{name}") };
        assert_eq!((direct.is_some(), udp_idle), (directly, Some(Duration::from_secs(7))), "{name}");
        let text = VISITOR.replace("type = \"stcp\"", &format!("type = \"{name}\""));
        let visitor = client(&text).visitors.remove(0);
        assert_eq!(
            (visitor.xtcp().is_some(), visitor.udp_idle),
            (directly, Some(DEFAULT_UDP_IDLE)),
            "{name}"
        );
    }
    // Every size passes, whatever these say.
    client("udpPacketSize = 1500");
    server("udpPacketSize = 1500");
}

#[test]
fn quic_has_two_names_and_the_defaults_of_frp() {
    for protocol in ["quic", "kcp"] {
        let text =
            format!("transport.protocol = '{protocol}'\ntransport.quic.maxIncomingStreams = 9_000_000_000");
        let transport = client(&text).transport;
        assert_eq!((transport.protocol, transport.quic.max_streams), (Protocol::Quic, u32::MAX));
    }
    let zeroes = "[transport.quic]\nkeepalivePeriod = 0\nmaxIdleTimeout = 0\nmaxIncomingStreams = 0";
    let want = Options { keep_alive: seconds(10), idle_timeout: seconds(30), max_streams: 100_000 };
    assert_eq!(client(zeroes).transport.quic, want);
}

#[test]
fn quic_is_always_encrypted_and_says_so() {
    let warnings = |text: &str| -> Vec<String> {
        let loaded =
            loader().client_from_str(&format!("auth.token = 'x'\ntransport.tls.enable = false\n{text}"));
        loaded.unwrap().warnings.iter().map(ToString::to_string).collect()
    };
    let said = warnings("transport.protocol = 'quic'");
    assert!(said.len() == 1 && said[0].contains("QUIC is always encrypted"), "{said:?}");
    assert_eq!(warnings("transport.protocol = 'auto'"), Vec::<String>::new());
    let said = warnings("transport.protocol = 'auto'\ntransport.tls.serverName = 'x'");
    assert!(said.len() == 1 && said[0].contains("but over QUIC"), "{said:?}");
    let encrypted = format!(
        "transport.protocol = 'quic'\ntransport.tls.enable = false{PROXY}transport.useEncryption = true"
    );
    assert_eq!(client(&encrypted).proxies.len(), 1);
}
