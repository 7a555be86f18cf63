//! The ways to the server, and which of them is taken.

use super::DialError;
use super::race::{self, Won};
use crate::settings::Settings;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::oneshot;
use tun_common::config::Protocol;
use tun_common::link::quic::tunnel::{self, Tunnel};
use tun_common::link::tls::Secured;
use tun_common::link::upstream::authority;
use tun_common::link::{Carrier, Io, ReadAhead, websocket};
use tun_proto::race::Runner;
use tun_proto::wire::login::Bytes32;

/// What a server reads that waits for a login on a connection that is not needed.
const NOT_NEEDED: &str = "another way was faster";

/// A way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    medium: Medium,
    /// `None`: the server's own.
    port: Option<u16>,
}

/// What carries the login and all that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    Tcp,
    Quic,
    WebSocket,
    /// A WebSocket in TLS as web servers speak it.
    Wss,
}

/// What each value of `transport.protocol` stands for; of several the first comes first.
const fn table(protocol: Protocol) -> &'static [Way] {
    match protocol {
        Protocol::Tcp => &[Way { medium: Medium::Tcp, port: None }],
        Protocol::Quic => &[Way { medium: Medium::Quic, port: None }],
        Protocol::WebSocket => &[Way { medium: Medium::WebSocket, port: None }],
        Protocol::Wss => &[Way { medium: Medium::Wss, port: None }],
        Protocol::Auto => &[
            Way { medium: Medium::Tcp, port: None },
            // Costs more than TCP, but is another way through the network.
            Way { medium: Medium::Quic, port: None },
            // Where networks let nothing but the web through.
            Way { medium: Medium::Wss, port: Some(443) },
        ],
    }
}

/// The ways that may be taken, and the one to begin with.
#[derive(Debug)]
pub(crate) struct Ways {
    table: Vec<Way>,
    /// Index of the one to begin with.
    preferred: AtomicUsize,
    /// Whether that one has worked.
    proven: AtomicBool,
    /// Index of the one that the user knows to work; the first is what one expects.
    told: AtomicUsize,
}

impl Ways {
    /// Proxies on the way carry streams alone.
    pub(crate) fn new(protocol: Protocol, proxied: bool) -> Self {
        let ways = table(protocol).iter().filter(|way| !proxied || way.medium != Medium::Quic);
        Ways {
            table: ways.copied().collect(),
            preferred: AtomicUsize::new(0),
            proven: AtomicBool::new(false),
            told: AtomicUsize::new(0),
        }
    }

    /// After a login over a way came to a verdict, or not.
    pub(super) fn judge(&self, way: usize, answered: bool) {
        let next = if answered { way } else { (way + 1) % self.table.len() };
        self.preferred.store(next, Ordering::Relaxed);
        self.proven.store(answered, Ordering::Relaxed);
        if answered && self.told.swap(way, Ordering::Relaxed) != way {
            tracing::info!("the server is reached by {}", self.table[way]);
        }
    }

    /// After a link was lost, or has fallen silent. There are networks that let UDP through to begin with and not for
    /// long: QUIC does not come first then, but has to be faster than the others again.
    pub(super) fn doubt(&self) {
        let preferred = self.preferred.load(Ordering::Relaxed);
        if self.table.len() > 1 && self.table[preferred].medium == Medium::Quic {
            self.preferred.store(0, Ordering::Relaxed);
            self.proven.store(false, Ordering::Relaxed);
        }
    }

    /// The ways in the order in which they are tried, the preferred one first. If it has worked before, it has a second
    /// try: a network that breaks connections breaks those that are being made as well, and says nothing about the way.
    fn runners(&self) -> Vec<Runner> {
        let (first, len) = (self.preferred.load(Ordering::Relaxed), self.table.len());
        let proven = self.proven.load(Ordering::Relaxed);
        let again = proven && len > 1;
        let order = again.then_some(first).into_iter().chain([first]).chain((0..len).filter(|n| *n != first));
        let runner = |way: usize| Runner {
            way,
            datagrams: self.table[way].medium == Medium::Quic,
            proven: proven && way == first,
        };
        order.map(runner).collect()
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.medium {
            Medium::Tcp => "TCP",
            Medium::Quic => "QUIC",
            Medium::WebSocket => "WebSocket",
            Medium::Wss => "WebSocket over TLS",
        })?;
        self.port.map_or(Ok(()), |port| write!(f, ", port {port}"))
    }
}

/// A connection to the server on which the login comes next.
pub(super) struct Opened {
    pub(super) carrier: Carrier,
    /// Of our own TLS, if there is any.
    pub(super) exporter: Option<[u8; 32]>,
    /// Fingerprint of the server's, as it is seen here.
    pub(super) certificate: Option<Bytes32>,
    /// Where the connection goes: the server, a web server before it, or a proxy.
    pub(super) peer: SocketAddr,
    /// The way it takes.
    pub(super) way: usize,
}

/// Opens a connection by the way that worked last, or the one that is ready first. Cancellation safe.
pub(super) async fn open(settings: &Settings) -> Result<Opened, DialError> {
    let runners = settings.ways.runners();
    let won = race::run(runners, |way| take(settings, way)).await;
    let Won { way, prize, late } = won.map_err(|failed| failed.unwrap_or_else(|| nothing(settings)))?;
    if let Some(late) = late {
        settings.dialling.spawn_to_end(async move { late.carrier.discard(NOT_NEEDED).await });
    }
    Ok(Opened { way, ..prize })
}

