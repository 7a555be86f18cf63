//! One connection whose bytes flow until they are told to stop, and a watch over their pauses.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::net::Place;
use crate::patience::{transfer_patience, within};
use crate::pattern::{Hash, Pattern};
use crate::service::{Ended, Service};

/// Bytes a second that are sent: half of what a slow machine carries, so that queues stay empty and a pause means something.
const PACE: u64 = 20_000_000;

/// Bytes that are sent at a time.
const CHUNK: usize = 64 * 1024;

/// What a sender that was held up may make up for at once.
const BEHIND: Duration = Duration::from_millis(100);

/// A pause that is worth remembering.
const NOTABLE: Duration = Duration::from_millis(5);

/// Which way bytes flow, seen from the visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To it.
    Download,
    /// From it.
    Upload,
}

/// What both ends of a flow share.
#[derive(Debug, Clone, Default)]
pub struct Valve {
    shared: Arc<Shared>,
}

/// A running flow.
#[derive(Debug)]
pub struct Flow {
    valve: Valve,
    visitor: JoinHandle<String>,
}

#[derive(Debug, Default)]
struct Shared {
    closed: AtomicBool,
    received: watch::Sender<u64>,
    pauses: Mutex<Pauses>,
}

#[derive(Debug, Default)]
struct Pauses {
    /// Beginning and end of each.
    notable: Vec<(Instant, Instant)>,
    last: Option<Instant>,
}

impl Valve {
    /// The service's end of one flow.
    pub async fn serve(&self, at: Place, direction: Direction) -> Service {
        let valve = self.clone();
        Service::start(at, move |stream, _| {
            let valve = valve.clone();
            async move {
                match direction {
                    Direction::Download => valve.pour(stream).await,
                    Direction::Upload => valve.drink(stream).await,
                }
            }
        })
        .await
    }

    /// The visitor's end of it.
    pub async fn open(&self, at: Place, direction: Direction) -> Flow {
        let stream = at.connect().await.unwrap_or_else(|e| panic!("nobody accepts at {at}: {e}"));
        let valve = self.clone();
        let visitor = tokio::spawn(async move {
            let result = match direction {
                Direction::Download => valve.drink(stream).await,
                Direction::Upload => valve.pour(stream).await,
            };
            result.expect("the connection does not break")
        });
        Flow { valve: self.clone(), visitor }
    }

    /// Sends until it is closed, and waits for the end of the other direction.
    async fn pour(&self, mut stream: TcpStream) -> io::Result<String> {
        let (mut pattern, mut hash) = (Pattern::new(77), Hash::default());
        let mut buffer = vec![0; CHUNK];
        let step = Duration::from_nanos(CHUNK as u64 * 1_000_000_000 / PACE);
        let mut next = Instant::now();
        while !self.shared.closed.load(Ordering::Relaxed) {
            pattern.fill(&mut buffer);
            hash.feed(&buffer);
            stream.write_all(&buffer).await?;
            next = (next + step).max(Instant::now() - BEHIND);
            tokio::time::sleep_until(next.into()).await;
        }
        stream.shutdown().await?;
        // Nothing comes, but the end.
        stream.read_u8().await.err();
        Ok(hash.digits())
    }

    /// Takes all that comes, and notes when.
    async fn drink(&self, mut stream: impl AsyncRead + Unpin) -> io::Result<String> {
        let mut hash = Hash::default();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match stream.read(&mut buffer).await? {
                0 => return Ok(hash.digits()),
                n => {
                    self.shared.pauses.lock().expect("no panic while held").came(Instant::now());
                    self.shared.received.send_modify(|received| *received += n as u64);
                    hash.feed(&buffer[..n]);
                }
            }
        }
    }
}

impl Flow {
    /// Bytes that have arrived.
    pub fn received(&self) -> u64 {
        *self.valve.shared.received.borrow()
    }

    /// Waits until so many more have arrived.
    pub async fn advance(&self, bytes: u64) {
        let goal = self.received() + bytes;
        let mut received = self.valve.shared.received.subscribe();
        let what = format!("{bytes} bytes more arrive");
        let reached =
            within(transfer_patience(), &what, received.wait_for(|received| *received >= goal)).await;
        reached.expect("both ends live");
    }

    /// Waits until bytes have flowed for so long since that moment.
    pub async fn flow_until(&self, end: Instant) {
        while Instant::now() < end {
            self.advance(1).await;
        }
    }

    /// The longest time since that moment in which nothing arrived.
    pub fn longest_pause_since(&self, moment: Instant) -> Duration {
        self.valve.shared.pauses.lock().expect("no panic while held").longest_since(moment, Instant::now())
    }

    /// Stops it, and checks that the `n`-th connection of the service brought every byte.
    pub async fn finish(self, service: &Service, n: usize, direction: Direction) {
        self.valve.shared.closed.store(true, Ordering::Relaxed);
        let here = within(transfer_patience(), "the end of a flow", self.visitor).await;
        let here = here.expect("the visitor's connection does not break");
        assert_eq!(service.nth_ended(n).await, Ended::Properly(here), "{direction:?}");
        assert_eq!(service.accepted(), n, "the application's connection was made anew");
    }
}

impl Pauses {
    fn came(&mut self, now: Instant) {
        if let Some(last) = self.last.replace(now)
            && now - last >= NOTABLE
        {
            self.notable.push((last, now));
        }
    }

    fn longest_since(&self, moment: Instant, now: Instant) -> Duration {
        let running = self.last.map(|last| (last, now));
        let pauses = self.notable.iter().copied().chain(running);
        pauses.map(|(from, to)| to.saturating_duration_since(from.max(moment))).max().unwrap_or_default()
    }
}
