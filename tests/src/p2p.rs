//! Two peers in the network lab: a client that serves a private proxy, and a visitor that may reach it directly.

pub mod exchange;
pub mod flow;
pub mod storm;
pub mod stranger;

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Sub;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use crate::lab::{Access, Cut, End, Internet, Lab, SERVER, Site, Space, Traffic};
use crate::log::Line;
use crate::net::{BIND_PORT, Place, SERVICE_PORT};
use crate::patience::soon;
use crate::private::{NAME, SECRET, VISIT_PORT};
use crate::program::{Launch, Program};
use crate::service::Service;
use crate::tunnel::{TOKEN, client_config};

/// What a visitor says when it has a direct connection.
pub const DIRECT: &str = "direct connection to its client at";

/// What it says when that is lost.
pub const LOST: &str = "direct connection lost";

/// What it says when there is none, with the reason.
pub const NONE: &str = "no direct connection: ";

/// How two peers are connected.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    internet: Internet,
    client: Access,
    /// None: on the same network as the client.
    visitor: Option<Access>,
    clear: bool,
}

/// What clients are told that shall speak to the server without TLS.
const CLEAR: &str = "transport.tls.enable = false";

/// A server, and a client that serves. Everything in it ends when this value goes.
#[derive(Debug)]
pub struct Peers {
    /// How the client is started.
    pub client_launch: Launch,
    /// How the server is started.
    pub server_launch: Launch,
    /// The running client that serves.
    pub client: Program,
    /// The running server.
    pub server: Program,
    /// What it serves.
    pub service: Service,
    /// The client's site.
    pub serving: Site,
    /// The visitor's, if it has one of its own.
    visiting: Option<Site>,
    /// Where all that is.
    pub lab: Lab,
}

/// Bytes of IP packets that the visitor has sent or got, by the way that they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// Over UDP, straight between the two sites.
    pub direct: u64,
    /// Over TCP, between visitor and server.
    pub relayed: u64,
}

impl Plan {
    /// Each at a site of its own, 25 ms from everybody else.
    pub fn new(client: impl Into<Access>, visitor: impl Into<Access>) -> Self {
        Self { internet: Internet::FAR, client: client.into(), visitor: Some(visitor.into()), clear: false }
    }

    /// Both on one network.
    pub fn together(access: impl Into<Access>) -> Self {
        Self { internet: Internet::FAR, client: access.into(), visitor: None, clear: false }
    }

    /// With another internet.
    pub fn across(self, internet: Internet) -> Self {
        Self { internet, ..self }
    }

    /// Without TLS between the client and the server, so that nothing but the encryption from end to end hides anything.
    /// The visitor is to be a [`Peers::visitor_in_the_clear`].
    pub fn in_the_clear(self) -> Self {
        Self { clear: true, ..self }
    }
}

