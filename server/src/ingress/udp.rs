//! Public UDP ports: what one source sends is a flow of the client that serves the proxy.

use super::Serving;
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tun_common::lifecycle::Tasks;
use tun_common::session::DatagramCarrier;
use tun_common::udp::Entrance;
use tun_proto::datagram::flows::FlowBudget;
use tun_proto::wire::control::StreamMeta;

/// A public port. Dropping it closes the port and forgets its flows.
pub(crate) struct UdpIngress {
    name: String,
    address: SocketAddr,
    entrance: Arc<Entrance>,
    /// Of the session that serves the proxy now.
    carrier: Mutex<DatagramCarrier>,
    tasks: Tasks,
}

impl UdpIngress {
    /// Binds `address` and serves it. A port of 0 binds any free one.
    pub(crate) fn bind(
        name: &str,
        address: SocketAddr,
        serving: Serving,
        idle: Duration,
        budget: Arc<FlowBudget>,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let entrance = Entrance::bind(name, address, idle, budget)?;
        let address = entrance.local_addr()?;
        let tasks = tasks.child();
        tasks.spawn(entrance.clone().serve());
        let carrier = Mutex::new(carry(name, &serving, &entrance, &tasks));
        Ok(UdpIngress { name: name.to_owned(), address, entrance, carrier, tasks })
    }

    /// Where the port is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What comes from now on is served in this way. Flows keep their numbers, and begin anew at the client.
    pub(crate) fn hand_over(&self, serving: Serving) {
        let mut carrier = self.carrier.lock().unwrap_or_else(PoisonError::into_inner);
        *carrier = carry(&self.name, &serving, &self.entrance, &self.tasks);
    }
}

impl Drop for UdpIngress {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

fn carry(name: &str, serving: &Serving, entrance: &Arc<Entrance>, tasks: &Tasks) -> DatagramCarrier {
    let meta = StreamMeta::Datagrams { name: name.to_owned() };
    let meta = Bytes::from(serde_json::to_vec(&meta).unwrap_or_default());
    entrance.set_limit(serving.limit.as_ref());
    let end = match &serving.limit {
        None => entrance.end(),
        Some(limit) => entrance.end().limited(limit, tasks),
    };
    serving.session.carry_datagrams(meta, end)
}
