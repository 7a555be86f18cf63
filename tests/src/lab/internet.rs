//! The internet of a lab: a delay, routers in between, loss, a rate, and cuts, between TUN devices that this process holds.
//!
//! Each *end* of it is the device `wan` in some namespace. A thread reads what the namespace sends, decides which end it is
//! for and when it arrives, and another one writes it there in time.

mod line;
mod packet;
mod tap;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

pub(super) use line::open;
use line::{Line, Parcel};
use packet::{Header, Payload, travel};
use tap::Kept;
pub use tap::{Datagram, Tap};

use super::space::Space;
use crate::pattern::Pattern;

/// What lies between the ends.
#[derive(Debug, Clone, Copy)]
pub struct Internet {
    /// How long a packet takes between a site and the middle of it, where the server is, one way.
    pub delay: Duration,
    /// Routers on the way. A packet that may not pass so many does not arrive.
    pub hops: u8,
    /// The part of all packets that gets lost, from 0 to 1.
    pub loss: f64,
    /// Bytes a second that each end can send; without it, what this machine manages.
    pub rate: Option<u64>,
    /// Bytes of packets that can be on the way to an end, and that can wait for the rate of one. More is dropped.
    pub queue: usize,
    /// Decides which packets get lost.
    pub seed: u64,
}

impl Internet {
    /// An internet without delay.
    pub const NEAR: Internet =
        Internet { delay: Duration::ZERO, hops: 5, loss: 0.0, rate: None, queue: 8 << 20, seed: 1 };

    /// 25 ms each way between a site and the middle, five hops. The queue is what 1 Gbit/s keeps on the way, and 4 MiB that wait.
    pub const FAR: Internet = Internet { delay: Duration::from_millis(25), ..Self::NEAR };
}

/// A place where the internet ends: a site, or the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct End(usize);

/// The first that is connected.
const SERVER: End = End(0);

/// What a cut concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Everything.
    All,
    /// UDP.
    Udp,
}

/// Bytes of whole IP packets that have gone one way, without those that got lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// In UDP packets.
    pub udp: u64,
    /// In TCP packets.
    pub tcp: u64,
}

/// A way on which nothing passes, until this value goes.
#[derive(Debug)]
pub struct Cut {
    ways: Vec<Arc<Way>>,
    traffic: Traffic,
}

/// From one end to another.
#[derive(Debug, Default)]
struct Way {
    udp: AtomicU64,
    tcp: AtomicU64,
    delay_nanos: AtomicU64,
    cuts_of_all: AtomicUsize,
    cuts_of_udp: AtomicUsize,
}

/// The running internet. Its threads end with it.
#[derive(Debug)]
pub(super) struct Net {
    core: Arc<Core>,
}

/// What the threads of all ends share.
#[derive(Debug)]
struct Core {
    kind: Internet,
    started: Instant,
    map: RwLock<Map>,
}

#[derive(Debug, Default)]
struct Map {
    owners: HashMap<IpAddr, End>,
    lines: Vec<Arc<Line>>,
    ways: HashMap<(End, End), Arc<Way>>,
    taps: Vec<Arc<Kept>>,
}

impl Net {
    pub(super) fn new(kind: Internet) -> Self {
        let core = Core { kind, started: Instant::now(), map: RwLock::default() };
        Self { core: Arc::new(core) }
    }

    /// Makes the device `wan` in a namespace, and an end of it.
    pub(super) fn connect(&self, space: &Space) -> End {
        let mut map = self.core.map.write().expect("no panic while held");
        let end = End(map.lines.len());
        let line = Line::open(space).unwrap_or_else(|e| panic!("no TUN device in {}: {e}", space.name()));
        map.lines.push(Arc::clone(&line));
        for other in (0..=end.0).map(End) {
            for pair in [(end, other), (other, end)] {
                // The server is in the middle; from site to site it takes both ways.
                let server = pair.0 == SERVER || pair.1 == SERVER;
                let delay = self.core.kind.delay * if server { 1 } else { 2 };
                map.ways.entry(pair).or_insert_with(|| Arc::new(Way::lasting(delay)));
            }
        }
        drop(map);
        let sender = Sender {
            core: Arc::clone(&self.core),
            end,
            sent_at: Instant::now(),
            luck: luck(self.core.kind, end),
        };
        line.start(sender);
        end
    }

    /// From now on, packets to this address go there, and may come from there.
    pub(super) fn announce(&self, address: IpAddr, end: End) {
        self.core.map.write().expect("no panic while held").owners.insert(address, end);
    }

    /// From now on, nobody has this address.
    pub(super) fn withdraw(&self, address: IpAddr) {
        self.core.map.write().expect("no panic while held").owners.remove(&address);
    }

    pub(super) fn cut(&self, ways: &[(End, End)], traffic: Traffic) -> Cut {
        let cut = Cut { ways: ways.iter().map(|(from, to)| self.way(*from, *to)).collect(), traffic };
        for way in &cut.ways {
            way.cuts(traffic).fetch_add(1, Ordering::SeqCst);
        }
        cut
    }

