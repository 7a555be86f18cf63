//! Flags of the commands about private services.

use super::{Failure, FlowFlags, LocalFlags, ServerFlags, usage};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;
use tun_common::cli::LogFlags;
use tun_common::config::{
    ClientConfig, Loaded, Loader, LogLevel, LogTarget, NatTraversal, Problem, ProxyKind, SECRET_VARIABLE,
    Secret, VisitorConfig, VisitorKind, XtcpVisitor, flags, full_name, read_secret_key,
};

pub(super) const STCP_EXAMPLES: &str = "\
Examples:
  tunc stcp -s example.com -l 22 -n ssh --secret-file secret
  tunc stcp -s example.com -u alice -l 5432 -n db --allow-users bob,carol

The service has no public port. Others reach it with tunc visit, or with a file that has a visitor,
if they know the secret. What the server passes on is encrypted from end to end.

On the command line (--secret) other users of this machine can see the secret; --secret-file and the
environment variable TUN_SECRET hide it. The same goes for the token: --token-file, TUN_TOKEN.";

pub(super) const XTCP_EXAMPLES: &str = "\
Examples:
  tunc xtcp -s example.com -l 22 -n ssh --secret-file secret
  tunc xtcp -s example.com -l 5432 -n db --no-spray

As stcp, but visitors come directly, past the server, where the networks on the way allow it; otherwise
through the server, encrypted from end to end.";

pub(super) const SUDP_EXAMPLES: &str = "\
Examples:
  tunc sudp -s example.com -l 51820 -n wg --secret-file secret

As stcp, for datagrams: others reach it with tunc visit --udp, or with a file that has a visitor of
type sudp or xudp.";

pub(super) const XUDP_EXAMPLES: &str = "\
Examples:
  tunc xudp -s example.com -l 51820 -n wg --secret-file secret

As sudp, but visitors come directly, past the server, where the networks on the way allow it; otherwise
through the server, encrypted from end to end.";

pub(super) const VISIT_EXAMPLES: &str = "\
Examples:
  tunc visit ssh -s example.com --bind 6000          then: ssh -p 6000 localhost
  tunc visit ssh -s example.com                      any free port; it is announced
  tunc visit db -s example.com -u bob --server-user alice --bind 127.0.0.1:5432
  tunc visit db -s example.com --relay-only          all through the server, nothing directly
  tunc visit wg -s example.com --udp --bind 51820    a service of type sudp or xudp
  ssh -o ProxyCommand='tunc visit ssh -s example.com --stdio' host

With --stdio standard output carries the connection, so the log goes to standard error, and only
from level warn on unless --log-level or -v says otherwise.

On the command line (--secret) other users of this machine can see the secret; --secret-file and the
environment variable TUN_SECRET hide it. The same goes for the token: --token-file, TUN_TOKEN.";

/// What to expose, and to whom.
#[derive(Debug, Args)]
pub(super) struct StcpFlags {
    #[command(flatten)]
    local: LocalFlags,

    /// Name of the proxy, unique on the server; visitors ask for it
    #[arg(short = 'n', long = "proxy-name", value_name = "NAME", visible_alias = "name",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,

    #[command(flatten)]
    secret: SecretFlags,

    /// Users whose visitors are let in, * for all [default: the user of -u]
    #[arg(long, value_name = "USERS", value_delimiter = ',')]
    allow_users: Vec<String>,

    #[command(flatten)]
    server: ServerFlags,

    #[command(flatten)]
    log: LogFlags,
}

impl StcpFlags {
    pub(super) fn into_config(self, loader: &mut Loader) -> Result<Loaded<ClientConfig>, Failure> {
        self.into_proxy(None, None, loader)
    }

    fn into_proxy(
        self,
        direct: Option<NatTraversal>,
        udp_idle: Option<Duration>,
        loader: &mut Loader,
    ) -> Result<Loaded<ClientConfig>, Failure> {
        let mut loaded = self.server.into_config(self.log, loader)?;
        let risk = "the server, and every client that --allow-users admits, can reach this service";
        let secret_key = self.secret.read(loader, risk, &mut loaded.warnings)?;
        let config = &mut loaded.config;
        let kind = ProxyKind::Private { secret_key, allow_users: self.allow_users, direct, udp_idle };
        let name = config.full_name(&self.name);
        config.proxies.push(self.local.into_proxy(name, kind, &mut loaded.warnings));
        Ok(loaded)
    }
}

/// What to expose, to whom, and how they come.
#[derive(Debug, Args)]
pub(super) struct XtcpFlags {
    #[command(flatten)]
    service: StcpFlags,

    #[command(flatten)]
    direct: DirectFlags,
}

impl XtcpFlags {
    pub(super) fn into_config(self, loader: &mut Loader) -> Result<Loaded<ClientConfig>, Failure> {
        let direct = self.direct.into_config();
        self.service.into_proxy(Some(direct), None, loader)
    }
}

/// What to expose, to whom, and how long flows last.
#[derive(Debug, Args)]
pub(super) struct SudpFlags {
    #[command(flatten)]
    service: StcpFlags,

    #[command(flatten)]
    flows: FlowFlags,
}

impl SudpFlags {
    pub(super) fn into_config(self, loader: &mut Loader) -> Result<Loaded<ClientConfig>, Failure> {
        let idle = self.flows.idle();
        self.service.into_proxy(None, Some(idle), loader)
    }
}

