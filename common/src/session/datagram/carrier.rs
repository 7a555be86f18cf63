//! The task of a channel: it leads it from link to link, and moves what crosses it.

use super::DatagramEnd;
use super::attached::Attached;
use crate::link::{Link, LinkStream};
use crate::session::Session;
use bytes::{Bytes, BytesMut};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tun_proto::limits::{MAX_DATAGRAM_CHANNELS, RESUME_WINDOW};
use tun_proto::wire::datagram::{ACCEPTED, Opening, REFUSED};

/// Turns before other tasks of the worker get theirs.
const TURNS: usize = 16;

/// Places that a channel may have at once: the present one, and those it leaves.
const MAX_ATTACHED: usize = 4;

/// How long a peer's channel is kept without any place on a link.
const LONELY: Duration = RESUME_WINDOW;

type Placing = Pin<Box<dyn Future<Output = Option<(Link, LinkStream)>> + Send>>;

pub(super) struct Carrier {
    session: Session,
    channel: u64,
    end: DatagramEnd,
    /// By epoch; the last one is sent on.
    attached: Vec<Attached>,
    role: Role,
}

enum Role {
    /// Decides which link the channel is on.
    Opener {
        meta: Bytes,
        epoch: u64,
        links: watch::Receiver<usize>,
        placing: Option<Placing>,
        linkless: bool,
    },
    /// Follows.
    Acceptor { arrivals: mpsc::Receiver<Arrival> },
}

/// A place that the opener has given a channel.
pub(in crate::session) struct Arrival {
    opening: Opening,
    link: Link,
    io: LinkStream,
    /// What was read beyond the opening.
    rest: Bytes,
}

enum Event {
    /// The last place is gone, or the peer refused the channel.
    Lost(io::ErrorKind),
    Links,
    Placed(Option<(Link, LinkStream)>),
    Arrived(Arrival),
    Filled,
    Lonely,
}

impl Carrier {
    pub(super) fn opener(session: Session, channel: u64, meta: Bytes, end: DatagramEnd) -> Self {
        let links = session.watch_links();
        let role = Role::Opener { meta, epoch: 0, links, placing: None, linkless: false };
        Carrier { session, channel, end, attached: Vec::new(), role }
    }

    fn acceptor(session: Session, channel: u64, end: DatagramEnd, arrivals: mpsc::Receiver<Arrival>) -> Self {
        Carrier { session, channel, end, attached: Vec::new(), role: Role::Acceptor { arrivals } }
    }

    /// Carries until the peer has no use for the channel. Cancellation safe: what is under way is lost.
    pub(super) async fn run(mut self) {
        loop {
            match self.next().await {
                Event::Lost(io::ErrorKind::ConnectionRefused) => {
                    tracing::debug!(channel = self.channel, "the peer refused a channel of datagrams");
                    return;
                }
                Event::Lonely => return,
                Event::Lost(_) | Event::Filled => {}
                Event::Links => self.handle_links(),
                Event::Placed(place) => self.handle_placed(place),
                Event::Arrived(arrival) => self.handle_arrival(arrival),
            }
            self.seek();
        }
    }

    async fn next(&mut self) -> Event {
        let Carrier { attached, end, role, .. } = self;
        let alone = attached.is_empty();
        match role {
            Role::Opener { links, placing, linkless, .. } => {
                let idle = alone && placing.is_none() && !*linkless;
                tokio::select! {
                    Ok(()) = links.changed() => Event::Links,
                    place = pending_or(placing) => Event::Placed(place),
                    lost = poll_fn(|cx| poll_move(cx, attached, end)), if !alone => Event::Lost(lost),
                    () = poll_fn(|cx| end.queue.poll_filled(cx)), if idle => Event::Filled,
                }
            }
            Role::Acceptor { arrivals } => tokio::select! {
                Some(arrival) = arrivals.recv() => Event::Arrived(arrival),
                lost = poll_fn(|cx| poll_move(cx, attached, end)), if !alone => Event::Lost(lost),
                () = tokio::time::sleep(LONELY), if alone => Event::Lonely,
            },
        }
    }

    /// Looks for a place where there is none, or a better one.
    fn seek(&mut self) {
        let Role::Opener { epoch, placing, linkless, .. } = &mut self.role else { return };
        let wanted = match self.attached.last() {
            // A channel that was used once is kept open: the peer may have something to send.
            None => !*linkless && (*epoch > 0 || !self.end.queue.is_empty()),
            Some(current) => self.session.has_better(&current.link),
        };
        match wanted {
            false => *placing = None,
            true if placing.is_none() => *placing = Some(Box::pin(self.session.clone().attach())),
            true => {}
        }
    }

    fn handle_links(&mut self) {
        if let Role::Opener { linkless, .. } = &mut self.role {
            *linkless = false;
        }
    }

