//! Ports that the router opens on request: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP's Internet Gateway Device.
//!
//! A granted port is open to every peer, whatever the router's NAT does to ports otherwise.

mod lease;
mod protocols;

pub(crate) use protocols::{Offers, probe};

use super::interfaces::{self, Gateway};
use lease::Lease;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tun_common::lifecycle::Tasks;
use tun_proto::p2p::nat::is_private;

/// For how long a mapping is asked for (RFC 6886 §3.3). It is renewed when half of what was granted has passed.
const LIFETIME: Duration = Duration::from_secs(7200);

/// Shortest pause between two renewals (RFC 6887 §11.2.1).
const SHORTEST_RENEWAL: Duration = Duration::from_secs(4);

/// How long deleting a mapping may take: the program may be waiting for it.
const DELETION_PATIENCE: Duration = Duration::from_millis(800);

/// How long a request that is under way may go on once nobody wants its mapping: what a router grants to nobody stays
/// open for two hours.
const RELEASE_GRACE: Duration = Duration::from_millis(300);

/// Asks the router for ports.
#[derive(Debug, Clone)]
pub(crate) struct PortMapper {
    /// `None` where the user does not want that.
    tasks: Option<Tasks>,
}

impl PortMapper {
    /// One whose mappings are kept by `tasks`; whoever owns these waits for the mappings to be deleted.
    pub(crate) fn new(enabled: bool, tasks: Tasks) -> Self {
        PortMapper { tasks: enabled.then_some(tasks) }
    }

    /// Has the UDP port `local` of this machine's IPv4 address opened, for as long as the mapping is held. Returns at
    /// once; what comes of it is heard from the mapping.
    pub(crate) fn map(&self, local: u16) -> Mapping {
        let (sender, external) = watch::channel(None);
        let released = CancellationToken::new();
        if let (Some(tasks), Some(port)) = (&self.tasks, NonZeroU16::new(local))
            && let Some(gateway) = interfaces::gateway()
        {
            // Not ended with the group, but by the end of the mapping: it has something to give back.
            tasks.spawn_to_end(keep(gateway, port, sender, released.clone()));
        }
        Mapping { external, _release: released.drop_guard() }
    }
}

/// An open port, or the wish for one. It is given back when this goes.
#[derive(Debug)]
pub(crate) struct Mapping {
    external: watch::Receiver<Option<SocketAddr>>,
    _release: DropGuard,
}

impl Mapping {
    /// Waits until another external address than before was granted, and returns it. Cancellation safe.
    pub(crate) async fn granted(&mut self) -> SocketAddr {
        loop {
            if self.external.changed().await.is_err() {
                // There will be none.
                std::future::pending::<()>().await;
            }
            if let Some(external) = *self.external.borrow_and_update() {
                return external;
            }
        }
    }
}

async fn keep(
    gateway: Gateway,
    port: NonZeroU16,
    external: watch::Sender<Option<SocketAddr>>,
    released: CancellationToken,
) {
    let too_late = async {
        released.cancelled().await;
        sleep(RELEASE_GRACE).await;
    };
    let lease = tokio::select! {
        lease = Lease::obtain(gateway, port) => lease,
        () = too_late => None,
    };
    let Some(lease) = lease else { return };
    let address = lease.external();
    if !is_public(address.ip()) {
        tracing::debug!("{lease} is of no use: that is no public address, another NAT follows");
        return give_back(Some(lease)).await;
    }
    tracing::debug!("{lease} for port {port}");
    external.send_replace(Some(address));
    give_back(renew(lease, &external, &released).await).await;
}

/// Whether peers elsewhere can send to a router's external address.
pub(crate) fn is_public(address: IpAddr) -> bool {
    !is_private(address) && !address.is_unspecified()
}

/// Renews until the mapping is released or lost; returns what there is to be given back.
async fn renew(
    mut lease: Lease,
    external: &watch::Sender<Option<SocketAddr>>,
    released: &CancellationToken,
) -> Option<Lease> {
    let mut expiry = Instant::now() + lease.lifetime();
    loop {
        // Half of what is left, again and again if the router does not answer.
        let pause = (expiry.saturating_duration_since(Instant::now()) / 2).max(SHORTEST_RENEWAL);
        if released.run_until_cancelled(sleep(pause)).await.is_none() {
            return Some(lease);
        }
        match lease.renew().await {
            Ok(()) => {
                expiry = Instant::now() + lease.lifetime();
                external.send_if_modified(|known| known.replace(lease.external()) != *known);
            }
            Err(error) if Instant::now() < expiry => tracing::debug!("{lease} was not renewed: {error}"),
            Err(error) => {
                tracing::debug!("{lease} is lost: {error}");
                external.send_replace(None);
                return None;
            }
        }
    }
}

async fn give_back(lease: Option<Lease>) {
    let Some(lease) = lease else { return };
    let name = lease.to_string();
    match timeout(DELETION_PATIENCE, lease.delete()).await {
        Ok(Ok(())) => tracing::debug!("{name} was given back"),
        Ok(Err(error)) => tracing::debug!("{name} was not given back: {error}"),
        Err(_) => tracing::debug!("{name} was not given back: the router does not answer"),
    }
}

#[cfg(test)]
mod tests;
