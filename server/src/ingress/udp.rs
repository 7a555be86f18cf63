//! Public UDP ports: what one source sends is a flow of the client that serves the proxy.

use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tun_common::lifecycle::Tasks;
use tun_common::session::{DatagramCarrier, Session};
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
    /// Binds `address` and serves it with a channel of `session`. A port of 0 binds any free one.
    pub(crate) fn bind(
        name: &str,
        address: SocketAddr,
        session: &Session,
        idle: Duration,
        budget: Arc<FlowBudget>,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let entrance = Entrance::bind(name, address, idle, budget)?;
        let address = entrance.local_addr()?;
        let tasks = tasks.child();
        tasks.spawn(entrance.clone().serve());
        let carrier = Mutex::new(carry(name, session, &entrance));
        Ok(UdpIngress { name: name.to_owned(), address, entrance, carrier, tasks })
    }

    /// Where the port is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What comes from now on is for `session`. Flows keep their numbers, and begin anew at the client.
    pub(crate) fn hand_over(&self, session: &Session) {
        *self.carrier() = carry(&self.name, session, &self.entrance);
    }

    fn carrier(&self) -> MutexGuard<'_, DatagramCarrier> {
        self.carrier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UdpIngress {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

fn carry(name: &str, session: &Session, entrance: &Arc<Entrance>) -> DatagramCarrier {
    let meta = StreamMeta::Datagrams { name: name.to_owned() };
    let meta = Bytes::from(serde_json::to_vec(&meta).unwrap_or_default());
    session.carry_datagrams(meta, entrance.end())
}
