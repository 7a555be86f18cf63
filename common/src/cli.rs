//! Command line flags that both programs have.

use crate::config::{LogConfig, LogFormat, LogLevel, LogTarget};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
/// How the log is written; what is not given stays as configured.
pub struct LogFlags {
    /// File for the log, renamed daily; "console" is standard output [default: console]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Least severe level that is logged [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<Level>,

    /// Days that renamed log files are kept [default: 3]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    log_max_days: Option<u32>,

    /// No colours, even on a terminal
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_log_color: Option<bool>,

    /// Lines for people or for machines [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
}

impl LogFlags {
    /// Puts what was given into `log`.
    pub fn apply(self, log: &mut LogConfig) {
        let target = |path: PathBuf| match path.to_str() {
            Some("console") => LogTarget::Console,
            _ => LogTarget::File(path),
        };
        set(&mut log.to, self.log_file.map(target));
        set(&mut log.level, self.log_level.map(LogLevel::from));
        set(&mut log.max_days, self.log_max_days);
        set(&mut log.disable_print_color, self.disable_log_color);
        set(&mut log.format, self.log_format.map(LogFormat::from));
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
/// A level as it is written on the command line.
pub enum Level {
    /// Everything.
    Trace,
    /// Every connection.
    Debug,
    /// What an operator wants to know.
    Info,
    /// What may be wrong.
    Warn,
    /// What is wrong.
    Error,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

/// Puts a flag that was given into its place.
pub fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}
