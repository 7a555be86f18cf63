//! A path between two sockets that delays datagrams, and can be cut in either direction.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub(super) struct Path {
    near: SocketAddr,
    far: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    /// Whoever speaks to the near end first.
    dialer: OnceLock<SocketAddr>,
    acceptor: OnceLock<SocketAddr>,
    forth_cut: AtomicBool,
    back_cut: AtomicBool,
    carried: AtomicUsize,
}

impl Path {
    /// A path on which a datagram takes `delay` each way.
    pub(super) async fn new(delay: Duration) -> Self {
        let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        let addresses = (near.local_addr().unwrap(), far.local_addr().unwrap());
        for (from, to, forth) in [(near.clone(), far.clone(), true), (far, near, false)] {
            let (queue, queued) = mpsc::channel(100_000);
            tasks.spawn(take(from, shared.clone(), forth, delay, queue));
            tasks.spawn(give(to, shared.clone(), forth, queued));
        }
        Path { near: addresses.0, far: addresses.1, shared, _tasks: tasks }
    }

    /// Where the dialling end sends to.
    pub(super) fn near(&self) -> SocketAddr {
        self.near
    }

    /// Where the accepting end sends to.
    pub(super) fn far(&self) -> SocketAddr {
        self.far
    }

    pub(super) fn lead_to(&self, acceptor: SocketAddr) {
        self.shared.acceptor.set(acceptor).unwrap();
    }

    /// Drops what the dialling end sends, what the accepting end sends, or both.
    pub(super) fn cut(&self, forth: bool, back: bool) {
        self.shared.forth_cut.store(forth, Ordering::SeqCst);
        self.shared.back_cut.store(back, Ordering::SeqCst);
    }

    /// Datagrams delivered.
    pub(super) fn carried(&self) -> usize {
        self.shared.carried.load(Ordering::SeqCst)
    }
}

async fn take(
    from: Arc<UdpSocket>,
    shared: Arc<Shared>,
    forth: bool,
    delay: Duration,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let (n, source) = from.recv_from(&mut buffer).await.unwrap();
        if forth {
            shared.dialer.get_or_init(|| source);
        }
        let _ = queue.try_send((Instant::now() + delay, buffer[..n].to_vec()));
    }
}

async fn give(
    to: Arc<UdpSocket>,
    shared: Arc<Shared>,
    forth: bool,
    mut queued: mpsc::Receiver<(Instant, Vec<u8>)>,
) {
    let (cut, target) = match forth {
        true => (&shared.forth_cut, &shared.acceptor),
        false => (&shared.back_cut, &shared.dialer),
    };
    while let Some((at, datagram)) = queued.recv().await {
        tokio::time::sleep_until(at.into()).await;
        if let Some(target) = target.get().filter(|_| !cut.load(Ordering::SeqCst)) {
            to.send_to(&datagram, target).await.unwrap();
            shared.carried.fetch_add(1, Ordering::SeqCst);
        }
    }
}
