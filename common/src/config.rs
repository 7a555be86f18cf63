//! Configuration: what the two programs run on, and how it is read from frp's files.
//!
//! A file goes through three steps: `read` makes a tree of it, whatever its format; `check` holds the tree
//! against the table in `keys`; `server` and `client` decode what passed into the types of `types`.
//! Every step reports what is wrong and goes on, so that one run shows everything, with file, line and key.
//!
//! Differences from frp: `bindPort = 0` takes any free port, and an environment variable that is not set renders
//! as an empty text, with a warning. frp's old INI format is not read.

mod bandwidth;
mod check;
mod client;
mod fallback;
pub mod flags;
mod format;
mod keys;
mod private;
mod problem;
mod read;
mod schema;
mod secret;
mod server;
mod services;
mod shared;
mod suggest;
mod template;
#[cfg(test)]
mod tests;
mod tree;
mod types;

use std::path::Path;

use problem::Report;
use tree::Node;

pub use bandwidth::{BandwidthLimit, KEPT_BY_CLIENT, LimitMode, bandwidth_rate};
pub use problem::{ConfigError, Loaded, Problem};
pub use secret::Secret;
pub use shared::{Env, SECRET_VARIABLE, TOKEN_VARIABLE, read_secret_key, read_token};
pub use types::{
    ClientConfig, ClientTls, ClientTransport, DEFAULT_DRAIN_TIMEOUT, DEFAULT_HEARTBEAT_INTERVAL,
    DEFAULT_HEARTBEAT_TIMEOUT, DEFAULT_PORT, DEFAULT_TCP_KEEPALIVE, DEFAULT_UDP_IDLE, Fallback, LogConfig,
    LogFormat, LogLevel, LogTarget, NatTraversal, Protocol, ProxyConfig, ProxyKind, QuicPorts, ServerConfig,
    ServerTls, ServerTransport, StunConfig, VisitorConfig, VisitorKind, XtcpVisitor, full_name,
};

/// Loads a server's file with the process's environment; unknown keys are errors.
pub fn load_server(path: &Path) -> Result<Loaded<ServerConfig>, ConfigError> {
    Loader::default().server(path)
}

/// Loads a client's file with the process's environment; unknown keys are errors.
pub fn load_client(path: &Path) -> Result<Loaded<ClientConfig>, ConfigError> {
    Loader::default().client(path)
}

/// How files are loaded.
#[derive(Clone)] // not Debug: the environment may hold secrets
pub struct Loader {
    /// Whether unknown keys are errors; otherwise they are warnings.
    pub strict: bool,
    /// What `{{ .Envs.NAME }}` refers to, and where [`TOKEN_VARIABLE`] is looked up.
    pub env: Env,
    /// A token from the command line: it takes the place of whatever the file says about tokens.
    pub token: Option<Secret>,
}

impl Default for Loader {
    fn default() -> Self {
        // A variable that is not UTF-8 cannot be named in a file either.
        let env =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        Self { strict: true, env: env.collect(), token: None }
    }
}

impl Loader {
    /// Loads a server's file.
    pub fn server(&self, path: &Path) -> Result<Loaded<ServerConfig>, ConfigError> {
        let mut report = Report::new(Some(path), self.strict);
        let tree = read::read(path, &self.env, &mut report);
        self.finish_server(tree, report)
    }

    /// Loads a client's file and the files it includes.
    pub fn client(&self, path: &Path) -> Result<Loaded<ClientConfig>, ConfigError> {
        let mut report = Report::new(Some(path), self.strict);
        let tree = read::read(path, &self.env, &mut report);
        self.finish_client(tree, report)
    }

    /// Reads a server's configuration from a text.
    pub fn server_from_str(&self, text: &str) -> Result<Loaded<ServerConfig>, ConfigError> {
        let mut report = Report::new(None, self.strict);
        let tree = read::parse(text, &self.env, &mut report);
        self.finish_server(tree, report)
    }

    /// Reads a client's configuration from a text. Its `includes` are relative to the working directory.
    pub fn client_from_str(&self, text: &str) -> Result<Loaded<ClientConfig>, ConfigError> {
        let mut report = Report::new(None, self.strict);
        let tree = read::parse(text, &self.env, &mut report);
        self.finish_client(tree, report)
    }

    fn finish_server(
        &self,
        tree: Option<Node>,
        mut report: Report,
    ) -> Result<Loaded<ServerConfig>, ConfigError> {
        let config = tree.map(|mut tree| {
            check::check(&mut tree, keys::SERVER, &[], &mut report);
            server::decode(&tree, self, &mut report)
        });
        report.finish(config)
    }

    fn finish_client(
        &self,
        tree: Option<Node>,
        mut report: Report,
    ) -> Result<Loaded<ClientConfig>, ConfigError> {
        let config = tree.map(|mut tree| {
            let start = client::start(&tree);
            check::check(&mut tree, keys::CLIENT, &start, &mut report);
            client::decode(&tree, self, &mut report)
        });
        report.finish(config)
    }
}
