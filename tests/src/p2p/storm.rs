//! Connections that move bytes without end, for a path that comes and goes under them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Peers, Ways};
use crate::net::Place;
use crate::pattern::{Hash, Pattern};

const KIB: u64 = 1 << 10;

/// Bytes that are written or read at a time.
const CHUNK: usize = 64 * 1024;

/// What the connections of a storm have in common.
#[derive(Debug, Clone, Default)]
pub struct Storm {
    over: Arc<AtomicBool>,
    /// Bytes that have arrived where they were to go.
    arrived: Arc<AtomicU64>,
}

/// What one of them does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes come.
    Download = 0,
    /// Bytes go.
    Upload,
    /// Bytes go, and come back.
    Echo,
}

impl Storm {
    /// Bytes a second of each connection. All together stay below what a slow machine carries.
    const PACE: u64 = 2_000_000;

    /// What a sender that was held up sends faster for: there is always something to move.
    const BEHIND: Duration = Duration::from_secs(1);

    /// Lets the connections end.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Bytes that have arrived where they were to go.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The service's end, which hears from the visitor what to do.
    pub async fn serve(self, mut stream: TcpStream) -> io::Result<String> {
        let kind = stream.read_u8().await?;
        let (mut reader, mut writer) = stream.split();
        match kind {
            0 => {
                let digits = self.pour(&mut writer, 1).await?;
                reader.read_u8().await.err();
                Ok(digits)
            }
            1 => self.drink(&mut reader).await,
            _ => {
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.shutdown().await?;
                Ok(String::new())
            }
        }
    }

    /// The visitor's end. Returns what the service must report.
    pub async fn visit(self, at: Place, kind: Kind) -> io::Result<String> {
        let mut stream = at.connect().await?;
        stream.write_u8(kind as u8).await?;
        let (mut reader, mut writer) = stream.split();
        match kind {
            Kind::Download => {
                let digits = self.drink(&mut reader).await?;
                writer.shutdown().await?;
                Ok(digits)
            }
            Kind::Upload => {
                let digits = self.pour(&mut writer, 2).await?;
                reader.read_u8().await.err();
                Ok(digits)
            }
            Kind::Echo => {
                let (sent, came) = tokio::try_join!(self.pour(&mut writer, 3), self.drink(&mut reader))?;
                assert_eq!(sent, came, "an echo");
                Ok(String::new())
            }
        }
    }

    /// Sends until it is over, ends the direction, and returns the hash.
    async fn pour(&self, writer: &mut (impl AsyncWriteExt + Unpin), seed: u64) -> io::Result<String> {
        let (mut pattern, mut hash) = (Pattern::new(seed), Hash::default());
        let mut buffer = vec![0; CHUNK];
        let step = Duration::from_nanos(CHUNK as u64 * 1_000_000_000 / Self::PACE);
        let mut next = Instant::now();
        while !self.is_over() {
            pattern.fill(&mut buffer);
            hash.feed(&buffer);
            writer.write_all(&buffer).await?;
            next = (next + step).max(Instant::now() - Self::BEHIND);
            tokio::time::sleep_until(next.into()).await;
        }
        writer.shutdown().await?;
        Ok(hash.digits())
    }

    /// Takes all that comes.
    async fn drink(&self, reader: &mut (impl AsyncReadExt + Unpin)) -> io::Result<String> {
        let mut hash = Hash::default();
        let mut buffer = vec![0; CHUNK];
        loop {
            match reader.read(&mut buffer).await? {
                0 => return Ok(hash.digits()),
                n => {
                    hash.feed(&buffer[..n]);
                    self.arrived.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
        }
    }
}

/// Which way bytes take, and how often that has changed.
#[derive(Debug, Default)]
pub struct Moves {
    is_direct: Option<bool>,
    count: usize,
}

impl Moves {
    /// How often that has changed until now.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Watches for so long.
    pub async fn watch(&mut self, peers: &Peers, duration: Duration) {
        const STEP: Duration = Duration::from_millis(50);
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let before = peers.ways();
            tokio::time::sleep_until((Instant::now() + STEP).min(end).into()).await;
            self.note(peers.ways() - before);
        }
    }

    /// Takes note of what the last moments brought, if that is clear.
    fn note(&mut self, Ways { direct, relayed }: Ways) {
        const MUCH: u64 = 128 * KIB;
        let is_direct = direct > relayed;
        if direct.max(relayed) < MUCH || direct.min(relayed) > direct.max(relayed) / 4 {
            return;
        }
        if self.is_direct.replace(is_direct).is_some_and(|before| before != is_direct) {
            self.count += 1;
        }
    }
}
