//! The private side: what the streams of proxies are connected to, one file per kind of local service.

pub(crate) mod tcp;

use crate::backend::tcp::TcpBackend;
use std::collections::HashMap;
use std::sync::Arc;
use tun_common::config::ProxyConfig;
use tun_common::session::{Handler, Local, Session};
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::stream::ResetCode;

/// The services behind the proxies, by proxy name.
pub(crate) struct Backends {
    services: HashMap<String, Arc<TcpBackend>>,
}

impl Backends {
    /// The services that the configuration names.
    pub(crate) fn new(proxies: &[ProxyConfig]) -> Self {
        let services = proxies.iter().map(|proxy| (proxy.name.clone(), Arc::new(TcpBackend::new(proxy))));
        Backends { services: services.collect() }
    }
}

impl Handler for Backends {
    fn open(&self, _: &Session, meta: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        let Ok(StreamMeta::Proxy { name, source }) = serde_json::from_slice(meta) else {
            return Err(ResetCode::Refused);
        };
        let service = self.services.get(&name).ok_or(ResetCode::Refused)?;
        tracing::debug!("[{name}] connection from {source}");
        Ok(service.clone().connect())
    }
}
