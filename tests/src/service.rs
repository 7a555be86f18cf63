//! Local services of every temper, for the client to expose.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::net::{Place, reset};
use crate::patience::soon;
use crate::pattern::{Hash, Pattern};

pub mod nginx;

/// A task that ends with its owner.
#[derive(Debug)]
pub struct AbortOnDrop(JoinHandle<()>);

impl AbortOnDrop {
    /// Owns a task.
    pub fn new(task: JoinHandle<()>) -> Self {
        Self(task)
    }

    /// Ends the task, and waits until all that it held is released.
    pub async fn stop(mut self) {
        self.0.abort();
        // It was asked to end; how it did does not matter.
        let _ = (&mut self.0).await;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A TCP service. It closes its port and its connections when this value goes.
#[derive(Debug)]
pub struct Service {
    addr: SocketAddr,
    ended: watch::Receiver<Vec<Ended>>,
    accepted: watch::Receiver<usize>,
    sent: Arc<AtomicU64>,
    accepting: AbortOnDrop,
}

/// What a service saw of one connection, when it was over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// All was read to a proper end; the SHA-256 of it where the service computes one.
    Properly(String),
    /// The connection was reset.
    Reset,
    /// It failed in another way.
    Failed(io::ErrorKind),
}

impl Service {
    /// Sends back what it gets, until the end of it.
    pub async fn echo(at: impl Into<Place>) -> Self {
        Self::start(at, |mut stream, _| async move {
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await?;
            writer.shutdown().await?;
            Ok(String::new())
        })
        .await
    }

    /// Reads to the end, then answers with the SHA-256 of what it read: a server that needs half-close.
    pub async fn sink(at: impl Into<Place>) -> Self {
        Self::start(at, |mut stream, _| async move {
            let digits = read_to_end(&mut stream).await?;
            stream.write_all(digits.as_bytes()).await?;
            stream.shutdown().await?;
            Ok(digits)
        })
        .await
    }

    /// Reads a line `SEED LENGTH`, then sends so much of that seed's pattern and closes its side.
    pub async fn source(at: impl Into<Place>) -> Self {
        Self::start(at, |stream, sent| async move {
            let mut stream = BufReader::new(stream);
            let (seed, len) = read_order(&mut stream).await?;
            send_pattern(&mut stream, seed, len, &sent).await?;
            stream.shutdown().await?;
            Ok(String::new())
        })
        .await
    }

    /// As [`Service::source`], and reads meanwhile whatever else comes to its end, which it reports the hash of.
    pub async fn duplex(at: impl Into<Place>) -> Self {
        Self::start(at, |stream, sent| async move {
            let mut stream = BufReader::new(stream);
            let (seed, len) = read_order(&mut stream).await?;
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sending = async {
                send_pattern(&mut writer, seed, len, &sent).await?;
                writer.shutdown().await
            };
            let ((), digits) = tokio::try_join!(sending, read_to_end(&mut reader))?;
            Ok(digits)
        })
        .await
    }

    /// Says `greeting`, closes its side at once, and reads what comes to its end.
    pub async fn greets_and_listens(at: impl Into<Place>, greeting: &'static str) -> Self {
        Self::start(at, move |mut stream, _| async move {
            stream.write_all(greeting.as_bytes()).await?;
            stream.shutdown().await?;
            read_to_end(&mut stream).await
        })
        .await
    }

    /// Answers every connection with `name`, and closes it: tells instances apart.
    pub async fn named(at: impl Into<Place>, name: &'static str) -> Self {
        Self::greets_and_listens(at, name).await
    }

    /// Resets each connection when its first bytes come.
    pub async fn resets(at: impl Into<Place>) -> Self {
        Self::start(at, |mut stream, _| async move {
            stream.read_u8().await?;
            reset(stream);
            Ok(String::new())
        })
        .await
    }

    /// Accepts, and never reads or writes a byte.
    pub async fn never_reads(at: impl Into<Place>) -> Self {
        Self::start(at, |stream, _| async move {
            let _open = stream;
            std::future::pending().await
        })
        .await
    }

    /// Serves each connection with `serve`, which returns what to report of it.
    pub async fn start<F, Fut>(at: impl Into<Place>, serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<AtomicU64>) -> Fut + Send + 'static,
        Fut: Future<Output = io::Result<String>> + Send + 'static,
    {
        let listener = at.into().listen().await.expect("the service's address is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let sent = Arc::new(AtomicU64::new(0));
        let (report_accepted, accepted) = watch::channel(0);
        let (report_ended, ended) = watch::channel(Vec::new());
        let counter = Arc::clone(&sent);
        let accepting = AbortOnDrop::new(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("the service can accept");
                report_accepted.send_modify(|n| *n += 1);
                while connections.try_join_next().is_some() {}
                let served = serve(stream, Arc::clone(&counter));
                let report = report_ended.clone();
                connections.spawn(async move {
                    let ended = Ended::from(served.await);
                    report.send_modify(|all| all.push(ended));
                });
            }
        }));
        Self { addr, ended, accepted, sent, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Payload bytes it has handed to the kernel.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }

    /// Waits until it has accepted its `n`-th connection.
    pub async fn nth_accepted(&self, n: usize) {
        let mut accepted = self.accepted.clone();
        let what = format!("connection number {n} to the service");
        soon(&what, accepted.wait_for(|count| *count >= n)).await.expect("the service lives");
    }

    /// Waits until its `n`-th connection to end has ended, and says how.
    pub async fn nth_ended(&self, n: usize) -> Ended {
        let mut ended = self.ended.clone();
        let what = format!("the end of {n} connections to the service");
        let all = soon(&what, ended.wait_for(|all| all.len() >= n)).await;
        all.expect("the service lives")[n - 1].clone()
    }

    /// How all connections ended that have ended, in the order of their ends.
    pub fn ended(&self) -> Vec<Ended> {
        self.ended.borrow().clone()
    }

    /// Stops it: when this returns, its port refuses connections.
    pub async fn stop(self) {
        self.accepting.stop().await;
    }
}

impl From<io::Result<String>> for Ended {
    fn from(result: io::Result<String>) -> Self {
        match result {
            Ok(report) => Self::Properly(report),
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                Self::Reset
            }
            Err(e) => Self::Failed(e.kind()),
        }
    }
}

async fn read_to_end(reader: &mut (impl AsyncReadExt + Unpin)) -> io::Result<String> {
    let mut hash = Hash::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(hash.digits()),
            n => hash.feed(&buffer[..n]),
        }
    }
}

async fn read_order(stream: &mut BufReader<TcpStream>) -> io::Result<(u64, u64)> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut numbers = line.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(seed)), Some(Ok(len))) => Ok((seed, len)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("not an order: {line:?}"))),
    }
}

async fn send_pattern(
    writer: &mut (impl AsyncWriteExt + Unpin),
    seed: u64,
    len: u64,
    sent: &AtomicU64,
) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; 64 * 1024];
    let mut left = len;
    while left > 0 {
        let n = left.min(buffer.len() as u64) as usize;
        pattern.fill(&mut buffer[..n]);
        writer.write_all(&buffer[..n]).await?;
        sent.fetch_add(n as u64, Ordering::Relaxed);
        left -= n as u64;
    }
    writer.flush().await
}
