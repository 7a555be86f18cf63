//! Resident memory of the programs for each connection that is open and idle.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tun_tests::net::{Loopback, Place, REMOTE_PORT, SERVICE_PORT};

use super::Measure;
use crate::bench::Bench;
use crate::contender::Contender;
use crate::figures::{Figures, Sample};
use crate::load::Greeter;
use crate::stage::{Kind, Service};

/// Connections that are open before the first look at the memory, so that what is taken once is not counted.
const BEFORE: usize = 200;

/// Connections that are opened at a time.
const OPENING: usize = 32;

/// How long one may take to open.
const PATIENCE: Duration = Duration::from_secs(10);

/// Idle means: nothing has happened for so long. Programs that give memory back after a while have done so.
const IDLE: Duration = Duration::from_secs(3);

/// The figures.
pub(crate) const SERVER: &str = "idle connection, server KiB";
pub(crate) const CLIENT: &str = "idle connection, client KiB";

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let net = Loopback::claim();
    let local = net.at(SERVICE_PORT);
    let service = Service { name: "greeter".to_owned(), kind: Kind::Tcp, local, public_port: REMOTE_PORT };
    let who: Vec<Contender> =
        bench.on_loopback(&service).filter(|contender| *contender != Contender::Direct).collect();
    // Started anew each time: memory that one round has left behind would be used by the next.
    let one = async |contender: &Contender| {
        let greeter = Greeter::start(local).await?;
        let grown = growth(bench, *contender, &service).await;
        // Also when that failed, so that the next one finds the port free.
        greeter.stop().await;
        let (server, client) = grown?;
        Ok(vec![Sample::new(SERVER, server), Sample::new(CLIENT, client)])
    };
    bench.rounds(Measure::Connections, figures, &who, |contender| *contender, one).await;
    Ok(())
}

/// What server and client have grown by, in KiB for each connection.
async fn growth(bench: &Bench, contender: Contender, service: &Service) -> Result<(f64, f64)> {
    let (running, stage) = bench.start(contender, std::slice::from_ref(service)).await?;
    let public = running.public(stage, service);
    let mut held = open(&public, BEFORE).await?;
    tokio::time::sleep(IDLE).await;
    let before = running.resident_kib()?.context("a tunnel has programs")?;
    let connections = bench.extent.connections;
    held.extend(open(&public, connections).await?);
    tokio::time::sleep(IDLE).await;
    let after = running.resident_kib()?.context("a tunnel has programs")?;
    let each = |before: f64, after: f64| (after - before) / connections as f64;
    Ok((each(before.0, after.0), each(before.1, after.1)))
}

/// Opens so many connections; the service has answered on each.
async fn open(public: &Place, count: usize) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    while held.len() < count {
        let mut opening = JoinSet::new();
        for _ in 0..OPENING.min(count - held.len()) {
            let public = public.clone();
            opening.spawn(async move { timeout(PATIENCE, Greeter::visit(&public)).await });
        }
        while let Some(opened) = opening.join_next().await {
            held.push(opened?.context("a connection does not open")??);
        }
    }
    Ok(held)
}
