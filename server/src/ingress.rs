//! The public side: one file per kind of proxy.

pub(crate) mod tcp;
pub(crate) mod udp;

use std::net::SocketAddr;
use tcp::TcpIngress;
use tun_common::session::Session;
use tun_proto::registry::Transport;
use udp::UdpIngress;

/// A public port. Dropping it closes the port.
pub(crate) enum Ingress {
    Tcp(TcpIngress),
    Udp(UdpIngress),
}

impl Ingress {
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

    /// What comes from now on is for `session`.
    pub(crate) fn hand_over(&self, session: Session) {
        match self {
            Ingress::Tcp(ingress) => ingress.hand_over(session),
            Ingress::Udp(ingress) => ingress.hand_over(&session),
        }
    }
}
