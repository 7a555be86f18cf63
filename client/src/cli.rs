//! The command line of `tunc`: what it asks for, checked, with the configuration already loaded.

mod nat;
mod private;

use std::{ffi::OsString, net::SocketAddr, num::NonZeroU64, path::PathBuf, process, time::Duration};

use self::nat::{NAT_NOTES, NatFlags, Nathole};
use self::private::{
    STCP_EXAMPLES, SUDP_EXAMPLES, StcpFlags, SudpFlags, VISIT_EXAMPLES, VisitFlags, XTCP_EXAMPLES,
    XUDP_EXAMPLES, XtcpFlags, XudpFlags,
};
use crate::nat::Question;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, error::ErrorKind};
use clap_complete::Shell;
use tun_common::cli::{LogFlags, set};
use tun_common::config::{
    BandwidthLimit, ClientConfig, ConfigError, DEFAULT_UDP_IDLE, KEPT_BY_CLIENT, LimitMode, Loaded, Loader,
    LogLevel, Problem, ProxyConfig, ProxyKind, Secret, bandwidth_rate, flags, read_token,
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
    /// Reach one private service.
    Visit {
        /// From the flags; it holds the one visitor.
        config: Box<Loaded<ClientConfig>>,
        /// Whether the connection is this process's standard input and output; there is no listener then.
        stdio: bool,
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
    /// Say what lies between here and a server.
    Nat(Question),
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
    let mut visit = None;
    let mut config = match (cli.command, cli.config) {
        (Some(Command::Completions { shell }), _) => return Ok(Invocation::Completions(shell)),
        (Some(Command::Verify { config }), outer) => {
            let path = config.or(outer).ok_or_else(|| usage("verify needs a file: -c FILE"))?;
            let Loaded { warnings, .. } = loader.client(&path)?;
            return Ok(Invocation::Verify { path, warnings });
        }
        (
            Some(
                Command::Tcp(_)
                | Command::Udp(_)
                | Command::Stcp(_)
                | Command::Xtcp(_)
                | Command::Sudp(_)
                | Command::Xudp(_)
                | Command::Visit(_),
            ),
            Some(_),
        ) => {
            return Err(usage(
                "this command takes everything from its flags; leave out -c, or put the service into the file",
            ));
        }
        (Some(Command::Nat(flags) | Command::Nathole { command: Nathole::Discover(flags) }), path) => {
            return flags.into_question(&loader, path.as_deref()).map(Invocation::Nat);
        }
        (Some(Command::Tcp(flags)), None) => flags.into_config(&mut loader)?,
        (Some(Command::Udp(flags)), None) => flags.into_config(&mut loader)?,
        (Some(Command::Sudp(flags)), None) => flags.into_config(&mut loader)?,
        (Some(Command::Xudp(flags)), None) => flags.into_config(&mut loader)?,
        (Some(Command::Stcp(flags)), None) => flags.into_config(&mut loader)?,
        (Some(Command::Xtcp(flags)), None) => flags.into_config(&mut loader)?,
        (Some(Command::Visit(flags)), None) => {
            visit = Some(flags.stdio());
            flags.into_config(&mut loader)?
        }
        (None, Some(path)) => loader.client(&path)?,
        (None, None) => return Err(usage("give a configuration file (-c FILE) or a command such as tcp")),
    };
    if cli.verbose {
        config.config.log.level = config.config.log.level.min(LogLevel::Debug);
    }
    let (config, verbose) = (Box::new(config), cli.verbose);
    Ok(match visit {
        Some(stdio) => Invocation::Visit { config, stdio, verbose },
        None => Invocation::Run { config, verbose },
    })
}

const EXAMPLES: &str = "\
Examples:
  tunc -c tunc.toml                         expose what the file says
  tunc tcp -s example.com -l 22 -r 6000     no file: port 22 here becomes port 6000 there
  tunc udp -s example.com -l 53 -r 6053     the same for datagrams
  tunc xtcp -s example.com -l 22 -n ssh     no public port: only for those who know the secret
  tunc visit ssh -s example.com --bind 6000 on another machine: that service becomes port 6000 here
  tunc verify -c tunc.toml                  check a file and do nothing else
  tunc nat -s example.com                   what NAT is between here and there, and what that means
  tunc completions zsh > _tunc

Files are TOML, YAML or JSON, with the keys of frpc. Long flags may be written with _ or -.
The token may also come from the environment variable TUN_TOKEN, or from the file's
auth.tokenSource; the secret of stcp, xtcp and visit from TUN_SECRET.

Exit codes: 0 stopped by a signal, 1 failure at run time, 2 wrong command line or configuration,
3 refused by the server.";

const TCP_EXAMPLES: &str = "\
Examples:
  tunc tcp -s example.com -l 8080               the server chooses the port; the log tells
  tunc tcp -s example.com:7001 -l 22 -r 6000    the server itself listens on port 7001
  tunc tcp -s example.com -i 192.168.1.9 -l 80 -r 8000 -n printer --token-file token

On the command line (-t) other users of this machine can see the token; --token-file and the
environment variable TUN_TOKEN hide it.";

const UDP_EXAMPLES: &str = "\
Examples:
  tunc udp -s example.com -l 53                 the server chooses the port; the log tells
  tunc udp -s example.com -l 51820 -r 51820 -n wireguard

The local service sees one socket for each source. A flow ends after a minute without a datagram
(--idle-timeout).

On the command line (-t) other users of this machine can see the token; --token-file and the
environment variable TUN_TOKEN hide it.";

/// The private side of a tunnel: exposes services of this machine, or of its neighbours, on a tuns server, and reaches
/// those that others expose there privately.
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
    /// Expose one UDP service without a file
    #[command(after_help = UDP_EXAMPLES)]
    Udp(Box<UdpFlags>),
    /// Expose one private service without a file
    #[command(after_help = STCP_EXAMPLES)]
    Stcp(Box<StcpFlags>),
    /// The same, and visitors come directly where that is possible
    #[command(after_help = XTCP_EXAMPLES)]
    Xtcp(Box<XtcpFlags>),
    /// Expose one private UDP service without a file
    #[command(after_help = SUDP_EXAMPLES)]
    Sudp(Box<SudpFlags>),
    /// The same, and visitors come directly where that is possible
    #[command(after_help = XUDP_EXAMPLES)]
    Xudp(Box<XudpFlags>),
    /// Reach one private service of another client
    #[command(after_help = VISIT_EXAMPLES)]
    Visit(Box<VisitFlags>),
    /// Check a configuration file and exit
    Verify {
        /// The file to check
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Find out what NAT is between here and the server, and what that means for direct connections
    #[command(after_help = NAT_NOTES)]
    Nat(NatFlags),
    /// The name that frp gives to nat
    #[command(hide = true)]
    Nathole {
        /// What to do
        #[command(subcommand)]
        command: Nathole,
    },
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What to expose.
#[derive(Debug, Args)]
struct LocalFlags {
    /// Port of the local service
    #[arg(short = 'l', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    local_port: u16,

    /// Host of the local service
    #[arg(short = 'i', long, value_name = "HOST", default_value = "127.0.0.1")]
    local_ip: String,

    /// What all connections may carry together in a second, both directions added, such as 512KB or 1.5MB
    #[arg(long, value_name = "RATE", value_parser = |text: &str| bandwidth_rate(text).map(Rate))]
    bandwidth_limit: Option<Rate>,

    /// Who keeps that limit
    #[arg(long, value_name = "SIDE", default_value = "client", value_parser = ["client", "server"])]
    bandwidth_limit_mode: String,
}

/// Bytes a second; `None` is no limit.
#[derive(Debug, Clone, Copy)]
struct Rate(Option<NonZeroU64>);

/// What to expose, and where.
#[derive(Debug, Args)]
struct TcpFlags {
    #[command(flatten)]
    local: LocalFlags,

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

/// What to expose, and where.
#[derive(Debug, Args)]
struct UdpFlags {
    #[command(flatten)]
    local: LocalFlags,

    /// Public UDP port on the server; 0 lets the server choose
    #[arg(short = 'r', long, value_name = "PORT", default_value_t = 0)]
    remote_port: u16,

    /// Name of the proxy, unique on the server [default: udp-LOCALPORT]
    #[arg(short = 'n', long = "proxy-name", value_name = "NAME", visible_alias = "name",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: Option<String>,

    #[command(flatten)]
    flows: FlowFlags,

    #[command(flatten)]
    server: ServerFlags,

    #[command(flatten)]
    log: LogFlags,
}

/// How long the flows of datagrams last.
#[derive(Debug, Args)]
struct FlowFlags {
    /// Seconds without a datagram after which a source is forgotten
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_UDP_IDLE.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle_timeout: u64,
}

impl FlowFlags {
    fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_timeout)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
struct ServerFlags {
    /// The server [default: 127.0.0.1]
    #[arg(short, long, visible_alias = "server", value_name = "HOST[:PORT]", value_parser = |text: &str| flags::host_and_port(text).map(Address))]
    server_addr: Option<Address>,

    /// The server's port [default: 7000]
    #[arg(short = 'P', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    server_port: Option<u16>,

    /// Token shared with the server
    #[arg(short, long, value_name = "TOKEN")]
    token: Option<String>,

    /// File that holds the token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,

    /// Prefix of names, so that several users share one server
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

    /// How the server is reached
    #[arg(short, long, value_name = "WAY", default_value = "tcp",
          value_parser = ["tcp", "quic", "kcp", "websocket", "wss", "auto"])]
    protocol: String,

    /// Who is asked for the server's address instead of the system
    #[arg(long, value_name = "IP[:PORT]", value_parser = flags::dns_server)]
    dns_server: Option<SocketAddr>,
}

#[derive(Debug, Clone)]
struct Address((String, Option<u16>));

impl ServerFlags {
    /// A configuration with all but the services.
    fn into_config(self, log: LogFlags, loader: &mut Loader) -> Result<Loaded<ClientConfig>, Failure> {
        let server = self;
        loader.token = match (server.token, server.token_file) {
            (Some(token), _) => Some(Secret::new(token)),
            (None, Some(path)) => Some(read_token(&path).map_err(usage)?),
            (None, None) => None,
        };
        // As a file would say it, since the keys have to do with each other.
        let (protocol, encrypted) = (&server.protocol, server.tls_enable);
        let keys = format!("transport.protocol = {protocol:?}\ntransport.tls.enable = {encrypted}\n");
        let mut loaded = loader.client_from_str(&keys)?;
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
        config.dns_server = server.dns_server;
        set(&mut config.transport.tls.server_name, server.tls_server_name);
        log.apply(&mut config.log);
        Ok(loaded)
    }
}

impl LocalFlags {
    /// The proxy; `warnings` get what its author should hear although it is allowed.
    fn into_proxy(self, name: String, kind: ProxyKind, warnings: &mut Vec<Problem>) -> ProxyConfig {
        let by_server = self.bandwidth_limit_mode == "server";
        let private = matches!(kind, ProxyKind::Private { .. });
        let bandwidth = self.bandwidth_limit.and_then(|Rate(rate)| rate).map(|rate| {
            if by_server && private {
                let message = format!("--bandwidth-limit-mode server: {KEPT_BY_CLIENT}");
                warnings.push(Problem::general(message));
            }
            let mode = if by_server && !private { LimitMode::Server } else { LimitMode::Client };
            BandwidthLimit { rate, mode }
        });
        ProxyConfig {
            name,
            kind,
            bandwidth,
            annotations: Default::default(),
            metadatas: Default::default(),
            local_ip: self.local_ip,
            local_port: self.local_port,
        }
    }
}

impl TcpFlags {
    fn into_config(self, loader: &mut Loader) -> Result<Loaded<ClientConfig>, Failure> {
        let mut loaded = self.server.into_config(self.log, loader)?;
        let config = &mut loaded.config;
        let name = self.name.unwrap_or_else(|| format!("tcp-{}", self.local.local_port));
        let kind = ProxyKind::Tcp { remote_port: self.remote_port };
        let name = config.full_name(&name);
        config.proxies.push(self.local.into_proxy(name, kind, &mut loaded.warnings));
        Ok(loaded)
    }
}

impl UdpFlags {
    fn into_config(self, loader: &mut Loader) -> Result<Loaded<ClientConfig>, Failure> {
        let mut loaded = self.server.into_config(self.log, loader)?;
        let config = &mut loaded.config;
        let name = self.name.unwrap_or_else(|| format!("udp-{}", self.local.local_port));
        let kind = ProxyKind::Udp { remote_port: self.remote_port, idle: self.flows.idle() };
        let name = config.full_name(&name);
        config.proxies.push(self.local.into_proxy(name, kind, &mut loaded.warnings));
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests;
