//! The command line of `tunc`: what it asks for, checked, with the configuration already loaded.

use std::{ffi::OsString, path::PathBuf, process};

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use clap_complete::Shell;
use tun_common::config::{
    ClientConfig, ConfigError, Loaded, Loader, LogConfig, LogFormat, LogLevel, LogTarget, Problem,
    ProxyConfig, ProxyKind, Secret, flags, read_token,
};

/// What the user wants.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Expose what the configuration says.
    Run {
        /// From a file, or from the flags of a one-shot command.
        config: Box<Loaded<ClientConfig>>,
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
                eprintln!("tunc: {problem}");
            }
            process::exit(2)
        }
    }
}

/// The completion script for a shell.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tunc", &mut script);
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
    let mut config = match (cli.command, cli.config) {
        (Some(Command::Completions { shell }), _) => return Ok(Invocation::Completions(shell)),
        (Some(Command::Verify { config }), outer) => {
            let path = config.or(outer).ok_or_else(|| usage("verify needs a file: -c FILE"))?;
            let Loaded { warnings, .. } = loader.client(&path)?;
            return Ok(Invocation::Verify { path, warnings });
        }
        (Some(Command::Tcp(_)), Some(_)) => {
            return Err(usage(
                "tcp takes everything from its flags; leave out -c, or put the proxy into the file",
            ));
        }
        (Some(Command::Tcp(flags)), None) => flags.into_config(&mut loader)?,
        (None, Some(path)) => loader.client(&path)?,
        (None, None) => return Err(usage("give a configuration file (-c FILE) or a command such as tcp")),
    };
    if cli.verbose {
        config.config.log.level = config.config.log.level.min(LogLevel::Debug);
    }
    Ok(Invocation::Run { config: Box::new(config), verbose: cli.verbose })
}

const EXAMPLES: &str = "\
Examples:
  tunc -c tunc.toml                         expose what the file says
  tunc tcp -s example.com -l 22 -r 6000     no file: port 22 here becomes port 6000 there
  tunc verify -c tunc.toml                  check a file and do nothing else
  tunc completions zsh > _tunc

Files are TOML, YAML or JSON, with the keys of frpc. Long flags may be written with _ or -.
The token may also come from the environment variable TUN_TOKEN, or from the file's
auth.tokenSource.

Exit codes: 0 stopped by a signal, 1 failure at run time, 2 wrong command line or configuration,
3 refused by the server.";

const TCP_EXAMPLES: &str = "\
Examples:
  tunc tcp -s example.com -l 8080               the server chooses the port; the log tells
  tunc tcp -s example.com:7001 -l 22 -r 6000    the server itself listens on port 7001
  tunc tcp -s example.com -i 192.168.1.9 -l 80 -r 8000 -n printer --token-file token

On the command line (-t) other users of this machine can see the token; --token-file and the
environment variable TUN_TOKEN hide it.";

/// The private side of a tunnel: exposes services of this machine, or of its neighbours, on a tuns server.
#[derive(Debug, Parser)]
#[command(name = "tunc", version, after_help = EXAMPLES, max_term_width = 110, arg_required_else_help = true)]
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

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Expose one TCP service without a file
    #[command(after_help = TCP_EXAMPLES)]
    Tcp(Box<TcpFlags>),
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

/// What to expose, and where.
#[derive(Debug, Args)]
struct TcpFlags {
    /// Port of the local service
    #[arg(short = 'l', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    local_port: u16,

    /// Host of the local service
    #[arg(short = 'i', long, value_name = "HOST", default_value = "127.0.0.1")]
    local_ip: String,

    /// Public port on the server; 0 lets the server choose
    #[arg(short = 'r', long, value_name = "PORT", default_value_t = 0)]
    remote_port: u16,

    /// Name of the proxy, unique on the server [default: tcp-LOCALPORT]
    #[arg(short = 'n', long = "proxy-name", value_name = "NAME", visible_alias = "name",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,

    #[command(flatten)]
    server: ServerFlags,

    #[command(flatten)]
    log: LogFlags,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
struct ServerFlags {
    /// The server [default: 127.0.0.1]
    #[arg(short, long, value_name = "HOST[:PORT]", value_parser = |text: &str| flags::host_and_port(text).map(Address))]
    server_addr: Option<Address>,

