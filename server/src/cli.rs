//! The command line of `tuns`: what it asks for, checked, with the configuration already loaded.

use std::{ffi::OsString, ops::RangeInclusive, path::PathBuf, process};

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;
use tun_common::cli::{LogFlags, set};
use tun_common::config::{
    ConfigError, Loaded, Loader, LogLevel, Problem, Secret, ServerConfig, flags, read_token,
};

/// What the user wants.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Serve.
    Run {
        /// File and flags, merged; flags win.
        config: Box<Loaded<ServerConfig>>,
        /// Whether errors are shown with their causes.
        verbose: bool,
    },
    /// A file was checked and is fine.
    Verify {
        /// The file.
        path: PathBuf,
        /// What its author should still hear.
        warnings: Vec<Problem>,
    },
    /// Print the completion script for a shell.
    Completions(Shell),
}

/// Reads the command line of this process and the configuration it names. Prints what is wrong and ends the
/// process with code 2; with code 0 after `--help` and `--version`.
pub(crate) fn parse() -> Invocation {
    match interpret(std::env::args_os(), Loader::default()) {
        Ok(invocation) => invocation,
        Err(Failure::Usage(error)) => error.exit(),
        Err(Failure::Config(error)) => {
            for problem in error.problems() {
                eprintln!("tuns: {problem}");
            }
            process::exit(2)
        }
    }
}

/// The completion script for a shell.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tuns", &mut script);
    script
}

#[derive(Debug)]
enum Failure {
    Usage(clap::Error),
    Config(ConfigError),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

fn usage(message: impl std::fmt::Display) -> Failure {
    Failure::Usage(Cli::command().error(ErrorKind::ValueValidation, message))
}

fn interpret(args: impl IntoIterator<Item = OsString>, mut loader: Loader) -> Result<Invocation, Failure> {
    let cli = Cli::try_parse_from(flags::normalize(args)).map_err(Failure::Usage)?;
    loader.strict = cli.strict_config;
    match cli.command {
        Some(Command::Completions { shell }) => return Ok(Invocation::Completions(shell)),
        Some(Command::Verify { config }) => {
            let path = config.or(cli.config).ok_or_else(|| usage("verify needs a file: -c FILE"))?;
            let Loaded { warnings, .. } = loader.server(&path)?;
            return Ok(Invocation::Verify { path, warnings });
        }
        None => {}
    }
    loader.token = cli.flags.secret().map_err(usage)?;
    let mut config = match &cli.config {
        Some(path) => loader.server(path)?,
        None => loader.server_from_str("")?,
    };
    cli.flags.apply(&mut config.config);
    if cli.verbose {
        config.config.log.level = config.config.log.level.min(LogLevel::Debug);
    }
    Ok(Invocation::Run { config: Box::new(config), verbose: cli.verbose })
}

const EXAMPLES: &str = "\
Examples:
  tuns -c tuns.toml                       serve as the file says
  tuns --token-file /etc/tun/token        no file: port 7000, all other settings at their defaults
  tuns -c tuns.toml --log-level debug     flags win over the file
  tuns verify -c tuns.toml                check a file and do nothing else
  tuns completions bash > /etc/bash_completion.d/tuns

Files are TOML, YAML or JSON, with the keys of frps. Long flags may be written with _ or -.
The token may also come from the environment variable TUN_TOKEN, or from the file's
auth.tokenSource. On the command line (-t) other users of this machine can see it.

Exit codes: 0 stopped by a signal, 1 failure at run time, 2 wrong command line or configuration.";

/// The public side of a tunnel: clients (tunc) connect here and expose their services on this machine's ports.
#[derive(Debug, Parser)]
#[command(name = "tuns", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Whether unknown keys in the file are errors; with =false they are warnings
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    strict_config: bool,

    /// Log at level debug, and show errors with their causes
    #[arg(short, long, global = true)]
    verbose: bool,

