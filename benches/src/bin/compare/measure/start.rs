//! How long it takes from the start of the programs to the first byte through the tunnel.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::time::timeout;
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};

use super::Measure;
use crate::bench::Bench;
use crate::contender::Contender;
use crate::figures::{Figures, Sample};
use crate::load::Greeter;
use crate::stage::{Kind, Service, Stage};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two attempts of a visitor.
const ATTEMPT: Duration = Duration::from_millis(1);

/// The figure.
const TOTAL: &str = "start to first byte, ms";

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let net = Loopback::claim();
    let local = net.at(SERVICE_PORT);
    let _greeter = Greeter::start(local).await?;
    let service = Service { name: "greeter".to_owned(), kind: Kind::Tcp, local, public_port: REMOTE_PORT };
    let who: Vec<Contender> =
        bench.on_loopback(&service).filter(|contender| *contender != Contender::Direct).collect();
    let one = async |contender: &Contender| {
        let claim = Loopback::claim();
        let stage = Stage::at(claim.ip());
        let recipe = contender.recipe(&bench.tools, stage, std::slice::from_ref(&service))?;
        let begun = Instant::now();
        // Some clients give up at once when the server does not listen yet.
        let server = recipe.server.as_ref().context("a tunnel has a server")?.start().await;
        let clients: Vec<_> = recipe.clients.iter().map(|role| role.launch.start()).collect();
        let public = stage.seen_by_visitor((stage.server, service.public_port).into());
        let visiting = async {
            while Greeter::visit(&public).await.is_err() {
                // A port that is not open yet tells nobody when it will be.
                tokio::time::sleep(ATTEMPT).await;
            }
        };
        timeout(PATIENCE, visiting).await.context("no first byte")?;
        let took = begun.elapsed();
        drop((server, clients));
        Ok(vec![Sample::new(TOTAL, took.as_secs_f64() * 1000.0)])
    };
    bench.rounds(Measure::Start, figures, &who, |contender| *contender, one).await;
    Ok(())
}
