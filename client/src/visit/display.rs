//! How a visit is doing, on one line of a terminal.

use super::status::{VisitState, VisitStatus};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tun_common::link::Link;
use tun_common::log::StatusLine;
use tun_proto::wire::login::Id;

/// How often the line is drawn anew.
const REFRESH: Duration = Duration::from_millis(500);

/// Keeps `line` up to date until the visitor is gone; takes it away in the end, also when it is stopped.
pub(crate) async fn show(line: StatusLine, name: String, mut status: watch::Receiver<VisitStatus>) {
    let shown = Shown(line);
    let mut meter = Meter::default();
    let mut tick = interval(REFRESH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let present = status.borrow_and_update().clone();
        let reading = meter.read(&present, Instant::now());
        shown.0.show(&compose(&name, &present, &reading));
        tokio::select! {
            _ = tick.tick() => {}
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

struct Shown(StatusLine);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.clear();
    }
}

fn compose(name: &str, status: &VisitStatus, reading: &Reading) -> String {
    let mut parts = Vec::with_capacity(6);
    let mut reason = None;
    parts.push(match &status.state {
        VisitState::Idle => format!("[{name}] not connected, nobody needs it"),
        VisitState::Connecting { reason: why } => {
            reason = why.as_ref().map(|why| format!("({why})"));
            format!("[{name}] connecting")
        }
        VisitState::Relayed { by, why } => {
            reason = why.as_ref().map(|why| format!("(no direct connection: {why})"));
            format!("[{name}] relayed by {by}")
        }
        VisitState::Direct { address } => format!("[{name}] direct to {address}"),
    });
    parts.extend(reading.round_trip.map(|round_trip| format!("{:.1} ms", round_trip.as_secs_f64() * 1e3)));
    parts.push(match reading.connections {
        1 => "1 connection".to_owned(),
        n => format!("{n} connections"),
    });
    for (way, total, rate) in [("up", reading.up, reading.up_rate), ("down", reading.down, reading.down_rate)]
    {
        parts.push(format!("{way} {} ({}/s)", bytes(total), bytes(rate)));
    }
    let mut text = parts.join(", ");
    if let Some(reason) = reason {
        text += " ";
        text += &reason;
    }
    text
}

/// `n` bytes with three digits or so.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// What the line says in numbers: bytes, and bytes in a second.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Reading {
    /// To the proxy's client and back, over the link that new connections take.
    round_trip: Option<Duration>,
    connections: usize,
    up: u64,
    down: u64,
    up_rate: u64,
    down_rate: u64,
}

/// Adds up what crossed all links of the visit, also those that are gone.
#[derive(Default)]
struct Meter {
    /// By session and number.
    links: HashMap<(Id, u32), Link>,
    /// Of links that are gone.
    up: u64,
    down: u64,
    last: Option<(Instant, Reading)>,
}

impl Meter {
    fn read(&mut self, status: &VisitStatus, now: Instant) -> Reading {
        let (mut present, mut connections) = (Vec::new(), 0);
        if let Some(session) = &status.session {
            present.extend(session.links().into_iter().map(|link| ((session.id(), link.number()), link)));
            connections = session.stream_count();
        }
        let best = present.iter().map(|(_, link)| link).max_by_key(|link| (!link.is_suspect(), link.kind()));
        let round_trip = best.and_then(Link::round_trip);
        self.links.extend(present);
        let mut reading = Reading { round_trip, connections, ..Reading::default() };
        self.links.retain(|_, link| {
            let (up, down) = (link.traffic().written(), link.traffic().read());
            let gone = link.is_gone();
            if gone {
                self.up += up;
                self.down += down;
            } else {
                reading.up += up;
                reading.down += down;
            }
            !gone
        });
        reading.up += self.up;
        reading.down += self.down;
        self.rate(&mut reading, now);
        reading
    }

    /// Fills in the rates, of the time since they were measured last.
    fn rate(&mut self, reading: &mut Reading, now: Instant) {
        let (since, before) = *self.last.get_or_insert((now, *reading));
        let period = now.saturating_duration_since(since);
        // A change of the status draws the line out of turn, which says nothing about rates.
        if period < REFRESH / 2 {
            (reading.up_rate, reading.down_rate) = (before.up_rate, before.down_rate);
            return;
        }
        let per_second = |bytes: u64| (bytes as f64 / period.as_secs_f64()) as u64;
        reading.up_rate = per_second(reading.up.saturating_sub(before.up));
        reading.down_rate = per_second(reading.down.saturating_sub(before.down));
        self.last = Some((now, *reading));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_how_and_how_much() {
        let line = |state, round_trip| {
            let (up, down, down_rate) = (1023, 5 << 20, 1_047_552);
            let reading = Reading { round_trip, connections: 1, up, down, up_rate: 0, down_rate };
            compose("ssh", &VisitStatus { state, session: None }, &reading)
        };
        let rest = "1 connection, up 1023 B (0 B/s), down 5.0 MiB (1.0 MiB/s)";
        let by = "tun.example.com:7000".to_owned();
        for (state, round_trip, begin, end) in [
            (VisitState::Idle, None, "[ssh] not connected, nobody needs it, ", ""),
            (VisitState::Connecting { reason: None }, None, "[ssh] connecting, ", ""),
            (
                VisitState::Relayed { by: by.clone(), why: None },
                None,
                "[ssh] relayed by tun.example.com:7000, ",
                "",
            ),
            (
                VisitState::Relayed { by, why: Some("UDP is blocked".into()) },
                None,
                "[ssh] relayed by tun.example.com:7000, ",
                " (no direct connection: UDP is blocked)",
            ),
            (
                VisitState::Direct { address: "192.0.2.7:7010".parse().unwrap() },
                Some(Duration::from_micros(12_340)),
                "[ssh] direct to 192.0.2.7:7010, 12.3 ms, ",
                "",
            ),
        ] {
            assert_eq!(line(state, round_trip), format!("{begin}{rest}{end}"));
        }
    }

    #[test]
    fn rates_are_those_of_the_last_period() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let mut at = |ms, up| {
            let mut reading = Reading { up, ..Reading::default() };
            meter.rate(&mut reading, start + Duration::from_millis(ms));
            reading.up_rate
        };
        assert_eq!([at(0, 100), at(500, 1100), at(600, 5000), at(1000, 1600)], [0, 2000, 2000, 1000]);
    }
}
