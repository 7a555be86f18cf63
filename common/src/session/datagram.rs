//! Channels of datagrams: what UDP services need of a session.
//!
//! A channel is carried by one multiplexed stream on the best link, and by the link's own datagrams where it has some.
//! It has no place among the session's streams: nothing in it is acknowledged, kept or sent again, and when its link
//! breaks, what was on it is lost and the rest goes over the next. Its ends never wait: [`DatagramQueue`] drops what
//! the link does not take, [`DatagramSink`] what its socket does not, so that a channel's reader always reads.

mod attached;
mod carrier;
mod limited;

pub(super) use carrier::{Arrival, accept};

use super::Session;
use crate::limit::{Bandwidth, Turn};
use bytes::Bytes;
use carrier::Carrier;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tun_proto::datagram::queue::FairQueue;
use tun_proto::limits::{DATAGRAM_OVERHEAD, DATAGRAM_QUEUE, MAX_DATAGRAM};

/// Where datagrams go that the peer sent.
pub trait DatagramSink: Send + Sync + 'static {
    /// Passes a datagram on at once, or drops it: never waits.
    fn deliver(&self, flow: u64, payload: Bytes);

    /// There are no more for the moment.
    fn flush(&self) {}
}

/// One end of a channel, which may outlive the sessions that carry it.
#[derive(Clone)]
pub struct DatagramEnd {
    /// What is to be sent to the peer.
    pub queue: Arc<DatagramQueue>,
    /// Where the peer's datagrams go.
    pub sink: Arc<dyn DatagramSink>,
}

/// The end that a peer's channel is connected to, or `None` if it is refused.
pub type DatagramAnswer = Pin<Box<dyn Future<Output = Option<DatagramEnd>> + Send>>;

/// Datagrams on their way to a link, bounded and fair between flows (see [`FairQueue`]).
#[derive(Debug)]
pub struct DatagramQueue(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    queue: FairQueue,
    /// Of the limit that the queue is under, if it is.
    turn: Option<Turn>,
    waker: Option<Waker>,
}

/// A queue under a limit holds what the limit lets out in this part of a second, and two of the longest datagrams at
/// least: more would only be late.
const LIMITED_QUEUE: u64 = 4;

impl DatagramQueue {
    /// An empty queue.
    pub fn new() -> Arc<Self> {
        Self::under(None)
    }

    /// An empty queue that lets out no more than a limit allows.
    pub fn under(limit: Option<&Bandwidth>) -> Arc<Self> {
        Arc::new(DatagramQueue(Mutex::new(Waiting::under(limit))))
    }

    /// From now on the queue is under this limit, or none. If that is news, what waits is dropped.
    pub fn set_limit(&self, limit: Option<&Bandwidth>) {
        let waker = {
            let mut waiting = self.lock();
            if waiting.turn.as_ref().map(Turn::bandwidth) == limit {
                return;
            }
            let waker = waiting.waker.take();
            *waiting = Waiting::under(limit);
            waker
        };
        // Who waited for a turn of the former limit would wait for ever.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Sends a datagram; if too many wait, the flow that has most of them loses its oldest one. The payload should own
    /// its memory alone, since it may wait.
    pub fn send(&self, flow: u64, payload: Bytes) {
        let waker = {
            let mut waiting = self.lock();
            // Who waits for a limit is not interested in what else waits.
            let was_empty = waiting.queue.is_empty();
            waiting.queue.push(flow, payload, Instant::now());
            if was_empty { waiting.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Datagrams that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.lock().queue.dropped()
    }

    /// The next datagram. Only the last task that asked is woken.
    fn poll_next(&self, cx: &Context<'_>, now: Instant) -> Poll<(u64, Bytes)> {
        let mut waiting = self.lock();
        let Waiting { queue, turn, .. } = &mut *waiting;
        if let Some(turn) = turn.as_mut().filter(|_| !queue.is_empty())
            && turn.poll(cx).is_pending()
        {
            waiting.register(cx);
            return Poll::Pending;
        }
        let datagram = queue.pop(now);
        if let Some(turn) = turn {
            turn.end(datagram.as_ref().map_or(0, |(_, payload)| payload.len()));
        }
        match datagram {
            Some(datagram) => Poll::Ready(datagram),
            None => {
                waiting.register(cx);
                Poll::Pending
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.lock().queue.is_empty()
    }

    /// Resolves when there is something.
    fn poll_filled(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = self.lock();
        if waiting.queue.is_empty() {
            waiting.register(cx);
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn under(limit: Option<&Bandwidth>) -> Self {
        let most = limit.map_or(DATAGRAM_QUEUE, |limit| {
            let most = usize::try_from(limit.rate().get() / LIMITED_QUEUE).unwrap_or(DATAGRAM_QUEUE);
            most.clamp(2 * (MAX_DATAGRAM + DATAGRAM_OVERHEAD), DATAGRAM_QUEUE)
        });
        Waiting { queue: FairQueue::new(most), turn: limit.map(Bandwidth::turn), waker: None }
    }

    fn register(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

/// Keeps a channel open. Dropping it closes the channel, and leaves its end as it is.
#[derive(Debug)]
pub struct DatagramCarrier {
    _stop: DropGuard,
}

impl Session {
    /// Opens a channel of datagrams between `end` and what the peer's handler makes of `meta`. It goes from link to
    /// link as they come and go, until the session is over. Costs nothing before there is a datagram to send.
    pub fn carry_datagrams(&self, meta: Bytes, end: DatagramEnd) -> DatagramCarrier {
        let stop = CancellationToken::new();
        let channel = {
            let mut state = self.lock();
            state.next_channel += 1;
            state.next_channel
        };
        let (session, stopped) = (self.clone(), stop.clone());
        self.tasks().spawn(async move {
            let carrier = Carrier::opener(session.clone(), channel, meta, end);
            tokio::select! {
                () = carrier.run() => {}
                () = stopped.cancelled() => {}
                () = session.over() => {}
            }
        });
        DatagramCarrier { _stop: stop.drop_guard() }
    }
}
