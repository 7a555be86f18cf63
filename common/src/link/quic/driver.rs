//! What a link over QUIC does beside its streams' work: opens and accepts them, watches the path, and ends in order.

use super::congestion::Acknowledged;
use super::datagram::Datagrams;
use super::owned::Owned;
use super::pulse;
use super::stream::{Shared, Stream};
use crate::link::{INBOUND_BACKLOG, Link, LinkKind, LinkStream, Opener};
use quinn::{Connection, ConnectionError, Endpoint, VarInt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long a closing link may take to send what is queued, and then to tell the peer.
const CLOSE_DEADLINE: Duration = Duration::from_millis(500);

/// Requests to open a stream that wait for the driver.
const OPEN_BACKLOG: usize = 64;

/// Characters of a peer's own words that are repeated.
const MAX_REASON: usize = 200;

pub(super) struct Driver {
    link: Link,
    ends: Ends,
    shared: Arc<Shared>,
    /// Of a link that watches its path by the pulse.
    acknowledged: Option<Acknowledged>,
    limits: Limits,
    transport: Transport,
}

/// The driver's ends of what connects it with its [`Link`].
pub(super) struct Ends {
    /// Streams to open.
    requests: mpsc::Receiver<oneshot::Sender<LinkStream>>,
    /// Streams that the peer opened.
    accepted: mpsc::Sender<LinkStream>,
}

/// A link that a driver is to be made for, and the streams that the peer opens.
pub(super) fn new_link(
    kind: LinkKind,
    number: u32,
    peer: SocketAddr,
) -> (Link, Ends, mpsc::Receiver<LinkStream>) {
    let (opens, requests) = mpsc::channel(OPEN_BACKLOG);
    let (accepted, inbound) = mpsc::channel(INBOUND_BACKLOG);
    (Link::new(kind, number, peer, Opener::Driver(opens)), Ends { requests, accepted }, inbound)
}

/// How far a link goes along with its peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Streams that the peer may have open to begin with.
    pub(super) first_streams: u32,
    /// The same, at most.
    pub(super) most_streams: u32,
    /// Silence after which the connection was given up, if it was.
    pub(super) silence: Duration,
}

/// What quinn holds; closed and ended however it is let go of.
pub(super) struct Transport {
    connection: Connection,
    /// Where the connection is the only one of its endpoint.
    own: Option<(Endpoint, Arc<Owned>)>,
}

impl Driver {
    pub(super) fn new(
        transport: Transport,
        acknowledged: Option<Acknowledged>,
        limits: Limits,
        link: Link,
        ends: Ends,
    ) -> Self {
        let shared = Arc::new(Shared::new(link.clone()));
        Driver { link, ends, shared, acknowledged, limits, transport }
    }

    /// Serves the link until it is closed or breaks.
    pub(super) async fn run(self) {
        let Driver { link, ends, shared, acknowledged, limits, transport } = self;
        let Ends { mut requests, accepted } = ends;
        let _end = EndOnDrop(&link);
        let connection = &transport.connection;
        link.inner.datagrams.begin(Arc::new(Datagrams::new(connection.clone(), shared.clone())));
        let lost = tokio::select! {
            () = link.inner.close.cancelled() => None,
            error = connection.closed() => Some(error),
            error = open_streams(connection, &shared, &mut requests) => Some(error),
            error = accept_streams(connection, &shared, &accepted, &link, limits) => Some(error),
            error = watch(connection, acknowledged.as_ref(), &shared, &link) => Some(error),
            error = pulse::listen(connection, &shared, &link) => Some(error),
        };
        match lost {
            Some(error) => link.end(describe(&error, limits.silence)),
            None => {
                drop(requests);
                // Bytes of streams that were closed in order leave if the peer takes them soon.
                let _ = tokio::time::timeout(CLOSE_DEADLINE, shared.acknowledged()).await;
                transport.close(link.reason()).await;
            }
        }
        transport.stopped().await;
    }
}