/// What to expose, to whom, how they come, and how long flows last.
#[derive(Debug, Args)]
pub(super) struct XudpFlags {
    #[command(flatten)]
    service: StcpFlags,

    #[command(flatten)]
    direct: DirectFlags,

    #[command(flatten)]
    flows: FlowFlags,
}

impl XudpFlags {
    pub(super) fn into_config(self, loader: &mut Loader) -> Result<Loaded<ClientConfig>, Failure> {
        let (direct, idle) = (self.direct.into_config(), self.flows.idle());
        self.service.into_proxy(Some(direct), Some(idle), loader)
    }
}

/// How direct paths are looked for.
#[derive(Debug, Args)]
struct DirectFlags {
    /// Do not try many ports at once when a NAT gives every peer another one
    #[arg(long)]
    no_spray: bool,
}

impl DirectFlags {
    fn into_config(self) -> NatTraversal {
        NatTraversal { spray: !self.no_spray, ..NatTraversal::default() }
    }
}

/// What to reach, and from where.
#[derive(Debug, Args)]
pub(super) struct VisitFlags {
    /// Name of the proxy
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,

    /// User that the proxy belongs to [default: the user of -u]
    #[arg(long, value_name = "USER")]
    server_user: Option<String>,

    #[command(flatten)]
    secret: SecretFlags,

    /// Where to listen; port 0 is any free one [default: 127.0.0.1:0]
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = |text: &str| flags::listen_address(text).map(Place))]
    bind: Option<Place>,

    /// The service takes datagrams (sudp, xudp): the local port is one of UDP
    #[arg(long, conflicts_with = "stdio")]
    udp: bool,

    #[command(flatten)]
    flows: FlowFlags,

    /// Do not listen: connect standard input and output to the service, as for ssh's ProxyCommand
    #[arg(long, conflicts_with = "bind")]
    stdio: bool,

    /// Stay on the server's relay: no direct connection is tried
    #[arg(long, conflicts_with = "no_spray")]
    relay_only: bool,

    #[command(flatten)]
    direct: DirectFlags,

    #[command(flatten)]
    server: ServerFlags,

    #[command(flatten)]
    log: LogFlags,
}

#[derive(Debug, Clone)]
struct Place((Option<String>, u16));

impl VisitFlags {
    /// Whether the connection is standard input and output.
    pub(super) fn stdio(&self) -> bool {
        self.stdio
    }

    pub(super) fn into_config(self, loader: &mut Loader) -> Result<Loaded<ClientConfig>, Failure> {
        let chatty = self.log.log_level.is_some();
        let mut loaded = self.server.into_config(self.log, loader)?;
        let risk = "nothing proves that the other end is the one that is meant";
        let secret_key = self.secret.read(loader, risk, &mut loaded.warnings)?;
        let config = &mut loaded.config;
        if self.stdio {
            if config.log.to == LogTarget::Console {
                config.log.to = LogTarget::Stderr;
            }
            // ssh shows it to the user between its own lines.
            if !chatty {
                config.log.level = LogLevel::Warn;
            }
        }
        let (bind_addr, bind_port) = match self.bind {
            Some(Place((addr, port))) => (addr, Some(port)),
            None => (None, if self.stdio { None } else { Some(0) }),
        };
        let server_user = self.server_user.filter(|user| !user.is_empty());
        config.visitors.push(VisitorConfig {
            name: config.full_name(&self.name),
            kind: match self.relay_only {
                true => VisitorKind::Stcp,
                false => VisitorKind::Xtcp(XtcpVisitor {
                    nat_traversal: self.direct.into_config(),
                    ..XtcpVisitor::default()
                }),
            },
            server_name: match server_user {
                Some(user) => full_name(&user, &self.name),
                None => config.full_name(&self.name),
            },
            secret_key,
            bind_addr: bind_addr.unwrap_or_else(|| "127.0.0.1".to_owned()),
            bind_port,
            udp_idle: self.udp.then(|| self.flows.idle()),
        });
        Ok(loaded)
    }
}

/// The secret of a private service.
#[derive(Debug, Args)]
struct SecretFlags {
    /// Secret of the private service, which the server never learns
    #[arg(long, visible_alias = "sk", value_name = "SECRET")]
    secret: Option<String>,

    /// File that holds the secret
    #[arg(long, value_name = "FILE", conflicts_with = "secret")]
    secret_file: Option<PathBuf>,
}

impl SecretFlags {
    /// The secret: from a flag, from a file, or from the environment.
    fn read(self, loader: &Loader, risk: &str, warnings: &mut Vec<Problem>) -> Result<Secret, Failure> {
        let secret = match (self.secret, self.secret_file) {
            (Some(secret), _) => Secret::new(secret),
            (None, Some(path)) => read_secret_key(&path).map_err(usage)?,
            (None, None) => {
                loader.env.get(SECRET_VARIABLE).map(|text| Secret::new(text.trim())).unwrap_or_default()
            }
        };
        if secret.is_empty() {
            let message =
                format!("no secret is given (--secret-file, {SECRET_VARIABLE} or --secret): {risk}");
            warnings.push(Problem::general(message));
        }
        Ok(secret)
    }
}
