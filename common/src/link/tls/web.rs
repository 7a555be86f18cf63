//! TLS as browsers speak it, for what stands on the way to the server: a web server in front of it, a proxy.
//!
//! It is an envelope. Who the server is, is decided by the TLS and the login inside it.

use super::{AnyCertificate, provider};
use crate::link::Io;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::ServerName;
use rustls::server::ClientHello;
use std::io;
use std::sync::{Arc, OnceLock};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What web servers are asked to speak.
pub(super) const HTTP_ALPN: &[u8] = b"http/1.1";

/// First byte of the cipher suites of TLS 1.3 (RFC 8446, appendix B.4).
const TLS13_SUITES: u16 = 0x13;

/// The connecting side. Cheap to make: certificates are read when they are needed first.
#[derive(Default)]
pub struct WebTls {
    trust: Trust,
    connector: OnceLock<Result<TlsConnector, String>>,
}

/// Which certificates are believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those that the system's authorities have signed for the name.
    #[default]
    System,
    /// Any: for where what is inside is encrypted and authenticated by itself.
    Any,
}

impl WebTls {
    /// Believes what `trust` says.
    pub fn new(trust: Trust) -> Self {
        WebTls { trust, connector: OnceLock::new() }
    }

    /// Takes the client's part in a handshake with `host`, which is asked for by that name. Not cancellation safe: the
    /// connection is lost.
    ///
    /// # Errors
    /// Whatever is wrong with the peer, the connection, or the certificates to believe in.
    pub async fn connect<S: Io>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>> {
        let connector =
            self.connector.get_or_init(|| connector(&self.trust)).clone().map_err(io::Error::other)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::other(format!("{host:?} is neither a DNS name nor an IP address")))?;
        connector.connect(name, stream).await
    }
}

/// Whether a client comes from the web: it says so, or it is too old to be one of ours, as web servers are that pass things
/// on (nginx speaks no TLS 1.3 to those behind it unless it is told to).
pub(super) fn is_meant(hello: &ClientHello<'_>) -> bool {
    let http = hello.alpn().is_some_and(|mut names| names.any(|name| name == HTTP_ALPN));
    let modern = hello.cipher_suites().iter().any(|suite| u16::from(*suite) >> 8 == TLS13_SUITES);
    http || !modern
}

fn connector(trust: &Trust) -> Result<TlsConnector, String> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    let mut config = match trust {
        Trust::Any => {
            let verifier = Arc::new(AnyCertificate(provider()));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        Trust::System => builder.with_webpki_verifier(verifier(system_roots()?)?).with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn verifier(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| error.to_string())
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!(
            "this system has no certificates of authorities (package ca-certificates; SSL_CERT_FILE names a file) {}",
            why.join(", ")
        ));
    }
    Ok(roots)
}
