//! What passes in bulk, and what the tunnel's programs take for it.

use std::time::{Duration, Instant};

use anyhow::Result;
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};

use super::Measure;
use crate::bench::Bench;
use crate::figures::{Figures, Sample};
use crate::load::{Bulk, Direction};
use crate::recipe::Running;
use crate::stage::{Kind, Service, Stage};

/// Streams at a time.
const STREAMS: [usize; 2] = [1, 8];

/// Time in which windows grow before anything is measured.
const WARM_UP: Duration = Duration::from_millis(700);

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let net = Loopback::claim();
    let local = net.at(SERVICE_PORT);
    let bulk = Bulk::start(local).await?;
    let service = Service { name: "bulk".to_owned(), kind: Kind::Tcp, local, public_port: REMOTE_PORT };
    let all = bench.start_all(&service).await?;
    for direction in Direction::BOTH {
        for streams in STREAMS {
            let one = async |(running, stage): &(Running, Stage<'_>)| {
                let public = running.public(*stage, &service);
                let mut transfer = bulk.transfer(&public, direction, streams).await?;
                tokio::time::sleep(WARM_UP).await;
                let (since, arrived) = (Instant::now(), transfer.arrived());
                let spent = running.processor_seconds()?;
                tokio::time::sleep(bench.extent.span()).await;
                let seconds = since.elapsed().as_secs_f64();
                let bytes = (transfer.arrived() - arrived) as f64;
                let spent = running.processor_seconds()?.zip(spent).map(|(after, before)| after - before);
                transfer.check()?;
                drop(transfer);
                bulk.idle().await?;
                let mut samples = vec![Sample::new(rate(direction, streams), bytes / MIB / seconds)];
                samples
                    .extend(spent.map(|spent| Sample::new(cost(direction, streams), spent / (bytes / GIB))));
                Ok(samples)
            };
            bench.rounds(Measure::Throughput, figures, &all, |(running, _)| running.contender, one).await;
        }
    }
    Ok(())
}

/// The figure of the rate.
pub(crate) fn rate(direction: Direction, streams: usize) -> String {
    format!("{}, MiB/s", title(direction, streams))
}

/// The figure of the processor time.
pub(crate) fn cost(direction: Direction, streams: usize) -> String {
    format!("{}, CPU s/GiB", title(direction, streams))
}

fn title(direction: Direction, streams: usize) -> String {
    let plural = if streams == 1 { "" } else { "s" };
    format!("{streams} stream{plural} {}", direction.word())
}
