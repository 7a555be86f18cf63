//! Tables and JSON.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use crate::bench::Bench;
use crate::contender::Contender;
use crate::figures::{Figure, Figures, digits};
use crate::goals::{self, Goal, Standing};
use crate::measure::Measure;

/// What is there instead of a figure that was not measured.
const NONE: &str = "–";

/// Prints the medians and the goals, as tables of Markdown.
pub(crate) fn print(bench: &Bench, figures: &Figures) {
    let Extent { rounds, seconds, .. } = Extent::of(bench);
    println!("Medians of {rounds} rounds of {seconds} s.\n");
    // Others take part over the WAN than here.
    let (wan, here): (Vec<_>, Vec<_>) =
        figures.all().into_iter().partition(|figure| figure.measure == Measure::Wan);
    for figures in [here, wan] {
        medians(&figures);
    }
    println!("| figure of | figure | goal | it is | bound's figure | ratio | met |");
    println!("|---|---|---|---:|---:|---:|---|");
    for goal in goals::all() {
        let Goal { ours, figure, .. } = &goal;
        let cells = match goal.standing(figures) {
            Some(standing) => {
                let Standing { ours, theirs, is_met } = standing;
                let met = if is_met { "yes" } else { "**no**" };
                format!("{} | {} | {} | {met}", digits(ours), digits(theirs), digits(standing.ratio()))
            }
            None => format!("{NONE} | {NONE} | {NONE} | not measured"),
        };
        println!("| {} | {figure} | {} | {cells} |", ours.name(), goal.words());
    }
}

/// Prints a table of some figures, of all contenders that have any of them.
fn medians(figures: &[&Figure]) {
    let known = |contender: &Contender| figures.iter().any(|figure| figure.median(*contender).is_some());
    let contenders: Vec<Contender> = Contender::ALL.into_iter().filter(known).collect();
    if contenders.is_empty() {
        return;
    }
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name()).collect();
    println!("| | {} |\n|---|{}", names.join(" | "), "---:|".repeat(names.len()));
    for figure in figures {
        let cell = |contender: &Contender| figure.median(*contender).map_or(NONE.to_owned(), digits);
        let cells: Vec<String> = contenders.iter().map(cell).collect();
        println!("| {} | {} |", figure.name, cells.join(" | "));
    }
    println!();
}

/// Writes everything as JSON.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(bench: &Bench, figures: &Figures, file: &Path) -> Result<()> {
    let goals: Vec<Value> = goals::all()
        .iter()
        .map(|goal| {
            let standing = goal.standing(figures);
            json!({
                "contender": goal.ours,
                "figure": goal.figure,
                "goal": goal.words(),
                "value": standing.map(|standing| standing.ours),
                "compared_with": standing.map(|standing| standing.theirs),
                "ratio": standing.map(Standing::ratio),
                "met": standing.map(|standing| standing.is_met),
            })
        })
        .collect();
    let medians: Map<String, Value> = figures
        .all()
        .iter()
        .map(|figure| {
            let of = |contender: &Contender| {
                Some((contender.name().to_owned(), figure.median(*contender)?.into()))
            };
            let medians: Map<String, Value> = Contender::ALL.iter().filter_map(of).collect();
            (figure.name.clone(), medians.into())
        })
        .collect();
    let report = json!({
        "date": OffsetDateTime::now_utc().date().to_string(),
        "machine": machine(),
        "versions": versions(bench),
        "extent": Extent::of(bench),
        "figures": figures,
        "medians": medians,
        "goals": goals,
    });
    let text = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

/// How much was measured.
#[derive(Debug, Serialize)]
struct Extent {
    rounds: usize,
    seconds: f64,
    connections: usize,
    clients: usize,
    crowd: usize,
    wan_rounds: usize,
    wan_mbit_per_second: u64,
}

impl Extent {
    fn of(bench: &Bench) -> Self {
        let extent = &bench.extent;
        Self {
            rounds: extent.rounds,
            seconds: extent.seconds,
            connections: extent.connections,
            clients: extent.clients,
            crowd: extent.crowd,
            wan_rounds: extent.wan_rounds,
            wan_mbit_per_second: extent.wan_rate,
        }
    }
}

fn machine() -> Value {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    json!({
        "processor": field(&read("/proc/cpuinfo"), "model name"),
        "processors": std::thread::available_parallelism().ok().map(usize::from),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control").trim(),
    })
}

/// What the programs say of themselves.
fn versions(bench: &Bench) -> Value {
    let tools = &bench.tools;
    let asked = [
        ("tun", Some(&tools.tuns), "--version"),
        ("frp", tools.frps.as_ref(), "--version"),
        ("rathole", tools.rathole.as_ref(), "--version"),
        ("bore", tools.bore.as_ref(), "--version"),
        ("nginx", tools.nginx.as_ref(), "-v"),
        ("wrk", tools.wrk.as_ref(), "-v"),
    ];
    let version = |(name, program, argument): (&str, Option<&std::path::PathBuf>, &str)| {
        let output = Command::new(program?).arg(argument).output().ok()?;
        // Some say it where errors go.
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        // Some tell much more than that.
        let mut lines = said.lines().filter(|line| line.contains(|c: char| c.is_ascii_digit()));
        let line = lines.clone().find(|line| line.contains("ersion")).or_else(|| lines.next())?;
        Some((name.to_owned(), Value::from(line.trim())))
    };
    Value::Object(asked.into_iter().filter_map(version).collect())
}
