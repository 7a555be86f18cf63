//! tun beside its peers: the same measures for each, in turns, on this machine, and the ratios that matter.
//!
//! `cargo run --release -p tun-benches --bin compare -- --quick`
//!
//! `benches/README.md` says what is measured, how, and where the peers come from.

mod bench;
mod contender;
mod figures;
mod goals;
mod load;
mod measure;
mod recipe;
mod report;
mod stage;
mod tools;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use bench::{Bench, Extent};
use contender::Contender;
use figures::Figures;
use measure::Measure;
use tools::Tools;
use tun_tests::program::raise_open_files;

/// Measures tun beside its peers.
#[derive(Debug, Parser)]
struct Args {
    /// Take these measures only
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Compare these only
    #[arg(long, value_enum, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Rounds; the median of them counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Idle connections whose memory is measured
    #[arg(long, default_value_t = 2000)]
    connections: usize,
    /// Idle clients whose memory is measured
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Idle clients, played by this process, whose memory is measured
    #[arg(long, default_value_t = 5000)]
    crowd: usize,
    /// Rounds of those lines of the WAN for which there is no goal
    #[arg(long, default_value_t = 1)]
    wan_rounds: usize,
    /// Round trips of the WAN, in milliseconds
    #[arg(long, value_delimiter = ',', default_value = "10,50,100,200")]
    wan_rtt: Vec<u64>,
    /// Loss of the WAN each way, in per cent
    #[arg(long, value_delimiter = ',', default_value = "0,0.1,1")]
    wan_loss: Vec<f64>,
    /// Rate of the WAN, in Mbit/s
    #[arg(long, default_value_t = 1000)]
    wan_rate: u64,
    /// Write the figures to this file; those of other measures that it holds already are kept, and shown as well
    #[arg(long)]
    json: Option<PathBuf>,
    /// One short round of everything: to see that it works, not to compare
    #[arg(long)]
    quick: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    raise_open_files();
    let measures = if args.only.is_empty() { Measure::ALL.to_vec() } else { args.only };
    let mut figures = Figures::kept(args.json.as_deref(), &measures)?;
    let mut extent = Extent {
        rounds: args.rounds.max(1),
        seconds: args.seconds,
        connections: args.connections,
        clients: args.clients,
        crowd: args.crowd,
        wan_rounds: args.wan_rounds.max(1),
        wan_round_trips: args.wan_rtt,
        wan_losses: args.wan_loss,
        wan_rate: args.wan_rate,
    };
    if args.quick {
        extent = extent.quick();
    }
    let wanted = if args.contenders.is_empty() { Contender::ALL.to_vec() } else { args.contenders };
    let bench = Bench::new(Tools::find()?, wanted, extent).await;
    for measure in measures {
        measure.take(&bench, &mut figures).await?;
        // After each, so that nothing is lost with what fails later.
        if let Some(file) = &args.json {
            report::write(&bench, &figures, file)?;
        }
    }
    report::print(&bench, &figures);
    Ok(())
}
