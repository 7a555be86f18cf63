//! How long a visitor waits for a new connection and the first byte that the service says on it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::time::timeout;
use tun_benches::statistics::quantile;
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};

use super::Measure;
use crate::bench::Bench;
use crate::figures::{Figures, Sample};
use crate::load::Greeter;
use crate::recipe::Running;
use crate::stage::{Kind, Service, Stage};

/// Connections of one measurement at most, one after the other. More would find no free port in the end.
const MOST: usize = 4000;

/// Connections before anything is measured.
const WARM_UP: usize = 50;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The figures.
pub(crate) const MEDIAN: &str = "connect + first byte, p50 µs";
pub(crate) const TAIL: &str = "connect + first byte, p99 µs";

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let net = Loopback::claim();
    let local = net.at(SERVICE_PORT);
    let _greeter = Greeter::start(local).await?;
    let service = Service { name: "greeter".to_owned(), kind: Kind::Tcp, local, public_port: REMOTE_PORT };
    let all = bench.start_all(&service).await?;
    let one = async |(running, stage): &(Running, Stage<'_>)| {
        let public = running.public(*stage, &service);
        let mut times = Vec::new();
        let mut since = Instant::now();
        for n in 0..MOST + WARM_UP {
            if n == WARM_UP {
                since = Instant::now();
            }
            let begun = Instant::now();
            let stream = timeout(PATIENCE, Greeter::visit(&public)).await.context("no first byte")??;
            let took = begun.elapsed();
            drop(stream);
            if n >= WARM_UP {
                times.push(took.as_secs_f64() * 1e6);
                if since.elapsed() > bench.extent.span() {
                    break;
                }
            }
        }
        Ok(vec![
            Sample::new(MEDIAN, quantile(&mut times, 0.5)),
            Sample::new(TAIL, quantile(&mut times, 0.99)),
        ])
    };
    bench.rounds(Measure::FirstByte, figures, &all, |(running, _)| running.contender, one).await;
    Ok(())
}