    /// The server's port [default: 7000]
    #[arg(short = 'P', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    server_port: Option<u16>,

    /// Secret shared with the server
    #[arg(short, long, value_name = "TOKEN")]
    token: Option<String>,

    /// File that holds the secret
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,

    /// Prefix of the proxy's name, so that several users share one server
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// Stable name of this client [default: made of the machine, the user and what is started]
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,

    /// Encrypt what goes between here and the server
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    tls_enable: bool,

    /// Name expected in the server's certificate [default: the server's address]
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
}

#[derive(Debug, Clone)]
struct Address((String, Option<u16>));

impl TcpFlags {
    fn into_config(self, loader: &mut Loader) -> Result<Loaded<ClientConfig>, Failure> {
        let server = self.server;
        loader.token = match (server.token, server.token_file) {
            (Some(token), _) => Some(Secret::new(token)),
            (None, Some(path)) => Some(read_token(&path).map_err(usage)?),
            (None, None) => None,
        };
        let mut loaded = loader.client_from_str("")?;
        let config = &mut loaded.config;
        if let Some(Address((host, port))) = server.server_addr {
            if port.is_some() && server.server_port.is_some() {
                return Err(usage("the server's port is given twice, with -s and with -P"));
            }
            config.server_addr = host;
            set(&mut config.server_port, port);
        }
        set(&mut config.server_port, server.server_port);
        set(&mut config.user, server.user);
        config.client_id = server.client_id.filter(|id| !id.is_empty());
        config.transport.tls.enable = server.tls_enable;
        set(&mut config.transport.tls.server_name, server.tls_server_name);
        self.log.apply(&mut config.log);
        let name = self.name.unwrap_or_else(|| format!("tcp-{}", self.local_port));
        config.proxies.push(ProxyConfig {
            name: config.full_name(&name),
            kind: ProxyKind::Tcp { remote_port: self.remote_port },
            annotations: Default::default(),
            metadatas: Default::default(),
            local_ip: self.local_ip,
            local_port: self.local_port,
        });
        Ok(loaded)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
struct LogFlags {
    /// File for the log, renamed daily; "console" is standard output [default: console]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Least severe level that is logged [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<Level>,

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
    fn apply(self, log: &mut LogConfig) {
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
enum Level {
    Trace,
    Debug,
    Info,
    Warn,
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

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreted(args: &[&str]) -> Result<Invocation, Failure> {
        let args = std::iter::once("tunc").chain(args.iter().copied()).map(OsString::from);
        let env = [("TUN_TOKEN".to_owned(), "from-env".to_owned())].into();
        interpret(args, Loader { strict: true, env, token: None })
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
        assert_eq!(
            (proxy.name.as_str(), proxy.local_ip.as_str(), proxy.local_port),
            ("tcp-22", "127.0.0.1", 22)
        );
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
    fn wrong_flags_are_usage_errors() {
        for (args, part) in [
            (&["tcp"][..], "--local-port"),
            (&["tcp", "-l", "0"], "0"),
            (&["tcp", "-l", "1", "-s", "a:b"], "not a port"),
            (&["tcp", "-l", "1", "-s", "a:1", "-P", "2"], "given twice"),
            (&["tcp", "-l", "1", "-n", ""], "value is required"),
            (&["tcp", "-l", "1", "--token-file", "/nonexistent"], "/nonexistent"),
            (&["-c", "x", "tcp", "-l", "1"], "leave out -c"),
            (&["udp"], "unrecognized"),
        ] {
            let message = refused(args);
            assert!(message.contains(part), "{args:?}: {message}");
        }
    }

    #[test]
    fn verify_tells_good_files_from_bad_ones() {
        let good = file("serverAddr = \"example.com\"");
        let path = good.path().to_str().unwrap();
        for args in [["verify", "-c", path], ["-c", path, "verify"]] {
            assert!(matches!(interpreted(&args), Ok(Invocation::Verify { path: p, .. }) if p == good.path()));
        }
        let bad = file("[[proxies]]\nname = \"x\"\ntype = \"udp\"");
        let message = refused(&["verify", "-c", bad.path().to_str().unwrap()]);
        assert!(message.contains(":3: `proxies[0].type` = \"udp\" is not supported"), "{message}");
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
}
