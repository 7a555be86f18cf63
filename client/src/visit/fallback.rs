//! Where a visitor's connections go while its proxy's client cannot be met.

use super::Request;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Connections that may wait at once, each a socket and nothing else. Further ones wait in the listener's backlog.
const MAX_WAITING: usize = 1024;

/// The other visitor.
#[derive(Debug, Clone)]
pub(crate) struct Fallback {
    /// Its name, for the log.
    pub(crate) to: String,
    /// Where it takes connections.
    pub(crate) requests: mpsc::Sender<Request>,
    /// How long a connection waits first.
    pub(crate) timeout: Duration,
}

/// Connections that wait for a link, the oldest first. Nothing is read from them.
#[derive(Default)]
pub(super) struct Waiting {
    /// All waits are equally long, so the first in is the first out.
    queue: VecDeque<(Instant, Request)>,
}

impl Waiting {
    pub(super) fn push(&mut self, request: Request, deadline: Instant) {
        self.queue.push_back((deadline, request));
    }

    /// Whether no further connection may be pushed.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= MAX_WAITING
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// When the first of them has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queue.front().map(|(deadline, _)| *deadline)
    }

    /// Those that have waited long enough.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Request> {
        let due = self.queue.partition_point(|(deadline, _)| *deadline <= now);
        self.queue.drain(..due).map(|(_, request)| request).collect()
    }

    pub(super) fn take_all(&mut self) -> Vec<Request> {
        self.queue.drain(..).map(|(_, request)| request).collect()
    }
}

/// So many connections that go somewhere.
pub(super) fn count(connections: usize) -> String {
    match connections {
        1 => "a connection goes".to_owned(),
        n => format!("{n} connections go"),
    }
}