    #[command(flatten)]
    flags: Flags,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a configuration file and exit
    Verify {
        /// The file to check
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Settings that have a flag; each stands for a key of the file and wins over it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Settings (they win over the file)")]
struct Flags {
    /// Address that clients connect to; :: listens on IPv4 and IPv6 [default: 0.0.0.0]
    #[arg(long, value_name = "ADDR")]
    bind_addr: Option<String>,

    /// Port that clients connect to; 0 takes a free one and logs it [default: 7000]
    #[arg(short = 'p', long, value_name = "PORT")]
    bind_port: Option<u16>,

    /// Address of the public ports [default: the bind address]
    #[arg(long, value_name = "ADDR")]
    proxy_bind_addr: Option<String>,

    /// Secret that clients must know
    #[arg(short, long, value_name = "TOKEN")]
    token: Option<String>,

    /// File that holds the secret
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,

    /// Public ports that clients may use, such as 1000-2000,3000 [default: all]
    #[arg(long, value_name = "PORTS", value_parser = |text: &str| flags::port_ranges(text).map(Ports))]
    allow_ports: Option<Ports>,

    /// Public ports that one client may hold; 0 is unlimited [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=65_535))]
    max_ports_per_client: Option<u32>,

    /// Refuse clients that do not use TLS
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_only: Option<bool>,

    #[command(flatten)]
    log: LogFlags,
}

#[derive(Debug, Clone)]
struct Ports(Vec<RangeInclusive<u16>>);

impl Flags {
    fn secret(&self) -> Result<Option<Secret>, String> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(Secret::new(token.as_str()))),
            (None, Some(path)) => read_token(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn apply(self, config: &mut ServerConfig) {
        if let Some(addr) = self.bind_addr {
            // The public ports follow, unless they have been told to stay elsewhere.
            if config.proxy_bind_addr == config.bind_addr {
                config.proxy_bind_addr.clone_from(&addr);
            }
            config.bind_addr = addr;
        }
        set(&mut config.bind_port, self.bind_port);
        set(&mut config.proxy_bind_addr, self.proxy_bind_addr);
        set(&mut config.allow_ports, self.allow_ports.map(|ports| ports.0));
        set(&mut config.max_ports_per_client, self.max_ports_per_client);
        let tls = &mut config.transport.tls;
        // Clients that must show a certificate cannot be let in without TLS.
        set(&mut tls.force, self.tls_only.map(|only| only || tls.trusted_ca_file.is_some()));
        self.log.apply(&mut config.log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use tun_common::config::{LogConfig, LogFormat, LogTarget};

    fn interpreted(args: &[&str]) -> Result<Invocation, Failure> {
        let args = std::iter::once("tuns").chain(args.iter().copied()).map(OsString::from);
        interpret(args, Loader { strict: true, env: Default::default(), token: None })
    }

    fn run(args: &[&str]) -> Loaded<ServerConfig> {
        match interpreted(args) {
            Ok(Invocation::Run { config, .. }) => *config,
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
    fn without_arguments_all_defaults_hold() {
        let loaded = run(&[]);
        assert_eq!(loaded.config, ServerConfig::default());
        assert_eq!(loaded.warnings.len(), 1, "the empty token");
    }

    #[test]
    fn flags_of_frps_work_with_dashes_and_underscores() {
        let config = run(&[
            "--bind_addr=127.0.0.1",
            "-p",
            "7001",
            "--proxy-bind-addr",
            "::1",
            "-t",
            "secret",
            "--allow_ports=1000-2000,3000",
            "--max_ports_per_client",
            "5",
            "--tls_only",
            "--log_level",
            "debug",
            "--log_file=/var/log/tuns.log",
            "--log_max_days=7",
            "--disable_log_color",
            "--log-format=json",
        ])
        .config;
        assert_eq!((config.bind_addr.as_str(), config.bind_port), ("127.0.0.1", 7001));
        assert_eq!(config.proxy_bind_addr, "::1");
        assert_eq!(config.auth_token.expose(), "secret");
        assert_eq!(config.allow_ports, [1000..=2000, 3000..=3000]);
        assert_eq!(config.max_ports_per_client, 5);
        assert!(config.transport.tls.force);
        let log = LogConfig {
            to: LogTarget::File("/var/log/tuns.log".into()),
            level: LogLevel::Debug,
            max_days: 7,
            disable_print_color: true,
            format: LogFormat::Json,
        };
        assert_eq!(config.log, log);
    }

    #[test]
    fn flags_win_over_the_file() {
        let file =
            file("bindPort = 7001\nbindAddr = \"127.0.0.1\"\nauth.token = \"a\"\nlog.level = \"warn\"");
        let path = file.path().to_str().unwrap();
        let config = run(&["-c", path, "-p", "0", "--token=b", "--bind-addr=::1", "-v"]).config;
        assert_eq!((config.bind_port, config.auth_token.expose()), (0, "b"));
        assert_eq!((config.bind_addr.as_str(), config.proxy_bind_addr.as_str()), ("::1", "::1"));
        assert_eq!(config.log.level, LogLevel::Debug);
        let config = run(&["-c", path]).config;
        assert_eq!((config.bind_port, config.auth_token.expose()), (7001, "a"));
    }

    #[test]
    fn the_token_may_come_from_a_file() {
        let token = file("  secret\n");
        let path = token.path().to_str().unwrap();
        assert_eq!(run(&["--token-file", path]).config.auth_token.expose(), "secret");
        assert!(
            refused(&["--token-file", "/nonexistent"]).contains("cannot read the token file /nonexistent")
        );
        assert!(refused(&["--token-file", path, "-t", "x"]).contains("cannot be used with"));
    }

    #[test]
    fn verify_tells_good_files_from_bad_ones() {
        let good = file("bindPort = 7001");
        let path = good.path().to_str().unwrap();
        for args in [["verify", "-c", path], ["-c", path, "verify"]] {
            assert!(matches!(interpreted(&args), Ok(Invocation::Verify { path: p, .. }) if p == good.path()));
        }
        let bad = file("bindPort = 7001\nbindPrt = 1");
        let path = bad.path().to_str().unwrap();
        assert!(refused(&["verify", "-c", path]).contains(":2: `bindPrt` is not a known key"));
        assert!(interpreted(&["verify", "-c", path, "--strict_config=false"]).is_ok());
        assert!(refused(&["verify"]).contains("-c FILE"));
    }

    #[test]
    fn wrong_flags_are_usage_errors() {
        for args in
            [&["--bind-port=70000"][..], &["--allow-ports=9-1"], &["--nope"], &["--log-level=loud"], &["x"]]
        {
            refused(args);
        }
    }

    #[test]
    fn completions_are_printed_for_every_shell() {
        for shell in Shell::value_variants() {
            assert!(!completions(*shell).is_empty());
        }
    }
}
