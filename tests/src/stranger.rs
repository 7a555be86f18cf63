//! Peers that speak something else than they should, and listen to what they are told.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certs::careless_client;
use crate::patience::soon;

/// Sends `bytes`, and returns what the server answers before it hangs up.
pub async fn say(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    exchange(connect(server).await, bytes).await
}

/// The same inside TLS.
pub async fn say_in_tls(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let connector = TlsConnector::from(Arc::new(careless_client()));
    let name = ServerName::IpAddress(server.ip().into());
    let stream = soon("a TLS handshake", connector.connect(name, connect(server).await)).await;
    exchange(stream.expect("the server speaks TLS"), bytes).await
}

async fn connect(server: SocketAddr) -> TcpStream {
    soon("a connection", TcpStream::connect(server)).await.expect("the server accepts")
}

async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    // It may hang up before it has read all; that is as good an answer.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let _ = soon("the server hangs up", stream.read_to_end(&mut answer)).await;
    answer
}
