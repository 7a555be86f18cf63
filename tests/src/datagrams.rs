//! UDP services, and those who talk to them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::net::source;
use crate::patience::{patience, soon};
use crate::pattern;

/// The longest datagram.
pub const LONGEST: usize = 65_507;

/// How long one waits for an answer before one asks again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// A UDP service that sends back what it gets. It ends when this value goes.
#[derive(Debug)]
pub struct Echo {
    addr: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    count: AtomicU64,
    sources: Mutex<HashSet<SocketAddr>>,
}

impl Echo {
    /// Starts it.
    pub fn start(addr: SocketAddr) -> Self {
        let socket = roomy(addr);
        let seen = Arc::new(Seen::default());
        let counted = seen.clone();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            loop {
                // An answer that reached nobody is reported here.
                let Ok((n, source)) = socket.recv_from(&mut buffer).await else { continue };
                counted.count.fetch_add(1, Ordering::Relaxed);
                counted.sources.lock().unwrap().insert(source);
                let _ = socket.send_to(&buffer[..n], source).await;
            }
        });
        Self { addr, seen, task }
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Datagrams that it got.
    pub fn count(&self) -> u64 {
        self.seen.count.load(Ordering::Relaxed)
    }

    /// Sockets that it was talked to from.
    pub fn sources(&self) -> usize {
        self.seen.sources.lock().unwrap().len()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket with a large buffer.
pub fn roomy(addr: SocketAddr) -> UdpSocket {
    UdpSocket::from_std(roomy_socket(addr)).unwrap()
}

/// The same for those who watch it by themselves.
pub fn roomy_socket(addr: SocketAddr) -> std::net::UdpSocket {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_recv_buffer_size(4 << 20).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&addr.into()).unwrap_or_else(|e| panic!("{addr} (UDP) cannot be bound: {e}"));
    socket.into()
}

/// Somebody who sends datagrams to one place and gets answers.
#[derive(Debug)]
pub struct Asker {
    socket: UdpSocket,
    /// Messages that may have been sent several times: their answers come whenever they come.
    insisted: Mutex<Vec<Vec<u8>>>,
}

impl Asker {
    /// One who has sent nothing yet.
    pub async fn new(at: SocketAddr) -> Self {
        let socket = roomy(SocketAddr::new(source(1), 0));
        socket.connect(at).await.expect("there is a way to the place");
        Self { socket, insisted: Mutex::default() }
    }

    /// Sends a datagram.
    pub async fn send(&self, bytes: &[u8]) {
        // News of an earlier one that nobody took is no matter of this one.
        if self.socket.send(bytes).await.is_err() {
            let _ = self.socket.send(bytes).await;
        }
    }

    /// The next datagram, if one comes within `limit`.
    pub async fn receive_within(&self, limit: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        let received = async {
            loop {
                if let Ok(n) = self.socket.recv(&mut buffer).await {
                    return n;
                }
            }
        };
        let n = tokio::time::timeout(limit, received).await.ok()?;
        buffer.truncate(n);
        Some(buffer)
    }

    /// Sends a message that nobody else sends and gets it back, without asking twice.
    pub async fn echo(&self, seed: u64, len: usize) {
        let message = pattern::bytes(seed, len);
        self.send(&message).await;
        let answer = loop {
            let answer = self.receive_within(patience()).await;
            let answer = answer.unwrap_or_else(|| panic!("no answer to a datagram of {len} bytes"));
            if !self.insisted.lock().expect("no panic while held").contains(&answer) {
                break answer;
            }
        };
        assert!(
            answer == message,
            "the echo of {len} bytes is not what was sent, but {} bytes",
            answer.len()
        );
    }

    /// Asks until there is the right answer: what lies between may lose datagrams for a while. It may keep them as well, so
    /// that further answers come later.
    pub async fn insist(&self, seed: u64, len: usize) {
        let message = pattern::bytes(seed, len);
        self.insisted.lock().expect("no panic while held").push(message.clone());
        let answered = async {
            loop {
                self.send(&message).await;
                while let Some(answer) = self.receive_within(ASK_AGAIN).await {
                    if answer == message {
                        return;
                    }
                }
            }
        };
        soon("an answer to a datagram", answered).await;
    }

    /// The address that this one sends from.
    pub fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }
}
