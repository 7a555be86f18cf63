//! Messages of the control channel: what a client asks of the server once it is logged in.
//!
//! The channel is a session stream like any other, so a lost link neither loses nor repeats a message.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU64;

/// From client to server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientMessage {
    /// Expose these proxies.
    Register(Vec<ProxySpec>),
    /// Stop exposing a proxy; streams that are open go on.
    Withdraw {
        /// The proxy's name.
        name: String,
    },
    /// The client is about to stop: no new streams, please.
    Drain,
    /// The client has stopped; the session ends.
    Goodbye,
}

/// From server to client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerMessage {
    /// The outcome of registering one proxy.
    Registered {
        /// The proxy's name.
        name: String,
        /// Where it can be reached, or why it cannot.
        outcome: Result<Exposure, String>,
    },
    /// Another instance of this client's identity logged in; this one gets no new streams.
    Superseded {
        /// Where the other one came from.
        by: String,
    },
    /// All links are busy as the server sees them: another one would help.
    Busy,
    /// The server is about to stop; open streams may finish within the deadline.
    Drain {
        /// The deadline, in milliseconds from now.
        deadline_ms: u64,
    },
    /// The server has stopped or ended the session.
    Goodbye {
        /// Why, for the log.
        reason: String,
    },
}

/// One service to expose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxySpec {
    /// Unique on the server.
    pub name: String,
    /// What is exposed, and how.
    pub kind: ProxyKind,
    /// Bytes a second that a public proxy may carry, in both directions together, if the server is to see to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<NonZeroU64>,
}

/// The kinds of proxies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyKind {
    /// A TCP port of the server.
    Tcp {
        /// The port wanted; 0 leaves the choice to the server.
        remote_port: u16,
        /// The port that the server chose in an earlier session, to be had again if possible.
        #[serde(default)]
        previous_port: Option<u16>,
    },
    /// A UDP port of the server.
    Udp {
        /// As of [`ProxyKind::Tcp`].
        remote_port: u16,
        /// As of [`ProxyKind::Tcp`].
        #[serde(default)]
        previous_port: Option<u16>,
        /// How long a flow may be idle, in milliseconds.
        idle_ms: u64,
    },
    /// Nothing public: visitors who know the secret reach it through the server.
    Stcp {
        /// Users whose visitors are let through; empty for those of the client's own user, `*` for all.
        allow_users: Vec<String>,
    },
    /// The same, and visitors may meet the client directly.
    Xtcp {
        /// As of [`ProxyKind::Stcp`].
        allow_users: Vec<String>,
    },
    /// As [`ProxyKind::Stcp`], for datagrams.
    Sudp {
        /// As of [`ProxyKind::Stcp`].
        allow_users: Vec<String>,
    },
    /// As [`ProxyKind::Xtcp`], for datagrams.
    Xudp {
        /// As of [`ProxyKind::Stcp`].
        allow_users: Vec<String>,
    },
}

/// How a proxy can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exposure {
    /// At an address of the server.
    Public(PublicAddress),
    /// By visitors.
    Private,
}

/// Where a proxy can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicAddress {
    /// The server's idea of its address: empty when it listens on all of them, and the client then shows the
    /// name it reached the server by.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What the opener of a session stream, a relayed stream or a channel of datagrams says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamMeta {
    /// The session's control channel, opened by the client.
    Control,
    /// A visitor's connection to a proxy, opened by the server.
    Proxy {
        /// The proxy's name.
        name: String,
        /// The visitor's address.
        source: String,
    },
    /// A visitor's way to a private proxy: a relayed stream, opened by the visitor's client.
    Visit {
        /// The proxy's name.
        proxy: String,
    },
    /// A channel for the datagrams of a proxy, opened by the server or a visitor.
    Datagrams {
        /// The proxy's name.
        name: String,
    },
    /// What two peers tell each other about direct paths (see [`super::paths`]), opened by the visitor.
    Paths,
    /// The other half of the same, opened by the server.
    Visitor {
        /// The proxy's name.
        proxy: String,
        /// The visitor's user, as it says.
        user: String,
        /// The visitor's address.
        source: String,
    },
}
