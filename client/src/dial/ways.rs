//! The ways to the server, and which of them is taken.

use super::{DialError, HEDGE_AFTER};
use crate::settings::Settings;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tun_common::config::Protocol;
use tun_common::link::upstream::authority;
use tun_common::link::{Io, LinkIo, ReadAhead, websocket};
use tun_proto::wire::login::Bytes32;

/// A way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    carrier: Carrier,
    /// `None`: the server's own.
    port: Option<u16>,
}

/// What carries the login and all that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Tcp,
    WebSocket,
    /// A WebSocket in TLS as web servers speak it.
    Wss,
}

/// What each value of `transport.protocol` stands for; of several the first comes first.
const fn table(protocol: Protocol) -> &'static [Way] {
    match protocol {
        Protocol::Tcp => &[Way { carrier: Carrier::Tcp, port: None }],
        Protocol::WebSocket => &[Way { carrier: Carrier::WebSocket, port: None }],
        Protocol::Wss => &[Way { carrier: Carrier::Wss, port: None }],
        Protocol::Auto => &[
            Way { carrier: Carrier::Tcp, port: None },
            // Where networks let nothing but the web through.
            Way { carrier: Carrier::Wss, port: Some(443) },
        ],
    }
}

/// The ways that may be taken, and the one to begin with.
#[derive(Debug)]
pub(crate) struct Ways {
    table: &'static [Way],
    /// Index of the one to begin with.
    preferred: AtomicUsize,
    /// Whether that one has worked.
    proven: AtomicBool,
}

impl Ways {
    pub(crate) fn new(protocol: Protocol) -> Self {
        Ways { table: table(protocol), preferred: AtomicUsize::new(0), proven: AtomicBool::new(false) }
    }

    /// After a login over a way came to a verdict, or not.
    pub(super) fn judge(&self, way: usize, answered: bool) {
        let next = if answered { way } else { (way + 1) % self.table.len() };
        let before = self.preferred.swap(next, Ordering::Relaxed);
        self.proven.store(answered, Ordering::Relaxed);
        if answered && before != next {
            tracing::info!("the server is reached by {}", self.table[next]);
        }
    }

    /// Indices of the table, the preferred one first. If it has worked before, it has a second try: a network that breaks
    /// connections breaks those that are being made as well, and says nothing about the way.
    fn order(&self) -> VecDeque<usize> {
        let (first, len) = (self.preferred.load(Ordering::Relaxed), self.table.len());
        let again = self.proven.load(Ordering::Relaxed) && len > 1;
        again.then_some(first).into_iter().chain((0..len).map(|n| (first + n) % len)).collect()
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.carrier {
            Carrier::Tcp => "TCP",
            Carrier::WebSocket => "WebSocket",
            Carrier::Wss => "WebSocket over TLS",
        })?;
        self.port.map_or(Ok(()), |port| write!(f, ", port {port}"))
    }
}

/// A connection to the server on which the login comes next.
pub(super) struct Opened {
    pub(super) io: Box<dyn LinkIo>,
    /// Of our own TLS, if there is any.
    pub(super) exporter: Option<[u8; 32]>,
    /// Fingerprint of the server's, as it is seen here.
    pub(super) certificate: Option<Bytes32>,
    /// Where the connection goes: the server, a web server before it, or a proxy.
    pub(super) peer: SocketAddr,
    /// The way it takes.
    pub(super) way: usize,
}

/// Opens a connection by the way that worked last. One that fails is followed by the next, and one that is silent gets
/// the next beside it; the first to get there counts. Logins are not raced: each of them would be one. Cancellation safe.
pub(super) async fn open(settings: &Settings) -> Result<Opened, DialError> {
    let mut order = settings.ways.order();
    let mut attempts = FuturesUnordered::new();
    let (mut latest, mut failed) = (None, None);
    loop {
        if attempts.is_empty() {
            latest = order.pop_front();
            match latest {
                Some(way) => attempts.push(take(settings, way)),
                // The one that was tried first has the most to say.
                None => return Err(failed.unwrap_or_else(|| nothing(settings))),
            }
        }
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(opened) => return Ok(opened),
                Err(error) => {
                    tracing::debug!("{error}");
                    failed.get_or_insert(error);
                }
            },
            () = tokio::time::sleep(HEDGE_AFTER), if order.iter().any(|way| Some(*way) != latest) => {
                // More of the same is for those who open connections.
                order.retain(|way| Some(*way) != latest);
                latest = order.pop_front();
                attempts.extend(latest.map(|way| take(settings, way)));
            }
        }
    }
}

