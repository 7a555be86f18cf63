//! What is compared: tunnels, and what stands for the least that any of them can cost.

mod bore;
mod frp;
mod nginx;
mod rathole;
mod tun;

use std::net::SocketAddr;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tun_benches::crowd::{self, Crowd};

use crate::recipe::Recipe;
use crate::stage::{Kind, Service, Stage};
use crate::tools::Tools;

/// The token of whoever wants one.
const TOKEN: &str = "a token for measurements 51c0";

/// Where servers wait for clients.
const CONTROL_PORT: u16 = 7000;

/// One of those who are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// No tunnel: the service itself, over loopback or the WAN
    Direct,
    /// Two nginx that pass bytes on: two hops cost that much at least
    Nginx,
    /// rathole, unencrypted
    Rathole,
    /// rathole, encrypted by Noise
    RatholeNoise,
    /// bore, unencrypted
    Bore,
    /// frp as it comes: TLS over TCP
    Frp,
    /// frp over QUIC
    FrpQuic,
    /// tun as it comes: TLS over TCP
    Tun,
    /// tun, unencrypted
    TunPlain,
    /// tun over QUIC
    TunQuic,
    /// A bare QUIC connection without a tunnel, over the WAN alone
    Quinn,
}

impl Contender {
    /// All, in the order of tables.
    pub(crate) const ALL: [Self; 11] = [
        Self::Direct,
        Self::Nginx,
        Self::Rathole,
        Self::RatholeNoise,
        Self::Bore,
        Self::Frp,
        Self::FrpQuic,
        Self::Tun,
        Self::TunPlain,
        Self::TunQuic,
        Self::Quinn,
    ];

    /// As tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "no tunnel",
            Self::Nginx => "nginx, 2 hops",
            Self::Rathole => "rathole",
            Self::RatholeNoise => "rathole noise",
            Self::Bore => "bore",
            Self::Frp => "frp",
            Self::FrpQuic => "frp QUIC",
            Self::Tun => "tun",
            Self::TunPlain => "tun plain",
            Self::TunQuic => "tun QUIC",
            Self::Quinn => "quinn",
        }
    }

    /// Why it cannot be measured here, if so.
    pub(crate) async fn obstacle(self, tools: &Tools) -> Option<String> {
        let missing = |found: bool, what: &str| (!found).then(|| format!("{what} is not found"));
        match self {
            Self::Direct | Self::Quinn | Self::Tun | Self::TunPlain => None,
            Self::Nginx => missing(tools.nginx.is_some(), "nginx"),
            Self::Rathole | Self::RatholeNoise => missing(tools.rathole.is_some(), "rathole"),
            Self::Bore => missing(tools.bore.is_some(), "bore"),
            Self::Frp | Self::FrpQuic => {
                missing(tools.frps.is_some() && tools.frpc.is_some(), "frps or frpc")
            }
            Self::TunQuic => tun::refuses_quic(tools).await,
        }
    }

    /// True if it can carry such a service.
    pub(crate) fn carries(self, kind: Kind) -> bool {
        match self {
            Self::Bore => kind == Kind::Tcp,
            Self::Quinn => false,
            _ => true,
        }
    }

    /// True if the measures on this machine have it.
    pub(crate) fn runs_on_loopback(self) -> bool {
        self != Self::Quinn
    }

    /// How to expose these services.
    ///
    /// # Errors
    /// A program that it needs is missing, or one that makes a key fails.
    pub(crate) fn recipe(self, tools: &Tools, stage: Stage<'_>, services: &[Service]) -> Result<Recipe> {
        match self {
            Self::Direct | Self::Quinn => Ok(Recipe::default()),
            Self::Nginx => nginx::recipe(tools, stage, services),
            Self::Rathole => rathole::recipe(tools, stage, services, rathole::Transport::Plain),
            Self::RatholeNoise => rathole::recipe(tools, stage, services, rathole::Transport::Noise),
            Self::Bore => bore::recipe(tools, stage, services),
            Self::Frp => frp::recipe(tools, stage, services, frp::Transport::Tls),
            Self::FrpQuic => frp::recipe(tools, stage, services, frp::Transport::Quic),
            Self::Tun => Ok(tun::recipe(tools, stage, services, crowd::Transport::Tls)),
            Self::TunPlain => Ok(tun::recipe(tools, stage, services, crowd::Transport::Plain)),
            Self::TunQuic => Ok(tun::recipe(tools, stage, services, crowd::Transport::Quic)),
        }
    }

    /// What the server says of each proxy that is public now, for those that take any number of clients.
    pub(crate) fn says_of_a_proxy(self) -> Option<&'static str> {
        match self {
            Self::Frp | Self::FrpQuic => Some(frp::SAYS_OF_A_PROXY),
            Self::Tun | Self::TunPlain | Self::TunQuic => Some(tun::SAYS_OF_A_PROXY),
            _ => None,
        }
    }

    /// What its clients speak, if this process can play them.
    pub(crate) fn plays(self) -> Option<crowd::Transport> {
        match self {
            Self::Tun => Some(crowd::Transport::Tls),
            Self::TunPlain => Some(crowd::Transport::Plain),
            Self::TunQuic => Some(crowd::Transport::Quic),
            _ => None,
        }
    }
}

/// Clients for the server that is set up there, none yet.
///
/// # Errors
/// TLS cannot be set up.
pub(crate) fn crowd(stage: Stage<'_>, transport: crowd::Transport) -> Result<Crowd> {
    Crowd::new(SocketAddr::new(stage.server, CONTROL_PORT), transport, TOKEN)
}

/// The services as frp's files have them, which are ours as well.
fn proxies(services: &[Service]) -> String {
    let proxy = |Service { name, kind, local, public_port }: &Service| {
        format!(
            "[[proxies]]\nname = \"{name}\"\ntype = \"{}\"\nlocalIP = \"{}\"\nlocalPort = {}\n\
             remotePort = {public_port}\n",
            kind.word(),
            local.ip(),
            local.port()
        )
    };
    services.iter().map(proxy).collect()
}

/// The public address of a service.
fn public(stage: Stage<'_>, service: &Service) -> SocketAddr {
    SocketAddr::new(stage.server, service.public_port)
}
