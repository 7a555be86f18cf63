//! A man in the middle: a relay that ends the client's TLS with a certificate of its own, opens its own TLS to the
//! server, and reads along. It copies what it can from the client's hello, so that nothing but its certificate
//! and the keys give it away.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use crate::certs::{careless_client, self_signed_server};
use crate::patience::soon;
use crate::service::AbortOnDrop;

/// A running relay.
#[derive(Debug)]
pub struct Mitm {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    ended: watch::Receiver<usize>,
    _accepting: AbortOnDrop,
}

impl Mitm {
    /// Stands at `listen` in front of `target`.
    pub async fn start(listen: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(listen).await.expect("the relay's address is free");
        let addr = listener.local_addr().expect("a listener has an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (report_ended, ended) = watch::channel(0);
        let record = Arc::clone(&seen);
        let accepting = AbortOnDrop::new(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("the relay can accept");
                let (record, report) = (Arc::clone(&record), report_ended.clone());
                connections.spawn(async move {
                    // It ends with an error when it is detected, which is what the tests hope for.
                    let _ = relay(stream, target, &record).await;
                    report.send_modify(|n| *n += 1);
                });
            }
        }));
        Self { addr, seen, ended, _accepting: accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All plain bytes that it has seen, in the order in which it saw them, both directions mixed.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().expect("no panic while held").clone()
    }

    /// Waits until `n` connections through it have ended.
    pub async fn nth_ended(&self, n: usize) {
        let mut ended = self.ended.clone();
        soon("the end of a relayed connection", ended.wait_for(|count| *count >= n))
            .await
            .expect("the relay lives");
    }
}

async fn relay(stream: TcpStream, target: SocketAddr, record: &Mutex<Vec<u8>>) -> io::Result<()> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let names = hello.client_hello();
    let alpn: Vec<Vec<u8>> = names.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
    let name = names.server_name().map(str::to_owned);

    let mut to_server = careless_client();
    to_server.alpn_protocols = alpn;
    let server_name = match name.clone().map(ServerName::try_from) {
        Some(Ok(name)) => name,
        _ => ServerName::IpAddress(target.ip().into()),
    };
    let server = TcpStream::connect(target).await?;
    let mut server = TlsConnector::from(Arc::new(to_server)).connect(server_name, server).await?;

    let mut as_server = self_signed_server(name.as_deref().unwrap_or("localhost"));
    as_server.alpn_protocols = server.get_ref().1.alpn_protocol().map(<[u8]>::to_vec).into_iter().collect();
    let mut client = hello.into_stream(Arc::new(as_server)).await?;

    let (mut from_client, mut from_server) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        let (bytes, up) = tokio::select! {
            n = client.read(&mut from_client) => (&from_client[..n?], true),
            n = server.read(&mut from_server) => (&from_server[..n?], false),
        };
        if bytes.is_empty() {
            // Whoever closed first, the other end hears of it.
            let _ = if up { server.shutdown().await } else { client.shutdown().await };
            return Ok(());
        }
        record.lock().expect("no panic while held").extend_from_slice(bytes);
        if up {
            server.write_all(bytes).await?;
            server.flush().await?;
        } else {
            client.write_all(bytes).await?;
            client.flush().await?;
        }
    }
}
