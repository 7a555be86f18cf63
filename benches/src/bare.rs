//! A bare QUIC stream that is always full: what quinn alone carries, with the settings of our links.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tun_proto::limits::MAX_DATA;

/// The name in the certificate.
const NAME: &str = "tuns";

/// Chunks that are taken from the stream at a time.
const PIECES: usize = 46;

/// The kernel's buffers of a socket, in bytes, as those of a link.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// The end that receives. It stops when this value goes.
#[derive(Debug)]
pub struct Sink {
    endpoint: Endpoint,
    certificate: CertificateDer<'static>,
}

impl Sink {
    /// Listens at a socket for one connection, and counts the bytes of its first stream. Runs on the current runtime.
    ///
    /// # Errors
    /// The socket cannot be used, or no certificate can be made.
    pub fn listen(socket: UdpSocket, received: Arc<AtomicU64>) -> Result<Self> {
        let certified = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
        let key =
            PrivateKeyDer::try_from(certified.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let certificate = certified.cert.der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)?;
        let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport()));
        let endpoint = endpoint(socket, Some(config))?;
        tokio::spawn(count(endpoint.clone(), received));
        Ok(Self { endpoint, certificate })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.endpoint.local_addr()?)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

/// The end that sends. It stops when this value goes.
#[derive(Debug)]
pub struct Source(Endpoint);

impl Source {
    /// Connects and sends for as long as there is a connection. Runs on the current runtime. Cancelled, it gives up the
    /// connection.
    ///
    /// # Errors
    /// No connection comes about.
    pub async fn dial(socket: UdpSocket, sink: &Sink) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(sink.certificate.clone())?;
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport()));
        let endpoint = endpoint(socket, None)?;
        let connection = endpoint.connect_with(config, sink.address()?, NAME)?.await?;
        let (mut send, _recv) = connection.open_bi().await?;
        tokio::spawn(async move {
            let _open = connection;
            loop {
                let mut chunk = BytesMut::with_capacity(MAX_DATA);
                chunk.put_bytes(7, MAX_DATA);
                if send.write_chunk(chunk.freeze()).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self(endpoint))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.0.close(VarInt::from_u32(0), b"");
    }
}

async fn count(endpoint: Endpoint, received: Arc<AtomicU64>) -> Result<()> {
    let connection = endpoint.accept().await.context("closed")?.await?;
    let (_send, mut recv) = connection.accept_bi().await?;
    let mut pieces = [const { Bytes::new() }; PIECES];
    while let Some(read) = recv.read_chunks(&mut pieces).await? {
        let n: usize = pieces.iter().take(read).map(Bytes::len).sum();
        received.fetch_add(n as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn endpoint(socket: UdpSocket, server: Option<ServerConfig>) -> Result<Endpoint> {
    let buffers = socket2::SockRef::from(&socket);
    buffers.set_recv_buffer_size(SOCKET_BUFFER)?;
    buffers.set_send_buffer_size(SOCKET_BUFFER)?;
    Ok(Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(quinn::TokioRuntime))?)
}

/// The settings of a direct link.
fn transport() -> TransportConfig {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(256 * 1024);
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements
        .ack_eliciting_threshold(VarInt::from_u32(20))
        .max_ack_delay(Some(Duration::from_millis(10)));
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(4 * 1024 * 1024))
        .receive_window(VarInt::from_u32(32 * 1024 * 1024))
        .send_window(16 * 1024 * 1024)
        .initial_rtt(Duration::from_millis(10))
        .ack_frequency_config(Some(acknowledgements))
        .congestion_controller_factory(Arc::new(congestion));
    config
}