impl Peers {
    /// Starts a service at the client's site, the server, and the client, and waits until the service can be visited.
    /// `None` where there can be no lab.
    pub async fn start(plan: Plan, service: impl AsyncFnOnce(Place) -> Service) -> Option<Self> {
        let mut lab = Lab::start_with(plan.internet)?;
        let mut serving = lab.site(plan.client);
        let visiting = plan.visitor.map(|access| lab.site(access));
        if visiting.is_none() {
            lab.add_host(&mut serving);
        }
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, SERVICE_PORT));
        let service = service((serving.host(), local).into()).await;
        let (force, lines) = if plan.clear { ("transport.tls.force = false\n", CLEAR) } else { ("", "") };
        let config = format!("bindAddr = \"::\"\nauth.token = \"{TOKEN}\"\n{force}");
        let server_launch = Launch::server().within(lab.server()).config(&config);
        let server = server_launch.start();
        server.line(&format!("listening on [::]:{BIND_PORT}")).await;
        let proxy = format!(
            "[[proxies]]\nname = \"{NAME}\"\ntype = \"xtcp\"\nsecretKey = \"{SECRET}\"\nlocalIP = \"{}\"\n\
             localPort = {SERVICE_PORT}\n",
            local.ip()
        );
        let config = client_config(relay(), lines, &[]) + &proxy;
        let client_launch = Launch::client().labelled("tunc serving").within(serving.host()).config(&config);
        let client = client_launch.start();
        client.line(&format!("{NAME}] start proxy success")).await;
        Some(Self { client_launch, server_launch, client, server, service, serving, visiting, lab })
    }

    /// `tunc visit` in the visitor's namespace.
    pub fn visit(&self, args: &[&str]) -> Launch {
        Launch::client()
            .labelled("tunc visit")
            .within(self.visiting_host())
            .env("TUN_TOKEN", TOKEN)
            .env("TUN_SECRET", SECRET)
            .args(["visit", NAME, "-s", &relay().to_string()])
            .args(std::env::var("TUN_TEST_LOG").is_ok().then_some("-v"))
            .args(args)
    }

    /// A running `tunc visit --bind`, which listens at [`Peers::entrance`].
    pub async fn visitor(&self) -> Program {
        let address = entrance().to_string();
        let program = self.visit(&["--bind", &address]).start();
        program.line(&format!("listening on {address}")).await;
        program
    }

    /// A running visitor that listens at [`Peers::entrance`] and speaks to the server without TLS.
    pub async fn visitor_in_the_clear(&self) -> Program {
        let address = entrance();
        let config = client_config(relay(), CLEAR, &[])
            + &format!(
                "[[visitors]]\nname = \"to-{NAME}\"\ntype = \"xtcp\"\nserverName = \"{NAME}\"\n\
                 secretKey = \"{SECRET}\"\nbindAddr = \"{}\"\nbindPort = {}\n",
                address.ip(),
                address.port()
            );
        let launch = Launch::client().labelled("tunc visiting").within(self.visiting_host()).config(&config);
        let program = launch.start();
        program.line(&format!("listening on {address}")).await;
        program
    }

    /// How long it takes from the start of `tunc visit --stdio` to the first byte of a service that speaks first.
    pub async fn first_byte(&self) -> Duration {
        let launch = self.visit(&["--stdio"]);
        let mut command = tokio::process::Command::from(launch.command());
        let started = Instant::now();
        let mut child = command.stdin(Stdio::piped()).kill_on_drop(true).spawn().expect("it can be started");
        let mut stdout = child.stdout.take().expect("it was asked for");
        soon("the first byte", stdout.read_u8()).await.expect("a byte comes");
        let took = started.elapsed();
        child.kill().await.expect("it was started");
        took
    }

    /// Where the visitor listens.
    pub fn entrance(&self) -> Place {
        (self.visiting_host(), entrance()).into()
    }

    /// Kills the server and starts it again, and waits until it listens.
    pub async fn restart_server(&mut self) {
        self.server.kill().await;
        self.start_server().await;
    }

    /// Starts the server in place of one that has ended.
    pub async fn start_server(&mut self) {
        self.server = self.server_launch.start();
        self.server.line(&format!("listening on [::]:{BIND_PORT}")).await;
    }

    /// What the visitor's packets have made of it so far.
    pub fn ways(&self) -> Ways {
        let (server, serving, visiting) = (self.lab.server_end(), self.serving.end(), self.visiting_end());
        let both = |one, other| [self.lab.carried(one, other), self.lab.carried(other, one)];
        let direct = both(serving, visiting).iter().map(|carried| carried.udp).sum();
        let relayed = both(server, visiting).iter().map(|carried| carried.tcp).sum();
        Ways { direct, relayed }
    }

    /// Cuts the direct path both ways, until what is returned goes.
    pub fn cut(&self) -> Cut {
        self.lab.cut(self.serving.end(), self.visiting_end(), Traffic::All)
    }

    /// Cuts what the client sends straight to the visitor.
    pub fn cut_towards_visitor(&self) -> Cut {
        self.lab.cut_one_way(self.serving.end(), self.visiting_end(), Traffic::All)
    }

    /// Cuts what the visitor sends straight to the client.
    pub fn cut_towards_client(&self) -> Cut {
        self.lab.cut_one_way(self.visiting_end(), self.serving.end(), Traffic::All)
    }

    /// The visitor's site.
    pub fn visiting(&self) -> &Site {
        self.visiting.as_ref().unwrap_or(&self.serving)
    }

    /// Gives the client's site another public address.
    pub fn readdress_client(&mut self) {
        self.lab.readdress(&mut self.serving);
    }

    /// The namespace of the visitor.
    pub fn visiting_host(&self) -> &Space {
        match &self.visiting {
            Some(site) => site.host(),
            None => &self.serving.hosts()[1],
        }
    }

    fn visiting_end(&self) -> End {
        self.visiting().end()
    }
}

impl Sub for Ways {
    type Output = Ways;

    fn sub(self, earlier: Ways) -> Ways {
        Ways { direct: self.direct - earlier.direct, relayed: self.relayed - earlier.relayed }
    }
}

impl Ways {
    /// True if at least `len` bytes went directly, and nothing to speak of by the server.
    pub fn is_direct(self, len: u64) -> bool {
        self.direct >= len && self.relayed < len / 4
    }

    /// The other way round.
    pub fn is_relayed(self, len: u64) -> bool {
        self.relayed >= len && self.direct < len / 4
    }
}

/// Waits for the `count`-th line of a visitor that speaks of this, which may take several attempts at a path.
pub async fn said(visitor: &Program, text: &str, count: usize, limit: Duration) -> Line {
    visitor.log().nth_within(limit, text, count, |line| line.contains(text)).await
}

/// The server's address, as all are told it.
pub fn relay() -> SocketAddr {
    (SERVER[0], BIND_PORT).into()
}

fn entrance() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, VISIT_PORT).into()
}
