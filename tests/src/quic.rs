//! QUIC as others speak it to the server: who stands in the middle, and who begins and does not go on.

mod mitm;
mod stall;

pub use mitm::QuicMitm;
pub use stall::{QuicStall, QuicStalled};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, TransportConfig};

use crate::certs::careless_client;

/// What client and server of tun agree to speak over QUIC.
const ALPN: &[u8] = b"tun-tunnel/1";

/// An endpoint that connects from `local`, and believes whatever certificate it is shown.
fn careless_endpoint(local: SocketAddr) -> Endpoint {
    let mut tls = careless_client();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3 is among its versions");
    let mut config = ClientConfig::new(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    // News of the end may get lost where a thousand come at once; whoever asks again gets it again.
    transport.keep_alive_interval(Some(Duration::from_secs(1)));
    config.transport_config(Arc::new(transport));
    let mut endpoint = Endpoint::client(local).expect("a port is free");
    endpoint.set_default_client_config(config);
    endpoint
}
