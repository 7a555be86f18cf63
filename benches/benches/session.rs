//! The state machines of a session stream: both ends, without a link and without a clock.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use criterion::{Criterion, Throughput};
use tun_proto::limits::{ACK_DELAY, DATA_HEADROOM, MAX_DATA, SESSION_BUDGET};
use tun_proto::session::budget::Budget;
use tun_proto::session::recv::Next;
use tun_proto::session::stream::{Stream, Transmit};
use tun_proto::wire::login::Id;
use tun_proto::wire::stream::{AttachMode, Frame};

/// Bytes that cross in one iteration.
const BULK: usize = 1 << 20;

/// Bytes of a small frame.
const SMALL: usize = 100;

/// Turns in which a stream with one message each way has ended.
const TURNS: usize = 8;

/// Two ends that are attached to each other.
struct Ends {
    opener: Stream,
    acceptor: Stream,
    epoch: u32,
    now: Instant,
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    // A life that does not end would be measured as one that does.
    live()?;
    let mut group = criterion.benchmark_group("session");
    for (name, size) in [("1 MiB in full frames", MAX_DATA), ("1 MiB in frames of 100 bytes", SMALL)] {
        let mut ends = Ends::new()?;
        group.throughput(Throughput::Bytes(BULK as u64));
        group.bench_function(name, |bencher| bencher.iter(|| ends.carry(BULK, size)));
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("life of a stream", |bencher| bencher.iter(live));
    group.finish();
    criterion.final_summary();
    Ok(())
}

/// A stream from its opening to its end, with one message each way.
fn live() -> Result<()> {
    let mut ends = Ends::new()?;
    ends.opener.push(chunk(SMALL));
    ends.opener.finish();
    ends.acceptor.push(chunk(SMALL));
    ends.acceptor.finish();
    for _ in 0..TURNS {
        ends.exchange();
        if ends.opener.is_closed() && ends.acceptor.is_closed() {
            return Ok(());
        }
        ends.now += ACK_DELAY;
    }
    ensure!(false, "the stream does not end");
    Ok(())
}

impl Ends {
    fn new() -> Result<Self> {
        let (id, now) = (Id([7; 16]), Instant::now());
        let mut opener = Stream::open(id, Bytes::from_static(b"{}"), Budget::new(SESSION_BUDGET));
        let mut acceptor = Stream::accept(id, Budget::new(SESSION_BUDGET));
        let epoch = opener.attach(AttachMode::Resend);
        let Some(Transmit::Attach(attach)) = opener.poll_transmit(epoch, now) else {
            anyhow::bail!("a new stream does not attach itself")
        };
        acceptor.handle_attach(&attach, now).ok().context("the attachment is refused")?;
        Ok(Self { opener, acceptor, epoch, now })
    }

    /// Carries so many bytes, in frames of this size.
    fn carry(&mut self, bytes: usize, size: usize) {
        let mut delivered = 0;
        while delivered < bytes {
            if self.opener.room() >= size {
                self.opener.push(chunk(size));
            }
            delivered += self.exchange();
        }
    }

    /// Gives each end what the other has to say; returns the bytes that arrived at the acceptor.
    fn exchange(&mut self) -> usize {
        hand_over(&mut self.opener, &mut self.acceptor, self.epoch, self.now);
        let delivered = deliver(&mut self.acceptor, self.now);
        hand_over(&mut self.acceptor, &mut self.opener, self.epoch, self.now);
        deliver(&mut self.opener, self.now);
        delivered
    }
}

/// A chunk as a pump reads it: with room for the header of its frame.
fn chunk(size: usize) -> BytesMut {
    let mut chunk = BytesMut::with_capacity(DATA_HEADROOM + size);
    chunk.put_bytes(0, DATA_HEADROOM);
    chunk.put_bytes(7, size);
    chunk
}

/// Gives all frames that one end has to the other, encoded and decoded as on the way.
fn hand_over(from: &mut Stream, to: &mut Stream, epoch: u32, now: Instant) {
    while let Some(transmit) = from.poll_transmit(epoch, now) {
        let mut bytes = match transmit {
            Transmit::Data(bytes) => bytes,
            other => {
                let mut bytes = BytesMut::new();
                other.encode(&mut bytes);
                bytes.freeze()
            }
        };
        while let Ok(Some(frame)) = Frame::decode(&mut bytes) {
            // One that is against the rules would show as bytes that never arrive.
            let _ = to.handle_frame(epoch, frame, now);
        }
    }
}

/// Takes what has arrived; returns how many bytes.
fn deliver(stream: &mut Stream, now: Instant) -> usize {
    let mut delivered = 0;
    while let Some(next) = stream.next(now) {
        match next {
            Next::Data(data) => {
                let len = data.len();
                delivered += len;
                stream.consume(len, now);
            }
            Next::Fin | Next::Reset(_) => stream.consume_end(now),
        }
    }
    delivered
}
