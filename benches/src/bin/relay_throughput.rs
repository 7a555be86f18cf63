//! What the relay between a visitor and the client of a private service costs, against a public port.
//!
//! Starts the real release binaries on this machine: a server, a client that serves one local service both publicly
//! and privately, and a visitor. The same bytes then cross the public port and the relay in turn, towards the
//! visitor (down) and towards the service (up). Prints the medians of throughput, the processor time of all programs
//! for each GiB, and the ratios.
//!
//! Over loopback the processor is the limit. In the network lab it is a line of 1 Gbit/s at every site, as users have
//! it, without delay or 25 ms from the server; that needs root.
//!
//! `cargo run --release -p tun-benches --bin relay_throughput -- --over near --min-ratio 0.8`
//!
//! `TUN_TEST_BINARIES=DIR` measures what lies in DIR as it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tun_benches::over::Over;
use tun_benches::programs::executables;
use tun_benches::{processor, statistics};
use tun_tests::lab::{Lab, Nat, SERVER, Site, Space};
use tun_tests::net::{BIND_PORT, Loopback, Place, REMOTE_PORT, SERVICE_PORT};
use tun_tests::private::{NAME, SECRET, VISIT_PORT};
use tun_tests::program::{Launch, Program};
use tun_tests::tunnel::{Proxy, TOKEN, client_config};

const MIB: u64 = 1 << 20;
const GIB: f64 = (1u64 << 30) as f64;

/// Bytes of one read or write at the ends.
const BUFFER: usize = 256 * 1024;

/// Bytes that warm a way up before it is measured: windows have grown then.
const WARM_UP: u64 = 32 * MIB;

/// Measures the throughput of the relay against that of a public port.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds; the median of them counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// MiB that cross each way in each direction and round
    #[arg(long, default_value_t = 512)]
    mib: u64,
    /// What lies between the programs; may be given several times
    #[arg(long, value_enum, default_values = ["loopback", "near", "far"])]
    over: Vec<Over>,
    /// Fail when the relay's throughput is less than so much of a public port's
    #[arg(long)]
    min_ratio: Option<f64>,
}

/// Where everything runs.
struct Stage {
    lab: Option<(Lab, Site, Site)>,
    /// Where the server is reached.
    server: SocketAddr,
    /// Where the client finds the service.
    service: SocketAddr,
    /// Where the visitor listens.
    visit: SocketAddr,
    _claim: Option<Loopback>,
}

impl Stage {
    /// `None`, with a word about it, where there can be no lab.
    fn set(over: Over) -> Option<Self> {
        let Some(internet) = over.internet() else {
            let net = Loopback::claim();
            let [server, service, visit] = [BIND_PORT, SERVICE_PORT, VISIT_PORT].map(|port| net.at(port));
            return Some(Self { lab: None, server, service, visit, _claim: Some(net) });
        };
        let mut lab = Lab::start_with(internet)?;
        let (serving, visiting) = (lab.site(Nat::Public), lab.site(Nat::Public));
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Some(Self {
            lab: Some((lab, serving, visiting)),
            server: (SERVER[0], BIND_PORT).into(),
            service: local(SERVICE_PORT),
            visit: local(VISIT_PORT),
            _claim: None,
        })
    }

    fn server_space(&self) -> Option<&Space> {
        self.lab.as_ref().map(|(lab, _, _)| lab.server())
    }

    fn serving_space(&self) -> Option<&Space> {
        self.lab.as_ref().map(|(_, serving, _)| serving.host())
    }

    fn visiting_space(&self) -> Option<&Space> {
        self.lab.as_ref().map(|(_, _, visiting)| visiting.host())
    }
}

/// An address where a program of the stage is at home.
fn place(space: Option<&Space>, address: SocketAddr) -> Place {
    match space {
        Some(space) => (space, address).into(),
        None => address.into(),
    }
}

fn within(launch: Launch, space: Option<&Space>) -> Launch {
    match space {
        Some(space) => launch.within(space),
        None => launch,
    }
}

/// Where bytes go, seen from the visitor.
#[derive(Debug, Clone, Copy)]
enum Direction {
    Down,
    Up,
}

