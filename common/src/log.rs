//! The log: one line an event, for people or for machines, on standard output, on standard error or in a file.
//!
//! What peers send ends up in log lines, so control characters are escaped: nobody can forge a line or steer the
//! reader's terminal. Writing has its own thread and never stops the program: neither a terminal on hold nor a disk
//! that hangs. What a full disk refuses is counted and dropped.
//!
//! Times and the daily rotation are in UTC.

mod file;
mod status;

pub use status::StatusLine;

use std::{
    fmt,
    io::{self, IsTerminal},
    path::PathBuf,
};

use time::OffsetDateTime;
use tracing::Subscriber;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer,
    field::RecordFields,
    fmt::{
        FormatFields, MakeWriter,
        format::{DefaultFields, JsonFields, Writer},
        time::FormatTime,
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{LogConfig, LogFormat, LogLevel, LogTarget};
use status::WithStatus;

/// The crates whose lines the configured level is about; libraries speak up from `warn` on.
const OURS: [&str; 4] = ["tuns", "tunc", "tun_common", "tun_proto"];

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be written.
    #[error("cannot open the log file {}: {source}", path.display())]
    Open {
        /// As configured.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// `RUST_LOG` makes no sense.
    #[error("the environment variable RUST_LOG is not valid: {0}")]
    Filter(String),
    /// There is a log already.
    #[error("the log is set up already")]
    Twice,
}

/// Keeps the log going. Dropping it writes out what is still under way.
#[must_use = "dropping the guard ends the log file"]
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
}

/// Sets up the log of this process. `RUST_LOG`, when set, overrides the configured level.
pub fn init(config: &LogConfig) -> Result<LogGuard, LogError> {
    let (_, guard) = init_with(config, false)?;
    Ok(guard)
}

/// The same, with a status line below the log if standard error is a terminal that can show one.
pub fn init_with_status(config: &LogConfig) -> Result<(LogGuard, Option<StatusLine>), LogError> {
    let capable = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    let with_status = capable && io::stderr().is_terminal();
    let (writer, guard) = init_with(config, with_status)?;
    Ok((guard, with_status.then(|| StatusLine::new(writer))))
}

fn init_with(config: &LogConfig, status: bool) -> Result<(NonBlocking, LogGuard), LogError> {
    let filter = filter(config.level, std::env::var("RUST_LOG").ok().as_deref())?;
    let (ansi, (writer, worker)) = match &config.to {
        // Standard output hands on at every line break.
        LogTarget::Console => {
            let shared = io::stdout().is_terminal();
            (colours(config, io::stdout()), in_background(io::stdout(), status, shared))
        }
        LogTarget::Stderr => (colours(config, io::stderr()), in_background(io::stderr(), status, true)),
        LogTarget::File(path) => {
            let file = file::DailyFile::open(path, config.max_days);
            let file = file.map_err(|source| LogError::Open { path: path.clone(), source })?;
            (false, in_background(file, status, false))
        }
    };
    subscriber(config.format, filter, ansi, writer.clone()).try_init().map_err(|_| LogError::Twice)?;
    Ok((writer, LogGuard { _worker: worker }))
}

fn colours(config: &LogConfig, stream: impl IsTerminal) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !config.disable_print_color && !no_color
}

/// Lines queue up while the writer is busy; when very many do, further ones are dropped rather than waited for.
fn in_background(
    writer: impl io::Write + Send + 'static,
    status: bool,
    shared: bool,
) -> (NonBlocking, WorkerGuard) {
    let builder = NonBlockingBuilder::default().lossy(true).thread_name("log");
    match status {
        true => builder.finish(WithStatus::new(writer, io::stderr(), shared, width)),
        false => builder.finish(writer),
    }
}

fn width(terminal: &io::Stderr) -> Option<usize> {
    rustix::termios::tcgetwinsize(terminal).ok().map(|size| usize::from(size.ws_col))
}

fn filter(level: LogLevel, rust_log: Option<&str>) -> Result<EnvFilter, LogError> {
    if let Some(rust_log) = rust_log.filter(|text| !text.trim().is_empty()) {
        return EnvFilter::try_new(rust_log).map_err(|e| LogError::Filter(e.to_string()));
    }
    let level = match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
    };
    let others = if level == "error" { "error" } else { "warn" };
    let ours = OURS.map(|name| format!("{name}={level}")).join(",");
    // The STUN codec warns of every malformed message, and anybody may send some.
    EnvFilter::try_new(format!("{others},stun_types=error,{ours}"))
        .map_err(|e| LogError::Filter(e.to_string()))
}

fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    ansi: bool,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // Errors of the writer are not reported by the library: it would do so with a macro that panics when standard
    // error is on the same full disk.
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(ansi)
        .with_timer(Milliseconds)
        .log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => layer.fmt_fields(OneLine).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).fmt_fields(JsonFields::new()).boxed(),
    };
    Box::new(tracing_subscriber::registry().with(filter).with(layer))
}

// === the time ===

/// `2026-11-22T10:00:00.000Z`
struct Milliseconds;

