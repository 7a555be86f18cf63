//! TLS 1.3 between client and server: certificates, verification, and what binds a login to its connection.
//!
//! Without a CA the client accepts any certificate: the login's proofs, bound to this connection's keying material,
//! are what detects a man in the middle (see [`tun_proto::auth`]). With `trustedCaFile` the certificate is verified
//! as well. This is the only file that configures rustls.

mod pinned;
pub mod web;

use super::readahead::ReadAhead;
use bytes::BytesMut;
use pinned::Pinned;
use rcgen::{CertificateParams, KeyPair};
use ring::digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsConnector};
use tun_proto::auth::EXPORTER_LABEL;
use tun_proto::limits::PEER_RECORD;
use tun_proto::wire::login::Bytes32;

/// Name in the server's own certificate, and the one a client asks for when none is configured and the server is
/// reached by an address that a certificate cannot name.
pub(super) const OWN_NAME: &str = "tuns";

/// [`PEER_RECORD`] as rustls counts: with the record's header.
const PEER_FRAGMENT: usize = PEER_RECORD + 5;

/// What two peers agree to speak over a direct connection.
const DIRECT_ALPN: &[u8] = b"tun/1";

/// What client and server agree to speak over QUIC.
const TUNNEL_ALPN: &[u8] = b"tun-tunnel/1";

/// What can be wrong with the configured files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of the kind expected.
    #[error("{what} {path}: {reason}", path = path.display())]
    File {
        /// The key that names the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// rustls does not accept the combination.
    #[error("the TLS configuration is not usable: {0}")]
    Rustls(#[from] rustls::Error),
    /// The server name cannot be one.
    #[error("transport.tls.serverName: \"{0}\" is neither a DNS name nor an IP address")]
    ServerName(String),
    /// The server could not make a certificate for itself.
    #[error("no certificate could be made: {0}")]
    OwnCertificate(#[from] rcgen::Error),
    /// The verifier cannot be built from the CA file.
    #[error("transport.tls.trustedCaFile: {0}")]
    Verifier(String),
}

/// Files that a side may be configured with.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Own certificate chain.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// CA that the peer's certificate must come from.
    pub trusted_ca: Option<PathBuf>,
}

/// An encrypted connection and what the login needs to know of it.
pub struct Secured<S> {
    /// The connection.
    pub stream: S,
    /// Keying material that only the two ends of this connection have.
    pub exporter: [u8; 32],
    /// Fingerprint of the server's certificate, as this side sees it.
    pub certificate: Option<Bytes32>,
}

/// What a TLS client of the server turned out to want.
pub enum Accepted {
    /// The tunnel.
    Tunnel(Secured<Box<dyn super::LinkIo>>),
    /// HTTP, as browsers do and web servers on the way: it has shown no certificate, whatever is demanded of clients.
    Web(Box<dyn super::Io>),
}

/// The server's side.
#[derive(Clone)]
pub struct ServerTls {
    tunnel: Arc<rustls::ServerConfig>,
    quic: Arc<rustls::ServerConfig>,
    web: Arc<rustls::ServerConfig>,
    fingerprint: Bytes32,
}

impl ServerTls {
    /// Reads the files; without a certificate one is made that lives as long as the process.
    ///
    /// # Errors
    /// [`TlsError`], naming the key and the file.
    pub fn new(files: &Files) -> Result<Self, TlsError> {
        let (chain, key) = match own_identity(files)? {
            Some(identity) => identity,
            None => self_signed()?,
        };
        let fingerprint = fingerprint(&chain[0]);
        let mut web = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key.clone_key())?;
        web.alpn_protocols = vec![web::HTTP_ALPN.to_vec()];
        web.send_tls13_tickets = 0;
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match &files.trusted_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                    .build()
                    .map_err(|error| TlsError::Verifier(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key)?;
        // A ticket that the client never reads turns its close into a reset, which can cost the last bytes.
        config.send_tls13_tickets = 0;
        let mut quic = config.clone();
        quic.alpn_protocols = vec![TUNNEL_ALPN.to_vec()];
        Ok(ServerTls { tunnel: Arc::new(config), quic: Arc::new(quic), web: Arc::new(web), fingerprint })
    }

    /// Fingerprint (SHA-256) of the server's certificate.
    pub fn fingerprint(&self) -> Bytes32 {
        self.fingerprint
    }

    /// The same, for a handshake within QUIC.
    pub(super) fn quic(&self) -> Arc<rustls::ServerConfig> {
        self.quic.clone()
    }

    /// Takes the server's part in a handshake; `ahead` was read from the stream already. Not cancellation safe: the
    /// connection is lost.
    ///
    /// # Errors
    /// Whatever is wrong with the peer or the connection.
    pub async fn accept<S: super::Io + 'static>(
        &self,
        stream: S,
        ahead: BytesMut,
    ) -> std::io::Result<Accepted> {
        let acceptor = rustls::server::Acceptor::default();
        // Boxed, for the many that wait in the middle of it: what follows is larger than what there is by then.
        let start = Box::pin(LazyConfigAcceptor::new(acceptor, ReadAhead::after(stream, ahead))).await?;
        if web::is_meant(&start.client_hello()) {
            let stream = Box::pin(start.into_stream(self.web.clone())).await?;
            return Ok(Accepted::Web(Box::new(stream)));
        }
        let stream = Box::pin(start.into_stream(self.tunnel.clone())).await?;
        let exporter = exporter(|out| stream.get_ref().1.export_keying_material(out, EXPORTER_LABEL, None))?;
        Ok(Accepted::Tunnel(Secured {
            stream: Box::new(stream),
            exporter,
            certificate: Some(self.fingerprint),
        }))
    }
}

