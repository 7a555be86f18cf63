//! Services behind the tunnels, and what visitors ask of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tun_tests::net::Place;
use tun_tests::service::AbortOnDrop;

/// Bytes of one read or write at the ends of a bulk transfer.
const BUFFER: usize = 256 * 1024;

/// How long the end of a transfer may take to reach the service.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which way bytes go, seen from the visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Down, Self::Up];

    /// As tables call it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
        }
    }

    /// The byte with which a visitor asks for it.
    fn order(self) -> u8 {
        match self {
            Self::Down => b'd',
            Self::Up => b'u',
        }
    }
}

/// A service that sends without end, or swallows, as its visitor wishes.
#[derive(Debug)]
pub(crate) struct Bulk {
    swallowed: Arc<AtomicU64>,
    /// Connections that are open.
    open: watch::Receiver<usize>,
    _accepting: AbortOnDrop,
}

/// Transfers that go on until this value goes.
#[derive(Debug)]
pub(crate) struct Transfer {
    arrived: Arc<AtomicU64>,
    streams: JoinSet<Result<()>>,
}

impl Bulk {
    /// Starts it.
    ///
    /// # Errors
    /// The address cannot be had.
    pub(crate) async fn start(at: impl Into<Place>) -> Result<Self> {
        let listener = at.into().listen().await?;
        let (count, open) = watch::channel(0);
        let swallowed = Arc::new(AtomicU64::new(0));
        let serving = serve_bulk(listener, Arc::new(count), swallowed.clone());
        Ok(Self { swallowed, open, _accepting: AbortOnDrop::new(tokio::spawn(serving)) })
    }

    /// Starts transfers from or to it, through a tunnel, and waits until all streams carry something.
    ///
    /// # Errors
    /// A connection cannot be made, or nothing arrives.
    pub(crate) async fn transfer(
        &self,
        public: &Place,
        direction: Direction,
        streams: usize,
    ) -> Result<Transfer> {
        let arrived = match direction {
            Direction::Down => Arc::default(),
            Direction::Up => self.swallowed.clone(),
        };
        let before = arrived.load(Ordering::Relaxed);
        let mut transfer = Transfer { arrived: arrived.clone(), streams: JoinSet::new() };
        for _ in 0..streams {
            let mut stream = timeout(PATIENCE, public.connect()).await.context("no connection")??;
            stream.write_u8(direction.order()).await?;
            let arrived = arrived.clone();
            transfer.streams.spawn(async move {
                match direction {
                    Direction::Down => swallow(&mut stream, &arrived).await,
                    Direction::Up => send(&mut stream).await,
                }
            });
        }
        let deadline = Instant::now() + PATIENCE;
        while arrived.load(Ordering::Relaxed) == before {
            anyhow::ensure!(Instant::now() < deadline, "nothing arrives");
            // Only a counter tells that bytes arrive.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(transfer)
    }

    /// Waits until all connections are closed.
    ///
    /// # Errors
    /// They are still open after a while.
    pub(crate) async fn idle(&self) -> Result<()> {
        let mut open = self.open.clone();
        timeout(PATIENCE, open.wait_for(|open| *open == 0)).await.context("a transfer does not end")??;
        Ok(())
    }
}

impl Transfer {
    /// Bytes that have arrived so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Fails if one of the streams has ended by itself.
    ///
    /// # Errors
    /// What became of the stream.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.streams.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.and_then(|()| anyhow::bail!("a stream has ended")),
        }
    }
}

async fn serve_bulk(listener: TcpListener, open: Arc<watch::Sender<usize>>, swallowed: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (open, swallowed) = (open.clone(), swallowed.clone());
        open.send_modify(|open| *open += 1);
        connections.spawn(async move {
            // However it ends, the visitor has what it wanted.
            let _ = match stream.read_u8().await {
                Ok(b'd') => send(&mut stream).await,
                Ok(_) => swallow(&mut stream, &swallowed).await,
                Err(error) => Err(error.into()),
            };
            open.send_modify(|open| *open -= 1);
        });
    }
}

async fn send(stream: &mut TcpStream) -> Result<()> {
    let buffer = vec![0x5a; BUFFER];
    loop {
        stream.write_all(&buffer).await?;
    }
}

async fn swallow(stream: &mut TcpStream, counter: &AtomicU64) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => counter.fetch_add(n as u64, Ordering::Relaxed),
        };
    }
}

/// A service that says one byte to everybody, and sends back what it gets.
#[derive(Debug)]
pub(crate) struct Greeter(AbortOnDrop);

impl Greeter {
    /// Starts it.
    ///
    /// # Errors
    /// The address cannot be had.
    pub(crate) async fn start(at: SocketAddr) -> Result<Self> {
        let listener = Place::from(at).listen().await?;
        let accepting = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(greet(stream));
            }
        };
        Ok(Self(AbortOnDrop::new(tokio::spawn(accepting))))
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.0.stop().await;
    }

    /// A connection to it that has been greeted.
    ///
    /// # Errors
    /// It cannot be had.
    pub(crate) async fn visit(public: &Place) -> Result<TcpStream> {
        let mut stream = public.connect().await?;
        stream.set_nodelay(true)?;
        stream.read_u8().await?;
        Ok(stream)
    }
}

async fn greet(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.write_u8(b'!').await?;
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => stream.write_all(buffer.get(..n).unwrap_or_default()).await?,
        }
    }
}
