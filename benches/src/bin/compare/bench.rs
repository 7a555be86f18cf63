//! What is run, and the taking of turns.

use std::time::Duration;

use anyhow::Result;
use tun_tests::net::Loopback;

use crate::contender::Contender;
use crate::figures::{Figures, Sample};
use crate::measure::{Measure, WAN_GOAL};
use crate::recipe::Running;
use crate::stage::{Service, Stage};
use crate::tools::Tools;

/// Everything that the measures need to know.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) tools: Tools,
    /// Those that can be measured here.
    pub(crate) contenders: Vec<Contender>,
    pub(crate) extent: Extent,
}

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) connections: usize,
    pub(crate) clients: usize,
    pub(crate) crowd: usize,
    /// Rounds of those lines of the WAN for which there is no goal.
    pub(crate) wan_rounds: usize,
    /// In milliseconds.
    pub(crate) wan_round_trips: Vec<u64>,
    /// In per cent.
    pub(crate) wan_losses: Vec<f64>,
    /// In Mbit/s.
    pub(crate) wan_rate: u64,
}

impl Extent {
    /// As little as shows that everything works.
    pub(crate) fn quick(self) -> Self {
        Self {
            rounds: 1,
            seconds: self.seconds.min(0.5),
            connections: self.connections.min(200),
            clients: self.clients.min(20),
            crowd: self.crowd.min(200),
            wan_rounds: 1,
            wan_round_trips: one(self.wan_round_trips, WAN_GOAL.0),
            wan_losses: one(self.wan_losses, WAN_GOAL.1),
            wan_rate: self.wan_rate,
        }
    }

    /// The time of one measurement.
    pub(crate) fn span(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

impl Bench {
    /// Sorts out who cannot be measured here, and says why.
    pub(crate) async fn new(tools: Tools, wanted: Vec<Contender>, extent: Extent) -> Self {
        let mut contenders = Vec::new();
        for contender in wanted {
            match contender.obstacle(&tools).await {
                None => contenders.push(contender),
                Some(why) => eprintln!("{} is left out: {why}", contender.name()),
            }
        }
        Self { tools, contenders, extent }
    }

    /// Starts all who can carry this service, side by side, each at an address of its own.
    ///
    /// # Errors
    /// One of them cannot be prepared.
    pub(crate) async fn start_all(&self, service: &Service) -> Result<Vec<(Running, Stage<'static>)>> {
        let mut all = Vec::new();
        for contender in self.on_loopback(service) {
            all.push(self.start(contender, std::slice::from_ref(service)).await?);
        }
        Ok(all)
    }

    /// Those that take part in the measures on this machine and can carry this service.
    pub(crate) fn on_loopback(&self, service: &Service) -> impl Iterator<Item = Contender> {
        let takes_part =
            |contender: &Contender| contender.runs_on_loopback() && contender.carries(service.kind);
        self.contenders.iter().copied().filter(takes_part)
    }

    /// Starts one at an address of its own.
    ///
    /// # Errors
    /// It cannot be prepared.
    pub(crate) async fn start(
        &self,
        contender: Contender,
        services: &[Service],
    ) -> Result<(Running, Stage<'static>)> {
        let claim = Loopback::claim();
        let stage = Stage::at(claim.ip());
        let running = contender.recipe(&self.tools, stage, services)?.start(contender, Some(claim)).await;
        Ok((running, stage))
    }

    /// Takes a measure of each in turn, round by round. Who fails has no figure of that round.
    pub(crate) async fn rounds<T>(
        &self,
        measure: Measure,
        figures: &mut Figures,
        who: &[T],
        contender: impl Fn(&T) -> Contender,
        take: impl AsyncFn(&T) -> Result<Vec<Sample>>,
    ) {
        self.so_many_rounds(self.extent.rounds, measure, figures, who, contender, take).await;
    }

    /// The same in another number of rounds.
    pub(crate) async fn so_many_rounds<T>(
        &self,
        rounds: usize,
        measure: Measure,
        figures: &mut Figures,
        who: &[T],
        contender: impl Fn(&T) -> Contender,
        take: impl AsyncFn(&T) -> Result<Vec<Sample>>,
    ) {
        for round in 1..=rounds {
            for one in who {
                let contender = contender(one);
                match take(one).await {
                    Ok(samples) => figures.add(measure, contender, round, samples),
                    Err(error) => {
                        eprintln!("{measure}, round {round}: {} failed: {error:#}", contender.name());
                    }
                }
            }
        }
    }
}

/// The one of them that matters most: the one with a goal, if it is wanted.
fn one<T: PartialEq>(wanted: Vec<T>, goal: T) -> Vec<T> {
    if wanted.contains(&goal) { vec![goal] } else { wanted.into_iter().take(1).collect() }
}
