//! Which of the three protocols a router speaks, and their timing.

use super::super::interfaces::{self, Gateway};
use crab_nat::{
    InternetProtocol, PortMapping, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp,
};
use igd_next::SearchOptions;
use igd_next::aio::tokio::{Tokio, search_gateway};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A router that speaks UPnP.
pub(super) type UpnpGateway = igd_next::aio::Gateway<Tokio>;

/// How long a router may take to answer one question over UDP: 250 ms, and 500 ms when asked again (RFC 6886 §3.1).
pub(super) const TIMING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 1,
    max_retry_timeout: Some(Duration::from_millis(500)),
};

/// How long a router may take to answer a search or a request of UPnP.
pub(super) const UPNP_PATIENCE: Duration = Duration::from_secs(1);

/// Lifetime of the mapping that is made to learn what PCP says of the external address, which nothing else tells.
const TRIAL_LIFETIME: u32 = 120;

/// UPnP's port for searches.
const SEARCH_PORT: u16 = 1900;

/// What a router offers: by each protocol that it speaks, its external address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Offers {
    pub(crate) pcp: Option<IpAddr>,
    pub(crate) nat_pmp: Option<IpAddr>,
    pub(crate) upnp: Option<IpAddr>,
}

/// Asks the router what it speaks; `None` if there is no router. Takes two seconds at most.
pub(crate) async fn probe() -> Option<Offers> {
    let gateway = interfaces::gateway()?;
    let pcp = async {
        // Of a port that is certainly nobody else's.
        let socket = UdpSocket::bind((gateway.local, 0)).await.ok()?;
        let port = NonZeroU16::new(socket.local_addr().ok()?.port())?;
        let mapping = map_pcp(gateway, port, TRIAL_LIFETIME).await.ok()?;
        let external = pcp_external(&mapping);
        if let Err((error, _)) = mapping.try_drop().await {
            tracing::debug!("the router keeps a port open for {TRIAL_LIFETIME} s: {error}");
        }
        external
    };
    let nat_pmp = async {
        Some(IpAddr::V4(natpmp::external_address(gateway.address.into(), Some(TIMING)).await.ok()?))
    };
    let upnp = async {
        let router = search(gateway).await?;
        timeout(UPNP_PATIENCE, router.get_external_ip()).await.ok()?.ok()
    };
    let (pcp, nat_pmp, upnp) = tokio::join!(pcp, nat_pmp, upnp);
    Some(Offers { pcp, nat_pmp, upnp })
}

/// A mapping of `port` by PCP, to the same external port if that is free.
pub(super) async fn map_pcp(
    gateway: Gateway,
    port: NonZeroU16,
    lifetime: u32,
) -> Result<PortMapping, pcp::Failure> {
    let request =
        pcp::BaseMapRequest::new(gateway.address.into(), gateway.local.into(), InternetProtocol::Udp, port);
    pcp::port_mapping(request, None, None, options(port, lifetime)).await
}

/// The same by NAT-PMP.
pub(super) async fn map_nat_pmp(
    gateway: Gateway,
    port: NonZeroU16,
    lifetime: u32,
) -> Result<PortMapping, natpmp::Failure> {
    natpmp::port_mapping(gateway.address.into(), InternetProtocol::Udp, port, options(port, lifetime)).await
}

/// The external address that came with a mapping; NAT-PMP tells it apart.
pub(super) fn pcp_external(mapping: &PortMapping) -> Option<IpAddr> {
    match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => Some(external_ip),
        PortMappingType::NatPmp => None,
    }
}

fn options(port: NonZeroU16, lifetime: u32) -> PortMappingOptions {
    PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: Some(lifetime),
        timeout_config: Some(TIMING),
    }
}

/// Looks for a router that speaks UPnP: all of the network are asked, as the standard wants it, and the one that is known
/// in particular, which must not take its time then.
pub(super) async fn search(gateway: Gateway) -> Option<UpnpGateway> {
    let at = |to: Option<SocketAddr>| {
        let mut options = SearchOptions::default();
        options.bind_addr = (gateway.local, 0).into();
        options.timeout = Some(UPNP_PATIENCE);
        options.single_search_timeout = Some(UPNP_PATIENCE);
        if let Some(to) = to {
            options.broadcast_address = to;
        }
        Box::pin(search_gateway(options))
    };
    let directly = at(Some((gateway.address, SEARCH_PORT).into()));
    match futures_util::future::select_ok([directly, at(None)]).await {
        Ok((router, _)) => Some(router),
        Err(error) => {
            tracing::debug!("no router speaks UPnP: {error}");
            None
        }
    }
}
