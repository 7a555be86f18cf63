//! The private side: what the streams of proxies are connected to, one file per kind of local service.

pub(crate) mod tcp;
pub(crate) mod udp;

use crate::backend::tcp::TcpBackend;
use crate::backend::udp::UdpBackend;
use crate::p2p::{Search, Surroundings};
use crate::peers::{Peers, PrivateService};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tun_common::config::{LimitMode, ProxyConfig, ProxyKind};
use tun_common::lifecycle::Tasks;
use tun_common::limit::Bandwidth;
use tun_common::session::{DatagramAnswer, Handler, Local, RelayedStream, Session, limited};
use tun_proto::datagram::flows::FlowBudget;
use tun_proto::limits::MAX_SESSION_FLOWS;
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::relay::Refusal;
use tun_proto::wire::stream::ResetCode;

/// A local service.
#[derive(Clone)]
pub(crate) struct Service {
    kind: Kind,
    /// What all its connections and flows share, if this side keeps a limit.
    limit: Option<Bandwidth>,
}

#[derive(Clone)]
enum Kind {
    Tcp(Arc<TcpBackend>),
    Udp(Arc<UdpBackend>),
}

impl Service {
    fn new(proxy: &ProxyConfig, udp_idle: Option<Duration>, flows: &Arc<FlowBudget>, tasks: &Tasks) -> Self {
        let limit = proxy.bandwidth.filter(|limit| limit.mode == LimitMode::Client);
        let limit = limit.map(|limit| Bandwidth::new(limit.rate, tasks));
        let kind = match udp_idle {
            None => Kind::Tcp(Arc::new(TcpBackend::new(proxy))),
            Some(idle) => Kind::Udp(Arc::new(UdpBackend::new(proxy, idle, flows.clone(), limit.clone()))),
        };
        Service { kind, limit }
    }

    /// A connection to the service, made when it is first polled.
    pub(crate) fn connect(&self) -> Result<Box<dyn Local>, ResetCode> {
        let Kind::Tcp(backend) = &self.kind else { return Err(ResetCode::Refused) };
        let connection = backend.clone().connect();
        Ok(match &self.limit {
            None => connection,
            Some(limit) => limited(connection, limit),
        })
    }

    /// The service's end of a channel of datagrams.
    pub(crate) fn datagrams(&self, session: &Session) -> DatagramAnswer {
        match &self.kind {
            Kind::Tcp(_) => Box::pin(std::future::ready(None)),
            Kind::Udp(backend) => Box::pin(backend.clone().open(session.clone())),
        }
    }
}

/// The services behind the proxies, by proxy name.
pub(crate) struct Backends {
    public: HashMap<String, Service>,
    private: HashMap<String, Arc<PrivateService>>,
    peers: Arc<Peers>,
}

impl Backends {
    /// The services that the configuration names.
    pub(crate) fn new(
        proxies: &[ProxyConfig],
        peers: Arc<Peers>,
        surroundings: &Arc<Surroundings>,
        tasks: &Tasks,
    ) -> Self {
        let mut backends = Backends { public: HashMap::new(), private: HashMap::new(), peers };
        let flows = FlowBudget::new(MAX_SESSION_FLOWS);
        for proxy in proxies {
            let name = proxy.name.clone();
            match &proxy.kind {
                ProxyKind::Tcp { .. } => {
                    backends.public.insert(name, Service::new(proxy, None, &flows, tasks));
                }
                ProxyKind::Udp { idle, .. } => {
                    backends.public.insert(name, Service::new(proxy, Some(*idle), &flows, tasks));
                }
                ProxyKind::Private { secret_key, direct, udp_idle, .. } => {
                    let service = PrivateService {
                        name: name.clone(),
                        secret: secret_key.clone(),
                        backend: Service::new(proxy, *udp_idle, &flows, tasks),
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
                service.connect()
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

    fn datagrams(&self, session: &Session, meta: &[u8]) -> DatagramAnswer {
        if let Ok(StreamMeta::Datagrams { name }) = serde_json::from_slice(meta)
            && let Some(service) = self.public.get(&name)
        {
            return service.datagrams(session);
        }
        Box::pin(std::future::ready(None))
    }
}
