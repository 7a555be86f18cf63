//! What is refused, and in which words.

use super::*;

#[test]
fn all_problems_of_a_file_are_reported_at_once_in_its_order() {
    let found = server_problems(
        "bindPort = 70000\nbindAdr = \"::\"\n\n[log]\nlevel = \"loud\"\n[transport]\ntcpMux = \"yes\"\nkcp = 1\n",
    );
    let want = [
        (1, "`bindPort` must be a whole number from 0 to 65535, not 70000"),
        (2, "`bindAdr` is not a known key; did you mean `bindAddr`?"),
        (5, "`log.level` must be one of trace, debug, info, warn, error, not \"loud\""),
        (7, "`transport.tcpMux` must be true or false, not a text (write true or false, without quotes)"),
        (8, "`transport.kcp` is not a known key"),
    ];
    assert_eq!(found, want.map(|(line, text)| (line, text.to_owned())));
}

#[test]
fn a_problem_names_file_line_and_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f");
    std::fs::write(&path, "\n\tbindPrt = 1\n").unwrap();
    let error = loader().server(&path).unwrap_err();
    let want = format!("{}:2: `bindPrt` is not a known key; did you mean `bindPort`?", path.display());
    assert_eq!(error.to_string(), want);
}

#[test]
fn unknown_keys_come_with_the_best_guess() {
    for (text, guess) in [
        ("bind_port = 1", "did you mean `bindPort`?"),
        ("token = 'x'", "did you mean `auth.token`?"),
        (
            "[log]\nbindPort = 1",
            "did you mean `bindPort`? (in TOML a key belongs to the last [section] above it)",
        ),
        ("transport.heartbeatTimeot = 1", "did you mean `transport.heartbeatTimeout`?"),
        ("transport.tls.ca = 'x'", "`transport.tls.ca` is not a known key"),
        ("transport.tls.force: true", "only TOML has dots in keys, so write nested sections"),
        ("serverAddr = 'x'", "it belongs into the file of tunc"),
    ] {
        let (_, message) = only(server_problems(text));
        assert!(message.ends_with(guess), "{text}: {message}");
    }
    let (line, message) = only(client_problems(&format!("{PROXY}remoteport = 1\nlisten = 'x'")));
    assert_eq!((line, &*message), (7, "`proxies[0].listen` is not a known key"));
    assert!(only(client_problems("bindPort = 1")).1.contains("the file of tuns"));
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (text, name) in [
        ("vhostHTTPPort = 80", "`vhostHTTPPort`"),
        ("subdomainHost = 'x'", "`subDomainHost`"),
        ("enablePrometheus = true", "`enablePrometheus`"),
        ("auth.method = 'oidc'", "`auth.method` = \"oidc\""),
        ("auth.oidc.issuer = 'x'", "`auth.oidc`"),
        ("webServer = { addr = 'x', port = 1 }", "`webServer`"),
        ("sshTunnelGateway.bindPort = 1", "`sshTunnelGateway`"),
        ("[[httpPlugins]]\nname = 'x'", "`httpPlugins`"),
        ("featureGates = { VirtualNet = true }", "`featureGates`"),
    ] {
        let (_, message) = only(server_problems(text));
        assert_eq!(message, format!("{name} is not supported by this version of tun"));
    }
    for (text, name) in [("store.path = 'x'", "`store`"), ("virtualNet.address = 'x'", "`virtualNet`")] {
        let (_, message) = only(client_problems(text));
        assert_eq!(message, format!("{name} is not supported by this version of tun"));
    }
    for (more, name) in [
        ("healthCheck.type = 'tcp'", "healthCheck`"),
        ("loadBalancer.group = 'x'", "loadBalancer`"),
        ("transport.proxyProtocolVersion = 'v2'", "transport.proxyProtocolVersion`"),
        ("transport.useCompression = true", "transport.useCompression`"),
        ("plugin = { type = 'http_proxy' }", "plugin`"),
    ] {
        let (_, message) = only(client_problems(&format!("{PROXY}{more}")));
        assert_eq!(message, format!("`proxies[0].{name} is not supported by this version of tun"));
    }
    for (more, name) in [
        ("transport.useCompression = true", "transport.useCompression`"),
        ("plugin = { type = 'virtual_net' }", "plugin`"),
    ] {
        let (_, message) = only(client_problems(&format!("{VISITOR}{more}")));
        assert_eq!(message, format!("`visitors[0].{name} is not supported by this version of tun"));
    }
}

