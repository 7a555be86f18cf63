//! Limits on what proxies carry.

use super::*;

/// The limit of a proxy of some type, and what is warned about.
fn limit(kind: &str, lines: &str) -> (Option<(u64, LimitMode)>, Vec<Problem>) {
    let text =
        format!("auth.token = 'x'\n[[proxies]]\nname = 'a'\ntype = '{kind}'\nlocalPort = 1\n{lines}\n");
    let loaded = loader().client_from_str(&text).unwrap();
    let limit = loaded.config.proxies[0].bandwidth.map(|limit| (limit.rate.get(), limit.mode));
    (limit, loaded.warnings)
}

#[test]
fn rates_are_kilobytes_and_megabytes_as_frp_counts_them() {
    for (text, rate) in [
        ("64KB", Some(64 << 10)),
        ("1MB", Some(1 << 20)),
        ("1.5MB", Some(3 << 19)),
        (" 0.5KB ", Some(512)),
        ("20000MB", Some(20_000 << 20)),
        ("0KB", None),
        ("0MB", None),
    ] {
        assert_eq!(bandwidth_rate(text).unwrap().map(|rate| rate.get()), rate, "{text:?}");
    }
}

#[test]
fn the_client_keeps_a_limit_unless_the_server_is_to() {
    assert_eq!(
        limit("tcp", "transport.bandwidthLimit = '1MB'"),
        (Some((1 << 20, LimitMode::Client)), vec![])
    );
    for kind in ["tcp", "udp"] {
        let lines = "transport = { bandwidthLimit = '64KB', bandwidthLimitMode = 'server' }";
        assert_eq!(limit(kind, lines), (Some((64 << 10, LimitMode::Server)), vec![]));
    }
    for none in ["", "transport.bandwidthLimit = ''", "transport.bandwidthLimitMode = 'server'"] {
        assert_eq!(limit("tcp", none), (None, vec![]));
    }
}

#[test]
fn limits_of_private_services_are_the_clients_and_whoever_wants_it_otherwise_is_told() {
    for kind in ["stcp", "sudp", "xtcp", "xudp"] {
        let lines =
            "secretKey = 's'\n[proxies.transport]\nbandwidthLimit = '64KB'\nbandwidthLimitMode = 'client'";
        assert_eq!(limit(kind, lines), (Some((64 << 10, LimitMode::Client)), vec![]));
        let (kept, warnings) = limit(kind, &lines.replace("client", "server"));
        assert_eq!(kept, Some((64 << 10, LimitMode::Client)));
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        let said = "`proxies[0].transport.bandwidthLimitMode` = \"server\": the server cannot tell";
        assert!(warning.line == Some(9) && warning.message.starts_with(said), "{warning}");
    }
}

#[test]
fn what_is_no_rate_is_refused_with_what_is_one() {
    for wrong in [
        "1", "1mb", "MB", "-1MB", "1GB", "1e3KB", "infMB", "nanKB", "1,5MB", "1.5.0MB", "1 MB", "+1KB", "B",
        "1KBMB",
    ] {
        let why = bandwidth_rate(wrong).unwrap_err();
        assert!(why.contains("\"512KB\" or \"1.5MB\"") && why.ends_with(&format!("not {wrong:?}")), "{why}");
    }
    assert_eq!(
        bandwidth_rate("0.0001KB").unwrap_err(),
        "must be at least one byte a second, not \"0.0001KB\""
    );
    let found = client_problems(&format!("{PROXY}transport.bandwidthLimit = '1GB'"));
    let [(_, message)] = &found[..] else { panic!("{found:?}") };
    assert!(
        message.starts_with("`proxies[0].transport.bandwidthLimit` must be a number with KB or MB"),
        "{message}"
    );
    let found = client_problems(&format!("{PROXY}transport.bandwidthLimitMode = 'both'"));
    let [(_, message)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(
        message,
        "`proxies[0].transport.bandwidthLimitMode` must be one of client, server, not \"both\""
    );
}
