//! A local UDP service: one socket for each flow, so that the service tells sources apart as if they were here.

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::Notify;
use tokio::time::sleep_until;
use tokio_util::sync::{CancellationToken, DropGuard};
use tun_common::config::ProxyConfig;
use tun_common::lifecycle::Tasks;
use tun_common::limit::Bandwidth;
use tun_common::link::udp;
use tun_common::session::{DatagramEnd, DatagramQueue, DatagramSink, Session};
use tun_proto::datagram::flows::{FlowBudget, Flows};
use tun_proto::limits::MAX_FLOWS;

/// After this long a name is looked up again when a flow begins.
const LOOKUP_AGE: Duration = Duration::from_secs(60);

/// More than any datagram.
const BUFFER: usize = 64 * 1024;

/// Datagrams of one service taken before others have their turn.
const TURNS: usize = 64;

/// A UDP service, and whether it was there last time.
pub(crate) struct UdpBackend {
    name: String,
    host: String,
    port: u16,
    idle: Duration,
    /// Of all services together.
    budget: Arc<FlowBudget>,
    limit: Option<Bandwidth>,
    address: Mutex<Option<Found>>,
    looking: AtomicBool,
    unreachable: AtomicBool,
}

/// The address of the service.
#[derive(Clone, Copy)]
struct Found {
    address: SocketAddr,
    /// When it was looked up; `None` if it needs no looking up.
    at: Option<Instant>,
}

impl UdpBackend {
    pub(crate) fn new(
        proxy: &ProxyConfig,
        idle: Duration,
        budget: Arc<FlowBudget>,
        limit: Option<Bandwidth>,
    ) -> Self {
        let ProxyConfig { name, local_ip: host, local_port: port, .. } = proxy;
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let found = literal.map(|ip| Found { address: SocketAddr::new(ip, *port), at: None });
        UdpBackend {
            name: name.clone(),
            host: host.clone(),
            port: *port,
            idle,
            budget,
            limit,
            address: Mutex::new(found),
            looking: AtomicBool::new(false),
            unreachable: AtomicBool::new(false),
        }
    }

    /// The service's end of a channel; its flows end with it.
    pub(crate) async fn open(self: Arc<Self>, session: Session) -> Option<DatagramEnd> {
        if self.found().is_none() {
            self.look_up().await;
        }
        let flows = Flows::new(self.idle, MAX_FLOWS, self.budget.clone());
        let limit = self.limit.clone();
        let shared = Arc::new(Shared {
            backend: self,
            queue: DatagramQueue::under(limit.as_ref()),
            flows: Mutex::new(flows),
            begun: Notify::new(),
        });
        let tasks = session.tasks().child();
        let expiring = shared.clone();
        tasks.spawn(async move { expiring.expire().await });
        let queue = shared.queue.clone();
        let end = DatagramEnd { queue, sink: Arc::new(Exit { shared, tasks }) };
        Some(match limit {
            None => end,
            Some(limit) => end.limited(&limit, session.tasks()),
        })
    }