    pub(super) fn carried(&self, from: End, to: End) -> Carried {
        let way = self.way(from, to);
        Carried { udp: way.udp.load(Ordering::SeqCst), tcp: way.tcp.load(Ordering::SeqCst) }
    }

    /// Listens at an end.
    pub(super) fn tap(&self, end: End) -> Tap {
        Tap::start(&self.core, end)
    }

    /// Sets how long one way takes.
    pub(super) fn delay(&self, from: End, to: End, delay: Duration) {
        self.way(from, to).delay_nanos.store(nanos(delay), Ordering::SeqCst);
    }

    fn way(&self, from: End, to: End) -> Arc<Way> {
        let map = self.core.map.read().expect("no panic while held");
        Arc::clone(map.ways.get(&(from, to)).expect("both are ends of this internet"))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.core.map.write().expect("no panic while held").lines);
        for line in &lines {
            line.stop();
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for way in &self.ways {
            way.cuts(self.traffic).fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Way {
    fn lasting(delay: Duration) -> Self {
        Self { delay_nanos: nanos(delay).into(), ..Self::default() }
    }

    fn cuts(&self, traffic: Traffic) -> &AtomicUsize {
        match traffic {
            Traffic::All => &self.cuts_of_all,
            Traffic::Udp => &self.cuts_of_udp,
        }
    }

    fn is_cut(&self, payload: Payload) -> bool {
        let cut = |cuts: &AtomicUsize| cuts.load(Ordering::Relaxed) > 0;
        cut(&self.cuts_of_all) || payload == Payload::Udp && cut(&self.cuts_of_udp)
    }

    fn count(&self, payload: Payload, len: usize) {
        let counter = match payload {
            Payload::Udp => &self.udp,
            Payload::Tcp => &self.tcp,
            Payload::Other => return,
        };
        counter.fetch_add(len as u64, Ordering::Relaxed);
    }
}

/// Decides about what one end sends.
#[derive(Debug)]
struct Sender {
    core: Arc<Core>,
    end: End,
    /// When all that was sent will have left, at the rate.
    sent_at: Instant,
    luck: Pattern,
}

impl Sender {
    /// Sends packets on their way, or forgets them.
    fn send(&mut self, packets: &mut Vec<Vec<u8>>) {
        let core = Arc::clone(&self.core);
        let map = core.map.read().expect("no panic while held");
        for mut packet in packets.drain(..) {
            let Some(header) = Header::of(&packet) else { continue };
            // A provider lets nobody speak from the address of somebody else (RFC 2827).
            if map.owners.get(&header.from) != Some(&self.end) {
                continue;
            }
            let Some(&to) = map.owners.get(&header.to) else { continue };
            let (Some(way), Some(line)) = (map.ways.get(&(self.end, to)), map.lines.get(to.0)) else {
                continue;
            };
            if way.is_cut(header.payload) || !travel(&mut packet, core.kind.hops) || self.unlucky() {
                continue;
            }
            let Some(leaves) = self.leaves(packet.len()) else { continue };
            let delay = Duration::from_nanos(way.delay_nanos.load(Ordering::Relaxed));
            let len = packet.len();
            let due = core.tick(leaves + delay);
            for tap in &map.taps {
                tap.hear(self.end, to, header, &packet);
            }
            if line.take(Parcel { due, packet }, core.kind.queue) {
                way.count(header.payload, len);
            }
        }
    }

    /// When so many bytes will have left.
    fn leaves(&mut self, len: usize) -> Option<Instant> {
        let now = Instant::now();
        let Some(rate) = self.core.kind.rate else { return Some(now) };
        let start = self.sent_at.max(now);
        let waiting = (start - now).as_secs_f64() * rate as f64;
        if waiting > self.core.kind.queue as f64 {
            return None;
        }
        self.sent_at = start + Duration::from_secs_f64(len as f64 / rate as f64);
        Some(self.sent_at)
    }

    fn unlucky(&mut self) -> bool {
        let loss = self.core.kind.loss;
        // The upper 53 bits are a fraction that f64 holds exactly.
        loss > 0.0 && (self.luck.word() >> 11) as f64 / (1_u64 << 53) as f64 <= loss
    }
}

impl Core {
    /// The next moment at which packets are delivered: those of one tick arrive together, which spares most wake-ups.
    fn tick(&self, due: Instant) -> Instant {
        const TICK: u64 = 250_000;
        if self.kind.delay.is_zero() {
            return due;
        }
        let since = nanos(due.saturating_duration_since(self.started));
        self.started + Duration::from_nanos(since.div_ceil(TICK) * TICK)
    }
}

fn luck(kind: Internet, end: End) -> Pattern {
    Pattern::new(kind.seed.wrapping_mul(0x1_0000_0001).wrapping_add(end.0 as u64))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
