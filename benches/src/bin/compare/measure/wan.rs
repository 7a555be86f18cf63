//! What passes in bulk when client and server are far apart, over lines that lose packets.
//!
//! The network lab holds the line between two namespaces: service and client in one, server and visitor in the other. What
//! passes goes from the service to the visitor on one stream. Contenders take turns, alone each time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::time::timeout;
use tun_benches::bare::{Sink, Source};
use tun_tests::lab::{Internet, Lab, Nat, SERVER, Site};
use tun_tests::net::{REMOTE_PORT, SERVICE_PORT};

use super::Measure;
use crate::bench::Bench;
use crate::contender::Contender;
use crate::figures::{Figures, Sample};
use crate::load::{Bulk, Direction};
use crate::stage::{Kind, Service, Stage};

/// Those who are compared on every line.
const WHO: [Contender; 6] = [
    Contender::Direct,
    Contender::Frp,
    Contender::FrpQuic,
    Contender::Tun,
    Contender::TunQuic,
    Contender::Quinn,
];

/// Those who are so like one of them over a line, being TCP, that they are compared on the line with a goal alone. Still
/// others are the same again.
const ALSO: [Contender; 3] = [Contender::Rathole, Contender::RatholeNoise, Contender::TunPlain];

/// The line for which there is a goal: its round trip in milliseconds, and the per cent of packets that it loses each way.
pub(crate) const GOAL: (u64, f64) = (100, 0.1);

/// Bytes that wait at an end, beside those on their way, before packets are dropped.
const QUEUE: usize = 4 << 20;

/// Time in which windows grow, and round trips that are added to it.
const WARM_UP: (Duration, u32) = (Duration::from_secs(2), 5);

/// The least time of a measurement: losses come at random.
const LEAST: Duration = Duration::from_secs(4);

/// How long a connection may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);

const MIB: f64 = (1 << 20) as f64;

/// The line between the namespaces.
#[derive(Debug, Clone, Copy)]
struct Line {
    round_trip: Duration,
    span: Duration,
}

/// The figure of one line, which is told as [`GOAL`] is.
pub(crate) fn cell((round_trip, loss): (u64, f64)) -> String {
    format!("{round_trip} ms, {loss} % loss, MiB/s")
}

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    for &round_trip in &bench.extent.wan_round_trips {
        for &loss in &bench.extent.wan_losses {
            let has_goal = (round_trip, loss) == GOAL;
            let rounds = if has_goal { bench.extent.rounds } else { bench.extent.wan_rounds };
            let takes_part = |one: &Contender| WHO.contains(one) || has_goal && ALSO.contains(one);
            let who: Vec<Contender> = bench.contenders.iter().copied().filter(takes_part).collect();
            let delay = Duration::from_millis(round_trip) / 2;
            let rate = bench.extent.wan_rate * 1_000_000 / 8;
            let under_way = (rate as f64 * delay.as_secs_f64()) as usize;
            let internet = Internet {
                delay,
                loss: loss / 100.0,
                rate: Some(rate),
                queue: under_way + QUEUE,
                ..Internet::NEAR
            };
            let Some(mut lab) = Lab::start_with(internet) else {
                eprintln!("{} is left out: there can be no network lab here, see above", Measure::Wan);
                return Ok(());
            };
            let site = lab.site(Nat::Public);
            for space in [lab.server(), site.host()] {
                // One contender must not profit from what the kernel has learned in the turn of another.
                space.set("ipv4/tcp_no_metrics_save", 1);
            }
            let line = Line { round_trip: 2 * delay, span: bench.extent.span().max(LEAST) };
            let one = async |contender: &Contender| {
                let rate = match contender {
                    Contender::Quinn => bare(&lab, &site, line).await?,
                    _ => tunnelled(bench, *contender, &lab, &site, line).await?,
                };
                Ok(vec![Sample::new(cell((round_trip, loss)), rate)])
            };
            let contender = |contender: &Contender| *contender;
            bench.so_many_rounds(rounds, Measure::Wan, figures, &who, contender, one).await;
        }
    }
    Ok(())
}

async fn tunnelled(bench: &Bench, contender: Contender, lab: &Lab, site: &Site, line: Line) -> Result<f64> {
    let ip = IpAddr::from(site.public());
    let local = SocketAddr::new(ip, SERVICE_PORT);
    let stage = Stage { server: SERVER[0].into(), client: ip, spaces: Some((lab.server(), site.host())) };
    let service = Service { name: "bulk".to_owned(), kind: Kind::Tcp, local, public_port: REMOTE_PORT };
    let bulk = Bulk::start((site.host(), local)).await?;
    let recipe = contender.recipe(&bench.tools, stage, std::slice::from_ref(&service))?;
    let running = recipe.start(contender, None).await;
    let public = running.public(stage, &service);
    let mut transfer = bulk.transfer(&public, Direction::Down, 1).await?;
    let rate = line.measure(|| transfer.arrived()).await;
    transfer.check()?;
    Ok(rate)
}

/// A bare QUIC connection the same way.
async fn bare(lab: &Lab, site: &Site, line: Line) -> Result<f64> {
    let received = Arc::new(AtomicU64::new(0));
    let any = |ip: Ipv4Addr| move || UdpSocket::bind((ip, 0));
    let sink = Sink::listen(lab.server().within(any(SERVER[0]))?, received.clone())?;
    let socket = site.host().within(any(site.public()))?;
    let _source = timeout(PATIENCE, Source::dial(socket, &sink)).await.context("no connection")??;
    Ok(line.measure(|| received.load(Ordering::Relaxed)).await)
}

impl Line {
    /// MiB/s, once windows have grown.
    async fn measure(self, arrived: impl Fn() -> u64) -> f64 {
        tokio::time::sleep(WARM_UP.0 + self.round_trip * WARM_UP.1).await;
        let (since, before) = (Instant::now(), arrived());
        tokio::time::sleep(self.span).await;
        (arrived() - before) as f64 / MIB / since.elapsed().as_secs_f64()
    }
}
