//! Multiplexed streams of a link, without a session on top.

use anyhow::{Context as _, Result};
use criterion::{Criterion, Throughput};
use tun_benches::links::{Wire, runtime, timed};
use tun_common::lifecycle::Tasks;
use tun_common::link::{Link, LinkStream};
use tun_proto::limits::MAX_DATA;

const MIB: usize = 1 << 20;

/// Both ends of a link, and of a stream on it.
struct Ends {
    dialer: Link,
    inbound: tokio::sync::mpsc::Receiver<LinkStream>,
    sending: LinkStream,
    receiving: LinkStream,
    tasks: Tasks,
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = runtime()?;
    for wire in Wire::ALL {
        let mut ends = runtime.block_on(Ends::new(wire))?;
        let mut group = criterion.benchmark_group("link");
        group.throughput(Throughput::Bytes(MIB as u64));
        group.bench_function(format!("1 MiB over {}", wire.name()), |bencher| {
            bencher.iter_custom(|n| runtime.block_on(timed(ends.carry(n as usize * MIB))));
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("a byte there and back over {}", wire.name()), |bencher| {
            bencher.iter_custom(|n| runtime.block_on(timed(ends.ask(n))));
        });
        group.bench_function(format!("a stream for a byte there and back over {}", wire.name()), |bencher| {
            bencher.iter_custom(|n| runtime.block_on(timed(ends.open(n))));
        });
        group.finish();
        ends.tasks.stop();
    }
    criterion.final_summary();
    Ok(())
}

impl Ends {
    async fn new(wire: Wire) -> Result<Self> {
        let tasks = Tasks::new();
        let (one, other) = wire.link().await?;
        tasks.spawn(one.driver);
        tasks.spawn(other.driver);
        let mut inbound = other.inbound;
        let mut sending = one.link.open().await?;
        // The other end learns of a stream with its first byte.
        sending.write_all(b"!").await?;
        let mut receiving = inbound.recv().await.context("no stream arrives")?;
        take(&mut receiving, 1).await?;
        Ok(Self { dialer: one.link, inbound, sending, receiving, tasks })
    }

    /// Carries so many bytes on one stream.
    async fn carry(&mut self, bytes: usize) -> Result<()> {
        let Self { sending, receiving, .. } = self;
        let send = async {
            let chunk = [7; MAX_DATA];
            let mut left = bytes;
            while left > 0 {
                let size = left.min(MAX_DATA);
                sending.write_all(&chunk[..size]).await?;
                left -= size;
            }
            Ok(())
        };
        tokio::try_join!(send, take(receiving, bytes)).map(drop)
    }

    /// Sends a byte there and back, one time after the other.
    async fn ask(&mut self, times: u64) -> Result<()> {
        for _ in 0..times {
            self.sending.write_all(b"?").await?;
            take(&mut self.receiving, 1).await?;
            self.receiving.write_all(b"!").await?;
            take(&mut self.sending, 1).await?;
        }
        Ok(())
    }

    /// The same, each time on a new stream.
    async fn open(&mut self, times: u64) -> Result<()> {
        for _ in 0..times {
            let mut near = self.dialer.open().await?;
            near.write_all(b"?").await?;
            let mut far = self.inbound.recv().await.context("no stream arrives")?;
            take(&mut far, 1).await?;
            far.write_all(b"!").await?;
            take(&mut near, 1).await?;
        }
        Ok(())
    }
}

/// Takes so many bytes from a stream.
async fn take(stream: &mut LinkStream, bytes: usize) -> Result<()> {
    let mut left = bytes;
    while left > 0 {
        left = left.saturating_sub(stream.read_chunk().await?.context("the stream ends")?.len());
    }
    Ok(())
}
