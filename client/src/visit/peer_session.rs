//! The session with the proxy's client.

use super::{Event, MAX_STREAMS, Visitor};
use crate::p2p::initiator::Initiator;
use crate::p2p::{PathState, Search};
use crate::settings::Settings;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tun_common::link::{NewLink, heartbeat};
use tun_common::random;
use tun_common::session::{DatagramCarrier, Handler, Local, Session};
use tun_proto::p2p::path::Retries;
use tun_proto::session::pairing::PeerHello;
use tun_proto::wire::stream::ResetCode;

/// The session, and what the visitor has to know about it.
pub(super) struct Peer {
    pub(super) session: Session,
    links: watch::Receiver<usize>,
    streams: watch::Receiver<usize>,
    next_link: Arc<AtomicU32>,
    /// Which way the search for direct paths says the bytes go.
    path: watch::Sender<PathState>,
    path_seen: watch::Receiver<PathState>,
    pub(super) linkless_since: Option<Instant>,
    /// Since when no connection is open.
    pub(super) idle_since: Option<Instant>,
    /// It had a link before.
    pub(super) met: bool,
    /// It looks for direct paths.
    seeks: bool,
    /// Of the datagrams.
    _carrier: Option<DatagramCarrier>,
}

impl Peer {
    /// A session without links.
    pub(super) fn begin(visitor: &Visitor) -> Self {
        let tasks = visitor.tasks.child();
        let (session, _) = Session::new(random::id(), Arc::new(NothingIncoming), MAX_STREAMS, tasks);
        let carrier = visitor.port.as_ref().map(|port| port.carry(&visitor.config.server_name, &session));
        let (links, streams) = (session.watch_links(), session.watch_streams());
        let (path, path_seen) = watch::channel(PathState::Relayed { why: None });
        Peer {
            session,
            links,
            streams,
            next_link: Arc::default(),
            path,
            path_seen,
            linkless_since: None,
            idle_since: Some(Instant::now()),
            met: false,
            seeks: false,
            _carrier: carrier,
        }
    }

    /// What the next link is asked for with.
    pub(super) fn next_hello(&self, heartbeat: Duration) -> PeerHello {
        PeerHello {
            session: self.session.id(),
            link: self.next_link.fetch_add(1, Ordering::Relaxed),
            heartbeat_ms: u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// Begins to look for direct paths, once, if the visitor wants them.
    pub(super) fn find_paths(&mut self, visitor: &Visitor) {
        let Some(xtcp) = visitor.config.xtcp() else { return };
        if std::mem::replace(&mut self.seeks, true) {
            return;
        }
        let initiator = Initiator {
            session: self.session.clone(),
            name: visitor.config.server_name.clone(),
            tls: visitor.settings.peer_tls.clone(),
            search: Arc::new(Search::new(visitor.surroundings.clone(), &xtcp.nat_traversal)),
            relay: visitor.settings.server_name(),
            next_link: self.next_link.clone(),
            retries: Retries { per_hour: xtcp.max_retries_an_hour, interval: xtcp.min_retry_interval },
            state: self.path.clone(),
        };
        self.session.tasks().spawn(initiator.run());
    }

    /// Which way the bytes go, while there is a link.
    pub(super) fn path(&self) -> PathState {
        self.path.borrow().clone()
    }

    pub(super) fn is_linked(&self) -> bool {
        !self.session.links().is_empty()
    }

    pub(super) fn add_link(&mut self, new: NewLink, settings: &Settings, doubts: watch::Receiver<u64>) {
        let link = new.link.clone();
        let session = &self.session;
        session.tasks().spawn(heartbeat::ask(
            link,
            settings.heartbeat_interval,
            settings.heartbeat_timeout,
            Arc::new(Notify::new()),
            doubts,
            session.link_events(),
        ));
        session.add_link(new, |_, _| {});
        self.links.mark_unchanged();
        self.linkless_since = None;
        self.met = true;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.session.end("the visitor was stopped");
    }
}

/// Resolves when the number of links or of connections, or the way of the bytes, changes. Cancellation safe.
pub(super) async fn changed(peer: &mut Option<Peer>) -> Event {
    let Some(Peer { links, streams, path_seen, .. }) = peer else { return std::future::pending().await };
    tokio::select! {
        Ok(()) = path_seen.changed() => Event::Path,
        Ok(()) = links.changed() => Event::Links(*links.borrow_and_update()),
        Ok(()) = streams.changed() => Event::Streams,
        else => std::future::pending().await,
    }
}

/// The proxy's client opens no streams towards its visitors.
struct NothingIncoming;

impl Handler for NothingIncoming {
    fn open(&self, _: &Session, _: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        Err(ResetCode::Refused)
    }
}