#[test]
fn proxies_of_other_types_are_refused_by_type_and_nothing_else_is_said() {
    let text = "[[proxies]]\nname = 'a'\ntype = 'http'\nlocalPort = 1\n";
    let found = only(client_problems(text));
    assert_eq!(found, (3, "`proxies[0].type` = \"http\" is not supported by this version of tun".into()));
    let text = "[[proxies]]\nname = 'a'\ntype = 'plugged'\n";
    assert_eq!(
        only(client_problems(text)).1,
        "`proxies[0].type` must be one of tcp, udp, http, https, tcpmux, stcp, sudp, xtcp, xudp, not \"plugged\""
    );
}

#[test]
fn a_key_of_another_type_is_told_apart_from_a_slip() {
    let (_, message) = only(client_problems(&format!("{PROXY}customDomains = ['x']")));
    assert_eq!(message, "`proxies[0].customDomains` belongs to the types http, https, tcpmux, not to tcp");
}

#[test]
fn a_proxy_needs_name_type_and_port() {
    assert_eq!(
        client_problems("[[proxies]]\n"),
        [(1, "`proxies[0].type` is missing".to_owned()), (1, "`proxies[0].name` is missing".to_owned())]
    );
    let (line, message) = only(client_problems("[[proxies]]\nname = 'a'\ntype = 'tcp'\nlocalPort = 0"));
    assert_eq!((line, &*message), (4, "`proxies[0].localPort` is missing (a port from 1 to 65535)"));
    let (_, message) = only(client_problems("[[proxies]]\nname = 'a'\ntype = 'tcp'\nlocalPort = '80'"));
    assert_eq!(
        message,
        "`proxies[0].localPort` must be a whole number from 0 to 65535, not a text (remove the quotes)"
    );
}

#[test]
fn two_proxies_or_two_visitors_of_one_name_are_refused() {
    let (line, message) = only(client_problems(&format!("{PROXY}{PROXY}")));
    assert_eq!((line, &*message), (8, "two proxies are named \"web\"; the first is at line 3"));
    let (line, message) = only(client_problems(&format!("{VISITOR}{VISITOR}")));
    assert_eq!((line, &*message), (10, "two visitors are named \"v\"; the first is at line 3"));
}

#[test]
fn a_private_proxy_has_a_local_port_and_no_public_one() {
    let text = "[[proxies]]\nname = 'a'\ntype = 'stcp'\nsecretKey = 's'";
    assert_eq!(only(client_problems(text)).1, "`proxies[0].localPort` is missing (a port from 1 to 65535)");
    let text = format!("{text}\nlocalPort = 1\nremotePort = 2");
    assert_eq!(
        only(client_problems(&text)).1,
        "`proxies[0].remotePort` belongs to the types tcp, udp, not to stcp"
    );
    let (_, message) = only(client_problems(&format!("{PROXY}secretKey = 's'")));
    assert_eq!(message, "`proxies[0].secretKey` belongs to the types stcp, sudp, xtcp, xudp, not to tcp");
}

#[test]
fn a_service_of_datagrams_takes_what_belongs_to_it() {
    let udp = "[[proxies]]\nname = 'a'\ntype = 'udp'\nlocalPort = 53\n";
    let (line, message) = only(client_problems(&format!("{udp}udpIdleTimeout = 0")));
    assert_eq!(
        (line, &*message),
        (5, "`proxies[0].udpIdleTimeout` must be a whole number from 1 to 86400, not 0")
    );
    let (_, message) = only(client_problems(&format!("{PROXY}udpIdleTimeout = 5")));
    assert_eq!(message, "`proxies[0].udpIdleTimeout` belongs to the types udp, sudp, xudp, not to tcp");
    let (_, message) = only(client_problems(&format!(
        "{udp}transport.useEncryption = true\n[transport]\ntls.enable = false"
    )));
    assert_eq!(message, "`proxies[0].transport.useEncryption` needs `transport.tls.enable` = true");
    let visitor =
        "[[visitors]]\nname = 'v'\ntype = 'xudp'\nserverName = 'a'\nbindPort = 1\nsecretKey = 's'\n";
    let (line, message) = only(client_problems(&format!("{visitor}fallbackTo = 'w'")));
    assert_eq!((line, &*message), (7, "`visitors[0].fallbackTo` belongs to the types xtcp, not to xudp"));
}

