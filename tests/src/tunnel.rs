//! A server, a client and their proxies, ready to be visited.

use std::net::SocketAddr;

use crate::net::{BIND_PORT, FORWARDER_PORT, Loopback};
use crate::network::Network;
use crate::program::{Launch, Program};
use crate::way::{Entry, Way};

/// The token of tests that do not care about it.
pub const TOKEN: &str = "a token for tests 9b2e";

/// What to start, and how it differs from the plainest set-up.
#[derive(Debug)]
pub struct Setup {
    net: Loopback,
    server_lines: String,
    client_lines: String,
    proxies: Vec<Proxy>,
    awaited: Vec<String>,
    way: Way,
    forwarded: bool,
}

/// A TCP proxy of the client's configuration.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Its name.
    pub name: String,
    /// The local service.
    pub local: SocketAddr,
    /// Its public port; 0 lets the server choose.
    pub remote_port: u16,
}

/// A running server, and how it was started.
#[derive(Debug)]
pub struct Served {
    /// How it is started.
    pub launch: Launch,
    /// The running server.
    pub server: Program,
}

/// A running set-up. Everything in it ends when this value goes.
#[derive(Debug)]
pub struct Tunnel {
    /// The address that all of it uses.
    pub net: Loopback,
    /// How the server is started.
    pub server_launch: Launch,
    /// How the client is started.
    pub client_launch: Launch,
    /// The network between them that fails on command, if there is one.
    pub network: Option<Network>,
    /// The running client.
    pub client: Program,
    /// The running server.
    pub server: Program,
    _entry: Entry,
}

impl Setup {
    /// The plainest set-up: both programs on an address of their own, TLS, a token, no proxy yet.
    pub fn new(net: Loopback) -> Self {
        Self {
            net,
            server_lines: String::new(),
            client_lines: String::new(),
            proxies: Vec::new(),
            awaited: Vec::new(),
            way: Way::Tls,
            forwarded: false,
        }
    }

    /// Adds lines to the server's configuration.
    pub fn server(mut self, lines: &str) -> Self {
        self.server_lines.push_str(lines);
        self.server_lines.push('\n');
        self
    }

    /// Adds lines to the client's configuration.
    pub fn client(mut self, lines: &str) -> Self {
        self.client_lines.push_str(lines);
        self.client_lines.push('\n');
        self
    }

    /// Exposes a local service on a public port.
    pub fn proxy(mut self, name: &str, local: SocketAddr, remote_port: u16) -> Self {
        self.awaited.push(name.to_owned());
        self.attempt(name, local, remote_port)
    }

    /// Asks for the same, and does not wait for it: the server may refuse.
    pub fn attempt(mut self, name: &str, local: SocketAddr, remote_port: u16) -> Self {
        self.proxies.push(Proxy { name: name.to_owned(), local, remote_port });
        self
    }

    /// Lets the client take this way to the server.
    pub fn over(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    /// Puts a forwarder between client and server, where the way comes to the server.
    pub fn forwarded(mut self) -> Self {
        self.forwarded = true;
        self
    }

    /// Starts the server alone, for tests that bring clients of their own.
    pub async fn serve(&self) -> Served {
        let launch = Launch::server().config(&server_config(&self.net, &self.server_lines));
        let server = launch.start();
        server.line(&format!("listening on {}", self.net.at(BIND_PORT))).await;
        Served { launch, server }
    }

    /// Starts everything, and waits until the proxies are public.
    pub async fn start(self) -> Tunnel {
        let Served { launch: server_launch, server } = self.serve().await;
        let mut target = self.net.at(BIND_PORT);
        let mut network = None;
        if self.forwarded {
            let started = Network::start(self.way, self.net.at(FORWARDER_PORT), target).await;
            target = started.addr();
            network = Some(started);
        }
        let entry = self.way.enter(&self.net, target).await;
        let config = client_config(entry.server, &(entry.lines.clone() + &self.client_lines), &self.proxies);
        let client_launch = Launch::client().config(&config);
        let client = client_launch.start();
        for name in &self.awaited {
            client.line(&format!("[{name}] start proxy success")).await;
        }
        Tunnel { net: self.net, server_launch, client_launch, network, client, server, _entry: entry }
    }

    /// The address that all of it uses.
    pub fn net(&self) -> &Loopback {
        &self.net
    }

    /// The same, for those who start the rest by themselves.
    pub fn into_net(self) -> Loopback {
        self.net
    }
}

impl Tunnel {
    /// A public port of the server.
    pub fn public(&self, remote_port: u16) -> SocketAddr {
        self.net.at(remote_port)
    }

    /// The public address that the client was last told for a proxy whose port the server chose.
    pub async fn told(&self, proxy: &str) -> SocketAddr {
        let marker = format!("[{proxy}] start proxy success, public address ");
        self.client.line(&marker).await;
        let lines = self.client.log().lines();
        let last = lines.iter().rfind(|line| line.text.contains(&marker)).expect("the line is there");
        self.net.at(port_at_end(&last.text))
    }

    /// The network, in set-ups that have one.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("this set-up has a forwarder")
    }
}

/// The port with which a log line ends.
pub fn port_at_end(line: &str) -> u16 {
    let port = line.trim_end().rsplit(':').next().and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("no port at the end of {line:?}"))
}

/// The configuration of a server on `net`, with further lines.
pub fn server_config(net: &Loopback, lines: &str) -> String {
    let ip = net.ip();
    let level = log_level(lines);
    format!("bindAddr = \"{ip}\"\nbindPort = {BIND_PORT}\n{}{level}{lines}\n", token(lines))
}

/// The configuration of a client of `server`, with further lines, and its proxies.
pub fn client_config(server: SocketAddr, lines: &str, proxies: &[Proxy]) -> String {
    let (ip, port) = (server.ip(), server.port());
    let level = log_level(lines);
    let mut config = format!("serverAddr = \"{ip}\"\nserverPort = {port}\n{}{level}{lines}\n", token(lines));
    for Proxy { name, local, remote_port } in proxies {
        let (ip, port) = (local.ip(), local.port());
        config += &format!(
            "[[proxies]]\nname = \"{name}\"\ntype = \"tcp\"\nlocalIP = \"{ip}\"\nlocalPort = {port}\n\
             remotePort = {remote_port}\n"
        );
    }
    config
}

/// The token, unless the further lines speak of authentication themselves.
fn token(lines: &str) -> String {
    if lines.contains("auth.") { String::new() } else { format!("auth.token = \"{TOKEN}\"\n") }
}

/// `TUN_TEST_LOG=debug` makes the programs talk more, for a developer in search of a fault.
fn log_level(lines: &str) -> String {
    match std::env::var("TUN_TEST_LOG") {
        Ok(level) if !lines.contains("log.level") => format!("log.level = \"{level}\"\n"),
        _ => String::new(),
    }
}
