//! Datagrams of the peer that count against a limit.

use super::{DatagramEnd, DatagramQueue, DatagramSink};
use crate::lifecycle::Tasks;
use crate::limit::Bandwidth;
use bytes::Bytes;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Datagrams passed on before other tasks of the worker get theirs.
const TURNS: usize = 64;

impl DatagramEnd {
    /// The same end, with what the peer sends under a limit as well: what does not fit waits in a queue that is fair
    /// between flows and drops. The queue of what is sent to the peer is put under it by its owner.
    pub fn limited(self, limit: &Bandwidth, tasks: &Tasks) -> Self {
        let DatagramEnd { queue, sink } = self;
        let waiting = DatagramQueue::under(Some(limit));
        let stop = CancellationToken::new();
        let (passing, stopped) = (waiting.clone(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = poll_fn(|cx| pass_on(cx, &passing, &*sink)) => {}
                () = stopped.cancelled() => {}
            }
        });
        DatagramEnd { queue, sink: Arc::new(LimitedSink { queue: waiting, _stop: stop.drop_guard() }) }
    }
}

/// What is on its way to the sink that the limit is for.
struct LimitedSink {
    queue: Arc<DatagramQueue>,
    _stop: DropGuard,
}

impl DatagramSink for LimitedSink {
    fn deliver(&self, flow: u64, payload: Bytes) {
        // What waits should not hold the memory of all that came with it.
        self.queue.send(flow, Bytes::copy_from_slice(&payload));
    }
}

/// Never resolves: there may always be more.
fn pass_on(cx: &mut Context<'_>, queue: &DatagramQueue, sink: &dyn DatagramSink) -> Poll<()> {
    let now = Instant::now();
    for _ in 0..TURNS {
        let Poll::Ready((flow, payload)) = queue.poll_next(cx, now) else {
            sink.flush();
            return Poll::Pending;
        };
        sink.deliver(flow, payload);
    }
    sink.flush();
    cx.waker().wake_by_ref();
    Poll::Pending
}
