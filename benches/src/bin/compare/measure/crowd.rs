//! Resident memory of the server for each of thousands of clients that are logged in with one proxy, and idle.
//!
//! This process plays the clients: as programs, so many would not fit into this machine.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tun_tests::net::Loopback;

use super::Measure;
use crate::bench::Bench;
use crate::contender::{self, Contender};
use crate::figures::{Figures, Sample};
use crate::stage::Stage;

/// The part of the clients that is there before the first look at the memory, so that what is taken once is not counted.
const BEFORE: usize = 10;

/// Idle means: nothing but heartbeats has happened for so long. Programs that give memory back after a while have done so.
const IDLE: Duration = Duration::from_secs(10);

/// The figure.
pub(crate) const SERVER: &str = "one of many idle clients, server KiB";

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let played = |contender: &Contender| contender.plays().is_some();
    let who: Vec<Contender> = bench.contenders.iter().copied().filter(played).collect();
    let one = async |contender: &Contender| {
        let transport = contender.plays().context("its clients are programs")?;
        let claim = Loopback::claim();
        let stage = Stage::at(claim.ip());
        let recipe = contender.recipe(&bench.tools, stage, &[])?;
        let server = recipe.server.context("a tunnel has a server")?.start().await;
        let mut crowd = contender::crowd(stage, transport)?;
        let mut memory = Vec::new();
        for count in [bench.extent.crowd / BEFORE, bench.extent.crowd] {
            crowd.grow(count).await?;
            tokio::time::sleep(IDLE).await;
            crowd.check()?;
            memory.push((crowd.len(), server.resident_kib()));
        }
        let (Some(before), Some(after)) = (memory.first(), memory.last()) else { return Ok(Vec::new()) };
        let grown = after.1 as f64 - before.1 as f64;
        Ok(vec![Sample::new(SERVER, grown / (after.0 - before.0) as f64)])
    };
    bench.rounds(Measure::Crowd, figures, &who, |contender| *contender, one).await;
    Ok(())
}
