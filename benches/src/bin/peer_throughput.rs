//! What a session's stream over a direct link carries, beside a bare QUIC stream with the same settings.
//!
//! Both ends are in this process, each with a runtime of its own. Their sockets are on loopback, where the processor is the
//! limit, or each in a network namespace of its own, with a line of 1 Gbit/s and perhaps 100 ms of a round trip between
//! them; that needs root. The bare stream and the session's have the same source (a buffer of up to 32 KiB filled for every
//! read) and the same sink, and are measured in turns.
//!
//! `cargo run --release -p tun-benches --bin peer_throughput -- --over near --min-ratio 0.9`

use anyhow::{Context as _, Result};
use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use std::io;
use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tun_benches::bare::{Sink, Source};
use tun_benches::over::Over;
use tun_benches::{processor, statistics};
use tun_common::lifecycle::Tasks;
use tun_common::link::quic::direct::{self, Direct};
use tun_common::link::tls::PeerTls;
use tun_common::random;
use tun_common::session::{Handler, Local, Session};
use tun_proto::wire::stream::ResetCode;
use tun_tests::lab::{Lab, Nat, Site};

/// Time before each measurement in which windows grow.
const WARM_UP: Duration = Duration::from_millis(1000);

/// Measures a session's stream over a direct link beside a bare QUIC stream.
#[derive(Debug, Parser)]
struct Args {
    /// Measurements of each kind
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Worker threads of each end
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What lies between the two ends; may be given several times
    #[arg(long, value_enum, default_values = ["loopback", "near", "far"])]
    over: Vec<Over>,
    /// Measure one kind only, for a profiler
    #[arg(long)]
    only: Option<Kind>,
    /// Fail when the session's stream reaches less than this share of the bare one
    #[arg(long)]
    min_ratio: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// A bare QUIC stream
    Bare,
    /// A session's stream
    Session,
}

#[derive(Debug, Clone, Copy)]
struct Figures {
    mib_per_s: f64,
    cpu_s_per_gib: f64,
}

/// Where the two ends are.
struct Stage {
    /// Where the sockets are at home, if not here.
    lab: Option<(Lab, [Site; 2])>,
}

impl Stage {
    /// `None`, with a word about it, where there can be no lab.
    fn set(over: Over) -> Option<Self> {
        let Some(internet) = over.internet() else { return Some(Stage { lab: None }) };
        let mut lab = Lab::start_with(internet)?;
        let sites = [lab.site(Nat::Public), lab.site(Nat::Public)];
        Some(Stage { lab: Some((lab, sites)) })
    }

