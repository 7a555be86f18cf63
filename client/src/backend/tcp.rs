//! A local TCP service.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tun_common::config::ProxyConfig;
use tun_common::link::tcp;
use tun_common::session::{Local, dialing};

/// How long a local service may take to accept a connection. One on the same machine or network that takes longer
/// is not there.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// After this long without traffic the kernel asks whether the service is still there.
const KEEPALIVE: Duration = Duration::from_secs(7200);

/// A TCP service, and whether it answered last time.
pub(crate) struct TcpBackend {
    name: String,
    host: String,
    port: u16,
    unreachable: AtomicBool,
}

impl TcpBackend {
    pub(crate) fn new(proxy: &ProxyConfig) -> Self {
        TcpBackend {
            name: proxy.name.clone(),
            host: proxy.local_ip.clone(),
            port: proxy.local_port,
            unreachable: AtomicBool::new(false),
        }
    }

    /// A connection to the service, made when it is first polled.
    pub(crate) fn connect(self: Arc<Self>) -> Box<dyn Local> {
        dialing(async move {
            let dialled = tokio::time::timeout(DIAL_DEADLINE, self.dial()).await;
            let dialled = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            self.report(&dialled);
            dialled
        })
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let stream = tcp::dial(&self.host, self.port).await?;
        tcp::tune(&stream, Some(KEEPALIVE))?;
        Ok(stream)
    }

    /// Says once that the service is gone, and once that it is back.
    fn report(&self, dialled: &io::Result<TcpStream>) {
        let TcpBackend { name, host, port, .. } = self;
        match dialled {
            Err(error) => {
                if !self.unreachable.swap(true, Ordering::Relaxed) {
                    tracing::warn!("[{name}] local service {host}:{port} is unreachable: {error}");
                }
            }
            Ok(_) => {
                if self.unreachable.swap(false, Ordering::Relaxed) {
                    tracing::info!("[{name}] local service {host}:{port} answers again");
                }
            }
        }
    }
}
