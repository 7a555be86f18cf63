//! A man in the middle of QUIC.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, RecvStream, SendStream, ServerConfig};
use tokio::task::JoinSet;

use super::{ALPN, careless_endpoint};
use crate::certs::self_signed_server;
use crate::service::AbortOnDrop;

/// A relay that ends the client's QUIC with a certificate of its own, opens its own to the server, and reads along.
#[derive(Debug)]
pub struct QuicMitm {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    _accepting: AbortOnDrop,
}

impl QuicMitm {
    /// Stands at `listen` in front of `target`.
    pub fn start(listen: SocketAddr, target: SocketAddr) -> Self {
        let mut tls = self_signed_server("tuns");
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3 is among its versions");
        let config = ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = Endpoint::server(config, listen).expect("the relay's address is free");
        let addr = endpoint.local_addr().expect("a socket has an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let accepting = AbortOnDrop::new(tokio::spawn(async move {
            let towards = careless_endpoint(SocketAddr::new(listen.ip(), 0));
            let mut connections = JoinSet::new();
            while let Some(incoming) = endpoint.accept().await {
                connections.spawn(relay(incoming, towards.clone(), target, Arc::clone(&record)));
            }
        }));
        Self { addr, seen, _accepting: accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All plain bytes that it has seen, both directions mixed.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().expect("no panic while held").clone()
    }
}

/// Ends when it is detected, which is what the tests hope for.
async fn relay(
    incoming: Incoming,
    towards: Endpoint,
    target: SocketAddr,
    record: Arc<Mutex<Vec<u8>>>,
) -> Option<()> {
    let client = incoming.await.ok()?;
    let server = towards.connect(target, "tuns").ok()?.await.ok()?;
    let (to_client, from_client) = client.accept_bi().await.ok()?;
    let (to_server, from_server) = server.open_bi().await.ok()?;
    tokio::join!(pass(from_client, to_server, &record), pass(from_server, to_client, &record));
    Some(())
}

async fn pass(mut from: RecvStream, mut to: SendStream, record: &Mutex<Vec<u8>>) {
    while let Ok(Some(chunk)) = from.read_chunk(1 << 16, true).await {
        record.lock().expect("no panic while held").extend_from_slice(&chunk.bytes);
        if to.write_all(&chunk.bytes).await.is_err() {
            return;
        }
    }
    // The other end may be gone already.
    let _ = to.finish();
}
