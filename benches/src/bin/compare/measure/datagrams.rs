//! How many datagrams pass, and how evenly.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use socket2::SockRef;
use tun_tests::net::{Loopback, REMOTE_PORT, SERVICE_PORT};

use super::Measure;
use crate::bench::Bench;
use crate::figures::{Figures, Sample};
use crate::recipe::Running;
use crate::stage::{Kind, Service, Stage};

/// Bytes of a datagram.
const SIZE: usize = 200;

/// The part that may get lost where a rate counts as one without loss: a machine that others use loses one now and then.
const LOSS: f64 = 0.001;

/// The first rate that is tried, in datagrams a second. It is doubled until too many get lost.
const FIRST_RATE: f64 = 10_000.0;

/// How often the distance between a rate that passes and one that does not is halved: to 6 per cent.
const HALVINGS: usize = 4;

/// The rate at which loss and jitter are measured.
const EVEN_RATE: f64 = 10_000.0;

/// Datagrams that are sent without looking at the clock while the rate is searched for.
const BURST: u64 = 16;

/// What is still on its way when the sender stops has arrived after so long, or never will.
const REST: Duration = Duration::from_millis(300);

/// The kernel's buffer of the service, in bytes.
const BUFFER: usize = 4 << 20;

/// The figure that counts.
pub(crate) const RATE: &str = "200-byte datagrams/s without loss";

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let net = Loopback::claim();
    let local = net.at(SERVICE_PORT);
    let arrivals = listen(local)?;
    let service = Service { name: "sink".to_owned(), kind: Kind::Udp, local, public_port: REMOTE_PORT };
    let all = bench.start_all(&service).await?;
    let one = async |(running, stage): &(Running, Stage<'_>)| {
        let public = match running.server {
            Some(_) => SocketAddr::new(stage.server, service.public_port),
            None => local,
        };
        let (arrivals, span) = (arrivals.clone(), bench.extent.span() / 2);
        // The sender holds its thread, as one that must be on time does.
        tokio::task::spawn_blocking(move || {
            let offer = |rate, burst| Trial::run(public, &arrivals, rate, burst, span);
            // Flows are made by their first datagrams.
            offer(1000.0, 1)?;
            let even = offer(EVEN_RATE, 1)?;
            let best = search(|rate| offer(rate, BURST))?;
            Ok(vec![
                Sample::new(RATE, best),
                Sample::new("loss at 10,000/s, %", even.loss() * 100.0),
                Sample::new("jitter at 10,000/s, µs", even.jitter * 1e6),
            ])
        })
        .await?
    };
    bench.rounds(Measure::Datagrams, figures, &all, |(running, _)| running.contender, one).await;
    Ok(())
}

/// What became of datagrams that were sent at one rate.
#[derive(Debug)]
struct Trial {
    sent: u64,
    arrived: u64,
    /// In datagrams a second, as it turned out.
    rate: f64,
    /// As RFC 3550 has it, in seconds.
    jitter: f64,
}

/// What the service has got of the current trial.
#[derive(Debug, Default)]
struct Arrivals {
    trial: u64,
    count: u64,
    jitter: f64,
    /// The transit time of the last one, in seconds.
    transit: Option<f64>,
}

impl Trial {
    /// Sends for so long.
    fn run(
        public: SocketAddr,
        arrivals: &Mutex<Arrivals>,
        rate: f64,
        burst: u64,
        span: Duration,
    ) -> Result<Self> {
        let trial = {
            let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            *arrivals = Arrivals { trial: arrivals.trial + 1, ..Arrivals::default() };
            arrivals.trial
        };
        let socket = UdpSocket::bind((public.ip(), 0))?;
        socket.connect(public)?;
        let mut datagram = [0; SIZE];
        let begun = Instant::now();
        let total = (rate * span.as_secs_f64()) as u64;
        let mut sent = 0;
        while sent < total {
            for _ in 0..burst {
                let now = epoch().elapsed().as_nanos() as u64;
                for (place, number) in datagram.chunks_exact_mut(8).zip([trial, now]) {
                    place.copy_from_slice(&number.to_be_bytes());
                }
                // What the kernel refuses counts as lost.
                let _ = socket.send(&datagram);
            }
            sent += burst;
            let due = Duration::from_secs_f64(sent as f64 / rate);
            if let Some(early) = due.checked_sub(begun.elapsed()) {
                thread::sleep(early);
            }
        }
        let rate = sent as f64 / begun.elapsed().as_secs_f64();
        let count = || {
            let arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            (arrivals.count, arrivals.jitter)
        };
        let deadline = Instant::now() + REST;
        while count().0 < sent && Instant::now() < deadline {
            // What is lost never arrives, so that only time can tell.
            thread::sleep(Duration::from_millis(5));
        }
        let (arrived, jitter) = count();
        ensure!(arrived > 0, "no datagram arrives");
        Ok(Self { sent, arrived, rate, jitter })
    }

    /// From 0 to 1.
    fn loss(&self) -> f64 {
        1.0 - self.arrived.min(self.sent) as f64 / self.sent as f64
    }
}

/// The highest rate that passes without loss.
fn search(offer: impl Fn(f64) -> Result<Trial>) -> Result<f64> {
    // A rate has two chances, since one moment of another program is enough to spoil it.
    let passes = |rate| -> Result<Option<f64>> {
        for _ in 0..2 {
            let trial = offer(rate)?;
            if trial.loss() <= LOSS {
                return Ok(Some(trial.rate));
            }
        }
        Ok(None)
    };
    let (mut best, mut good, mut bad) = (0.0, 0.0, FIRST_RATE);
    while let Some(rate) = passes(bad)? {
        best = rate.max(best);
        // The sender does not get further.
        if rate < bad * 0.9 {
            return Ok(best);
        }
        (good, bad) = (bad, bad * 2.0);
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(good, bad);
        match passes(middle)? {
            Some(rate) => (best, good) = (rate.max(best), middle),
            None => bad = middle,
        }
    }
    Ok(best)
}

/// Counts for as long as the process runs.
fn listen(address: SocketAddr) -> Result<Arc<Mutex<Arrivals>>> {
    epoch();
    let socket = UdpSocket::bind(address)?;
    SockRef::from(&socket).set_recv_buffer_size(BUFFER)?;
    let arrivals = Arc::new(Mutex::new(Arrivals::default()));
    let counting = arrivals.clone();
    thread::spawn(move || {
        let mut datagram = [0; 2 * SIZE];
        while let Ok(n) = socket.recv(&mut datagram) {
            if let Some([trial, sent]) = numbers(datagram.get(..n).unwrap_or_default()) {
                counting.lock().unwrap_or_else(PoisonError::into_inner).count(trial, sent);
            }
        }
    });
    Ok(arrivals)
}

impl Arrivals {
    fn count(&mut self, trial: u64, sent: u64) {
        // What is late belongs to a trial that is over.
        if trial != self.trial {
            return;
        }
        self.count += 1;
        let transit = epoch().elapsed().as_secs_f64() - sent as f64 / 1e9;
        if let Some(last) = self.transit.replace(transit) {
            self.jitter += ((transit - last).abs() - self.jitter) / 16.0;
        }
    }
}

/// The trial and the time of sending.
fn numbers(datagram: &[u8]) -> Option<[u64; 2]> {
    let (numbers, _) = datagram.as_chunks::<8>();
    Some([u64::from_be_bytes(*numbers.first()?), u64::from_be_bytes(*numbers.get(1)?)])
}

/// Times of sending and of arrival are counted from here.
fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}
