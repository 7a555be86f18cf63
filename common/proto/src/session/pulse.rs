//! Whether a direct path still carries what is sent: noticed within a fraction of a second, at no cost while idle.
//!
//! While bytes move, the driver sends a tiny datagram every [`INTERVAL`], so that there is always something for the
//! peer to acknowledge. Acknowledgements prove both directions at once: without new ones the path is suspect, even if
//! the peer's own bytes still arrive. How long they may be missing depends on how long they lately were missing for
//! nothing. The round trip matters only for the first of them; afterwards they come as steadily as they are asked for.
//!
//! On a loaded machine a timer fires late. Time in which nobody looked does not count as silence.

use std::time::{Duration, Instant};

/// How often a pulse is sent while bytes move.
pub const INTERVAL: Duration = Duration::from_millis(25);

/// How often one is sent over a path that has been suspect for [`DOUBTED_LONG`].
const SLOW_INTERVAL: Duration = Duration::from_millis(100);

/// How long a path must have been suspect before it is worth fewer datagrams.
const DOUBTED_LONG: Duration = Duration::from_secs(1);

/// How long pulses go on after bytes last moved: a conversation with pauses is watched as a whole.
const LINGER: Duration = Duration::from_secs(2);

/// How long a peer should wait at most with an acknowledgement, so that every pulse gets its own.
pub const ACK_DELAY: Duration = Duration::from_millis(10);

/// Longest time without an acknowledgement that is never suspect: [`INTERVAL`] and [`ACK_DELAY`], and the rest for what
/// schedulers and radios do. Three lost packets in a row fit in as well.
const PATIENCE: Duration = Duration::from_millis(125);

/// Longest silence that is taken for one of the path's habits, if it ends; a longer one was an outage.
const LONGEST_HABIT: Duration = Duration::from_millis(250);

/// Time in which a habit is forgotten.
const HABIT_FADES: Duration = Duration::from_secs(60);

/// Acknowledgements in a row that clear a path of suspicion, and for how long they must have been coming.
const PROOF: (u32, Duration) = (3, Duration::from_millis(75));

/// Where pulses stop being in a row: more than two of the slower ones are missing.
const BROKEN_ROW: Duration = Duration::from_millis(250);

/// What the driver sees when it looks.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// How much has been acknowledged so far, in any unit: repeated acknowledgements of the same do not count.
    pub acknowledgements: u64,
    /// The round trip, smoothed.
    pub round_trip: Duration,
}

/// Watches one path.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    run: Option<Run>,
    suspect: Option<Suspicion>,
    acknowledgements: u64,
    /// The longest silence that ended well lately, and when it ended.
    habit: Option<(Duration, Instant)>,
}

/// The time from the first bytes after a pause to the next pause.
#[derive(Debug, Clone)]
struct Run {
    began: Instant,
    /// When the next pulse is due.
    due: Instant,
    /// When bytes last moved.
    moved: Instant,
    /// When an acknowledgement last came, later by the time in which nobody looked.
    answered: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Suspicion {
    since: Instant,
    /// Acknowledgements in a row, and when the first of them came.
    proof: (u32, Instant),
}

impl Pulse {
    /// A path on which nothing moves yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes moved at `now`, or were to move and could not.
    pub fn handle_activity(&mut self, now: Instant) {
        match &mut self.run {
            Some(run) => run.moved = now,
            None => self.run = Some(Run { began: now, due: now, moved: now, answered: None }),
        }
    }

    /// Looks at the path, at the time that [`Pulse::poll_timeout`] names. True if a pulse is to be sent now.
    pub fn poll(&mut self, now: Instant, sight: Sight) -> bool {
        let answered = sight.acknowledgements != self.acknowledgements;
        self.acknowledgements = sight.acknowledgements;
        let habit = self.habit(now);
        let Some(run) = &mut self.run else { return false };
        if now < run.due {
            return false;
        }
        run.forgive(now - run.due);
        if answered {
            let silence = run.answered.map(|before| now.saturating_duration_since(before));
            run.answered = Some(now);
            if let Some(silence) = silence.filter(|silence| (habit..=LONGEST_HABIT).contains(silence)) {
                self.habit = Some((silence, now));
            }
            self.suspect = self.suspect.and_then(|suspicion| suspicion.answered(now, silence));
        } else if self.suspect.is_none() && now >= run.expected(sight.round_trip) + patience(habit) {
            self.suspect = Some(Suspicion { since: now, proof: (0, now) });
        }
        if self.suspect.is_none() && now >= run.moved + LINGER {
            self.run = None;
            return false;
        }
        run.due = now + self.suspect.map_or(INTERVAL, |suspicion| suspicion.interval(now));
        true
    }

