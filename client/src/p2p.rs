//! The direct path to a peer, as far as it needs sockets: where this machine can be reached, and when that changes.

#![allow(dead_code, reason = "the driver of direct paths, which uses this, is being built")]

pub(crate) mod gather;
pub(crate) mod interfaces;
pub(crate) mod netwatch;
pub(crate) mod servers;

use netwatch::NetWatch;
use servers::StunServers;
use tun_common::config::ClientConfig;
use tun_common::lifecycle::Tasks;

/// What the program knows of its place in the network, for all searches of direct paths.
pub(crate) struct Surroundings {
    /// Whom to ask how this machine is seen.
    pub(crate) stun: StunServers,
    /// Whether this machine has moved.
    pub(crate) network: NetWatch,
}

impl Surroundings {
    /// Watches until the group of tasks is stopped.
    pub(crate) fn new(config: &ClientConfig, tasks: &Tasks) -> Self {
        let stun = StunServers::new(config.nat_hole_stun_server.clone());
        Surroundings { stun, network: NetWatch::start(tasks) }
    }
}
