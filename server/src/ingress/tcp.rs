//! Public TCP ports: every connection that is accepted becomes a stream of the client that serves the proxy.

use super::Serving;
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tun_common::lifecycle::Tasks;
use tun_common::link::tcp;
use tun_common::random;
use tun_common::session::{Local, limited};
use tun_proto::wire::control::StreamMeta;

/// Pause of the accept loop when the process has run out of something.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A public port. Dropping it closes the port; streams that are open go on.
pub(crate) struct TcpIngress {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    name: String,
    serving: Mutex<Serving>,
    patience: Duration,
    /// The client has as many streams as it may; said once until it has fewer.
    full: AtomicBool,
}

impl TcpIngress {
    /// Binds `address` and serves it. A port of 0 binds any free one.
    pub(crate) fn bind(
        name: &str,
        address: SocketAddr,
        serving: Serving,
        keepalive: Option<Duration>,
        patience: Duration,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let listener = tcp::listen(address)?;
        tcp::tune_accepted(&listener, keepalive)?;
        let address = listener.local_addr()?;
        let shared = Shared {
            name: name.to_owned(),
            serving: Mutex::new(serving),
            patience,
            full: AtomicBool::new(false),
        };
        let ingress = TcpIngress { address, shared: Arc::new(shared), tasks: tasks.child() };
        ingress.serve(listener);
        Ok(ingress)
    }

    /// Where the port is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted from now on are served in this way.
    pub(crate) fn hand_over(&self, serving: Serving) {
        *self.shared.serving.lock().unwrap_or_else(PoisonError::into_inner) = serving;
    }

    fn serve(&self, listener: TcpListener) {
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, visitor)) => shared.relay(stream, visitor),
                    Err(error) if tcp::is_out_of_resources(&error) => {
                        tracing::warn!("[{}] a connection cannot be accepted: {error}", shared.name);
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                    Err(error) => tracing::debug!("[{}] a connection was not accepted: {error}", shared.name),
                }
            }
        });
    }
}

impl Drop for TcpIngress {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Shared {
    fn relay(&self, stream: TcpStream, visitor: SocketAddr) {
        let (session, limit) = {
            let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
            (serving.session.clone(), serving.limit.clone())
        };
        let meta = StreamMeta::Proxy { name: self.name.clone(), source: visitor.to_string() };
        let meta = Bytes::from(serde_json::to_vec(&meta).unwrap_or_default());
        let local: Box<dyn Local> = Box::new(stream);
        let local = match &limit {
            None => local,
            Some(limit) => limited(local, limit),
        };
        let Some(pump) = session.open(random::id(), meta, local, Some(self.patience)) else {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "[{}] connection from {visitor} refused: the client has as many as it may \
                     (transport.maxStreamsPerClient)",
                    self.name
                );
            }
            return;
        };
        self.full.store(false, Ordering::Relaxed);
        tracing::debug!("[{}] connection from {visitor}", self.name);
        let name = self.name.clone();
        session.tasks().spawn_to_end(async move {
            let outcome = pump.await;
            tracing::debug!("[{name}] connection from {visitor} ended: {outcome:?}");
        });
    }
}
