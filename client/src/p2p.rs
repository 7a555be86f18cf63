//! Direct paths between a visitor and a client: where this machine can be reached, and how the two ends find each other.
//!
//! [`initiator`] is the visitor's side and [`responder`] the client's; an [`attempt`] gives the decisions of
//! [`tun_proto::p2p::punch`] their sockets. The link that comes of one joins the session's others, and everything above
//! goes on as before.

mod attempt;
pub(crate) mod gather;
pub(crate) mod initiator;
pub(crate) mod interfaces;
mod meeting;
pub(crate) mod netwatch;
pub(crate) mod portmap;
pub(crate) mod responder;
pub(crate) mod servers;

use netwatch::NetWatch;
use portmap::PortMapper;
use servers::StunServers;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tun_common::config::{ClientConfig, NatTraversal};
use tun_common::lifecycle::Tasks;

/// What the program knows of its place in the network, for all searches of direct paths.
pub(crate) struct Surroundings {
    /// Whom to ask how this machine is seen.
    pub(crate) stun: StunServers,
    /// Whether this machine has moved.
    pub(crate) network: NetWatch,
    /// Own the mappings that routers granted.
    tasks: Tasks,
    /// Counts the reasons to doubt that what answered before still does.
    doubts: watch::Sender<u64>,
}

impl Surroundings {
    /// Watches until the group of tasks is stopped.
    pub(crate) fn new(config: &ClientConfig, tasks: &Tasks) -> Self {
        let stun = StunServers::new(config.nat_hole_stun_server.clone());
        let network = NetWatch::start(tasks);
        let doubts = watch::Sender::new(0);
        let (mut moved, doubter) = (network.clone(), doubts.clone());
        tasks.spawn(async move {
            loop {
                moved.changed().await;
                doubter.send_modify(|count| *count += 1);
            }
        });
        Surroundings { stun, network, tasks: tasks.child(), doubts }
    }

    /// A path has fallen silent: others may have, too.
    pub(crate) fn doubt(&self) {
        self.doubts.send_modify(|count| *count += 1);
    }

    /// Changes with every reason to doubt that what answered before still does.
    pub(crate) fn doubts(&self) -> watch::Receiver<u64> {
        self.doubts.subscribe()
    }
}

/// How one proxy or visitor looks for direct paths.
pub(crate) struct Search {
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) options: gather::Options,
    /// Whether many ports may be tried.
    pub(crate) spray: bool,
    /// Asks the router for ports.
    pub(crate) mapper: PortMapper,
}

impl Search {
    pub(crate) fn new(surroundings: Arc<Surroundings>, config: &NatTraversal) -> Self {
        let options = gather::Options {
            disable_assisted_addrs: config.disable_assisted_addrs,
            addresses: config.addresses.clone(),
            port: config.port,
        };
        let mapper = PortMapper::new(config.port_mapping, surroundings.tasks.clone());
        Search { surroundings, options, spray: config.spray, mapper }
    }
}

/// How a visitor's bytes travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathState {
    /// By the server; `why` is known once a direct path was looked for in vain.
    Relayed { why: Option<String> },
    /// Straight to this address.
    Direct { address: SocketAddr },
}
