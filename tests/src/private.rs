//! A private service, the client that serves it, and those who visit it, each on a way of their own to the server.

use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use crate::forwarder::Forwarder;
use crate::net::{BIND_PORT, FORWARDER_PORT, Loopback, source};
use crate::patience::soon;
use crate::program::{Launch, Program};
use crate::service::Service;
use crate::tunnel::{Served, Setup, TOKEN, client_config};

/// The name of the private proxy.
pub const NAME: &str = "vault";

/// What its visitors must know.
pub const SECRET: &str = "a secret for tests 5d11c0de";

/// Where visitors listen.
pub const VISIT_PORT: u16 = 9000;

/// What differs from the plainest set-up, each as lines of configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines<'a> {
    /// Of the server.
    pub server: &'a str,
    /// Of the serving client.
    pub client: &'a str,
    /// Of the proxy, and what follows it in the file.
    pub proxy: &'a str,
}

/// A running set-up. Everything in it ends when this value goes.
#[derive(Debug)]
pub struct Private {
    /// The address that all of it uses.
    pub net: Loopback,
    /// How the server is started.
    pub server_launch: Launch,
    /// How the serving client is started.
    pub client_launch: Launch,
    /// The way between the serving client and the server.
    pub client_way: Forwarder,
    /// The way between the visitors and the server.
    pub visitor_way: Forwarder,
    /// The running client that serves.
    pub client: Program,
    /// The running server.
    pub server: Program,
}

impl Private {
    /// Starts a server and a client that serves `service`, and waits until it can be visited.
    pub async fn start(net: Loopback, service: &Service) -> Self {
        Self::start_with(net, service, Lines::default()).await
    }

    /// The same with further lines.
    pub async fn start_with(net: Loopback, service: &Service, lines: Lines<'_>) -> Self {
        let setup = Setup::new(net).server(lines.server);
        let Served { launch: server_launch, server } = setup.serve().await;
        let net = setup.into_net();
        let to = net.at(BIND_PORT);
        let client_way = Forwarder::start_from(net.at(FORWARDER_PORT), to, Some(source(1))).await;
        let visitor_way = Forwarder::start_from(net.at(FORWARDER_PORT + 1), to, Some(source(2))).await;
        let (ip, port) = (service.addr().ip(), service.addr().port());
        let proxy = format!(
            "[[proxies]]\nname = \"{NAME}\"\ntype = \"stcp\"\nsecretKey = \"{SECRET}\"\nlocalIP = \"{ip}\"\n\
             localPort = {port}\n{}\n",
            lines.proxy
        );
        let config = client_config(client_way.addr(), lines.client, &[]) + &proxy;
        let client_launch = Launch::client().labelled("tunc serving").config(&config);
        let client = client_launch.start();
        client.line(&format!("{NAME}] start proxy success")).await;
        Self { net, server_launch, client_launch, client_way, visitor_way, client, server }
    }

    /// `tunc visit` with the right secret.
    pub fn visit(&self, args: &[&str]) -> Launch {
        self.visit_knowing(SECRET, args)
    }

    /// `tunc visit` with a secret.
    pub fn visit_knowing(&self, secret: &str, args: &[&str]) -> Launch {
        visit_over(&self.visitor_way, NAME, secret, args)
    }

    /// Another way for visitors to the server, which they seem to come from `source` on.
    pub async fn way_from(&self, n: u16, source: IpAddr) -> Forwarder {
        Forwarder::start_from(self.net.at(FORWARDER_PORT + n), self.net.at(BIND_PORT), Some(source)).await
    }

    /// A running `tunc visit --bind`, with its address.
    pub async fn visitor(&self) -> (Program, SocketAddr) {
        let address = self.net.at(VISIT_PORT);
        let program = self.visit(&["--bind", &address.to_string()]).start();
        program.line(&format!("start visitor success, listening on {address}")).await;
        (program, address)
    }

    /// A client with visitors in a file, the `n`-th with the `n`-th secret, on the `n`-th port from [`VISIT_PORT`] on.
    pub async fn visitors_in_a_file(&self, lines: &str, secrets: &[String]) -> Program {
        let ip = self.net.ip();
        let mut config = client_config(self.visitor_way.addr(), lines, &[]);
        for (n, secret) in secrets.iter().enumerate() {
            let port = usize::from(VISIT_PORT) + n;
            config += &format!(
                "[[visitors]]\nname = \"to-{NAME}-{n}\"\ntype = \"stcp\"\nserverName = \"{NAME}\"\n\
                 secretKey = \"{secret}\"\nbindAddr = \"{ip}\"\nbindPort = {port}\n"
            );
        }
        let program = Launch::client().labelled("tunc visiting").config(&config).start();
        program.nth("start visitor success", secrets.len()).await;
        program.line("login to server success").await;
        program
    }
}

/// `tunc visit` over a way.
pub fn visit_over(way: &Forwarder, proxy: &str, secret: &str, args: &[&str]) -> Launch {
    let server = way.addr().to_string();
    Launch::client()
        .labelled("tunc visit")
        .env("TUN_TOKEN", TOKEN)
        .env("TUN_SECRET", secret)
        .args(["visit", proxy, "-s", &server])
        .args(args)
}

/// What a program that was given an input did.
#[derive(Debug)]
pub struct Spoken {
    /// Its exit code.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program to its end, with `input` as its standard input.
pub async fn speak(launch: &Launch, input: &[u8]) -> Spoken {
    let mut command = tokio::process::Command::from(launch.command());
    command.stdin(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("the program can be started");
    let mut stdin = child.stdin.take().expect("it was asked for");
    let talk = async {
        // A program that is sent away does not read all of it.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let both = async { tokio::join!(talk, child.wait_with_output()).1 };
    let output = soon("the end of a program", both).await.expect("its output can be read");
    Spoken {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