#[test]
fn a_visitor_needs_a_name_a_proxy_and_a_port() {
    assert_eq!(
        client_problems("[[visitors]]\ntype = 'stcp'"),
        [(1, "`visitors[0].name` is missing".to_owned())]
    );
    let port = "`visitors[0].bindPort` is missing (a port from 1 to 65535, or -1 for no listener)";
    assert_eq!(
        client_problems("[[visitors]]\nname = 'a'\ntype = 'stcp'\nbindPort = 0"),
        [
            (1, "`visitors[0].serverName` is missing (the name of the proxy to visit)".to_owned()),
            (4, port.to_owned())
        ]
    );
    for (more, message) in [
        ("bindPort = -2", "`visitors[0].bindPort` must be a whole number from -1 to 65535, not -2"),
        (
            "bindPort = 1\nbindAddr = 'a b'",
            "`visitors[0].bindAddr` must be a host name or an IP address, not \"a b\"",
        ),
        ("bindPort = 1\nlocalPort = 2", "`visitors[0].localPort` is not a known key"),
        ("bindPort = 1\nfallbackTo = 'x'", "`visitors[0].fallbackTo` belongs to the types xtcp, not to stcp"),
    ] {
        let text =
            format!("[[visitors]]\nname = 'a'\ntype = 'stcp'\nserverName = 'b'\nsecretKey = 's'\n{more}");
        assert_eq!(only(client_problems(&text)).1, message);
    }
    let text = format!("{VISITOR}serverUser = 'u'").replace("\"web\"", "\"we\\nb\"");
    assert_eq!(
        only(client_problems(&text)).1,
        "`visitors[0].serverName` must not hold control characters: \"we\\nb\""
    );
}

#[test]
fn a_visitor_falls_back_to_another_one_that_runs_and_not_in_a_circle() {
    let visitor = |name: &str, more: &str| {
        format!(
            "[[visitors]]\nname = '{name}'\ntype = 'xtcp'\nserverName = 'x'\nsecretKey = 's'\nbindPort = -1\n{more}\n"
        )
    };
    let a = |to: &str| visitor("a", &format!("fallbackTo = '{to}'"));
    let off = VISITOR.to_owned() + "enabled = false";
    for (text, message) in [
        (a("a"), "names the visitor itself"),
        (a("b"), "names \"b\", but there is no such visitor"),
        (a("b") + PROXY.replace("web", "b").as_str(), "names \"b\", but there is no such visitor"),
        (a("v") + &off, "names \"v\", which does not run (see its `enabled`, and `start`)"),
        (
            format!("start = ['a']\n{}{VISITOR}", a("v")),
            "names \"v\", which does not run (see its `enabled`, and `start`)",
        ),
    ] {
        let (line, found) = only(client_problems(&text));
        let line_of_key = 1 + text.lines().position(|line| line.starts_with("fallbackTo")).unwrap();
        assert_eq!(
            (line as usize, found),
            (line_of_key, format!("`visitors[0].fallbackTo` {message}")),
            "{text}"
        );
    }
    let circle = [a("b"), visitor("b", "fallbackTo = 'c'"), visitor("c", "fallbackTo = 'b'")].concat();
    assert_eq!(
        client_problems(&circle),
        [
            (14, "`visitors[1].fallbackTo` leads in a circle: b -> c -> b".to_owned()),
            (21, "`visitors[2].fallbackTo` leads in a circle: c -> b -> c".to_owned()),
        ]
    );
    // What does not run leads nowhere.
    client(&(a("b") + "enabled = false"));
}

#[test]
fn nat_traversal_is_checked() {
    let proxy = "[[proxies]]\nname = 'a'\ntype = 'xtcp'\nlocalPort = 1\n";
    let addresses = |text: &str| {
        format!(
            "`proxies[0].natTraversal.addresses` must hold addresses with ports, such as \"192.0.2.7:7010\" or \
             \"[2001:db8::7]:7010\", not \"{text}\""
        )
    };
    for (more, message) in [
        ("addresses = ['192.0.2.7']", addresses("192.0.2.7")),
        ("addresses = ['example.com:1']", addresses("example.com:1")),
        ("addresses = ['192.0.2.7:0']", addresses("192.0.2.7:0")),
        ("addresses = ['2001:db8::7:1']", addresses("2001:db8::7:1")),
        ("addresses = ['[::]:1']", addresses("[::]:1")),
        ("addresses = ['224.0.0.1:1']", addresses("224.0.0.1:1")),
        (
            "addresses = '192.0.2.7:1'",
            "`proxies[0].natTraversal.addresses` must be a list of texts, not a text (put it in square brackets)".into(),
        ),
        ("port = 65536", "`proxies[0].natTraversal.port` must be a whole number from 0 to 65535, not 65536".into()),
        ("spray = 1", "`proxies[0].natTraversal.spray` must be true or false, not a whole number".into()),
        ("upnp = true", "`proxies[0].natTraversal.upnp` is not a known key".into()),
    ] {
        assert_eq!(only(client_problems(&format!("{proxy}natTraversal.{more}"))).1, message);
    }
    let (_, message) = only(client_problems(&format!("{PROXY}natTraversal.spray = false")));
    assert_eq!(message, "`proxies[0].natTraversal` belongs to the types xtcp, xudp, not to tcp");
    let visitor = VISITOR.replace("stcp", "xtcp");
    let (_, message) = only(client_problems(&format!("{visitor}protocol = 'sctp'")));
    assert_eq!(message, "`visitors[0].protocol` must be one of quic, kcp, not \"sctp\"");
}

