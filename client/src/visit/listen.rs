//! A local port whose connections are the visitor's.

use super::Request;
use anyhow::Context;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tun_common::link::tcp;

/// Pause of the accept loop when the process has run out of something.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// After this long without traffic the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(7200);

/// Hands every connection to the visitor.
pub(crate) async fn serve(name: String, listener: TcpListener, requests: mpsc::Sender<Request>) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                let request = Request { local: Box::new(stream), source: source.to_string(), ended: None };
                if requests.send(request).await.is_err() {
                    return;
                }
            }
            Err(error) if tcp::is_out_of_resources(&error) => {
                tracing::warn!("[{name}] a connection cannot be accepted: {error}");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
            Err(error) => tracing::debug!("[{name}] a connection was not accepted: {error}"),
        }
    }
}

/// Binds the visitor's port.
///
/// # Errors
/// When the address is none, or cannot be bound.
pub(crate) fn bind(address: &str, port: u16) -> anyhow::Result<TcpListener> {
    let address = self::address(address, port)?;
    let listener =
        tcp::listen(address).with_context(|| format!("cannot listen on {address} (bindAddr, bindPort)"))?;
    tcp::tune_accepted(&listener, Some(KEEPALIVE))?;
    Ok(listener)
}

/// Where the visitor's port is to be.
///
/// # Errors
/// When the address is none.
pub(super) fn address(address: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let ip = address
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .with_context(|| format!("bindAddr = \"{address}\" is not an IP address"))?;
    Ok(SocketAddr::new(ip, port))
}
