//! Several ways to one end, tried beside each other, each a little after the one before (in the manner of RFC 8305): which
//! starts when, and which is taken.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long an attempt may stay without an answer before another is made beside it.
pub const HEDGE_AFTER: Duration = Duration::from_secs(2);

/// What the one before is ahead where it is not certain that one of the two works at all (RFC 8305, section 5).
pub const HEAD_START: Duration = Duration::from_millis(250);

/// A connection of TCP and TLS takes two round trips where QUIC takes one, and costs half the processor time of QUIC
/// from then on: it is waited for until this many times what QUIC took.
const STREAM_PATIENCE: u32 = 3;

/// What takes part in a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runner {
    /// What tells it apart. The same one may run again after itself, but not beside itself.
    pub way: usize,
    /// Datagrams: whether nobody is there, or they are blocked, shows by silence alone.
    pub datagrams: bool,
    /// It has worked before.
    pub proven: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Start this one, and ask again.
    Start(usize),
    /// This one has won; others that are ready as well are not needed.
    Take(usize),
    /// All have failed.
    Lost,
    /// Wait for one of those that run, until this moment at most.
    Wait(Option<Instant>),
}

/// A race under way.
#[derive(Debug)]
pub struct Race {
    waiting: VecDeque<Runner>,
    running: Vec<Run>,
    ready: Option<Ready>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    runner: Runner,
    since: Instant,
}

/// One that is ready, perhaps while a better one is on its way.
#[derive(Debug)]
struct Ready {
    run: Run,
    until: Instant,
}

impl Race {
    /// Lets them run in this order, which is that of preference.
    pub fn new(runners: impl IntoIterator<Item = Runner>) -> Self {
        Race { waiting: runners.into_iter().collect(), running: Vec::new(), ready: None }
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: Instant) -> Turn {
        if let Some(ready) = &self.ready {
            return match now >= ready.until || !self.is_better_awaited(ready.run) {
                true => Turn::Take(ready.run.runner.way),
                false => Turn::Wait(Some(ready.until)),
            };
        }
        let due = if self.running.is_empty() { Some(now) } else { self.next_start() };
        if due.is_none_or(|due| due > now) {
            return Turn::Wait(due);
        }
        // Beside each other they are different ones.
        let running = &self.running;
        self.waiting.retain(|runner| running.iter().all(|run| run.runner.way != runner.way));
        let Some(runner) = self.waiting.pop_front() else { return Turn::Lost };
        self.running.push(Run { runner, since: now });
        Turn::Start(runner.way)
    }

    /// One that runs is ready.
    pub fn handle_ready(&mut self, way: usize, now: Instant) {
        let Some(run) = self.leave(way) else { return };
        let until = match self.ready {
            None => self.patience(run, now),
            // It was waited for.
            Some(_) => now,
        };
        self.ready = Some(Ready { run, until });
    }

    /// One that runs has failed.
    pub fn handle_failed(&mut self, way: usize) {
        self.leave(way);
    }

    fn leave(&mut self, way: usize) -> Option<Run> {
        let index = self.running.iter().position(|run| run.runner.way == way)?;
        Some(self.running.swap_remove(index))
    }

    /// Streams that began before `run`, which is one of datagrams, and may still be ready in time.
    fn better(&self, run: Run) -> impl Iterator<Item = &Run> {
        let streams = self.running.iter().filter(move |other| !other.runner.datagrams);
        streams.filter(move |other| run.runner.datagrams && other.since < run.since)
    }

    fn is_better_awaited(&self, run: Run) -> bool {
        self.better(run).next().is_some()
    }

    fn patience(&self, run: Run, now: Instant) -> Instant {
        let allowed = now.saturating_duration_since(run.since) * STREAM_PATIENCE;
        self.better(run).map(|other| other.since + allowed).max().unwrap_or(now)
    }