    /// A socket for each end.
    fn sockets(&self) -> io::Result<[UdpSocket; 2]> {
        let here = || UdpSocket::bind("127.0.0.1:0");
        let [one, other] = match &self.lab {
            None => [here()?, here()?],
            Some((_, [one, other])) => {
                let at = |site: &Site| site.host().within(|| UdpSocket::bind((site.address(), 0)));
                [at(one)?, at(other)?]
            }
        };
        Ok([one, other])
    }
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut worst = f64::INFINITY;
    for &over in &args.over {
        if let Some(stage) = Stage::set(over) {
            worst = worst.min(compare(&stage, over, &args)?);
        }
    }
    if let Some(least) = args.min_ratio.filter(|&least| worst < least) {
        println!("a session's stream reaches {worst:.2} of a bare one, less than the {least:.2} it must");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures both kinds; returns the ratio of throughput, infinite where only one was asked for.
fn compare(stage: &Stage, over: Over, args: &Args) -> Result<f64> {
    let (mut bare, mut session) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        for (kind, results) in [(Kind::Bare, &mut bare), (Kind::Session, &mut session)] {
            if args.only.is_some_and(|only| only != kind) {
                continue;
            }
            let figures = measure(kind, stage, args)?;
            let Figures { mib_per_s, cpu_s_per_gib } = figures;
            println!("{over:?}, {round} {kind:?}: {mib_per_s:.0} MiB/s, {cpu_s_per_gib:.2} CPU s/GiB");
            results.push(figures);
        }
    }
    if args.only.is_some() {
        return Ok(f64::INFINITY);
    }
    let (bare, session) = (median(&bare), median(&session));
    let ratio = session.mib_per_s / bare.mib_per_s;
    println!("{over:?}, bare: {:.0} MiB/s, {:.2} CPU s/GiB", bare.mib_per_s, bare.cpu_s_per_gib);
    println!("{over:?}, session: {:.0} MiB/s, {:.2} CPU s/GiB", session.mib_per_s, session.cpu_s_per_gib);
    println!("{over:?}: the session's stream brings {ratio:.2} of the bare one");
    Ok(ratio)
}

fn measure(kind: Kind, stage: &Stage, args: &Args) -> Result<Figures> {
    let runtime = || Builder::new_multi_thread().worker_threads(args.threads).enable_all().build();
    let (sender, receiver) = (runtime()?, runtime()?);
    let received = Arc::new(AtomicU64::new(0));
    let sockets = stage.sockets()?;
    let _running: Box<dyn std::any::Any> = match kind {
        Kind::Bare => Box::new(start_bare(&sender, &receiver, sockets, received.clone())?),
        Kind::Session => Box::new(start_session(&sender, &receiver, sockets, received.clone())?),
    };
    std::thread::sleep(WARM_UP);
    let (since, bytes, cpu) = (Instant::now(), received.load(Ordering::Relaxed), processor::own_seconds()?);
    std::thread::sleep(Duration::from_secs_f64(args.seconds));
    let bytes = (received.load(Ordering::Relaxed) - bytes) as f64;
    let figures = Figures {
        mib_per_s: bytes / f64::from(1 << 20) / since.elapsed().as_secs_f64(),
        cpu_s_per_gib: (processor::own_seconds()? - cpu) / (bytes / f64::from(1 << 30)),
    };
    sender.shutdown_background();
    receiver.shutdown_background();
    Ok(figures)
}

fn median(figures: &[Figures]) -> Figures {
    let of = |value: fn(&Figures) -> f64| statistics::median(figures.iter().map(value));
    Figures { mib_per_s: of(|f| f.mib_per_s), cpu_s_per_gib: of(|f| f.cpu_s_per_gib) }
}

fn start_bare(
    sender: &Runtime,
    receiver: &Runtime,
    [a, b]: [UdpSocket; 2],
    received: Arc<AtomicU64>,
) -> Result<(Sink, Source)> {
    let sink = receiver.block_on(async { Sink::listen(b, received) })?;
    let source = sender.block_on(Source::dial(a, &sink))?;
    Ok((sink, source))
}

/// What must live while bytes move.
type Running = (Session, Session, PeerTls, PeerTls);

fn start_session(
    sender: &Runtime,
    receiver: &Runtime,
    [a, b]: [UdpSocket; 2],
    received: Arc<AtomicU64>,
) -> Result<Running> {
    let (one, other) = (PeerTls::new()?, PeerTls::new()?);
    let direct = |socket: &UdpSocket, remote: &UdpSocket, peer| -> Result<Direct> {
        let (socket, remote) = (socket.try_clone()?, remote.local_addr()?);
        Ok(Direct { socket, remote, number: 1, round_trip: Duration::from_millis(1), peer })
    };
    let (dialing, accepting) = (direct(&a, &b, other.fingerprint())?, direct(&b, &a, one.fingerprint())?);
    drop((a, b));
    let accepted = receiver.spawn({
        let other = other.clone();
        async move { direct::accept(accepting, &other).await }
    });
    let dialed = sender.block_on(direct::dial(dialing, &one))?;
    let accepted = receiver.block_on(accepted)??;
    let id = random::id();
    let (source, _) = Session::new(id, Arc::new(Counting(Arc::default())), 16, Tasks::new());
    let (sink, _) = Session::new(id, Arc::new(Counting(received)), 16, Tasks::new());
    receiver.block_on(async { sink.add_link(accepted, |_, _| {}) });
    sender.block_on(async { source.add_link(dialed, |_, _| {}) });
    let meta = Bytes::from_static(b"{}");
    let pump = source.open(random::id(), meta, Box::new(Full), None).context("no room for a stream")?;
    sender.spawn(pump);
    Ok((source, sink, one, other))
}

/// Connects every stream with a counter.
struct Counting(Arc<AtomicU64>);

impl Handler for Counting {
    fn open(&self, _: &Session, _: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        Ok(Box::new(Counter(self.0.clone())))
    }
}

/// A local connection that always has something to read.
struct Full;

/// A local connection that takes everything.
struct Counter(Arc<AtomicU64>);

impl Local for Full {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_read(&mut self, _: &mut Context<'_>, buf: &mut Limit<&mut BytesMut>) -> Poll<io::Result<usize>> {
        let n = buf.remaining_mut();
        buf.put_bytes(7, n);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {}
}

impl Local for Counter {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn poll_read(&mut self, _: &mut Context<'_>, _: &mut Limit<&mut BytesMut>) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_write(&mut self, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {}
}
