//! What a visit looks like from outside.

use std::net::SocketAddr;
use tun_common::session::Session;

/// The present state of a visitor, published by its task whenever it changes.
#[derive(Clone, Default)]
pub(crate) struct VisitStatus {
    pub(crate) state: VisitState,
    /// The session with the proxy's client: its links count bytes, itself the connections.
    pub(crate) session: Option<Session>,
}

/// How the proxy's client is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum VisitState {
    /// Not at all, since nobody needs it.
    #[default]
    Idle,
    /// Not yet, or not any more.
    Connecting {
        /// What went wrong last.
        reason: Option<String>,
    },
    /// Through the server.
    Relayed {
        /// The server.
        by: String,
        /// Why not directly, if that was tried.
        why: Option<String>,
    },
    /// Past the server.
    Direct {
        /// The address of the proxy's client.
        address: SocketAddr,
    },
}