    /// True while the path should not be trusted.
    pub fn is_suspect(&self) -> bool {
        self.suspect.is_some()
    }

    /// When to look next; `None` until bytes move.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.run.as_ref().map(|run| run.due)
    }

    /// The longest silence that is usual here, fading.
    fn habit(&self, now: Instant) -> Duration {
        let Some((silence, ended)) = self.habit else { return Duration::ZERO };
        let age = now.saturating_duration_since(ended).min(HABIT_FADES);
        silence.mul_f64(1.0 - age.as_secs_f64() / HABIT_FADES.as_secs_f64())
    }
}

/// How long an acknowledgement may be overdue.
fn patience(habit: Duration) -> Duration {
    PATIENCE.max(habit * 3 / 2)
}

impl Run {
    /// A look came late by this: what may have arrived meanwhile has yet to be taken in.
    fn forgive(&mut self, late: Duration) {
        self.began += late;
        self.answered = self.answered.map(|at| at + late);
    }

    /// When silence begins to count.
    fn expected(&self, round_trip: Duration) -> Instant {
        let first = self.began + round_trip + round_trip / 4;
        self.answered.map_or(first, |at| at.max(first))
    }
}

impl Suspicion {
    /// An acknowledgement came after `silence`; `None` if that proves enough.
    fn answered(mut self, now: Instant, silence: Option<Duration>) -> Option<Self> {
        let (count, since) = match silence {
            Some(silence) if silence < BROKEN_ROW && self.proof.0 > 0 => (self.proof.0 + 1, self.proof.1),
            _ => (1, now),
        };
        self.proof = (count, since);
        (count < PROOF.0 || now < since + PROOF.1).then_some(self)
    }

