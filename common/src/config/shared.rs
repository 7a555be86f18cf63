//! Decodes what both files have in common: the log, the token, durations, paths.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use crate::link::quic::tunnel::Options;

use super::{
    Loader, LogConfig, LogFormat, LogLevel, LogTarget, Secret, problem::Report, schema::Section, tree::join,
};

/// The environment, as a value: what a file can refer to, and the token's last resort.
pub type Env = BTreeMap<String, String>;

/// The variable that holds the token when the file names none.
pub const TOKEN_VARIABLE: &str = "TUN_TOKEN";

/// The variable that holds the secret of a private service when the command line names none.
pub const SECRET_VARIABLE: &str = "TUN_SECRET";

pub(super) fn log(section: Section<'_>) -> LogConfig {
    let default = LogConfig::default();
    LogConfig {
        to: match section.text("log.to") {
            None | Some("console") => LogTarget::Console,
            Some(path) => LogTarget::File(path.into()),
        },
        level: section.text("log.level").and_then(|text| text.parse().ok()).unwrap_or(default.level),
        max_days: section.int("log.maxDays").map_or(default.max_days, |days| days as u32),
        disable_print_color: section.bool("log.disablePrintColor").unwrap_or(default.disable_print_color),
        format: match section.text("log.format") {
            Some("json") => LogFormat::Json,
            _ => LogFormat::Text,
        },
    }
}

impl std::str::FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warn" => Self::Warn,
            "error" => Self::Error,
            other => return Err(format!("must be one of trace, debug, info, warn, error, not {other:?}")),
        })
    }
}

/// The token: from the file, from a file that it names, or from the environment.
pub(super) fn token(section: Section<'_>, loader: &Loader, report: &mut Report) -> Secret {
    if let Some(token) = &loader.token {
        return token.clone();
    }
    let given = section.text("auth.token");
    if section.get("auth.tokenSource").is_none() {
        let fallback = || loader.env.get(TOKEN_VARIABLE).map(|text| Secret::new(text.trim()));
        return given.map(Secret::new).or_else(fallback).unwrap_or_default();
    }
    let line = section.line("auth.tokenSource");
    if given.is_some() {
        report.problem(line, "`auth.token` and `auth.tokenSource` exclude each other");
    }
    match section.text("auth.tokenSource.file.path") {
        Some(path) => match read_token(Path::new(path)) {
            Ok(token) => return token,
            Err(why) => report.problem(section.line("auth.tokenSource.file.path"), why),
        },
        None if section.given("auth.tokenSource.type").is_none() => {
            report.missing(section, "auth.tokenSource.type", "", " (\"file\")");
        }
        None if section.text("auth.tokenSource.type").is_some() => {
            report.missing(section, "auth.tokenSource.file.path", "", "");
        }
        // The type has been refused by the check.
        None => {}
    }
    Secret::default()
}

/// More than any token; keeps a wrong path from filling the memory.
const MAX_TOKEN_SIZE: u64 = 64 << 10;

/// Reads a token from a file, without the white space around it.
pub fn read_token(path: &Path) -> Result<Secret, String> {
    read_secret("token", path)
}

/// Reads the secret of a private service from a file, without the white space around it.
pub fn read_secret_key(path: &Path) -> Result<Secret, String> {
    read_secret("secret", path)
}

fn read_secret(what: &str, path: &Path) -> Result<Secret, String> {
    let mut text = Zeroizing::new(String::new());
    let outcome = File::open(path).and_then(|file| file.take(MAX_TOKEN_SIZE).read_to_string(&mut text));
    match outcome.map(|_| text.trim()) {
        Ok("") => Err(format!("the {what} file {} is empty", path.display())),
        Ok(token) => Ok(Secret::new(token)),
        Err(e) => Err(format!("cannot read the {what} file {}: {e}", path.display())),
    }
}

pub(super) fn path(section: Section<'_>, key: &str) -> Option<PathBuf> {
    section.text(key).map(PathBuf::from)
}

/// Seconds; zero and negative mean the default.
pub(super) fn seconds(section: Section<'_>, key: &str, default: Duration) -> Duration {
    section.int(key).and_then(|n| u64::try_from(n).ok()).map_or(default, Duration::from_secs)
}

/// Seconds; zero is a value of its own, for keys that frp does not have.
pub(super) fn seconds_or_none(section: Section<'_>, key: &str, default: Duration) -> Duration {
    section.given_int(key).and_then(|n| u64::try_from(n).ok()).map_or(default, Duration::from_secs)
}

/// Seconds between keep-alive probes; negative turns them off.
pub(super) fn keepalive(section: Section<'_>, key: &str, default: Option<Duration>) -> Option<Duration> {
    section.int(key).map_or(default, |n| u64::try_from(n).ok().map(Duration::from_secs))
}

/// A certificate is of no use without its key, and the other way round.
pub(super) fn certificate_pair(section: Section<'_>, report: &mut Report) {
    let [cert, key] = ["transport.tls.certFile", "transport.tls.keyFile"];
    match (section.text(cert), section.text(key)) {
        (Some(_), None) => report.problem(section.line(cert), format!("`{cert}` needs `{key}` too")),
        (None, Some(_)) => report.problem(section.line(key), format!("`{key}` needs `{cert}` too")),
        _ => {}
    }
}

/// An address that no resolver understands is better refused here than at the first use.
pub(super) fn host(section: Section<'_>, key: &str, path: &str, report: &mut Report) -> Option<String> {
    let text = section.text(key)?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
        report.problem(
            section.line(key),
            format!("`{}` must be a host name or an IP address, not {text:?}", join(path, key)),
        );
    }
    Some(text.trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// How tunnels over QUIC behave.
pub(super) fn quic(section: Section<'_>) -> Options {
    let default = Options::default();
    Options {
        keep_alive: seconds(section, "transport.quic.keepalivePeriod", default.keep_alive),
        idle_timeout: seconds(section, "transport.quic.maxIdleTimeout", default.idle_timeout),
        max_streams: section
            .int("transport.quic.maxIncomingStreams")
            .map_or(default.max_streams, |n| u32::try_from(n).unwrap_or(u32::MAX)),
    }
}

/// Where the tunnel is on a web server.
pub(super) fn websocket_path(section: Section<'_>, report: &mut Report) -> Option<String> {
    let key = "transport.websocket.path";
    let text = section.text(key)?;
    let fits = |c: char| {
        c.is_ascii_graphic() && !matches!(c, '?' | '#' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
    };
    if !text.starts_with('/') || !text.chars().all(fits) {
        report
            .problem(section.line(key), format!("`{key}` must be a path such as \"/tunnel\", not {text:?}"));
        return None;
    }
    Some(text.to_owned())
}
