//! What command lines mean.

use super::*;
use clap::ValueEnum;
use tun_common::config::{LogTarget, NatTraversal, Protocol, VisitorConfig, VisitorKind, XtcpVisitor};

fn interpreted(args: &[&str]) -> Result<Invocation, Failure> {
    let args = std::iter::once("tunc").chain(args.iter().copied()).map(OsString::from);
    let env = [("TUN_TOKEN", "from-env"), ("TUN_SECRET", "secret-from-env\n")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    interpret(args, Loader { strict: true, env, token: None })
}

/// The configuration with its one visitor, and whether it speaks on stdin and stdout.
fn visit(args: &[&str]) -> (ClientConfig, VisitorConfig, bool) {
    match interpreted(args) {
        Ok(Invocation::Visit { config, stdio, .. }) => {
            let [visitor] = &config.config.visitors[..] else { panic!("{args:?}: {config:?}") };
            (config.config.clone(), visitor.clone(), stdio)
        }
        other => panic!("{args:?}: {other:?}"),
    }
}

fn run(args: &[&str]) -> ClientConfig {
    match interpreted(args) {
        Ok(Invocation::Run { config, .. }) => config.config,
        other => panic!("{args:?}: {other:?}"),
    }
}

fn refused(args: &[&str]) -> String {
    match interpreted(args) {
        Err(Failure::Usage(error)) => {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        }
        Err(Failure::Config(error)) => error.to_string(),
        Ok(other) => panic!("{args:?}: {other:?}"),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn without_arguments_help_is_shown_and_the_code_is_2() {
    assert!(refused(&[]).contains("Examples:"));
    assert!(refused(&["-v"]).contains("-c FILE"));
}

#[test]
fn one_service_needs_only_a_server_and_a_port() {
    let config = run(&["tcp", "-s", "example.com:7001", "-l", "22"]);
    assert_eq!((config.server_addr.as_str(), config.server_port), ("example.com", 7001));
    assert_eq!(config.auth_token.expose(), "from-env");
    assert!(config.transport.tls.enable);
    let [proxy] = &config.proxies[..] else { panic!("one proxy") };
    assert_eq!((proxy.name.as_str(), proxy.local_ip.as_str(), proxy.local_port), ("tcp-22", "127.0.0.1", 22));
    assert_eq!(proxy.kind, ProxyKind::Tcp { remote_port: 0 });
}

#[test]
fn flags_of_frpc_work_with_dashes_and_underscores() {
    let config = run(&[
        "tcp",
        "--server_addr=::1",
        "-P",
        "7002",
        "-t",
        "secret",
        "-u",
        "alice",
        "--client-id=box",
        "--tls_enable=false",
        "-l",
        "80",
        "-i",
        "10.0.0.1",
        "--remote_port",
        "8080",
        "--proxy_name",
        "web",
        "--log_level=warn",
        "-v",
    ]);
    assert_eq!((config.server_addr.as_str(), config.server_port), ("::1", 7002));
    assert_eq!((config.auth_token.expose(), config.user.as_str()), ("secret", "alice"));
    assert_eq!(config.client_id.as_deref(), Some("box"));
    assert!(!config.transport.tls.enable);
    assert_eq!(config.log.level, LogLevel::Debug, "-v says more than the flag");
    assert_eq!(config.proxies[0].name, "alice.web");
    assert_eq!(config.proxies[0].kind, ProxyKind::Tcp { remote_port: 8080 });
}

#[test]
fn the_way_to_the_server_can_be_chosen() {
    let way = |args: &[&str]| match interpreted(&[&["tcp", "-l", "22"], args].concat()) {
        Ok(Invocation::Run { config, .. }) => (config.config.transport.protocol, config.warnings.len()),
        other => panic!("{args:?}: {other:?}"),
    };
    assert_eq!(way(&[]), (Protocol::Tcp, 0));
    assert_eq!(way(&["-p", "kcp"]), (Protocol::Quic, 0));
    assert_eq!(way(&["--protocol=auto"]), (Protocol::Auto, 0));
    // As in a file.
    assert_eq!(way(&["-p", "quic", "--tls-enable=false"]), (Protocol::Quic, 1));
    assert!(refused(&["tcp", "-l", "22", "-p", "smoke"]).contains("wss, auto"));

    let asked = |server: &str| run(&["udp", "-l", "53", "--dns_server", server]).dns_server;
    assert_eq!(asked("192.0.2.1"), Some(([192, 0, 2, 1], 53).into()));
    assert_eq!(asked("192.0.2.1:5353"), Some(([192, 0, 2, 1], 5353).into()));
    let (config, ..) = visit(&["visit", "ssh", "-p", "wss"]);
    assert_eq!((config.transport.protocol, config.dns_server), (Protocol::Wss, None));
    assert!(refused(&["tcp", "-l", "22", "--dns-server", "dns.test"]).contains("must be an IP address"));
}

#[test]
fn a_limit_is_the_clients_unless_the_server_is_to_keep_it() {
    let limit = |args: &[&str]| match interpreted(args) {
        Ok(Invocation::Run { config, .. }) => {
            let limit = config.config.proxies[0].bandwidth.map(|limit| (limit.rate.get(), limit.mode));
            (limit, config.warnings.len())
        }
        other => panic!("{args:?}: {other:?}"),
    };
    assert_eq!(limit(&["tcp", "-l", "22"]), (None, 0));
    let client = Some((512 << 10, LimitMode::Client));
    assert_eq!(limit(&["tcp", "-l", "22", "--bandwidth-limit", "512KB"]), (client, 0));
    let server = ["--bandwidth_limit=1.5MB", "--bandwidth_limit_mode=server"];
    let of = |kind: &[&'static str]| limit(&[kind, &server[..]].concat());
    assert_eq!(of(&["udp", "-l", "53"]), (Some((3 << 19, LimitMode::Server)), 0));
    assert_eq!(of(&["xtcp", "-l", "22", "-n", "ssh"]), (Some((3 << 19, LimitMode::Client)), 1));
    assert!(
        refused(&["tcp", "-l", "22", "--bandwidth-limit", "1GB"]).contains("must be a number with KB or MB")
    );
    assert!(refused(&["tcp", "-l", "22", "--bandwidth-limit-mode", "both"]).contains("client, server"));
}

#[test]
fn a_visit_needs_only_a_server_and_a_name() {
    let (config, visitor, stdio) = visit(&["visit", "ssh", "-s", "example.com:7001"]);
    assert_eq!((config.server_addr.as_str(), config.server_port), ("example.com", 7001));
    assert_eq!(config.auth_token.expose(), "from-env");
    assert!(config.proxies.is_empty() && !stdio);
    assert_eq!((config.log.to, config.log.level), (LogTarget::Console, LogLevel::Info));
    let want = VisitorConfig {
        name: "ssh".into(),
        kind: VisitorKind::Xtcp(XtcpVisitor::default()),
        server_name: "ssh".into(),
        secret_key: "secret-from-env".into(),
        bind_addr: "127.0.0.1".into(),
        bind_port: Some(0),
        udp_idle: None,
    };
    assert_eq!(visitor, want);
}

#[test]
fn a_visitor_may_belong_to_another_user_and_listen_anywhere() {
    let (config, visitor, _) = visit(&[
        "visit",
        "--server=example.com",
        "-u",
        "bob",
        "--client-id=box",
        "--sk=knock",
        "--server_user",
        "alice",
        "--bind",
        "[::1]:9000",
        "--tls-enable=false",
        "db",
    ]);
    assert_eq!((config.user.as_str(), config.client_id.as_deref()), ("bob", Some("box")));
    assert!(!config.transport.tls.enable);
    assert_eq!((visitor.name.as_str(), visitor.server_name.as_str()), ("bob.db", "alice.db"));
    assert_eq!((visitor.bind_addr.as_str(), visitor.bind_port), ("::1", Some(9000)));
    assert_eq!(visitor.secret_key.expose(), "knock");
    let (_, visitor, _) = visit(&["visit", "db", "-u", "bob", "--bind=9000"]);
    assert_eq!((visitor.server_name.as_str(), visitor.bind_addr.as_str()), ("bob.db", "127.0.0.1"));
    assert_eq!(visitor.bind_port, Some(9000));
}

#[test]
fn standard_output_belongs_to_the_connection_when_it_is_asked_for() {
    let (config, visitor, stdio) = visit(&["visit", "ssh", "--stdio"]);
    assert!(stdio);
    assert_eq!(visitor.bind_port, None);
    assert_eq!((config.log.to, config.log.level), (LogTarget::Stderr, LogLevel::Warn));
    let (config, ..) = visit(&["visit", "ssh", "--stdio", "--log-level=info", "--log-file=console"]);
    assert_eq!((config.log.to, config.log.level), (LogTarget::Stderr, LogLevel::Info));
    assert_eq!(visit(&["-v", "visit", "ssh", "--stdio"]).0.log.level, LogLevel::Debug);
    let (config, ..) = visit(&["visit", "ssh", "--stdio", "--log-file=x.log"]);
    assert_eq!(config.log.to, LogTarget::File("x.log".into()));
}

#[test]
fn a_private_service_is_exposed_without_a_file() {
    let secret = file("from-file\n");
    let path = secret.path().to_str().unwrap();
    let config = run(&[
        "stcp",
        "-n",
        "ssh",
        "-l",
        "22",
        "-i",
        "10.0.0.1",
        "-u",
        "alice",
        "--secret-file",
        path,
        "--allow_users",
        "bob,*",
    ]);
    let [proxy] = &config.proxies[..] else { panic!("one proxy") };
    let place = (proxy.name.as_str(), proxy.local_ip.as_str(), proxy.local_port);
    assert_eq!(place, ("alice.ssh", "10.0.0.1", 22));
    let allow_users = vec!["bob".to_owned(), "*".to_owned()];
    assert_eq!(
        proxy.kind,
        ProxyKind::Private { secret_key: "from-file".into(), allow_users, direct: None, udp_idle: None }
    );
    let config = run(&["stcp", "-n", "ssh", "-l", "22"]);
    let kind = ProxyKind::Private {
        secret_key: "secret-from-env".into(),
        allow_users: Vec::new(),
        direct: None,
        udp_idle: None,
    };
    assert_eq!(config.proxies[0].kind, kind);
}

#[test]
fn direct_connections_are_tried_unless_they_are_not_wanted() {
    let direct = |args: &[&str]| match &run(args).proxies[0].kind {
        ProxyKind::Private { direct, .. } => direct.clone(),
        other => panic!("{args:?}: {other:?}"),
    };
    let quiet = NatTraversal { spray: false, ..NatTraversal::default() };
    assert_eq!(direct(&["stcp", "-n", "a", "-l", "1"]), None);
    assert_eq!(direct(&["xtcp", "-n", "a", "-l", "1"]), Some(NatTraversal::default()));
    assert_eq!(direct(&["xtcp", "-n", "a", "-l", "1", "--no_spray"]), Some(quiet.clone()));
    let traversal = |args: &[&str]| visit(args).1.xtcp().map(|xtcp| xtcp.nat_traversal.clone());
    assert_eq!(traversal(&["visit", "a"]), Some(NatTraversal::default()));
    assert_eq!(traversal(&["visit", "a", "--no-spray"]), Some(quiet));
    assert_eq!(traversal(&["visit", "a", "--relay-only"]), None);
}

#[test]
fn a_missing_secret_is_worth_one_warning() {
    for args in [&["stcp", "-n", "a", "-l", "1", "--sk="][..], &["visit", "a", "--secret="]] {
        let warnings = match interpreted(args) {
            Ok(Invocation::Run { config, .. } | Invocation::Visit { config, .. }) => config.warnings,
            other => panic!("{args:?}: {other:?}"),
        };
        let [warning] = &warnings[..] else { panic!("one warning: {warnings:?}") };
        assert!(warning.to_string().starts_with("no secret is given"), "{warning}");
    }
}

#[test]
fn wrong_flags_are_usage_errors() {
    for (args, part) in [
        (&["tcp"][..], "--local-port"),
        (&["tcp", "-l", "0"], "0"),
        (&["tcp", "-l", "1", "-s", "a:b"], "not a port"),
        (&["tcp", "-l", "1", "-s", "a:1", "-P", "2"], "given twice"),
        (&["tcp", "-l", "1", "-n", ""], "value is required"),
        (&["tcp", "-l", "1", "--token-file", "/nonexistent"], "/nonexistent"),
        (&["-c", "x", "tcp", "-l", "1"], "leave out -c"),
        (&["-c", "x", "visit", "a"], "leave out -c"),
        (&["visit"], "<NAME>"),
        (&["visit", ""], "value is required"),
        (&["visit", "a", "--bind", "1", "--stdio"], "cannot be used with"),
        (&["visit", "a", "--bind", "::1:1"], "brackets"),
        (&["visit", "a", "--secret", "b", "--secret-file", "c"], "cannot be used with"),
        (&["visit", "a", "--secret-file", "/nonexistent"], "secret file /nonexistent"),
        (&["visit", "a", "--relay-only", "--no-spray"], "cannot be used with"),
        (&["stcp", "-l", "1"], "--proxy-name"),
        (&["stcp", "-n", "a", "-l", "1", "--no-spray"], "unexpected argument"),
        (&["xtcp", "-l", "1"], "--proxy-name"),
        (&["stcp", "-n", "a"], "--local-port"),
        (&["stcp", "-n", "a", "-l", "1", "-r", "2"], "unexpected argument"),
        (&["udp"], "--local-port"),
        (&["udp", "-l", "1", "--idle-timeout", "0"], "0 is not in 1..=86400"),
        (&["sudp", "-l", "1"], "--proxy-name"),
        (&["sudp", "-n", "a", "-l", "1", "--no-spray"], "unexpected argument"),
        (&["visit", "a", "--udp", "--stdio"], "cannot be used with"),
        (&["http"], "unrecognized"),
    ] {
        let message = refused(args);
        assert!(message.contains(part), "{args:?}: {message}");
    }
}

#[test]
fn services_of_datagrams_are_told_by_the_command() {
    let idle = Duration::from_secs(60);
    let config = run(&["udp", "-l", "53", "-r", "6053"]);
    assert_eq!((config.proxies[0].name.as_str(), config.proxies[0].local_port), ("udp-53", 53));
    assert_eq!(config.proxies[0].kind, ProxyKind::Udp { remote_port: 6053, idle });
    let of = |kind: &ProxyKind| match kind {
        ProxyKind::Private { direct, udp_idle, .. } => (direct.is_some(), *udp_idle),
        other => panic!("{other:?}"),
    };
    let config = run(&["sudp", "-n", "wg", "-l", "51820", "--idle-timeout", "180"]);
    assert_eq!(of(&config.proxies[0].kind), (false, Some(Duration::from_secs(180))));
    let config = run(&["xudp", "-n", "wg", "-l", "51820", "--no-spray"]);
    assert_eq!(of(&config.proxies[0].kind), (true, Some(idle)));
    let (_, visitor, _) = visit(&["visit", "wg", "--udp", "--bind", "51820"]);
    assert_eq!((visitor.udp_idle, visitor.bind_port), (Some(idle), Some(51820)));
}

#[test]
fn nat_asks_the_server_of_the_flags_or_of_the_file() {
    let file = file("serverAddr = \"example.com\"\nserverPort = 7009");
    let path = file.path().to_str().unwrap();
    for (args, host, port, json) in [
        (&["nat", "-s", "example.com"][..], "example.com", 7000, false),
        (&["nat", "-s", "[::1]:3478", "--json"], "::1", 3478, true),
        (&["-c", path, "nat"], "example.com", 7009, false),
        (&["-c", path, "nat", "-s", "other"], "other", 7000, false),
        (
            &["nathole", "discover", "--nat_hole_stun_server", "stun.example.com:3478"],
            "stun.example.com",
            3478,
            false,
        ),
    ] {
        let Ok(Invocation::Nat(question)) = interpreted(args) else { panic!("{args:?}") };
        assert_eq!(question, Question { server: (host.to_owned(), port), json, lifetime: false }, "{args:?}");
    }
    assert!(refused(&["nat"]).contains("-s HOST"));
    assert!(refused(&["nat", "-s", "a:1", "-P", "2"]).contains("given twice"));
}

#[test]
fn verify_tells_good_files_from_bad_ones() {
    let good = file("serverAddr = \"example.com\"");
    let path = good.path().to_str().unwrap();
    for args in [["verify", "-c", path], ["-c", path, "verify"]] {
        assert!(matches!(interpreted(&args), Ok(Invocation::Verify { path: p, .. }) if p == good.path()));
    }
    let bad = file("[[proxies]]\nname = \"x\"\ntype = \"http\"");
    let message = refused(&["verify", "-c", bad.path().to_str().unwrap()]);
    assert!(message.contains(":3: `proxies[0].type` = \"http\" is not supported"), "{message}");
    assert!(refused(&["verify"]).contains("-c FILE"));
}

#[test]
fn a_file_is_run_with_its_own_settings() {
    let file = file("auth.token = \"a\"\nlog.level = \"trace\"");
    let config = run(&["-v", "-c", file.path().to_str().unwrap()]);
    assert_eq!((config.auth_token.expose(), config.log.level), ("a", LogLevel::Trace));
    assert_eq!(config.source.as_deref(), Some(file.path()));
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in Shell::value_variants() {
        assert!(!completions(*shell).is_empty());
    }
}
