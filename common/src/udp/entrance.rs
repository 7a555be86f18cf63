//! The end of a channel that has the sources: a UDP port, whoever sends to it, and the flow of each.

use super::{DatagramSocket, Peer};
use crate::limit::Bandwidth;
use crate::session::{DatagramEnd, DatagramQueue, DatagramSink};
use bytes::{Bytes, BytesMut};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until};
use tun_proto::datagram::flows::{FlowBudget, Sources};
use tun_proto::limits::MAX_FLOWS;

/// Pause of the receiving loop when the socket fails without need.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// A UDP port whose datagrams are those of a channel.
pub struct Entrance {
    name: String,
    socket: DatagramSocket,
    sources: Mutex<Sources<Peer>>,
    queue: Arc<DatagramQueue>,
    /// Answers of one size to one source, to be sent at once.
    joined: Mutex<Joined>,
    count: watch::Sender<usize>,
    begun: Notify,
    /// There is no place for more flows; said once until there is.
    full: AtomicBool,
}

/// Datagrams to one peer that stand one behind the other.
#[derive(Default)]
struct Joined {
    peer: Option<Peer>,
    size: usize,
    count: usize,
    contents: BytesMut,
    /// The last one was shorter than the others: no more can follow.
    complete: bool,
}

/// Longer ones are sent alone: the system joins only what each fits a packet, on any path.
const JOINABLE: usize = 1200;

/// Joined datagrams are not larger together than one may be.
const MAX_JOINED: usize = 60 * 1024;

impl Entrance {
    /// Binds `address`. A flow ends when nothing has crossed it for `idle`; together with others there may be as many as
    /// `budget` says. `name` is for the log.
    ///
    /// # Errors
    /// Those of binding, typically that the port is in use or not permitted.
    pub fn bind(
        name: &str,
        address: SocketAddr,
        idle: Duration,
        budget: Arc<FlowBudget>,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Entrance {
            name: name.to_owned(),
            socket: DatagramSocket::bind(address)?,
            sources: Mutex::new(Sources::new(idle, MAX_FLOWS, budget)),
            queue: DatagramQueue::new(),
            joined: Mutex::default(),
            count: watch::Sender::new(0),
            begun: Notify::new(),
            full: AtomicBool::new(false),
        }))
    }

    /// Where the port is.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// From now on what the sources send is under this limit, or none.
    pub fn set_limit(&self, limit: Option<&Bandwidth>) {
        self.queue.set_limit(limit);
    }

    /// What a session is to carry.
    pub fn end(self: &Arc<Self>) -> DatagramEnd {
        DatagramEnd { queue: self.queue.clone(), sink: self.clone() }
    }

    /// Number of flows, to be watched.
    pub fn watch_flows(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Takes datagrams in and lets flows expire, forever. Cancellation safe.
    pub async fn serve(self: Arc<Self>) {
        tokio::join!(self.receive(), self.expire());
    }

    async fn receive(&self) {
        loop {
            let received = self.socket.receive(|peer, datagram| self.take_in(peer, datagram)).await;
            if let Err(error) = received {
                tracing::debug!("[{}] receiving datagrams: {error}", self.name);
                sleep(FAILURE_PAUSE).await;
            }
        }
    }

    fn take_in(&self, peer: Peer, datagram: &[u8]) {
        let (flow, before, after) = {
            let mut sources = self.sources();
            let before = sources.len();
            (sources.flow_of(peer, Instant::now()), before, sources.len())
        };
        if before != after {
            self.count.send_replace(after);
            if before == 0 {
                self.begun.notify_one();
            }
        }
        match flow {
            Some(flow) => {
                self.full.store(false, Ordering::Relaxed);
                self.queue.send(flow, Bytes::copy_from_slice(datagram));
            }
            None if !self.full.swap(true, Ordering::Relaxed) => {
                tracing::warn!("[{}] datagrams from {} dropped: too many flows", self.name, peer.address);
            }
            None => {}
        }
    }

    async fn expire(&self) {
        loop {
            let due = self.sources().poll_timeout();
            match due {
                None => self.begun.notified().await,
                Some(due) => {
                    sleep_until(due.into()).await;
                    let left = {
                        let mut sources = self.sources();
                        sources.expire(Instant::now());
                        sources.len()
                    };
                    self.count.send_if_modified(|count| std::mem::replace(count, left) != left);
                }
            }
        }
    }

    fn sources(&self) -> MutexGuard<'_, Sources<Peer>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the socket does not take is lost, as on any full line.
    fn send(&self, joined: &mut Joined) {
        let Some(peer) = joined.peer.take() else { return };
        let size = (joined.count > 1).then_some(joined.size);
        if let Err(error) = self.socket.try_send_joined(peer, &joined.contents, size) {
            tracing::trace!("[{}] datagrams to {} lost: {error}", self.name, peer.address);
        }
        joined.contents.clear();
        joined.count = 0;
        joined.complete = false;
    }
}

impl DatagramSink for Entrance {
    fn deliver(&self, flow: u64, payload: Bytes) {
        let Some(peer) = self.sources().source_of(flow, Instant::now()) else { return };
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        let joined = &mut *joined;
        if !joined.takes(peer, payload.len(), self.socket.most_joined()) {
            self.send(joined);
        }
        joined.add(peer, &payload);
    }

    fn flush(&self) {
        self.send(&mut self.joined.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Joined {
    fn takes(&self, peer: Peer, len: usize, most: usize) -> bool {
        self.peer == Some(peer)
            && !self.complete
            && self.size <= JOINABLE
            && (1..=self.size).contains(&len)
            && self.count < most
            && self.contents.len() + len <= MAX_JOINED
    }

    fn add(&mut self, peer: Peer, payload: &[u8]) {
        if self.peer.is_none() {
            (self.peer, self.size) = (Some(peer), payload.len());
        }
        self.complete = payload.len() < self.size;
        self.count += 1;
        self.contents.extend_from_slice(payload);
    }
}