#[test]
fn a_key_given_twice_in_different_case_is_refused_in_every_format() {
    for text in
        ["bindPort = 1\nBindPort = 2", "{\"bindPort\": 1,\n\"BINDPORT\": 2}", "bindPort: 1\nbindport: 2"]
    {
        let (line, message) = only(server_problems(text));
        assert_eq!(
            (line, &*message),
            (2, "`bindPort` is given twice, first in line 1 (case does not matter)")
        );
    }
    // The same spelling: TOML's own parser sees it, the others leave it to us.
    for text in
        ["bindPort = 1\nbindPort = 2", "{\"bindPort\": 1,\n\"bindPort\": 2}", "bindPort: 1\nbindPort: 2"]
    {
        assert_eq!(only(server_problems(text)).0, 2, "{text}");
    }
}

#[test]
fn wrong_types_are_explained() {
    for (text, message) in [
        ("bindPort = 1.5", "`bindPort` must be a whole number from 0 to 65535, not a fraction"),
        ("bindPort = -1", "`bindPort` must be a whole number from 0 to 65535, not -1"),
        (
            "bindPort = 99999999999999999999",
            "`bindPort` must be a whole number from 0 to 65535, not 99999999999999999999",
        ),
        ("bindPort = 1979-05-27", "`bindPort` must be a whole number from 0 to 65535, not a date"),
        ("bindAddr = 1", "`bindAddr` must be a text, not a whole number (put it in quotes)"),
        ("log = 'x'", "`log` must be a section, not a text"),
        ("[[log]]\nlevel = 'info'", "`log` must be a section, not a list"),
        ("allowPorts = 'x'", "`allowPorts` must be a list of sections, not a text"),
        ("allowPorts = [1]", "`allowPorts[0]` must be a section, not a whole number"),
        ("allowPorts = [{ start = 1 }]", "`allowPorts[0]` needs `start` and `end`, or `single`"),
        ("allowPorts = [{ start = 2, end = 1 }]", "`allowPorts[0]` ends (1) before it starts (2)"),
        (
            "auth.additionalScopes = ['x']",
            "`auth.additionalScopes` may hold HeartBeats, NewWorkConns, not \"x\"",
        ),
        ("bindAddr = 'a b'", "`bindAddr` must be a host name or an IP address, not \"a b\""),
        (
            "transport.maxTunnelsPerClient = 65",
            "`transport.maxTunnelsPerClient` must be a whole number from 1 to 64, not 65",
        ),
        ("transport.tls.certFile = 'x'", "`transport.tls.certFile` needs `transport.tls.keyFile` too"),
    ] {
        assert_eq!(only(server_problems(text)).1, message);
    }
    for (text, message) in [
        ("start = 'x'", "`start` must be a list of texts, not a text (put it in square brackets)"),
        ("start = [1]", "`start[]` must be a text, not a whole number (put it in quotes)"),
        ("metadatas.a = 1", "`metadatas.a` must be a text, not a whole number (put it in quotes)"),
        (
            "[proxies]\nname = 'x'",
            "`proxies` must be a list of sections, not a section (in TOML: double the square brackets)",
        ),
        ("proxies = ['x']", "`proxies[0]` must be a section, not a text"),
        (
            "transport = { heartbeatInterval = 10, heartbeatTimeout = 5 }",
            "`transport.heartbeatTimeout` (5 s) must not be shorter than `transport.heartbeatInterval` (10 s)",
        ),
    ] {
        assert_eq!(only(client_problems(text)).1, message);
    }
    for text in ["? [1, 2]\n: x", "- a\n- b", "just words"] {
        let (_, message) = only(server_problems(text));
        assert!(message.contains("must hold keys and values") || message.contains("plain text"), "{message}");
    }
}

