//! QUIC as others speak it to the server: who stands in the middle, and who begins and does not go on.

mod mitm;
mod stall;

pub use mitm::QuicMitm;
pub use stall::QuicStall;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint, EndpointConfig, TokioRuntime, TransportConfig};

use crate::certs::careless_client;
use crate::datagrams::roomy_socket;

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
    let (config_of_endpoint, socket) = (EndpointConfig::default(), roomy_socket(local));
    let endpoint = Endpoint::new(config_of_endpoint, None, socket, Arc::new(TokioRuntime));
    let mut endpoint = endpoint.expect("a socket can be watched");
    endpoint.set_default_client_config(config);
    endpoint
}