/// The client's side.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    quic: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
}

impl ClientTls {
    /// Reads the files. `server_name` is what the certificate must name, `server_addr` stands in if it is empty.
    ///
    /// # Errors
    /// [`TlsError`], naming the key and the file.
    pub fn new(files: &Files, server_name: &str, server_addr: &str) -> Result<Self, TlsError> {
        Self::with_fragments(files, server_name, server_addr, None)
    }

    fn with_fragments(
        files: &Files,
        server_name: &str,
        server_addr: &str,
        max_fragment: Option<usize>,
    ) -> Result<Self, TlsError> {
        let wanted = if server_name.is_empty() { server_addr } else { server_name };
        let name = match ServerName::try_from(wanted.to_owned()) {
            Ok(name) => name,
            Err(_) if server_name.is_empty() && files.trusted_ca.is_none() => {
                ServerName::try_from(OWN_NAME).map_err(|_| TlsError::ServerName(OWN_NAME.into()))?
            }
            Err(_) => return Err(TlsError::ServerName(wanted.to_owned())),
        };
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match &files.trusted_ca {
            None => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
            }
            Some(path) => {
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots(path)?), provider())
                        .build()
                        .map_err(|error| TlsError::Verifier(error.to_string()))?;
                builder.with_webpki_verifier(verifier)
            }
        };
        let mut config = match own_identity(files)? {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        };
        let mut quic = config.clone();
        quic.alpn_protocols = vec![TUNNEL_ALPN.to_vec()];
        config.max_fragment_size = max_fragment;
        Ok(ClientTls { connector: TlsConnector::from(Arc::new(config)), quic: Arc::new(quic), name })
    }

    /// The same, for a handshake within QUIC.
    pub(super) fn quic(&self) -> Arc<rustls::ClientConfig> {
        self.quic.clone()
    }

    /// What the server's certificate must name, if it is looked at.
    pub(super) fn name(&self) -> String {
        self.name.to_str().into_owned()
    }

    /// Takes the client's part in a handshake. Not cancellation safe: the connection is lost.
    ///
    /// # Errors
    /// Whatever is wrong with the peer or the connection.
    pub async fn connect<S: super::Io>(
        &self,
        stream: S,
    ) -> std::io::Result<Secured<impl super::LinkIo + use<S>>> {
        self.handshake(ReadAhead::new(stream)).await
    }

    async fn handshake<S: super::Io>(
        &self,
        stream: S,
    ) -> std::io::Result<Secured<tokio_rustls::client::TlsStream<S>>> {
        let stream = self.connector.connect(self.name.clone(), stream).await?;
        let connection = stream.get_ref().1;
        let exporter = exporter(|out| connection.export_keying_material(out, EXPORTER_LABEL, None))?;
        let certificate =
            connection.peer_certificates().and_then(|chain| chain.first()).map(|leaf| fingerprint(leaf));
        Ok(Secured { stream, exporter, certificate })
    }
}

/// TLS between two peers. Inside a relayed stream the accepting side has a certificate of its own making, whose
/// fingerprint the pairing vouches for (see [`tun_proto::session::pairing`]). On a direct connection both show theirs, and
/// each knows the other's fingerprint beforehand.
#[derive(Clone)]
pub struct PeerTls {
    acceptor: TlsAcceptor,
    dialer: ClientTls,
    own: Arc<Identity>,
    fingerprint: Bytes32,
}