impl FormatTime for Milliseconds {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let now = OffsetDateTime::now_utc();
        let (date, time) = (now.date(), now.time());
        write!(w, "{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())?;
        write!(w, "T{:02}:{:02}:{:02}.{:03}Z", time.hour(), time.minute(), time.second(), time.millisecond())
    }
}

// === one event, one line ===

/// Writes message and fields as usual, but keeps them on their line and away from the terminal's controls.
struct OneLine;

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut plain = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut plain), fields)?;
        if !plain.contains(is_unsafe) {
            return writer.write_str(&plain);
        }
        for c in plain.chars() {
            match c {
                '\t' => writer.write_char(' ')?,
                c if is_unsafe(c) => write!(writer, "{}", c.escape_default())?,
                c => writer.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Control characters, line separators, and the marks that turn the reading direction around.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, rust_log: Option<&str>, ansi: bool, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let filter = filter(LogLevel::Info, rust_log).unwrap();
        tracing::subscriber::with_default(subscriber(format, filter, ansi, move || writer.clone()), events);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_shows_time_level_target_and_message() {
        let text = logged(LogFormat::Text, None, false, || {
            tracing::info!(target: "tuns", port = 7000, "listening on {}", "127.0.0.1:7000");
        });
        let (time, rest) = text.split_at(24);
        let digits: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(digits, "0000-00-00T00:00:00.000Z");
        assert_eq!(rest, "  INFO tuns: listening on 127.0.0.1:7000 port=7000\n");
    }

    #[test]
    fn what_peers_send_cannot_forge_lines_or_reach_the_terminal() {
        let evil = "x\r\n2026 INFO tuns: forged \x1b[2J\u{9b}31m\u{202e}\u{7}";
        let text = logged(LogFormat::Text, None, false, || {
            let span = tracing::info_span!(target: "tuns", "client", id = %evil, debug = ?evil);
            let _entered = span.enter();
            tracing::info!(target: "tuns", name = %evil, text = evil, "login refused: {evil}");
            tracing::info!(target: "tuns", message = evil);
        });
        assert_eq!(text.lines().count(), 2, "{text:?}");
        assert!(text.chars().all(|c| c == '\n' || !is_unsafe(c)), "{text:?}");
        assert!(text.contains("login refused: x\\r\\n2026"), "{text:?}");
        let json = logged(LogFormat::Json, None, false, || {
            tracing::info!(target: "tuns", name = %evil, "login refused: {evil}");
        });
        assert_eq!(json.lines().count(), 1);
        assert!(!json.contains(['\r', '\x1b', '\x07']), "{json:?}");
    }

    #[test]
    fn colours_stay_outside_of_messages() {
        let text = logged(LogFormat::Text, None, true, || tracing::warn!(target: "tuns", a = 1, "careful"));
        assert!(text.contains("\x1b[33m WARN\x1b[0m"), "{text:?}");
        assert!(text.ends_with("careful a=1\n"), "{text:?}");
    }

    #[test]
    fn json_lines_are_objects_with_the_message_on_top() {
        let text = logged(LogFormat::Json, None, false, || tracing::error!(target: "tunc", port = 1, "gone"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&value["level"], &value["message"], &value["port"]),
            (&"ERROR".into(), &"gone".into(), &1.into())
        );
        assert_eq!(value["timestamp"].as_str().map(str::len), Some(24));
    }

    #[test]
    fn the_level_is_about_our_crates_and_rust_log_overrides_it() {
        let events = || {
            tracing::debug!(target: "tuns", "ours-debug");
            tracing::info!(target: "tun_common::link", "ours-info");
            tracing::info!(target: "yamux", "theirs-info");
            tracing::warn!(target: "yamux", "theirs-warn");
        };
        let text = logged(LogFormat::Text, None, false, events);
        let seen =
            |text: &str| ["ours-debug", "ours-info", "theirs-info", "theirs-warn"].map(|s| text.contains(s));
        assert_eq!(seen(&text), [false, true, false, true]);
        assert_eq!(seen(&logged(LogFormat::Text, Some(" "), false, events)), [false, true, false, true]);
        assert_eq!(
            seen(&logged(LogFormat::Text, Some("debug,yamux=off"), false, events)),
            [true, true, false, false]
        );
        assert!(matches!(filter(LogLevel::Info, Some("a=b=c")), Err(LogError::Filter(_))));
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        let path = PathBuf::from("/dev/null/tuns.log");
        let error = init(&LogConfig { to: LogTarget::File(path), ..LogConfig::default() }).unwrap_err();
        assert!(error.to_string().starts_with("cannot open the log file /dev/null/tuns.log: "), "{error}");
    }

    /// The only test that sets the log of the whole process.
    #[test]
    fn dropping_the_guard_writes_out_every_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tuns.log");
        let config = LogConfig { to: LogTarget::File(path.clone()), ..LogConfig::default() };
        let guard = init(&config).unwrap();
        for n in 0..10_000 {
            tracing::info!(target: "tuns", "line {n}");
        }
        drop(guard);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains("INFO tuns: line ")).count(), 10_000);
        assert!(matches!(init(&config), Err(LogError::Twice)));
    }
}
