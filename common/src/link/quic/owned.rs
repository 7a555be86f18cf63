//! quinn's tasks, owned: they end with the link, and its socket with them.

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::task::JoinSet;

/// Runs what quinn spawns: a task for the socket and one for each connection. Dropping it ends them.
#[derive(Debug, Default)]
pub(super) struct Owned(Mutex<JoinSet<()>>);

impl Owned {
    /// Ends the tasks.
    pub(super) fn stop(&self) {
        self.lock(JoinSet::abort_all);
    }

    /// Ends the tasks and waits until they are gone.
    pub(super) async fn stopped(&self) {
        let mut tasks = self.lock(std::mem::take);
        tasks.shutdown().await;
    }

    fn lock<T>(&self, f: impl FnOnce(&mut JoinSet<()>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Runtime for Owned {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.lock(|tasks| {
            // Handshakes of strangers that failed.
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        });
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