    /// When the next that waits may start beside those that run.
    fn next_start(&self) -> Option<Instant> {
        let runs = |runner: &Runner| self.running.iter().any(|run| run.runner.way == runner.way);
        let next = self.waiting.iter().find(|runner| !runs(runner))?;
        let latest = |datagrams: bool| {
            let of_kind = self.running.iter().filter(|run| run.runner.datagrams == datagrams);
            of_kind.max_by_key(|run| run.since)
        };
        let (before, certain) = match (latest(false), latest(true)) {
            // A stream that is refused says so: silence has another reason, and is rare.
            (Some(stream), _) => (stream, !next.datagrams || stream.runner.proven),
            (None, Some(datagrams)) => (datagrams, datagrams.runner.proven),
            (None, None) => return None,
        };
        Some(before.since + if certain { HEDGE_AFTER } else { HEAD_START })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::{Fails, Ready, Silent};

    const STREAM: usize = 0;
    const QUIC: usize = 1;
    const WEB: usize = 2;
    const ALL: [Runner; 3] = [new(STREAM), new(QUIC), new(WEB)];

    const fn new(way: usize) -> Runner {
        Runner { way, datagrams: way == QUIC, proven: false }
    }

    const fn proven(way: usize) -> Runner {
        Runner { proven: true, ..new(way) }
    }

    /// What becomes of one: it is ready after so many milliseconds, or fails; or it is silent.
    #[derive(Clone, Copy)]
    enum Fate {
        Ready(u64),
        Fails(u64),
        Silent,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Course {
        won: Option<usize>,
        /// Milliseconds until that was clear.
        took: u64,
        /// Who started when.
        started: Vec<(usize, u64)>,
    }

    #[allow(clippy::disallowed_methods, reason = "the origin of a clock that only these tests turn")]
    fn race(runners: &[Runner], fates: [Fate; 3]) -> Course {
        let begin = Instant::now();
        let at = |millis: u64| begin + Duration::from_millis(millis);
        let mut race = Race::new(runners.iter().copied());
        let mut started = Vec::new();
        let mut ends: Vec<(u64, usize, bool)> = Vec::new();
        let mut took = 0;
        loop {
            match race.poll(at(took)) {
                Turn::Start(way) => {
                    started.push((way, took));
                    match fates[way] {
                        Ready(after) => ends.push((took + after, way, true)),
                        Fails(after) => ends.push((took + after, way, false)),
                        Silent => {}
                    }
                }
                Turn::Take(way) => return Course { won: Some(way), took, started },
                Turn::Lost => return Course { won: None, took, started },
                Turn::Wait(until) => {
                    let until = until.map_or(u64::MAX, |until| (until - begin).as_millis() as u64);
                    ends.sort_unstable();
                    if ends.first().is_some_and(|end| end.0 <= until) {
                        let (now, way, ready) = ends.remove(0);
                        took = now;
                        match ready {
                            true => race.handle_ready(way, at(now)),
                            false => race.handle_failed(way),
                        }
                    } else {
                        assert_ne!(until, u64::MAX, "nothing would ever happen");
                        took = until;
                    }
                }
            }
        }
    }

    fn won(way: usize, took: u64, started: &[(usize, u64)]) -> Course {
        Course { won: Some(way), took, started: started.to_vec() }
    }

    #[test]
    fn where_tcp_works_nothing_else_is_tried() {
        assert_eq!(race(&ALL, [Ready(120), Ready(60), Ready(200)]), won(STREAM, 120, &[(STREAM, 0)]));
    }

    #[test]
    fn on_a_long_way_tcp_is_preferred_to_a_quic_that_is_ready_first() {
        // A round trip of 600 ms.
        let course = race(&ALL, [Ready(1250), Ready(600), Silent]);
        assert_eq!(course, won(STREAM, 1250, &[(STREAM, 0), (QUIC, 250)]));
    }

    #[test]
    fn a_tcp_that_does_not_come_is_not_waited_for_long() {
        let course = race(&ALL, [Ready(1950), Ready(600), Silent]);
        assert_eq!(course, won(QUIC, 1800, &[(STREAM, 0), (QUIC, 250)]));
    }

    #[test]
    fn where_tcp_is_silent_quic_is_there_after_a_moment() {
        let course = race(&ALL, [Silent, Ready(50), Silent]);
        assert_eq!(course, won(QUIC, 300, &[(STREAM, 0), (QUIC, 250)]));
    }

    #[test]
    fn where_tcp_is_refused_quic_starts_at_once() {
        let course = race(&ALL, [Fails(20), Ready(50), Silent]);
        assert_eq!(course, won(QUIC, 70, &[(STREAM, 0), (QUIC, 20)]));
    }

    #[test]
    fn where_tcp_is_refused_and_udp_silent_the_web_is_soon_there() {
        let course = race(&ALL, [Fails(20), Silent, Ready(100)]);
        assert_eq!(course, won(WEB, 370, &[(STREAM, 0), (QUIC, 20), (WEB, 270)]));
    }

    #[test]
    fn where_tcp_and_udp_are_silent_the_web_is_tried_beside_them() {
        let course = race(&ALL, [Silent, Silent, Ready(100)]);
        assert_eq!(course, won(WEB, 2100, &[(STREAM, 0), (QUIC, 250), (WEB, 2000)]));
    }

    #[test]
    fn udp_that_is_blocked_does_not_hold_up_a_slow_tcp() {
        let course = race(&ALL, [Ready(900), Silent, Silent]);
        assert_eq!(course, won(STREAM, 900, &[(STREAM, 0), (QUIC, 250)]));
    }

    #[test]
    fn what_is_ready_is_taken_when_the_one_it_waits_for_fails() {
        let course = race(&ALL, [Fails(600), Ready(300), Silent]);
        assert_eq!(course, won(QUIC, 600, &[(STREAM, 0), (QUIC, 250)]));
    }

    #[test]
    fn what_has_worked_is_tried_alone_and_again() {
        let order = [proven(QUIC), proven(QUIC), new(STREAM), new(WEB)];
        assert_eq!(race(&order, [Ready(10), Ready(700), Silent]), won(QUIC, 700, &[(QUIC, 0)]));
        let course = race(&order, [Ready(10), Fails(5), Silent]);
        assert_eq!(course, won(STREAM, 20, &[(QUIC, 0), (QUIC, 5), (STREAM, 10)]));
        let course = race(&order, [Ready(10), Silent, Silent]);
        assert_eq!(course, won(STREAM, 2010, &[(QUIC, 0), (STREAM, 2000)]));
    }

    #[test]
    fn when_all_have_failed_it_is_lost() {
        let course = race(&ALL, [Fails(10), Fails(20), Fails(30)]);
        assert_eq!(course, Course { won: None, took: 60, started: vec![(STREAM, 0), (QUIC, 10), (WEB, 30)] });
    }
}