#[test]
fn encryption_that_cannot_be_had_is_refused() {
    let text = format!("transport.tls.enable = false{PROXY}transport.useEncryption = true");
    let (line, message) = only(client_problems(&text));
    assert_eq!(line, 6);
    assert_eq!(message, "`proxies[0].transport.useEncryption` needs `transport.tls.enable` = true");
}

#[test]
fn token_sources_are_checked() {
    for (text, part) in [
        (
            "auth = { token = 'x', tokenSource = { type = 'file', file = { path = '/nonexistent' } } }",
            "exclude each other",
        ),
        (
            "auth.tokenSource = { type = 'file', file = { path = '/nonexistent' } }",
            "cannot read the token file /nonexistent",
        ),
        ("auth.tokenSource.type = 'file'", "`auth.tokenSource.file.path` is missing"),
        ("auth.tokenSource.file.path = 'x'", ""),
        ("auth.tokenSource.type = 'exec'", "unsafe feature \"TokenSourceExec\" is not enabled"),
        ("auth.tokenSource.type = 'magic'", "`auth.tokenSource.type` must be \"file\", not \"magic\""),
    ] {
        let found = server_problems(text);
        assert!(found.iter().any(|(_, message)| message.contains(part)), "{text}: {found:?}");
    }
}

#[test]
fn an_error_never_shows_a_secret() {
    for text in [
        "auth.token = ['hunter2']",
        "auth.token = \"hunter2",
        "auth.token = hunter2",
        "auth: {token: hunter2",
        "{\"auth\": {\"token\": \"hunter2\"}",
        "auth.token = 'hunter2'\nbindPrt = 1",
        "auth.oidc.clientSecret = 'hunter2'",
    ] {
        let error = loader().server_from_str(text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    let loaded = loader().server_from_str("auth.token = 'hunter2'").unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"));
    let private = "\n[[proxies]]\nname = 'p'\ntype = 'stcp'\nlocalPort = 1\nsecretKey = 'hunter2'";
    let loaded = client(&format!("{VISITOR}{private}").replace("\"s\"", "'hunter2'"));
    assert!(!format!("{loaded:?}").contains("hunter2"));
    let error = loader().client_from_str("[[visitors]]\ntype = 'stcp'\nsecretKey = ['hunter2']").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn the_way_to_the_server_is_checked_without_showing_a_password() {
    for (text, want) in [
        ("transport.connectServerLocalIP = 'eth0'", "must be an IP address of this machine, not \"eth0\""),
        ("transport.proxyURL = 'ntlm://me:hush@x'", "the scheme \"ntlm\", which is not supported"),
        ("transport.proxyURL = 'socks5://me:hush@'", "is not a URL"),
        ("dnsServer = 'dns.example'", "must be an IP address, perhaps with a port, not \"dns.example\""),
        ("transport.protocol = 'ws'", "one of tcp, quic, kcp, websocket, wss, auto"),
        ("transport.websocket.path = 'tunnel'", "must be a path such as"),
        ("transport.websocket.path = '/a b'", "must be a path such as"),
        ("transport.websocket.host = 'http://x'", "must be a host name"),
    ] {
        let (line, message) = only(client_problems(text));
        assert_eq!(line, 1);
        assert!(message.contains(want), "{message}");
        assert!(!message.contains("hush"), "{message}");
    }
}

#[test]
fn stun_needs_an_address_and_two_ports() {
    for (text, problem) in [
        (
            "stun.altAddr = 'example.com'",
            "`stun.altAddr` must be an IP address of this machine, not \"example.com\"",
        ),
        ("[stun]\nport = 1\naltPort = 1", "`stun.altPort` must be another port than `stun.port`"),
    ] {
        assert_eq!(only(server_problems(text)).1, problem);
    }
}

#[test]
fn quic_goes_through_no_proxy() {
    for protocol in ["quic", "kcp"] {
        let text = format!("transport.protocol = '{protocol}'\ntransport.proxyURL = 'http://me:hush@proxy'");
        let (line, message) = only(client_problems(&text));
        assert_eq!(line, 2);
        assert!(message.contains(&format!("`transport.protocol` = \"{protocol}\"")), "{message}");
        assert!(!message.contains("hush"), "{message}");
    }
    for text in
        ["transport.protocol = 'quic'\ntransport.proxyURL = 'direct'", "transport.proxyURL = 'http://proxy'"]
    {
        client(text);
    }
}
