//! How many datagrams a `udp` proxy carries, and how many it loses, against a plain forwarder in one process.
//!
//! Starts the real binaries on this machine. A sender offers datagrams at a fixed rate to a public port, and the local
//! service counts what arrives. Prints packets per second and loss for rising rates.
//!
//! `cargo run --release -p tun-benches --bin datagram_rate -- --size 200`
//!
//! `TUN_TEST_BINARIES=DIR` measures what lies in DIR.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use socket2::SockRef;
use tun_tests::net::{BIND_PORT, Loopback, REMOTE_PORT, SERVICE_PORT};
use tun_tests::program::Launch;
use tun_tests::tunnel::{client_config, server_config};

/// Datagrams that are sent without looking at the clock.
const BURST: u64 = 16;

/// What is still on its way when the sender stops.
const REST: Duration = Duration::from_millis(500);

/// Measures datagrams a second, and their loss.
#[derive(Debug, Parser)]
struct Args {
    /// Bytes of a datagram
    #[arg(long, default_value_t = 200)]
    size: usize,
    /// Datagrams offered in a second
    #[arg(long, value_delimiter = ',', default_value = "20000,50000,100000,200000,400000")]
    rates: Vec<u64>,
    /// Seconds for each rate
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let net = Loopback::claim();
    let service = net.at(SERVICE_PORT);
    let plain = net.at(REMOTE_PORT + 1);
    let counted = count(service)?;
    let stop = Arc::new(AtomicBool::new(false));
    let forwarding = forward(plain, service, stop.clone())?;

    let server = Launch::server().config(&server_config(&net, "")).start();
    server.line("listening on").await;
    let proxy = format!(
        "[[proxies]]\nname = \"sink\"\ntype = \"udp\"\nlocalIP = \"{}\"\nlocalPort = {SERVICE_PORT}\n\
         remotePort = {REMOTE_PORT}\n",
        service.ip()
    );
    let client = Launch::client().config(&(client_config(net.at(BIND_PORT), "", &[]) + &proxy)).start();
    client.line("start proxy success").await;

    println!("{:>9}  {:>24}  {:>24}", "offered/s", "forwarder: passed/s, loss", "udp proxy: passed/s, loss");
    for rate in &args.rates {
        let mut cells = Vec::new();
        for place in [plain, net.at(REMOTE_PORT)] {
            let before = counted.load(Ordering::Relaxed);
            let (sent, took) = offer(place, *rate, &args)?;
            tokio::time::sleep(REST).await;
            let passed = counted.load(Ordering::Relaxed) - before;
            let loss = 100.0 * sent.saturating_sub(passed) as f64 / sent as f64;
            cells.push(format!("{:>9.0}, {loss:>5.2} %", passed as f64 / took.as_secs_f64()));
        }
        println!("{rate:>9}  {:>24}  {:>24}", cells[0], cells[1]);
    }
    stop.store(true, Ordering::Relaxed);
    let _ = forwarding.join();
    Ok(())
}

/// Sends at a rate; returns how many there were and how long it took.
fn offer(place: SocketAddr, rate: u64, args: &Args) -> Result<(u64, Duration)> {
    let socket = UdpSocket::bind((place.ip(), 0))?;
    socket.connect(place)?;
    let datagram = vec![7; args.size];
    let (begun, total) = (Instant::now(), rate * args.seconds);
    let mut sent = 0;
    while sent < total {
        for _ in 0..BURST {
            // What the kernel refuses counts as lost.
            let _ = socket.send(&datagram);
        }
        sent += BURST;
        let due = Duration::from_secs_f64(sent as f64 / rate as f64);
        if let Some(early) = due.checked_sub(begun.elapsed()) {
            thread::sleep(early);
        }
    }
    Ok((sent, begun.elapsed()))
}

fn bind(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
    Ok(socket)
}

/// Counts datagrams for as long as the process runs.
fn count(address: SocketAddr) -> Result<Arc<AtomicU64>> {
    let socket = bind(address)?;
    let counted = Arc::new(AtomicU64::new(0));
    let counting = counted.clone();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while socket.recv(&mut buffer).is_ok() {
            counting.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(counted)
}

/// One datagram after the other, from one socket to another.
fn forward(from: SocketAddr, to: SocketAddr, stop: Arc<AtomicBool>) -> Result<thread::JoinHandle<()>> {
    let inner = bind(from)?;
    inner.set_read_timeout(Some(Duration::from_millis(100)))?;
    let outer = UdpSocket::bind((from.ip(), 0))?;
    outer.connect(to)?;
    Ok(thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while !stop.load(Ordering::Relaxed) {
            if let Ok(n) = inner.recv(&mut buffer) {
                let _ = outer.send(&buffer[..n]);
            }
        }
    }))
}
