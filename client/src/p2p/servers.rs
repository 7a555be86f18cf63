//! The STUN servers that are asked: those of the server, which it names at login, or one that was configured.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tun_common::link::resolve::Resolver;
use tun_common::stun::DEFAULT_STUN_PORT;
use tun_proto::wire::login::StunService;

/// How long looking up a name may take.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(5);

/// Endpoints to ask, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    pub(crate) v4: Vec<SocketAddr>,
    pub(crate) v6: Vec<SocketAddr>,
}

/// Keeps what is known of STUN servers.
#[derive(Debug)]
pub(crate) struct StunServers {
    configured: Option<(String, Option<u16>)>,
    known: watch::Sender<Servers>,
}

impl StunServers {
    /// `configured` is a host and its port, to be asked instead of the server.
    pub(crate) fn new(configured: Option<(String, Option<u16>)>) -> Self {
        StunServers { configured, known: watch::Sender::default() }
    }

    /// What is known now; empty before the first login.
    pub(crate) fn known(&self) -> Servers {
        self.known.borrow().clone()
    }

    /// After a login to `host`, reached at `peer` (`None`: through somebody else), which serves STUN as `service` says.
    /// What follows from that alone is known at once; then names are looked up. Cancellation safe.
    pub(crate) async fn learn(
        &self,
        host: &str,
        peer: Option<SocketAddr>,
        service: Option<&StunService>,
        resolver: &Resolver,
    ) {
        match &self.configured {
            Some((host, port)) => {
                let port = port.unwrap_or(DEFAULT_STUN_PORT);
                self.known.send_replace(Servers::at(&look_up(host, port, resolver).await, None));
            }
            None => {
                let Some(service) = service else {
                    self.known.send_replace(Servers::default());
                    return;
                };
                let mut addresses = Vec::from_iter(peer);
                self.known.send_replace(Servers::at(&addresses, Some(service)));
                // The ports are those of the service.
                addresses.extend(look_up(host, 0, resolver).await);
                self.known.send_replace(Servers::at(&addresses, Some(service)));
            }
        }
    }
}

impl Servers {
    /// The first address of each family; its ports are those of the service, if there is one.
    fn at(addresses: &[SocketAddr], service: Option<&StunService>) -> Self {
        let of_family = |v4: bool| -> Vec<SocketAddr> {
            let Some(address) = addresses.iter().find(|address| address.is_ipv4() == v4) else {
                return Vec::new();
            };
            let Some(service) = service else { return vec![*address] };
            let other = service.other_address.filter(|other| other.is_ipv4() == v4);
            let ips = std::iter::once(address.ip()).chain(other);
            ips.flat_map(|ip| service.ports.iter().map(move |port| SocketAddr::new(ip, *port))).collect()
        };
        Servers { v4: of_family(true), v6: of_family(false) }
    }
}

/// No address where there is none to be had in time.
async fn look_up(host: &str, port: u16, resolver: &Resolver) -> Vec<SocketAddr> {
    match tokio::time::timeout(LOOKUP_PATIENCE, resolver.look_up(host, port)).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => {
            tracing::debug!("the STUN server's address cannot be found: {host}: {error}");
            Vec::new()
        }
        Err(_) => {
            tracing::debug!("the STUN server's address cannot be found in time: {host}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn the_server_is_asked_where_it_was_reached() {
        let servers = StunServers::new(None);
        let service = StunService { ports: vec![7000, 7001], other_address: None };
        servers
            .learn("::1", Some("192.0.2.1:443".parse().unwrap()), Some(&service), &Resolver::default())
            .await;
        let known = servers.known();
        assert_eq!(known.v4, addresses(&["192.0.2.1:7000", "192.0.2.1:7001"]));
        assert_eq!(known.v6, addresses(&["[::1]:7000", "[::1]:7001"]));
        // It was started anew, without STUN.
        servers.learn("::1", Some("192.0.2.1:443".parse().unwrap()), None, &Resolver::default()).await;
        assert_eq!(servers.known(), Servers::default());
    }

    #[tokio::test]
    async fn a_second_address_is_asked_after_the_first() {
        let servers = StunServers::new(None);
        let service =
            StunService { ports: vec![7000, 7001], other_address: Some("192.0.2.2".parse().unwrap()) };
        servers
            .learn("192.0.2.1", Some("192.0.2.1:7000".parse().unwrap()), Some(&service), &Resolver::default())
            .await;
        let expected = ["192.0.2.1:7000", "192.0.2.1:7001", "192.0.2.2:7000", "192.0.2.2:7001"];
        assert_eq!(servers.known(), Servers { v4: addresses(&expected), v6: Vec::new() });
    }

    #[tokio::test]
    async fn what_is_configured_is_asked_instead() {
        let servers = StunServers::new(Some(("192.0.2.9".to_owned(), None)));
        let service = StunService { ports: vec![7000], other_address: None };
        servers
            .learn("192.0.2.1", Some("192.0.2.1:7000".parse().unwrap()), Some(&service), &Resolver::default())
            .await;
        assert_eq!(servers.known(), Servers { v4: addresses(&["192.0.2.9:3478"]), v6: Vec::new() });
    }
}