impl PeerTls {
    /// Makes a certificate that lives as long as the process.
    ///
    /// # Errors
    /// [`TlsError`] if that is not possible.
    pub fn new() -> Result<Self, TlsError> {
        let own = Arc::new(self_signed()?);
        let fingerprint = fingerprint(&own.0[0]);
        let mut server = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(own.0.clone(), own.1.clone_key())?;
        server.send_tls13_tickets = 0;
        server.max_fragment_size = Some(PEER_FRAGMENT);
        // The confirmation leaves with the handshake's own flight, which saves a round trip. It is meant for whoever
        // started this handshake and knows the secret, so it need not wait for the client's last message.
        server.send_half_rtt_data = true;
        // The certificate of the other side may be any: the pairing vouches for it, or does not.
        let dialer = ClientTls::with_fragments(&Files::default(), "", "", Some(PEER_FRAGMENT))?;
        Ok(PeerTls { acceptor: TlsAcceptor::from(Arc::new(server)), dialer, own, fingerprint })
    }

    /// Fingerprint (SHA-256) of this side's certificate.
    pub fn fingerprint(&self) -> Bytes32 {
        self.fingerprint
    }

    /// Takes the accepting part; `first` leaves encrypted with the handshake. Not cancellation safe: the stream is lost.
    ///
    /// # Errors
    /// Whatever is wrong with the peer or the stream.
    pub async fn accept<S: super::Io>(
        &self,
        stream: S,
        first: &[u8],
    ) -> std::io::Result<Secured<tokio_rustls::server::TlsStream<S>>> {
        let mut written = Ok(());
        let stream = self
            .acceptor
            .accept_with(stream, |connection| {
                written = std::io::Write::write_all(&mut connection.writer(), first)
            })
            .await?;
        written?;
        let exporter = exporter(|out| stream.get_ref().1.export_keying_material(out, EXPORTER_LABEL, None))?;
        Ok(Secured { stream, exporter, certificate: Some(self.fingerprint) })
    }

    /// Takes the connecting part, as [`ClientTls::connect`]. Not cancellation safe: the stream is lost.
    ///
    /// # Errors
    /// Whatever is wrong with the peer or the stream.
    pub async fn connect<S: super::Io>(
        &self,
        stream: S,
    ) -> std::io::Result<Secured<tokio_rustls::client::TlsStream<S>>> {
        self.dialer.handshake(stream).await
    }

    /// The connecting part of a direct connection: shows this side's certificate, accepts exactly `peer`.
    ///
    /// # Errors
    /// [`TlsError`] if rustls refuses.
    pub(super) fn direct_client(&self, peer: Bytes32) -> Result<rustls::ClientConfig, TlsError> {
        let (chain, key) = self.own.as_ref();
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned::new(peer, provider())))
            .with_client_auth_cert(chain.clone(), key.clone_key())?;
        config.alpn_protocols = vec![DIRECT_ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// The accepting part of a direct connection: shows this side's certificate, accepts exactly `peer`.
    ///
    /// # Errors
    /// [`TlsError`] if rustls refuses.
    pub(super) fn direct_server(&self, peer: Bytes32) -> Result<rustls::ServerConfig, TlsError> {
        let (chain, key) = self.own.as_ref();
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Pinned::new(peer, provider())))
            .with_single_cert(chain.clone(), key.clone_key())?;
        config.alpn_protocols = vec![DIRECT_ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// The one place that names the cryptography: ring, which is the fastest and smallest on common processors.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> Bytes32 {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    Bytes32(out)
}

fn exporter(
    export: impl FnOnce(&mut [u8; 32]) -> Result<&mut [u8; 32], rustls::Error>,
) -> std::io::Result<[u8; 32]> {
    let mut out = [0; 32];
    export(&mut out).map_err(std::io::Error::other)?;
    Ok(out)
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own_identity(files: &Files) -> Result<Option<Identity>, TlsError> {
    let (Some(cert), Some(key)) = (&files.cert, &files.key) else { return Ok(None) };
    let chain = certificates("transport.tls.certFile", cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
        what: "transport.tls.keyFile",
        path: key.clone(),
        reason: error.to_string(),
    })?;
    Ok(Some((chain, key)))
}

fn self_signed() -> Result<Identity, TlsError> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![OWN_NAME.to_owned()])?.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|reason| TlsError::Rustls(rustls::Error::General(reason.to_owned())))?;
    Ok((vec![certificate.der().clone()], key))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |reason: String| TlsError::File { what, path: path.to_owned(), reason };
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error: rustls::pki_types::pem::Error| fail(error.to_string()))?;
    if chain.is_empty() {
        return Err(fail("the file holds no certificate".into()));
    }
    Ok(chain)
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("transport.tls.trustedCaFile", path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// Accepts whatever certificate the server shows, but checks that the server has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
