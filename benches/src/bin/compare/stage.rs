//! Where a tunnel is set up, and what it exposes.

use std::net::{IpAddr, SocketAddr};

use tun_tests::lab::Space;
use tun_tests::net::Place;
use tun_tests::program::Launch;

/// The addresses of both sides, and their namespaces if they are in the network lab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stage<'a> {
    pub(crate) server: IpAddr,
    pub(crate) client: IpAddr,
    pub(crate) spaces: Option<(&'a Space, &'a Space)>,
}

/// A local service that a tunnel exposes.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) local: SocketAddr,
    /// The port at the server; 0 lets the server choose, which only some do.
    pub(crate) public_port: u16,
}

/// What carries a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

impl Kind {
    /// As configurations call it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl<'a> Stage<'a> {
    /// Both sides at one address of this machine.
    pub(crate) fn at(ip: IpAddr) -> Self {
        Self { server: ip, client: ip, spaces: None }
    }

    /// The launch on the server's machine.
    pub(crate) fn at_server(&self, launch: Launch) -> Launch {
        self.within(launch, self.spaces.map(|(server, _)| server))
    }

    /// The launch on the client's machine.
    pub(crate) fn at_client(&self, launch: Launch) -> Launch {
        self.within(launch, self.spaces.map(|(_, client)| client))
    }

    /// An address as a visitor on the server's machine reaches it.
    pub(crate) fn seen_by_visitor(&self, address: SocketAddr) -> Place {
        match self.spaces {
            Some((server, _)) => (server, address).into(),
            None => address.into(),
        }
    }

    fn within(&self, launch: Launch, space: Option<&'a Space>) -> Launch {
        match space {
            Some(space) => launch.within(space),
            None => launch,
        }
    }
}
