//! The private side: what the streams of proxies are connected to, one file per kind of local service.

pub(crate) mod tcp;

use crate::backend::tcp::TcpBackend;
use crate::p2p::{Search, Surroundings};
use crate::peers::{Peers, PrivateService};
use std::collections::HashMap;
use std::sync::Arc;
use tun_common::config::{ProxyConfig, ProxyKind};
use tun_common::session::{Handler, Local, RelayedStream, Session};
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::relay::Refusal;
use tun_proto::wire::stream::ResetCode;

/// The services behind the proxies, by proxy name.
pub(crate) struct Backends {
    public: HashMap<String, Arc<TcpBackend>>,
    private: HashMap<String, Arc<PrivateService>>,
    peers: Arc<Peers>,
}

impl Backends {
    /// The services that the configuration names.
    pub(crate) fn new(proxies: &[ProxyConfig], peers: Arc<Peers>, surroundings: &Arc<Surroundings>) -> Self {
        let mut backends = Backends { public: HashMap::new(), private: HashMap::new(), peers };
        for proxy in proxies {
            let name = proxy.name.clone();
            let backend = Arc::new(TcpBackend::new(proxy));
            match &proxy.kind {
                ProxyKind::Tcp { .. } => {
                    backends.public.insert(name, backend);
                }
                ProxyKind::Private { secret_key, direct, .. } => {
                    let service = PrivateService {
                        name: name.clone(),
                        secret: secret_key.clone(),
                        backend,
                        direct: direct
                            .as_ref()
                            .map(|config| Arc::new(Search::new(surroundings.clone(), config))),
                    };
                    backends.private.insert(name, Arc::new(service));
                }
            }
        }
        backends
    }
}

impl Backends {
    /// Resolves when visitors have nothing open any more; their sessions are over then.
    pub(crate) async fn drain_visitors(&self) {
        self.peers.drain().await;
    }
}

impl Handler for Backends {
    fn open(&self, _: &Session, meta: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        match serde_json::from_slice(meta) {
            Ok(StreamMeta::Proxy { name, source }) => {
                let service = self.public.get(&name).ok_or(ResetCode::Refused)?;
                tracing::debug!("[{name}] connection from {source}");
                Ok(service.clone().connect())
            }
            _ => Err(ResetCode::Refused),
        }
    }

    fn relayed(&self, session: &Session, meta: &[u8], stream: RelayedStream) {
        if let Ok(StreamMeta::Visitor { proxy, source, .. }) = serde_json::from_slice(meta)
            && let Some(service) = self.private.get(&proxy)
        {
            self.peers.receive(service.clone(), source, stream);
            return;
        }
        session.tasks().spawn(stream.refuse(Refusal::NotThere));
    }
}