    fn handle_placed(&mut self, place: Option<(Link, LinkStream)>) {
        let Role::Opener { meta, epoch, placing, linkless, .. } = &mut self.role else { return };
        *placing = None;
        let Some(place) = place else {
            *linkless = true;
            return;
        };
        *epoch += 1;
        let mut out = BytesMut::new();
        Opening { channel: self.channel, epoch: *epoch, meta: meta.clone() }.encode(&mut out);
        let attached = Attached::new(&self.session, self.channel, *epoch, place, out.freeze(), false);
        self.add(attached);
    }

    fn handle_arrival(&mut self, Arrival { opening, link, io, rest }: Arrival) {
        let answer = Bytes::from_static(&[ACCEPTED]);
        let mut attached =
            Attached::new(&self.session, self.channel, opening.epoch, (link, io), answer, true);
        attached.feed(rest);
        self.add(attached);
    }

    fn add(&mut self, new: Attached) {
        let index = self.attached.partition_point(|other| other.epoch < new.epoch);
        self.attached.insert(index, new);
        if self.attached.len() > MAX_ATTACHED {
            self.attached.remove(0);
        }
    }
}

/// Moves all there is in both directions; resolves when there may be another place to look for.
fn poll_move(cx: &mut Context<'_>, attached: &mut Vec<Attached>, end: &DatagramEnd) -> Poll<io::ErrorKind> {
    for _ in 0..TURNS {
        let mut progress = false;
        let mut lost = None;
        let mut index = 0;
        while index < attached.len() {
            let is_current = index + 1 == attached.len();
            match poll_one(cx, &mut attached[index], end, is_current) {
                Ok(moved) => {
                    progress |= moved;
                    index += 1;
                }
                Err(error) => {
                    attached.remove(index);
                    if is_current || error.kind() == io::ErrorKind::ConnectionRefused {
                        lost = Some(error.kind());
                    }
                }
            }
        }
        end.sink.flush();
        if let Some(lost) = lost {
            return Poll::Ready(lost);
        }
        if !progress {
            return Poll::Pending;
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Moves what one place has and takes; returns whether there may be more.
fn poll_one(
    cx: &mut Context<'_>,
    attached: &mut Attached,
    end: &DatagramEnd,
    is_current: bool,
) -> io::Result<bool> {
    let received = match attached.poll_receive(cx, &*end.sink) {
        Poll::Ready(received) => {
            received?;
            true
        }
        Poll::Pending => false,
    };
    let sent = if is_current { attached.poll_send(cx, end) } else { attached.poll_leave(cx) };
    match sent {
        Poll::Ready(sent) => sent.map(|()| true),
        Poll::Pending => Ok(received),
    }
}

async fn pending_or(placing: &mut Option<Placing>) -> Option<(Link, LinkStream)> {
    match placing {
        Some(placing) => placing.await,
        None => std::future::pending().await,
    }
}

/// Gives a stream to the channel that it is a place of, or begins that channel. Returns when the channel has ended if it
/// was new, at once otherwise.
pub(in crate::session) async fn accept(
    session: &Session,
    opening: Opening,
    link: Link,
    io: LinkStream,
    rest: Bytes,
) {
    let channel = opening.channel;
    let meta = opening.meta.clone();
    let (arrival, arrivals) = match admit(session, Arrival { opening, link, io, rest }) {
        Admission::New(arrival, arrivals) => (arrival, arrivals),
        Admission::Known => return,
        Admission::TooMany(arrival) => return refuse(arrival.io).await,
    };
    let served = async {
        let Some(end) = session.inner.handler.datagrams(session, &meta).await else {
            return refuse(arrival.io).await;
        };
        let mut carrier = Carrier::acceptor(session.clone(), channel, end, arrivals);
        carrier.handle_arrival(arrival);
        carrier.run().await;
    };
    tokio::select! {
        () = served => {}
        () = session.over() => {}
    }
    let mut state = session.lock();
    // Another one may have begun under the same number since.
    if state.datagrams.get(&channel).is_some_and(mpsc::Sender::is_closed) {
        state.datagrams.remove(&channel);
    }
}

enum Admission {
    New(Arrival, mpsc::Receiver<Arrival>),
    /// The channel's task has it.
    Known,
    TooMany(Arrival),
}

fn admit(session: &Session, mut arrival: Arrival) -> Admission {
    let channel = arrival.opening.channel;
    let mut state = session.lock();
    if let Some(known) = state.datagrams.get(&channel) {
        match known.try_send(arrival) {
            // One that moves faster than it is followed gets its newest place reset, and looks for another.
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return Admission::Known,
            Err(mpsc::error::TrySendError::Closed(returned)) => arrival = returned,
        }
    } else if state.datagrams.len() >= MAX_DATAGRAM_CHANNELS {
        return Admission::TooMany(arrival);
    }
    let (sender, arrivals) = mpsc::channel(MAX_ATTACHED);
    state.datagrams.insert(channel, sender);
    Admission::New(arrival, arrivals)
}

async fn refuse(mut io: LinkStream) {
    if io.write_all(&[REFUSED]).await.is_ok() {
        let _ = poll_fn(|cx| io.poll_close(cx)).await;
    }
}
