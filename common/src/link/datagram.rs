//! A link's own datagrams, for those links that have some: unreliable, and no larger than a packet.

use super::Link;
use bytes::Bytes;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tun_proto::wire::datagram::untag;

/// Datagrams of one channel that wait for it; with packets of 1,500 bytes at most 1.5 MB. Beyond, the newest are dropped:
/// the channel's task has only to be scheduled to take them.
const BACKLOG: usize = 1024;

/// A datagram of a channel that the link brought.
pub(crate) struct OwnDatagram {
    pub(crate) flow: u64,
    pub(crate) payload: Bytes,
}

/// Resolves when a datagram that the link had no room for has gone, or never will.
pub(crate) type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a link with datagrams of its own can do.
pub(super) trait DatagramPath: Send + Sync {
    /// The longest it takes now.
    fn max(&self) -> Option<usize>;
    /// Sends one, or returns what to wait for.
    fn send(&self, datagram: Bytes) -> Option<Wait>;
}

/// A link's part in it.
#[derive(Default)]
pub(super) struct Datagrams(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    path: Option<Arc<dyn DatagramPath>>,
    channels: HashMap<u64, mpsc::Sender<OwnDatagram>>,
}

impl Link {
    /// The longest datagram that the link takes now, in bytes; `None` if it takes none.
    pub(crate) fn max_datagram(&self) -> Option<usize> {
        self.path()?.max()
    }

    /// Sends a datagram; it may be lost. Returns what to wait for before the next one if there was no room. It is not to
    /// be longer than [`Link::max_datagram`].
    pub(crate) fn send_datagram(&self, datagram: Bytes) -> Option<Wait> {
        self.path()?.send(datagram)
    }

    /// The datagrams that the link brings for a channel; whoever asked before gets no more. `None` if the link has none.
    pub(crate) fn own_datagrams(&self, channel: u64) -> Option<mpsc::Receiver<OwnDatagram>> {
        let mut inner = self.inner.datagrams.lock();
        inner.path.as_ref()?;
        let (sender, receiver) = mpsc::channel(BACKLOG);
        inner.channels.insert(channel, sender);
        Some(receiver)
    }

    fn path(&self) -> Option<Arc<dyn DatagramPath>> {
        self.inner.datagrams.lock().path.clone()
    }
}

impl Datagrams {
    /// The link has datagrams.
    pub(super) fn begin(&self, path: Arc<dyn DatagramPath>) {
        self.lock().path = Some(path);
    }

    /// The link is gone.
    pub(super) fn end(&self) {
        let ended = std::mem::take(&mut *self.lock());
        drop(ended);
    }

    /// Takes in a datagram of the peer.
    pub(super) fn receive(&self, datagram: Bytes) {
        let Some((channel, flow, payload)) = untag(datagram) else { return };
        if let Entry::Occupied(entry) = self.lock().channels.entry(channel)
            && let Err(mpsc::error::TrySendError::Closed(_)) =
                entry.get().try_send(OwnDatagram { flow, payload })
        {
            entry.remove();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("channels", &self.lock().channels.len()).finish()
    }
}