/// No table is empty, so this is not reached.
fn nothing(settings: &Settings) -> DialError {
    DialError::Timeout { server: settings.server_name(), timeout: settings.dial_timeout }
}

async fn take(settings: &Settings, way: usize) -> Result<Opened, DialError> {
    let Way { carrier, port } = settings.ways.table[way];
    let (host, own_port) = &settings.server;
    let port = port.unwrap_or(*own_port);
    let server = || authority(host, port);
    let (stream, peer) = reach(settings, port).await?;
    let web = settings.websocket_host.as_deref();
    let stream: Box<dyn Io> = match carrier {
        Carrier::Tcp => stream,
        Carrier::WebSocket => upgrade(settings, stream, port, 80).await?,
        Carrier::Wss => {
            let name = web.map_or(host.as_str(), without_port);
            let secured = settings.web_tls.connect(name, stream).await;
            let secured = secured.map_err(|source| DialError::Tls { server: server(), source })?;
            upgrade(settings, secured, port, 443).await?
        }
    };
    let Some(tls) = &settings.tls else {
        return Ok(Opened {
            io: Box::new(ReadAhead::new(stream)),
            exporter: None,
            certificate: None,
            peer,
            way,
        });
    };
    let secured = tls.connect(stream).await.map_err(|source| DialError::Tls { server: server(), source })?;
    Ok(Opened {
        io: Box::new(secured.stream),
        exporter: Some(secured.exporter),
        certificate: secured.certificate,
        peer,
        way,
    })
}

/// A connection to a port of the server on which nothing was said yet, and the address that it goes to.
async fn reach(settings: &Settings, port: u16) -> Result<(Box<dyn Io>, SocketAddr), DialError> {
    let host = &settings.server.0;
    if let Some(upstream) = &settings.upstream {
        return Ok(upstream.connect(host, port, &settings.dialer, &settings.proxy_tls).await?);
    }
    let failed = |source| DialError::Connect { server: authority(host, port), source };
    let stream = settings.dialer.dial(host, port).await.map_err(failed)?;
    let peer = stream.peer_addr().map_err(failed)?;
    Ok((Box::new(stream), peer))
}

/// Makes a WebSocket of a connection to a web server.
async fn upgrade<S: Io + 'static>(
    settings: &Settings,
    stream: S,
    port: u16,
    usual_port: u16,
) -> Result<Box<dyn Io>, DialError> {
    let host = &settings.server.0;
    let named = || {
        let full = authority(host, port);
        match full.strip_suffix(&format!(":{usual_port}")) {
            Some(bare) if port == usual_port => bare.to_owned(),
            _ => full,
        }
    };
    let name = settings.websocket_host.clone().unwrap_or_else(named);
    match websocket::connect(stream, &name, &settings.websocket_path).await {
        Ok(socket) => Ok(Box::new(socket)),
        Err(source) => Err(DialError::WebSocket { server: authority(host, port), source }),
    }
}

/// The name alone, without brackets.
fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() && (!name.contains(':') || name.ends_with(']')) => {
            name
        }
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_that_worked_comes_first_until_it_fails() {
        let ways = Ways::new(Protocol::Auto);
        assert_eq!(ways.order(), [0, 1]);
        ways.judge(1, true);
        assert_eq!(ways.order(), [1, 1, 0]);
        ways.judge(1, false);
        assert_eq!(ways.order(), [0, 1]);
        let single = Ways::new(Protocol::Wss);
        single.judge(0, true);
        assert_eq!(single.order(), [0]);
        single.judge(0, false);
        assert_eq!(single.order(), [0]);
    }

    #[test]
    fn certificates_are_asked_for_by_name_alone() {
        for (given, name) in [
            ("cdn.example", "cdn.example"),
            ("cdn.example:8443", "cdn.example"),
            ("[2001:db8::1]:8443", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(without_port(given), name);
        }
    }
}
