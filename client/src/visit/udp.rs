//! A local UDP port whose datagrams are the visitor's.

use super::listen;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tun_common::session::{DatagramCarrier, Session};
use tun_common::udp::Entrance;
use tun_proto::datagram::flows::FlowBudget;
use tun_proto::limits::MAX_SESSION_FLOWS;
use tun_proto::wire::control::StreamMeta;

/// The port, and what the visitor has to know about it.
pub(crate) struct Port {
    pub(crate) entrance: Arc<Entrance>,
    /// Number of flows.
    pub(crate) flows: watch::Receiver<usize>,
}

impl Port {
    /// Binds the visitor's port.
    ///
    /// # Errors
    /// When the address is none, or cannot be bound.
    pub(crate) fn bind(name: &str, address: &str, port: u16, idle: Duration) -> anyhow::Result<Self> {
        use anyhow::Context;
        let address = listen::address(address, port)?;
        let entrance = Entrance::bind(name, address, idle, FlowBudget::new(MAX_SESSION_FLOWS))
            .with_context(|| format!("cannot take datagrams on {address} (bindAddr, bindPort)"))?;
        let flows = entrance.watch_flows();
        Ok(Port { entrance, flows })
    }

    /// Begins to carry the port's datagrams to `proxy` over a session with its client.
    pub(crate) fn carry(&self, proxy: &str, session: &Session) -> DatagramCarrier {
        let meta = StreamMeta::Datagrams { name: proxy.to_owned() };
        let meta = Bytes::from(serde_json::to_vec(&meta).unwrap_or_default());
        session.carry_datagrams(meta, self.entrance.end())
    }
}

/// Resolves when the number of flows changes; never without a port. Cancellation safe.
pub(super) async fn changed(port: &mut Option<Port>) {
    if let Some(Port { flows, .. }) = port
        && flows.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