    fn found(&self) -> Option<Found> {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_up(&self) {
        let looked_up = lookup_host((self.host.as_str(), self.port)).await;
        let first = looked_up.and_then(|mut all| all.next().ok_or_else(|| io::ErrorKind::NotFound.into()));
        match first {
            Ok(address) => {
                let found = Found { address, at: Some(Instant::now()) };
                *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
            }
            Err(error) => self.report(Err(&error)),
        }
    }

    /// Says once that the service is gone, and once that it is back.
    fn report(&self, outcome: Result<(), &io::Error>) {
        let UdpBackend { name, host, port, .. } = self;
        match outcome {
            Err(error) if !self.unreachable.swap(true, Ordering::Relaxed) => {
                tracing::warn!("[{name}] local service {host}:{port} (UDP) is unreachable: {error}");
            }
            Ok(())
                if self.unreachable.load(Ordering::Relaxed)
                    && self.unreachable.swap(false, Ordering::Relaxed) =>
            {
                tracing::info!("[{name}] local service {host}:{port} (UDP) answers again");
            }
            _ => {}
        }
    }
}

/// The service's end of a channel.
struct Exit {
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    backend: Arc<UdpBackend>,
    /// Answers on their way.
    queue: Arc<DatagramQueue>,
    flows: Mutex<Flows<u64, Flow>>,
    /// There is a flow again.
    begun: Notify,
}

struct Flow {
    socket: Arc<UdpSocket>,
    _stop: DropGuard,
}

impl Exit {
    /// The socket of a flow, made if there is none.
    fn socket(&self, flow: u64) -> Option<Arc<UdpSocket>> {
        let now = Instant::now();
        let mut flows = self.shared.flows();
        if let Some(known) = flows.touch(flow, now) {
            return Some(known.socket.clone());
        }
        let socket = match self.connect() {
            Ok(socket) => Arc::new(socket?),
            Err(error) => {
                self.shared.backend.report(Err(&error));
                return None;
            }
        };
        let stop = CancellationToken::new();
        let (shared, reader, stopped) = (self.shared.clone(), socket.clone(), stop.clone());
        let begins = flows.is_empty();
        // What makes room for it, or itself if there is none, ends here.
        flows.insert(flow, Flow { socket: socket.clone(), _stop: stop.drop_guard() }, now);
        drop(flows);
        if begins {
            self.shared.begun.notify_one();
        }
        self.tasks.spawn(async move {
            tokio::select! {
                () = shared.read(flow, &reader) => {}
                () = stopped.cancelled() => {}
            }
        });
        Some(socket)
    }

    /// A socket that talks to the service alone; `None` while its address is not known.
    fn connect(&self) -> io::Result<Option<UdpSocket>> {
        let backend = &self.shared.backend;
        let found = backend.found();
        let is_old = |at: Instant| at.elapsed() > LOOKUP_AGE;
        if found.is_none_or(|found| found.at.is_some_and(is_old))
            && !backend.looking.swap(true, Ordering::Relaxed)
        {
            let backend = backend.clone();
            self.tasks.spawn(async move {
                backend.look_up().await;
                backend.looking.store(false, Ordering::Relaxed);
            });
        }
        let Some(Found { address, .. }) = found else { return Ok(None) };
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        udp::connect(any, address).map(Some)
    }
}

impl DatagramSink for Exit {
    fn deliver(&self, flow: u64, payload: Bytes) {
        let Some(socket) = self.socket(flow) else { return };
        let backend = &self.shared.backend;
        // The runtime would not let a socket send that is this young.
        let socket = SockRef::from(&*socket);
        let mut sent = socket.send(&payload);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            // That was the fate of an earlier datagram; this one has not been sent yet.
            backend.report(sent.as_ref().map(drop));
            sent = socket.send(&payload);
        }
        if let Err(error) = sent {
            // What the socket does not take is lost, as on any full line.
            tracing::trace!("[{}] a datagram of {} bytes is lost: {error}", backend.name, payload.len());
        }
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Shared {
    /// Takes in a flow's answers.
    async fn read(&self, flow: u64, socket: &UdpSocket) {
        loop {
            if socket.readable().await.is_err() {
                return;
            }
            // Nothing is held while nothing comes.
            let mut buffer = BytesMut::with_capacity(BUFFER);
            let mut taken = 0;
            while taken < TURNS {
                buffer.clear();
                match socket.try_recv_buf(&mut buffer) {
                    Ok(_) => self.queue.send(flow, Bytes::copy_from_slice(&buffer)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        self.backend.report(Err(&error));
                        break;
                    }
                }
                taken += 1;
            }
            if taken > 0 {
                self.backend.report(Ok(()));
                self.flows().touch(flow, Instant::now());
            }
            tokio::task::yield_now().await;
        }
    }

    async fn expire(&self) {
        loop {
            let due = self.flows().poll_timeout();
            match due {
                None => self.begun.notified().await,
                Some(due) => {
                    sleep_until(due.into()).await;
                    let now = Instant::now();
                    while let Some(expired) = { self.flows().expire(now) } {
                        drop(expired);
                    }
                }
            }
        }
    }

    fn flows(&self) -> MutexGuard<'_, Flows<u64, Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
