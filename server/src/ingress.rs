//! The public side: one file per kind of proxy.

pub(crate) mod limits;
mod tcp;
mod udp;

use crate::settings::Settings;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tcp::TcpIngress;
use tun_common::lifecycle::Tasks;
use tun_common::limit::Bandwidth;
use tun_common::session::Session;
use tun_proto::datagram::flows::FlowBudget;
use tun_proto::registry::Transport;
use udp::UdpIngress;

/// A public port. Dropping it closes the port.
pub(crate) enum Ingress {
    Tcp(TcpIngress),
    Udp(UdpIngress),
}

/// What a port is served with.
pub(crate) struct Serving {
    /// Of the client that serves the proxy.
    pub(crate) session: Session,
    /// What all that crosses the port shares, if the server keeps a limit.
    pub(crate) limit: Option<Bandwidth>,
}

/// The kinds of public ports.
pub(crate) enum Port {
    Tcp,
    Udp { idle: Duration, flows: Arc<FlowBudget> },
}

impl Ingress {
    /// Opens the port of the proxy `name`. A port of 0 binds any free one.
    ///
    /// # Errors
    /// Those of binding, typically that the port is in use or not permitted.
    pub(crate) fn bind(
        name: &str,
        address: SocketAddr,
        port: &Port,
        serving: Serving,
        settings: &Settings,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let Settings { keepalive, user_conn_timeout, .. } = *settings;
        Ok(match port {
            Port::Tcp => {
                Ingress::Tcp(TcpIngress::bind(name, address, serving, keepalive, user_conn_timeout, tasks)?)
            }
            Port::Udp { idle, flows } => {
                Ingress::Udp(UdpIngress::bind(name, address, serving, *idle, flows.clone(), tasks)?)
            }
        })
    }

    /// Where the port is.
    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Ingress::Tcp(ingress) => ingress.address(),
            Ingress::Udp(ingress) => ingress.address(),
        }
    }

    /// What it is a port of.
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Ingress::Tcp(_) => Transport::Tcp,
            Ingress::Udp(_) => Transport::Udp,
        }
    }

    /// What comes from now on is served in this way.
    pub(crate) fn hand_over(&self, serving: Serving) {
        match self {
            Ingress::Tcp(ingress) => ingress.hand_over(serving),
            Ingress::Udp(ingress) => ingress.hand_over(serving),
        }
    }
}

impl Port {
    /// What it is a port of.
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Port::Tcp => Transport::Tcp,
            Port::Udp { .. } => Transport::Udp,
        }
    }

    /// What sets it apart in the log from the common kind.
    pub(crate) fn suffix(&self) -> &'static str {
        match self {
            Port::Tcp => "",
            Port::Udp { .. } => " (UDP)",
        }
    }
}
