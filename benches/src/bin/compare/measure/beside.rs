//! A small request and its answer on a connection that is open, alone and beside a bulk transfer through the same tunnel.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tun_benches::statistics::quantile;
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};

use super::Measure;
use crate::bench::Bench;
use crate::figures::{Figures, Sample};
use crate::load::{Bulk, Direction, Greeter};
use crate::recipe::Running;
use crate::stage::{Kind, Service, Stage};

/// Bytes of a request, and of an answer.
const REQUEST: usize = 100;

/// Time in which the bulk transfer gets up to speed, or in which the request's connection becomes warm.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The figures.
pub(crate) const ALONE: &str = "small request alone, p99 µs";
pub(crate) const BESIDE: &str = "small request beside bulk, p99 µs";

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let net = Loopback::claim();
    let (at_bulk, at_greeter) = (net.at(SERVICE_PORT), net.at(SERVICE_PORT + 1));
    let bulk = Bulk::start(at_bulk).await?;
    let _greeter = Greeter::start(at_greeter).await?;
    let service = |name: &str, local, public_port| Service {
        name: name.to_owned(),
        kind: Kind::Tcp,
        local,
        public_port,
    };
    let services = [service("bulk", at_bulk, REMOTE_PORT), service("small", at_greeter, REMOTE_PORT + 1)];
    let mut all = Vec::new();
    for contender in bench.on_loopback(&services[0]) {
        all.push(bench.start(contender, &services).await?);
    }
    let one = async |(running, stage): &(Running, Stage<'_>)| {
        let [bulky, small] = [0, 1].map(|n: usize| running.public(*stage, &services[n]));
        let mut stream = Greeter::visit(&small).await?;
        ask(&mut stream, WARM_UP).await?;
        let mut alone = ask(&mut stream, bench.extent.span()).await?;
        let mut transfer = bulk.transfer(&bulky, Direction::Down, 1).await?;
        ask(&mut stream, WARM_UP).await?;
        let mut beside = ask(&mut stream, bench.extent.span()).await?;
        transfer.check()?;
        drop(transfer);
        bulk.idle().await?;
        Ok(vec![
            Sample::new("small request alone, p50 µs", quantile(&mut alone, 0.5)),
            Sample::new(ALONE, quantile(&mut alone, 0.99)),
            Sample::new("small request beside bulk, p50 µs", quantile(&mut beside, 0.5)),
            Sample::new(BESIDE, quantile(&mut beside, 0.99)),
        ])
    };
    bench.rounds(Measure::Beside, figures, &all, |(running, _)| running.contender, one).await;
    Ok(())
}

/// Asks again and again for so long; returns how long each answer took, in microseconds.
async fn ask(stream: &mut TcpStream, span: Duration) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    let (request, mut answer) = ([b'?'; REQUEST], [0; REQUEST]);
    let since = Instant::now();
    while since.elapsed() < span {
        let begun = Instant::now();
        stream.write_all(&request).await?;
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.context("no answer")??;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}
