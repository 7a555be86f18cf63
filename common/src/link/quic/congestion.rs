//! Congestion control, and with it the news that the peer received something it had not received before, and what is
//! different on a path that fell silent.
//!
//! quinn counts acknowledgements, but a packet of the peer repeats old ones: only its congestion controller is told what
//! they are about.
//!
//! When a path falls silent, the window is full of what was lost in it, and stays full until an acknowledgement says so.
//! What could bring that is sent at intervals that double each time: a path that is back after half a second would be
//! noticed after another one. So the window gets one more packet for every pulse that is sent while the path is suspect;
//! the first to be acknowledged shows what was lost. That is no sign of congestion, under which some packets arrive: the
//! window is what it was before, and transfers go on as they were.

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes that a packet takes at most of the window. MTU discovery ends at 1452 (quinn's default), and a packet must leave
/// the window with something to spare.
const PACKET: u64 = 1500;

/// What the controller and the one who watches the path tell each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Acknowledged(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Packets that the peer has acknowledged, whatever path they took.
    acknowledged: AtomicU64,
    /// Bytes by which the window is larger than congestion control has it; 0 unless the path is suspect.
    extra: AtomicU64,
}

impl Acknowledged {
    /// How many packets the peer has acknowledged.
    pub(super) fn count(&self) -> u64 {
        self.0.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets one more packet leave than congestion control would, until [`Acknowledged::settle`].
    pub(super) fn allow_one_more(&self) {
        self.0.extra.fetch_add(PACKET, Ordering::Relaxed);
    }

    /// Leaves it to congestion control again.
    pub(super) fn settle(&self) {
        self.0.extra.store(0, Ordering::Relaxed);
    }
}

/// Makes [`Counting`] controllers.
pub(super) struct CountingConfig {
    inner: Arc<CubicConfig>,
    acknowledged: Acknowledged,
}

impl CountingConfig {
    pub(super) fn new(inner: CubicConfig, acknowledged: Acknowledged) -> Self {
        CountingConfig { inner: Arc::new(inner), acknowledged }
    }
}

impl ControllerFactory for CountingConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = self.inner.clone().build(now, current_mtu);
        let acknowledged = self.acknowledged.clone();
        Box::new(Counting { inner, acknowledged, filled: 0, oldest: None, silence: None })
    }
}

/// Counts, and leaves the decisions to another controller.
struct Counting {
    inner: Box<dyn Controller>,
    acknowledged: Acknowledged,
    /// The window when a packet last left while the path was trusted: no more is in flight.
    filled: u64,
    /// When the oldest of what is not acknowledged can have left, as of the last acknowledgement.
    oldest: Option<Instant>,
    /// The last time of silence.
    silence: Option<Silence>,
}

/// A time in which what was sent did not arrive, or was not known to.
#[derive(Debug, Clone, Copy)]
struct Silence {
    /// Packets that left before were lost to something else.
    since: Option<Instant>,
    /// So were those that left later; `None` as long as it lasts.
    until: Option<Instant>,
}

impl Counting {
    fn is_trusted(&self) -> bool {
        self.acknowledged.0.extra.load(Ordering::Relaxed) == 0
    }

    /// Takes note of where silence begins and ends.
    fn listen(&mut self, now: Instant) {
        let trusted = self.is_trusted();
        match (&mut self.silence, trusted) {
            (Some(Silence { until: until @ None, .. }), true) => *until = Some(now),
            (None | Some(Silence { until: Some(_), .. }), false) => {
                self.silence = Some(Silence { since: self.oldest, until: None });
            }
            _ => {}
        }
    }

    fn was_silent(&self, sent: Instant) -> bool {
        self.silence.is_some_and(|silence| {
            silence.since.is_none_or(|since| sent >= since) && silence.until.is_none_or(|until| sent <= until)
        })
    }
}

impl Controller for Counting {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
        self.listen(now);
        if self.is_trusted() {
            self.filled = self.inner.window();
        }
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.acknowledged.0.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.listen(now);
        self.oldest = Some(sent);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.listen(now);
        if !self.was_silent(sent) {
            self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let window = self.inner.window();
        match self.acknowledged.0.extra.load(Ordering::Relaxed) {
            0 => window,
            extra => window.max(self.filled) + extra,
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let (inner, acknowledged) = (self.inner.clone_box(), self.acknowledged.clone());
        Box::new(Counting { inner, acknowledged, ..*self })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
