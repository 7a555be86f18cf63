//! The UDP ports at which clients connect by QUIC.

use crate::settings::Settings;
use anyhow::Context;
use futures_util::future::join_all;
use std::net::SocketAddr;
use std::sync::Arc;
use tun_common::config::QuicPorts;
use tun_common::link::quic::port::Port;
use tun_common::link::quic::tunnel::Listener;

/// Binds the UDP ports; `tcp` is where clients connect by TCP.
///
/// # Errors
/// When a port that was configured cannot be had. The one beside TCP's costs a warning.
pub(crate) fn bind(config: QuicPorts, tcp: SocketAddr) -> anyhow::Result<Vec<Arc<Port>>> {
    let mut ports: Vec<Arc<Port>> = Vec::new();
    let configured = [("quicBindPort", config.quic), ("kcpBindPort", config.kcp)];
    for (key, port) in configured.into_iter().filter(|(_, port)| *port != 0) {
        let address = SocketAddr::new(tcp.ip(), port);
        if ports.iter().all(|bound| bound.address() != address) {
            let bound = Port::bind(address);
            ports.push(bound.with_context(|| format!("cannot listen on {address} (UDP; {key})"))?);
        }
    }
    if ports.iter().all(|bound| bound.address() != tcp) {
        match Port::bind(tcp) {
            Ok(port) => ports.insert(0, port),
            Err(error) => {
                tracing::warn!("no QUIC on {tcp} (UDP; bindPort): {error}; quicBindPort names another port");
            }
        }
    }
    Ok(ports)
}

/// Lets clients in at these ports.
///
/// # Errors
/// If TLS or a socket cannot be set up.
pub(crate) fn listen(ports: &[Arc<Port>], settings: &Settings) -> anyhow::Result<Vec<Arc<Listener>>> {
    let listen = |port: &Arc<Port>| {
        let address = port.address();
        let key = settings.reset_key(address);
        let listener = Listener::new(port.clone(), &settings.tls, &settings.quic, &key)
            .with_context(|| format!("QUIC cannot be served on {address} (UDP)"))?;
        tracing::info!("QUIC on {address} (UDP)");
        Ok(Arc::new(listener))
    };
    ports.iter().map(listen).collect()
}

/// Ends what is left of their connections.
pub(crate) async fn close(listeners: &[Arc<Listener>]) {
    join_all(listeners.iter().map(|listener| listener.close())).await;
}
