//! The ways from a client to its server, for tests of what all of them have in common.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::certs;
use crate::forwarder::{Fault, Silence};
use crate::net::{Loopback, PROXY_PORT};
use crate::proxy::{self, Rules};
use crate::service::Service;
use crate::service::nginx::Nginx;

/// How a client reaches its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// TCP, encrypted, which is the default.
    Tls,
    /// TCP in the clear.
    Plain,
    /// QUIC.
    Quic,
    /// A WebSocket.
    WebSocket,
    /// A WebSocket in the web's TLS, which the server ends itself.
    Wss,
    /// The same, and nginx ends it.
    Nginx,
    /// TCP through an HTTP proxy.
    HttpProxy,
    /// TCP through a SOCKS proxy.
    Socks,
}

/// Where a client connects, and what it is told for that.
#[derive(Debug)]
pub struct Entry {
    /// The server as the client knows it.
    pub server: SocketAddr,
    /// Lines of its configuration.
    pub lines: String,
    _front: Option<Front>,
}

/// What stands before the network.
#[derive(Debug)]
enum Front {
    Nginx(#[expect(dead_code, reason = "it runs as long as this lives")] (Nginx, TempDir)),
    Proxy(#[expect(dead_code, reason = "it runs as long as this lives")] Service),
}

impl Way {
    /// Whether it is one of connections, which can be reset; otherwise there are but datagrams.
    pub fn has_connections(self) -> bool {
        self != Self::Quic
    }

    /// What ends its links soonest.
    pub fn death(self) -> Fault {
        if self.has_connections() { Fault::Reset } else { Fault::Swallow(Silence::Discard) }
    }

    /// The key that chooses it, alone.
    pub fn lines(self) -> &'static str {
        match self {
            Self::Tls | Self::HttpProxy | Self::Socks => "",
            Self::Plain => "transport.tls.enable = false\n",
            Self::Quic => "transport.protocol = \"quic\"\n",
            Self::WebSocket => "transport.protocol = \"websocket\"\n",
            Self::Wss | Self::Nginx => "transport.protocol = \"wss\"\n",
        }
    }

    /// Starts what the way needs in front of `target`, the server or the network before it.
    pub async fn enter(self, net: &Loopback, target: SocketAddr) -> Entry {
        let at = net.at(PROXY_PORT);
        let mut entry = Entry { server: target, lines: self.lines().to_owned(), _front: None };
        match self {
            Self::Nginx => {
                let (dir, files) = certs::unknown("web.test");
                let nginx = Nginx::in_front_of(at, "/~!tun", &format!("http://{target}"), Some(&files)).await;
                entry.server = nginx.addr();
                entry._front = Some(Front::Nginx((nginx, dir)));
            }
            Self::HttpProxy => {
                entry.lines += &format!("transport.proxyURL = \"http://{at}\"\n");
                entry._front = Some(Front::Proxy(proxy::http(at, Rules::open(target)).await));
            }
            Self::Socks => {
                entry.lines += &format!("transport.proxyURL = \"socks5://{at}\"\n");
                entry._front = Some(Front::Proxy(proxy::socks5(at, Rules::open(target)).await));
            }
            Self::Tls | Self::Plain | Self::Quic | Self::WebSocket | Self::Wss => (),
        }
        entry
    }
}

/// Makes tests of functions that take a [`Way`], for `all` ways or some: `quic::a_visitor_that_…`.
#[macro_export]
macro_rules! over_ways {
    (all: $tests:tt) => {
        $crate::over_ways! { tls plain quic websocket wss nginx http_proxy socks: $tests }
    };
    ($($way:ident)+: $tests:tt) => {
        $($crate::over_ways! { @one $way $tests })+
    };
    (@one $way:ident { $($test:ident),+ $(,)? }) => {
        mod $way {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $test() {
                    super::$test($crate::over_ways! { @is $way }).await;
                }
            )+
        }
    };
    (@is tls) => { $crate::way::Way::Tls };
    (@is plain) => { $crate::way::Way::Plain };
    (@is quic) => { $crate::way::Way::Quic };
    (@is websocket) => { $crate::way::Way::WebSocket };
    (@is wss) => { $crate::way::Way::Wss };
    (@is nginx) => { $crate::way::Way::Nginx };
    (@is http_proxy) => { $crate::way::Way::HttpProxy };
    (@is socks) => { $crate::way::Way::Socks };
}
