//! The whole way of a byte in one process: from a local connection through its pump, a session stream, a link and the other
//! pump to the other local connection.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tun_benches::links::{Wire, runtime, sockets, timed};
use tun_common::lifecycle::Tasks;
use tun_common::random;
use tun_common::session::{Handler, Local, Session, pipe};
use tun_proto::wire::stream::ResetCode;

const MIB: usize = 1 << 20;

/// Bytes of one read or write at the ends.
const BUFFER: usize = 256 * 1024;

/// Bytes of a small request and of its answer.
const SMALL: usize = 100;

/// Bytes that a local end in memory holds.
const PIPE: usize = 16 * 1024;

/// Streams of a session.
const STREAMS: usize = 1024;

/// Local ends that nobody has taken yet.
const BACKLOG: usize = 16;

/// Two sessions with a link between them, and a connection through them.
struct Ends {
    visited: Session,
    serving: Session,
    visitor: TcpStream,
    service: TcpStream,
    /// Where the service's side gives its local ends to.
    services: mpsc::Receiver<DuplexStream>,
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = runtime()?;
    for wire in Wire::ALL {
        let mut ends = runtime.block_on(Ends::new(wire))?;
        let mut group = criterion.benchmark_group("pipe");
        group.throughput(Throughput::Bytes(MIB as u64));
        group.bench_function(format!("1 MiB between sockets over {}", wire.name()), |bencher| {
            bencher.iter_custom(|n| runtime.block_on(timed(ends.carry(n as usize * MIB))));
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(
            format!("100 bytes there and back between sockets over {}", wire.name()),
            |bencher| {
                bencher.iter_custom(|n| runtime.block_on(timed(ends.ask(n))));
            },
        );
        group.bench_function(format!("a connection in memory over {}", wire.name()), |bencher| {
            bencher.iter_custom(|n| runtime.block_on(timed(ends.connect(n))));
        });
        group.finish();
        ends.end();
    }
    criterion.final_summary();
    Ok(())
}

impl Ends {
    async fn new(wire: Wire) -> Result<Self> {
        let (visitor, entrance) = sockets().await?;
        let (service, exit) = sockets().await?;
        let (give, services) = mpsc::channel(BACKLOG);
        let (id, tasks) = (random::id(), Tasks::new());
        let handler = Service { first: Mutex::new(Some(exit)), give };
        let (serving, _) = Session::new(id, Arc::new(handler), STREAMS, tasks.child());
        let (visited, _) = Session::new(id, Arc::new(NoService), STREAMS, tasks.child());
        let (one, other) = wire.link().await?;
        serving.add_link(one, |_, _| {});
        visited.add_link(other, |_, _| {});
        let mut ends = Self { visited, serving, visitor, service, services };
        ends.open(Box::new(entrance))?;
        // Connected before anything is measured.
        ends.ask(1).await?;
        Ok(ends)
    }

    /// Gives a local connection a stream.
    fn open(&self, local: Box<dyn Local>) -> Result<()> {
        let meta = Bytes::from_static(b"{}");
        let pump = self.visited.open(random::id(), meta, local, None).context("too many streams")?;
        self.visited.tasks().spawn_to_end(async move {
            pump.await;
        });
        Ok(())
    }

    /// Carries so many bytes from the service to the visitor.
    async fn carry(&mut self, bytes: usize) -> Result<()> {
        let Self { visitor, service, .. } = self;
        let send = async {
            let buffer = vec![7; BUFFER];
            let mut left = bytes;
            while left > 0 {
                let size = left.min(BUFFER);
                service.write_all(&buffer[..size]).await?;
                left -= size;
            }
            anyhow::Ok(())
        };
        let receive = async {
            let mut buffer = vec![0; BUFFER];
            let mut left = bytes;
            while left > 0 {
                let read = visitor.read(&mut buffer).await?;
                anyhow::ensure!(read > 0, "the connection ends");
                left = left.saturating_sub(read);
            }
            Ok(())
        };
        tokio::try_join!(send, receive).map(drop)
    }

    /// Small requests and answers, one after the other.
    async fn ask(&mut self, times: u64) -> Result<()> {
        let (message, mut buffer) = ([7; SMALL], [0; SMALL]);
        for _ in 0..times {
            self.visitor.write_all(&message).await?;
            self.service.read_exact(&mut buffer).await?;
            self.service.write_all(&message).await?;
            self.visitor.read_exact(&mut buffer).await?;
        }
        Ok(())
    }

    /// New connections, each for one request and its answer. Their ends are in memory: so many sockets would soon use up
    /// the ports of this machine.
    async fn connect(&mut self, times: u64) -> Result<()> {
        let (message, mut buffer) = ([7; SMALL], [0; SMALL]);
        for _ in 0..times {
            let (local, mut visitor) = pipe(PIPE);
            self.open(local)?;
            visitor.write_all(&message).await?;
            let mut service = self.services.recv().await.context("nobody is asked for a service")?;
            service.read_exact(&mut buffer).await?;
            service.write_all(&message).await?;
            drop(service);
            visitor.read_exact(&mut buffer).await?;
            visitor.shutdown().await?;
            anyhow::ensure!(visitor.read(&mut buffer).await? == 0, "more than the answer");
        }
        Ok(())
    }

    fn end(self) {
        self.visited.end("measured");
        self.serving.end("measured");
    }
}

/// The side of the service: the first stream gets a socket, all others an end in memory.
struct Service {
    first: Mutex<Option<TcpStream>>,
    give: mpsc::Sender<DuplexStream>,
}

impl Handler for Service {
    fn open(&self, _: &Session, _: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        if let Some(socket) = self.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(Box::new(socket));
        }
        let (local, service) = pipe(PIPE);
        self.give.try_send(service).map_err(|_| ResetCode::Refused)?;
        Ok(local)
    }
}

/// The side of the visitor offers nothing.
struct NoService;

impl Handler for NoService {
    fn open(&self, _: &Session, _: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        Err(ResetCode::Refused)
    }
}