/// What one transfer took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    mib_per_second: f64,
    processor_seconds_per_gib: f64,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let executables = executables()?;
    let mut worst = f64::INFINITY;
    for &over in &args.over {
        if let Some(stage) = Stage::set(over) {
            worst = worst.min(compare(&stage, over, &executables, &args).await?);
        }
    }
    if let Some(min) = args.min_ratio.filter(|&min| worst < min) {
        println!("the relay brings {worst:.2} of a public port's throughput, less than the {min:.2} it must");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures both ways; returns the worse ratio of throughput.
async fn compare(stage: &Stage, over: Over, executables: &(PathBuf, PathBuf), args: &Args) -> Result<f64> {
    let (server, client) = executables;
    tokio::spawn(serve(place(stage.serving_space(), stage.service).listen().await?));

    let config =
        format!("bindAddr = \"{}\"\nbindPort = {BIND_PORT}\nauth.token = \"{TOKEN}\"\n", stage.server.ip());
    let server = within(Launch::of("tuns", server), stage.server_space()).config(&config).start();
    server.line("listening on").await;
    let public = Proxy { name: "public".to_owned(), local: stage.service, remote_port: REMOTE_PORT };
    let private = format!(
        "[[proxies]]\nname = \"{NAME}\"\ntype = \"stcp\"\nsecretKey = \"{SECRET}\"\nlocalIP = \"{}\"\nlocalPort = {}\n",
        stage.service.ip(),
        stage.service.port()
    );
    let config = client_config(stage.server, "", &[public]) + &private;
    let serving = within(Launch::of("tunc serving", client), stage.serving_space()).config(&config).start();
    serving.nth("start proxy success", 2).await;
    let visiting = within(Launch::of("tunc visit", client), stage.visiting_space())
        .env("TUN_TOKEN", TOKEN)
        .env("TUN_SECRET", SECRET)
        .args(["visit", NAME, "-s", &stage.server.to_string(), "--bind", &stage.visit.to_string()])
        .start();
    visiting.line("start visitor success").await;

    let programs = [&server, &serving, &visiting];
    let port = SocketAddr::new(stage.server.ip(), REMOTE_PORT);
    let at_visitor = |address| place(stage.visiting_space(), address);
    let ways = [("public port", at_visitor(port)), ("relay", at_visitor(stage.visit))];
    let mut worst = f64::INFINITY;
    for direction in [Direction::Down, Direction::Up] {
        let mut costs = [Vec::new(), Vec::new()];
        for (_, place) in &ways {
            transfer(place, direction, WARM_UP).await?;
        }
        for _ in 0..args.rounds {
            for (way, costs) in ways.iter().zip(&mut costs) {
                costs.push(measure(&programs, &way.1, direction, args.mib * MIB).await?);
            }
        }
        let [public, relay] = costs.map(|costs| median(&costs));
        for ((name, _), cost) in ways.iter().zip([public, relay]) {
            let Cost { mib_per_second, processor_seconds_per_gib } = cost;
            println!(
                "{over:?}, {direction:?} {name}: {mib_per_second:.0} MiB/s, {processor_seconds_per_gib:.2} CPU s per GiB"
            );
        }
        let ratio = relay.mib_per_second / public.mib_per_second;
        let processor = relay.processor_seconds_per_gib / public.processor_seconds_per_gib;
        println!(
            "{over:?}, {direction:?}: the relay brings {ratio:.2} of the throughput for {processor:.2} of the CPU time"
        );
        worst = worst.min(ratio);
    }
    Ok(worst)
}

async fn measure(programs: &[&Program], place: &Place, direction: Direction, bytes: u64) -> Result<Cost> {
    let before = processor_seconds(programs)?;
    let started = Instant::now();
    transfer(place, direction, bytes).await?;
    let seconds = started.elapsed().as_secs_f64();
    let spent = processor_seconds(programs)? - before;
    Ok(Cost {
        mib_per_second: bytes as f64 / MIB as f64 / seconds,
        processor_seconds_per_gib: spent * GIB / bytes as f64,
    })
}

fn median(costs: &[Cost]) -> Cost {
    let of = |value: fn(&Cost) -> f64| statistics::median(costs.iter().map(value));
    Cost {
        mib_per_second: of(|cost| cost.mib_per_second),
        processor_seconds_per_gib: of(|cost| cost.processor_seconds_per_gib),
    }
}

/// Processor time that the programs have taken so far.
fn processor_seconds(programs: &[&Program]) -> Result<f64> {
    programs.iter().map(|program| processor::seconds(program.pid())).sum()
}

/// Sends or receives `bytes` over a new connection, and waits until all of them have arrived.
async fn transfer(place: &Place, direction: Direction, bytes: u64) -> Result<()> {
    let mut stream = place.connect().await?;
    match direction {
        Direction::Down => {
            stream.write_u64(bytes).await?;
            let received = drain(&mut stream).await?;
            ensure!(received == bytes, "{received} bytes arrived instead of {bytes}");
        }
        Direction::Up => {
            stream.write_u64(0).await?;
            send(&mut stream, bytes).await?;
            stream.shutdown().await?;
            let received = stream.read_u64().await?;
            ensure!(received == bytes, "{received} bytes arrived instead of {bytes}");
        }
    }
    Ok(())
}

/// The local service: sends as many bytes as it is asked for, or counts what it gets.
async fn serve(listener: TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            match stream.read_u64().await? {
                0 => {
                    let received = drain(&mut stream).await?;
                    stream.write_u64(received).await?;
                }
                bytes => send(&mut stream, bytes).await?,
            }
            anyhow::Ok(())
        });
    }
}

async fn send(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let buffer = vec![0x5a; BUFFER];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(BUFFER as u64);
        stream.write_all(&buffer[..n as usize]).await?;
        left -= n;
    }
    Ok(())
}

async fn drain(stream: &mut TcpStream) -> Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(received),
            n => received += n as u64,
        }
    }
}