/// No table is empty, so this is not reached.
fn nothing(settings: &Settings) -> DialError {
    DialError::Timeout { server: settings.server_name(), timeout: settings.dial_timeout }
}

async fn take(settings: &Settings, way: usize) -> Result<Opened, DialError> {
    let Way { medium, port } = settings.ways.table[way];
    let port = port.unwrap_or(settings.server.1);
    match medium {
        Medium::Quic => over_quic(settings, way, port).await,
        Medium::Tcp | Medium::WebSocket | Medium::Wss => over_stream(settings, way, medium, port).await,
    }
}

async fn over_stream(
    settings: &Settings,
    way: usize,
    medium: Medium,
    port: u16,
) -> Result<Opened, DialError> {
    let host = &settings.server.0;
    let server = || authority(host, port);
    let (stream, peer) = reach(settings, port).await?;
    let web = settings.websocket_host.as_deref();
    let stream: Box<dyn Io> = match medium {
        Medium::WebSocket => upgrade(settings, stream, port, 80).await?,
        Medium::Wss => {
            let name = web.map_or(host.as_str(), without_port);
            let secured = settings.web_tls.connect(name, stream).await;
            let secured = secured.map_err(|source| DialError::Tls { server: server(), source })?;
            upgrade(settings, secured, port, 443).await?
        }
        Medium::Tcp | Medium::Quic => stream,
    };
    let Some(tls) = &settings.tls else {
        let carrier = Carrier::Stream(Box::new(ReadAhead::new(stream)));
        return Ok(Opened { carrier, exporter: None, certificate: None, peer, way });
    };
    let secured = tls.connect(stream).await.map_err(|source| DialError::Tls { server: server(), source })?;
    Ok(Opened {
        carrier: Carrier::Stream(Box::new(secured.stream)),
        exporter: Some(secured.exporter),
        certificate: secured.certificate,
        peer,
        way,
    })
}

/// A name may have addresses that UDP does not reach: they are tried beside each other.
async fn over_quic(settings: &Settings, way: usize, port: u16) -> Result<Opened, DialError> {
    let server = || authority(&settings.server.0, port);
    let failed = |source| DialError::Connect { server: server(), source };
    let addresses = settings.dialer.resolver.look_up(&settings.server.0, port).await.map_err(failed)?;
    let runner = |way| Runner { way, datagrams: true, proven: false };
    let won = race::run((0..addresses.len()).map(runner), |n| dial_quic(settings, addresses[n])).await;
    let Won { way: index, prize, .. } = won.map_err(|failed| {
        let no_address = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        DialError::Quic { server: server(), source: failed.unwrap_or_else(no_address) }
    })?;
    let Secured { stream, exporter, certificate } = prize;
    Ok(Opened {
        carrier: Carrier::Quic(Box::new(stream)),
        exporter: Some(exporter),
        certificate,
        peer: addresses[index],
        way,
    })
}

/// Dials in a task of its own: an attempt that nobody waits for any more goes on until the server can be told so.
/// Cancellation safe.
async fn dial_quic(settings: &Settings, address: SocketAddr) -> std::io::Result<Secured<Tunnel>> {
    let (sender, receiver) = oneshot::channel();
    let (tls, options) = (settings.quic_tls.clone(), settings.quic.clone());
    let (from, timeout) = (settings.dialer.from, settings.dial_timeout);
    settings.dialling.spawn(async move {
        let dialled = tokio::time::timeout(timeout, tunnel::dial(address, from, &tls, &options)).await;
        let dialled = dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        if let Err(Ok(unwanted)) = sender.send(dialled) {
            unwanted.stream.close(NOT_NEEDED).await;
        }
    });
    receiver.await.unwrap_or_else(|_| Err(std::io::Error::other("the program is about to end")))
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
        let order = |ways: &Ways| -> Vec<_> { ways.runners().iter().map(|runner| runner.way).collect() };
        let ways = Ways::new(Protocol::Auto, false);
        assert_eq!(order(&ways), [0, 1, 2]);
        ways.judge(2, true);
        assert_eq!(order(&ways), [2, 2, 0, 1]);
        assert!(ways.runners()[1].proven && !ways.runners()[2].proven);
        ways.judge(2, false);
        assert_eq!(order(&ways), [0, 1, 2]);
        let single = Ways::new(Protocol::Quic, false);
        for answered in [true, false] {
            single.judge(0, answered);
            single.doubt();
            assert_eq!(order(&single), [0]);
        }
    }

    #[test]
    fn quic_must_win_again_after_it_has_lost_a_link_and_tcp_need_not() {
        let ways = Ways::new(Protocol::Auto, false);
        ways.judge(1, true);
        assert_eq!(ways.runners()[0], Runner { way: 1, datagrams: true, proven: true });
        ways.doubt();
        assert_eq!(ways.runners()[0], Runner { way: 0, datagrams: false, proven: false });
        ways.judge(0, true);
        ways.doubt();
        assert_eq!(ways.runners()[0], Runner { way: 0, datagrams: false, proven: true });
    }

    #[test]
    fn a_proxy_carries_no_quic() {
        let ways = Ways::new(Protocol::Auto, true);
        assert!(ways.runners().iter().all(|runner| !runner.datagrams));
        assert_eq!(ways.table.len(), 2);
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
