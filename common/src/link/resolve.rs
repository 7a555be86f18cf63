//! What addresses a name has: as the system says, or a DNS server of one's own choice.

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::lookup_host;

/// How long the server may take to answer, and once more for a second try: less than an attempt to reach the tunnel's
/// server has, so that the error can say whose fault it was.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom to ask for addresses. Cheap to clone.
#[derive(Clone, Default)]
pub struct Resolver(Option<TokioResolver>);

impl Resolver {
    /// Asks this DNS server, over UDP and, for long answers, TCP, for what `/etc/hosts` does not say.
    ///
    /// # Errors
    /// Those of the resolver.
    pub fn asking(server: SocketAddr) -> io::Result<Self> {
        let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
        for connection in &mut name_server.connections {
            connection.port = server.port();
        }
        let config = ResolverConfig::from_name_servers(vec![name_server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        (options.timeout, options.attempts) = (PATIENCE, 1);
        Ok(Resolver(Some(builder.build().map_err(io::Error::other)?)))
    }

    /// The addresses of `host`, which may be one itself, with `port`. Cancellation safe.
    ///
    /// # Errors
    /// What the resolver says when there is none.
    pub async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        match &self.0 {
            None => Ok(lookup_host((host, port)).await?.collect()),
            Some(resolver) => {
                let found = resolver.lookup_ip(host).await;
                let found = found.map_err(|error| io::Error::other(format!("dnsServer: {error}")))?;
                Ok(found.iter().map(|address| SocketAddr::new(address, port)).collect())
            }
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver(own)" } else { "Resolver(system)" })
    }
}
