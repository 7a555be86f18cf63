//! Resident memory of the server for each client that is logged in with one proxy, and idle.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tun_tests::net::{Loopback, SERVICE_PORT};
use tun_tests::program::Launch;

use super::Measure;
use crate::bench::Bench;
use crate::contender::Contender;
use crate::figures::{Figures, Sample};
use crate::stage::{Kind, Service, Stage};

/// The part of the clients that is there before the first look at the memory, so that what is taken once is not counted.
const BEFORE: usize = 10;

/// Clients that are started at a time: a machine with few processors starts them one after the other anyway.
const STARTING: usize = 8;

/// Idle means: nothing but heartbeats has happened for so long. Programs that give memory back after a while have done so.
const IDLE: Duration = Duration::from_secs(10);

/// The figure.
const SERVER: &str = "idle client, server KiB";

/// A client. It is ended with this value.
struct Client {
    child: Child,
    _launch: Launch,
}

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let of_many = |contender: &Contender| contender.says_of_a_proxy().is_some();
    let who: Vec<Contender> = bench.contenders.iter().copied().filter(of_many).collect();
    let one = async |contender: &Contender| {
        let claim = Loopback::claim();
        let stage = Stage::at(claim.ip());
        let service = |n: usize| Service {
            name: format!("idle{n}"),
            kind: Kind::Tcp,
            local: claim.at(SERVICE_PORT),
            public_port: 0,
        };
        let recipe = |n: usize| contender.recipe(&bench.tools, stage, &[service(n)]);
        let said = contender.says_of_a_proxy().context("its server takes one client only")?;
        let server = recipe(0)?.server.context("a tunnel has a server")?.start().await;
        let mut clients = Vec::new();
        let mut memory = Vec::new();
        for count in [bench.extent.clients / BEFORE, bench.extent.clients] {
            while clients.len() < count {
                for _ in 0..STARTING.min(count - clients.len()) {
                    for role in recipe(clients.len())?.clients {
                        clients.push(Client::start(role.launch)?);
                    }
                }
                server.nth(said, clients.len()).await;
            }
            tokio::time::sleep(IDLE).await;
            memory.push((clients.len(), server.resident_kib()));
        }
        drop(clients);
        let (Some(before), Some(after)) = (memory.first(), memory.last()) else { return Ok(Vec::new()) };
        let grown = after.1 as f64 - before.1 as f64;
        Ok(vec![Sample::new(SERVER, grown / (after.0 - before.0) as f64)])
    };
    bench.rounds(Measure::Clients, figures, &who, |contender| *contender, one).await;
    Ok(())
}

impl Client {
    /// Starts it without listening to what it says: three threads for each of thousands would be too many.
    fn start(launch: Launch) -> Result<Self> {
        let child = launch.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context("a client does not start")?, _launch: launch })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // If it has ended by itself, there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