/// Where a link is not watched by the pulse, its heartbeat does that.
async fn watch(
    connection: &Connection,
    acknowledged: Option<&Acknowledged>,
    shared: &Shared,
    link: &Link,
) -> ConnectionError {
    match acknowledged {
        Some(acknowledged) => pulse::watch(connection, acknowledged, shared, link).await,
        None => connection.closed().await,
    }
}

/// Others learn that the link is gone even if its driver was dropped.
struct EndOnDrop<'a>(&'a Link);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end("closed");
    }
}

impl Transport {
    /// A connection with an endpoint, and the tasks of that, of its own.
    pub(super) fn alone(connection: Connection, endpoint: Endpoint, tasks: Arc<Owned>) -> Self {
        Transport { connection, own: Some((endpoint, tasks)) }
    }

    /// One of many connections of an endpoint that somebody else owns.
    pub(super) fn of_many(connection: Connection) -> Self {
        Transport { connection, own: None }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Tells the peer.
    pub(super) async fn close(&self, reason: &str) {
        self.connection.close(VarInt::from_u32(0), reason.as_bytes());
        if let Some((endpoint, _)) = &self.own {
            let _ = tokio::time::timeout(CLOSE_DEADLINE, endpoint.wait_idle()).await;
        }
    }

    /// Waits until the tasks are gone, and with them the socket, but for what streams that are still held have of it.
    pub(super) async fn stopped(self) {
        let tasks = self.own.as_ref().map(|(_, tasks)| tasks.clone());
        drop(self);
        if let Some(tasks) = tasks {
            tasks.stopped().await;
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        // Wakes the streams that are still held, if nothing has yet.
        self.connection.close(VarInt::from_u32(0), b"");
        if let Some((_, tasks)) = &self.own {
            tasks.stop();
        }
    }
}

async fn open_streams(
    connection: &Connection,
    shared: &Arc<Shared>,
    requests: &mut mpsc::Receiver<oneshot::Sender<LinkStream>>,
) -> ConnectionError {
    while let Some(request) = requests.recv().await {
        if request.is_closed() {
            continue;
        }
        match connection.open_bi().await {
            Ok((send, recv)) => {
                let _ = request.send(Stream::new_link_stream(send, recv, shared));
            }
            Err(error) => return error,
        }
    }
    // The link itself holds the sender.
    connection.closed().await
}

async fn accept_streams(
    connection: &Connection,
    shared: &Arc<Shared>,
    accepted: &mpsc::Sender<LinkStream>,
    link: &Link,
    limits: Limits,
) -> ConnectionError {
    let mut allowed = limits.first_streams;
    loop {
        match connection.accept_bi().await {
            // A peer that opens streams faster than they are looked at gets the surplus reset.
            Ok((send, recv)) => drop(accepted.try_send(Stream::new_link_stream(send, recv, shared))),
            Err(error) => return error,
        }
        // In time for a peer that goes on like this.
        if link.streams() * 2 >= allowed as usize && allowed < limits.most_streams {
            allowed = allowed.saturating_mul(2).min(limits.most_streams);
            connection.set_max_concurrent_bi_streams(VarInt::from_u32(allowed));
        }
    }
}

/// What happened, in words for the log.
pub(super) fn describe(error: &ConnectionError, silence: Duration) -> String {
    match error {
        ConnectionError::TimedOut => format!("nothing was heard for {} s", silence.as_secs()),
        ConnectionError::ApplicationClosed(close) => match printable(&close.reason) {
            reason if reason.is_empty() => "the peer closed the connection".into(),
            reason => format!("the peer closed the connection: {reason}"),
        },
        ConnectionError::Reset => "the peer does not know the connection any more".into(),
        ConnectionError::LocallyClosed => "closed".into(),
        other => other.to_string(),
    }
}

/// A peer's words, fit for one line of the log.
fn printable(reason: &[u8]) -> String {
    let text = String::from_utf8_lossy(reason);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect()
}