    fn interval(&self, now: Instant) -> Duration {
        let hopeful = self.proof.0 > 0 && now < self.proof.1 + BROKEN_ROW;
        if hopeful || now < self.since + DOUBTED_LONG { INTERVAL } else { SLOW_INTERVAL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::test_clock;
    use std::collections::VecDeque;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A path with a clock of its own, from whose two ends one is looked at.
    struct Path {
        start: Instant,
        now: Instant,
        round_trip: Duration,
        pulse: Pulse,
        /// When acknowledgements will arrive.
        under_way: VecDeque<Instant>,
        acknowledgements: u64,
        sent: usize,
        cut: bool,
        busy: bool,
    }

    impl Path {
        fn new(round_trip: Duration) -> Self {
            let start = test_clock();
            Path {
                start,
                now: start,
                round_trip,
                pulse: Pulse::new(),
                under_way: VecDeque::new(),
                acknowledgements: 0,
                sent: 0,
                cut: false,
                busy: true,
            }
        }

        /// Lets time pass; returns when suspicion first differed from what it was, counted from the call.
        fn run(&mut self, time: Duration) -> Option<Duration> {
            let (from, end, before) = (self.now, self.now + time, self.pulse.is_suspect());
            let mut changed = None;
            while self.now < end {
                if self.busy {
                    self.pulse.handle_activity(self.now);
                }
                if self.pulse.poll_timeout().is_some_and(|due| due <= self.now) {
                    self.look();
                }
                if changed.is_none() && self.pulse.is_suspect() != before {
                    changed = Some(self.now - from);
                }
                self.now += ms(1);
            }
            changed
        }

        fn look(&mut self) {
            while self.under_way.front().is_some_and(|at| *at <= self.now) {
                self.under_way.pop_front();
                self.acknowledgements += 1;
            }
            let sight = Sight { acknowledgements: self.acknowledgements, round_trip: self.round_trip };
            if self.pulse.poll(self.now, sight) {
                self.sent += 1;
                if !self.cut {
                    self.under_way.push_back(self.now + self.round_trip + ACK_DELAY);
                }
            }
        }

        fn cut(&mut self) {
            self.cut = true;
            self.under_way.clear();
        }

        fn restore(&mut self) {
            self.cut = false;
        }
    }

    #[test]
    fn a_cut_is_noticed_within_a_sixth_of_a_second_whatever_the_round_trip() {
        for round_trip in [1, 20, 100, 300].map(ms) {
            let mut path = Path::new(round_trip);
            assert_eq!(path.run(ms(5000)), None, "{round_trip:?}");
            path.cut();
            let noticed = path.run(ms(1000)).unwrap();
            assert!(noticed <= ms(165), "{round_trip:?}: {noticed:?}");
        }
    }

    #[test]
    fn a_path_that_died_in_a_pause_is_noticed_a_round_trip_later_than_that() {
        let mut path = Path::new(ms(100));
        path.run(ms(1000));
        path.busy = false;
        path.run(ms(60_000));
        path.cut();
        path.busy = true;
        let noticed = path.run(ms(1000)).unwrap();
        assert!((ms(225)..=ms(300)).contains(&noticed), "{noticed:?}");
    }

    #[test]
    fn an_idle_path_costs_nothing() {
        let mut path = Path::new(ms(20));
        path.run(ms(1000));
        path.busy = false;
        path.run(LINGER + INTERVAL);
        let sent = path.sent;
        path.run(ms(60_000));
        assert_eq!((path.sent, path.pulse.poll_timeout()), (sent, None));
    }

    #[test]
    fn a_path_that_works_again_is_trusted_after_proof() {
        let mut path = Path::new(ms(100));
        path.run(ms(1000));
        path.cut();
        path.run(ms(3000)).unwrap();
        path.busy = false;
        path.restore();
        let trusted = path.run(ms(1000)).unwrap();
        assert!((ms(175)..=ms(400)).contains(&trusted), "{trusted:?}");
    }

    #[test]
    fn one_acknowledgement_is_no_proof() {
        let mut path = Path::new(ms(20));
        path.run(ms(1000));
        path.cut();
        path.run(ms(400)).unwrap();
        path.acknowledgements += 1;
        assert_eq!(path.run(ms(5000)), None);
    }

    #[test]
    fn a_watcher_that_was_not_scheduled_does_not_take_that_for_silence() {
        let mut path = Path::new(ms(20));
        path.run(ms(1000));
        // The machine stands still: what arrives is not taken in before the next look but one.
        path.now += ms(700);
        path.under_way = path.under_way.drain(..).map(|at| at + ms(720)).collect();
        assert_eq!(path.run(ms(1000)), None);
    }

    #[test]
    fn silences_that_are_usual_on_a_path_are_soon_not_suspect() {
        let mut path = Path::new(ms(20));
        let mut suspicions = 0;
        for _ in 0..60 {
            path.run(ms(1000));
            // A radio that looks around: everything comes late.
            let late = path.now + ms(150);
            path.under_way = path.under_way.drain(..).map(|at| at.max(late)).collect();
            path.cut = true;
            suspicions += usize::from(path.run(ms(150)).is_some());
            path.restore();
            path.run(ms(500));
        }
        assert!(suspicions <= 1, "{suspicions}");
    }

    #[test]
    fn an_outage_does_not_teach_patience() {
        let mut path = Path::new(ms(20));
        for _ in 0..5 {
            path.run(ms(2000));
            path.cut();
            let noticed = path.run(ms(1500)).unwrap();
            assert!(noticed <= ms(165), "{noticed:?}");
            path.restore();
        }
    }

    #[test]
    fn a_path_is_watched_from_the_first_bytes() {
        let mut path = Path::new(ms(20));
        path.run(ms(1));
        assert_eq!((path.sent, path.now - path.start), (1, ms(1)));
    }
}
