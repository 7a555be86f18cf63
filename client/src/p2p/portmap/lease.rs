//! One open port at a router, by whichever protocol.

use super::super::interfaces::Gateway;
use super::LIFETIME;
use super::protocols::{TIMING, UPNP_PATIENCE, UpnpGateway, map_nat_pmp, map_pcp, pcp_external, search};
use crab_nat::{MappingFailure, PortMapping, natpmp};
use igd_next::{AddAnyPortError, AddPortError, GetExternalIpError, PortMappingProtocol, RemovePortError};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::time::timeout;

/// What the router shows its owner.
const DESCRIPTION: &str = "tun";

/// An open port.
pub(super) enum Lease {
    /// By PCP or NAT-PMP.
    Plain { mapping: Box<PortMapping>, external: IpAddr },
    /// By UPnP.
    Upnp { router: Box<UpnpGateway>, local: SocketAddr, external: SocketAddr, seconds: u32 },
}

/// Why a mapping was not made or not renewed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    #[error(transparent)]
    Plain(#[from] MappingFailure),
    #[error("UPnP: {0}")]
    Add(#[from] AddPortError),
    #[error("UPnP: {0}")]
    AddAny(#[from] AddAnyPortError),
    #[error("UPnP: {0}")]
    Remove(#[from] RemovePortError),
    #[error("UPnP: {0}")]
    ExternalAddress(#[from] GetExternalIpError),
    #[error("the router does not answer")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

impl Lease {
    /// Asks by PCP and NAT-PMP, then by UPnP, whose search goes on meanwhile.
    pub(super) async fn obtain(gateway: Gateway, port: NonZeroU16) -> Option<Self> {
        let mut plain = std::pin::pin!(Self::plain(gateway, port));
        let mut searching = std::pin::pin!(search(gateway));
        let router = tokio::select! {
            lease = &mut plain => match lease {
                Some(lease) => return Some(lease),
                None => searching.await,
            },
            router = &mut searching => match plain.await {
                Some(lease) => return Some(lease),
                None => router,
            },
        };
        match Self::upnp(router?, SocketAddr::from((gateway.local, port.get()))).await {
            Ok(lease) => Some(lease),
            Err(error) => {
                tracing::debug!("the router opens no port: {error}");
                None
            }
        }
    }

    /// By PCP; by NAT-PMP if the router speaks only that. Whether it does is asked meanwhile, and opens nothing.
    async fn plain(gateway: Gateway, port: NonZeroU16) -> Option<Self> {
        let lifetime = LIFETIME.as_secs() as u32;
        let (pcp, nat_pmp) = tokio::join!(
            map_pcp(gateway, port, lifetime),
            natpmp::external_address(gateway.address.into(), Some(TIMING)),
        );
        match (pcp, nat_pmp) {
            (Ok(mapping), _) => {
                let external = pcp_external(&mapping)?;
                Some(Lease::Plain { mapping: Box::new(mapping), external })
            }
            (Err(_), Ok(external)) => match map_nat_pmp(gateway, port, lifetime).await {
                Ok(mapping) => Some(Lease::Plain { mapping: Box::new(mapping), external: external.into() }),
                Err(error) => {
                    tracing::debug!("the router opens no port: NAT-PMP: {error}");
                    None
                }
            },
            (Err(pcp), Err(nat_pmp)) => {
                tracing::debug!("the router opens no port: PCP: {pcp}; NAT-PMP: {nat_pmp}");
                None
            }
        }
    }

    async fn upnp(router: UpnpGateway, local: SocketAddr) -> Result<Self, LeaseError> {
        let ip = timeout(UPNP_PATIENCE, router.get_external_ip()).await??;
        let mut seconds = LIFETIME.as_secs() as u32;
        let port = loop {
            match add(&router, local.port(), local, seconds).await {
                Ok(()) => break local.port(),
                Err(LeaseError::Add(AddPortError::PortInUse)) => {
                    let any = router.add_any_port(PortMappingProtocol::UDP, local, seconds, DESCRIPTION);
                    break timeout(UPNP_PATIENCE, any).await??;
                }
                // Some routers open ports for ever only, and not all of these say so.
                Err(LeaseError::Add(error)) if seconds != 0 => {
                    tracing::debug!("the router does not open a port for {seconds} s: {error}");
                    seconds = 0;
                }
                Err(error) => return Err(error),
            }
        };
        let external = SocketAddr::new(ip, port);
        Ok(Lease::Upnp { router: Box::new(router), local, external, seconds })
    }

    /// Where peers can send to.
    pub(super) fn external(&self) -> SocketAddr {
        match self {
            Lease::Plain { mapping, external } => SocketAddr::new(*external, mapping.external_port().get()),
            Lease::Upnp { external, .. } => *external,
        }
    }

    /// What was granted. One that is granted for ever is looked after like others: a router may have been started anew.
    pub(super) fn lifetime(&self) -> Duration {
        match self {
            Lease::Plain { mapping, .. } => Duration::from_secs(mapping.lifetime().into()),
            Lease::Upnp { .. } => LIFETIME,
        }
    }

    /// Has it for as long again from now on. The external address may have changed.
    pub(super) async fn renew(&mut self) -> Result<(), LeaseError> {
        match self {
            Lease::Plain { mapping, external } => {
                mapping.renew().await?;
                match pcp_external(mapping) {
                    Some(now) => *external = now,
                    None => {
                        let now = natpmp::external_address(mapping.gateway(), Some(TIMING)).await;
                        *external = now.map_err(MappingFailure::from)?.into();
                    }
                }
                Ok(())
            }
            Lease::Upnp { router, local, external, seconds } => {
                external.set_ip(timeout(UPNP_PATIENCE, router.get_external_ip()).await??);
                add(router, external.port(), *local, *seconds).await
            }
        }
    }

    /// Closes the port.
    pub(super) async fn delete(self) -> Result<(), LeaseError> {
        match self {
            Lease::Plain { mapping, .. } => mapping.try_drop().await.map_err(|(error, _)| error.into()),
            Lease::Upnp { router, external, .. } => {
                let removal = router.remove_port(PortMappingProtocol::UDP, external.port());
                Ok(timeout(UPNP_PATIENCE, removal).await??)
            }
        }
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self {
            Lease::Plain { mapping, .. } if pcp_external(mapping).is_some() => "PCP",
            Lease::Plain { .. } => "NAT-PMP",
            Lease::Upnp { .. } => "UPnP",
        };
        write!(f, "the router's port {} by {protocol}", self.external())
    }
}

async fn add(router: &UpnpGateway, external: u16, local: SocketAddr, seconds: u32) -> Result<(), LeaseError> {
    let request = router.add_port(PortMappingProtocol::UDP, external, local, seconds, DESCRIPTION);
    Ok(timeout(UPNP_PATIENCE, request).await??)
}
