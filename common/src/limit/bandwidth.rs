//! A limit on bytes per second that many share, each in its turn.
//!
//! Who wants to move bytes asks for a turn, gets one chunk, and stands at the end of the line for the next. So all who
//! want to move get equally much, whatever their number, and nobody starves. Turns are given out by a task of the limit,
//! not by those who wait: one of them that is stuck elsewhere, or gone, holds up nobody.

use super::account::Account;
use crate::lifecycle::Tasks;
use governor::clock::{Clock, DefaultClock};
use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A turn that is not used up lasts for this long, so that who moves many small pieces gets as many bytes as the others.
const SLICE: Duration = Duration::from_millis(1);

/// A limit. Clones are the same limit; it ends with the last of them. Costs no timer while nobody has to wait.
#[derive(Debug, Clone)]
pub struct Bandwidth {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    rate: NonZeroU64,
    line: Mutex<Line>,
    /// Somebody has begun to wait.
    asked: Notify,
}

/// Those who wait, in the order in which they came.
#[derive(Debug)]
struct Line<C: Clock + Clone = DefaultClock> {
    account: Account<C>,
    waiting: BTreeMap<u64, Waker>,
    next: u64,
}

/// One party's turns: those of one direction of a connection, or of one queue. Dropping it gives up its place.
#[derive(Debug)]
pub struct Turn {
    bandwidth: Bandwidth,
    place: Place,
}

/// Where a party stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    /// In line with this number, or at its turn if the line does not know the number any more.
    Waiting(u64),
    /// May move something.
    Admitted(Slice),
    /// Has moved something, and may come back.
    Resting(Slice),
}

/// What is left of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slice {
    bytes: usize,
    until: Instant,
}

impl Bandwidth {
    /// A limit of `rate` bytes a second; after a pause, what a tenth of a second brings may be moved at once. The task
    /// that gives turns out belongs to `tasks`, which must not be stopped before those who are under the limit.
    pub fn new(rate: NonZeroU64, tasks: &Tasks) -> Self {
        let account = Account::new(rate, DefaultClock::default());
        let shared = Arc::new(Shared { rate, line: Mutex::new(Line::new(account)), asked: Notify::new() });
        let stop = CancellationToken::new();
        let (giver, stopped) = (shared.clone(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = giver.give_turns() => {}
                () = stopped.cancelled() => {}
            }
        });
        Bandwidth { shared, _stop: Arc::new(stop.drop_guard()) }
    }

    /// Bytes a second.
    pub fn rate(&self) -> NonZeroU64 {
        self.shared.rate
    }

    /// A party that wants turns.
    pub fn turn(&self) -> Turn {
        Turn { bandwidth: self.clone(), place: Place::Nowhere }
    }
}

/// Limits are equal if they are the same one, not if they have the same rate.
impl PartialEq for Bandwidth {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Turn {
    /// The limit.
    pub fn bandwidth(&self) -> &Bandwidth {
        &self.bandwidth
    }

    /// Resolves when something may be moved, up to a chunk, and stays so until [`Turn::end`]. The last task that asked is
    /// woken.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let shared = &self.bandwidth.shared;
        let (poll, has_come) = {
            let mut line = shared.line();
            let before = self.place;
            let poll = line.poll(&mut self.place, cx.waker(), Instant::now());
            (poll, !matches!(before, Place::Waiting(_)))
        };
        if poll.is_pending() && has_come {
            shared.asked.notify_one();
        }
        poll
    }

    /// Bytes that may be moved now; a datagram may be longer, since it cannot be divided.
    pub fn room(&self) -> usize {
        self.place.room()
    }

    /// Notes how many bytes were moved. 0 if the turn was of no use after all.
    pub fn end(&mut self, moved: usize) {
        if moved > 0 || matches!(self.place, Place::Waiting(_) | Place::Admitted(_)) {
            self.bandwidth.shared.line().end(&mut self.place, moved);
        }
    }
}

impl Place {
    fn room(self) -> usize {
        match self {
            Place::Admitted(slice) => slice.bytes,
            _ => 0,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end(0);
    }
}

impl Shared {
    async fn give_turns(&self) {
        loop {
            let (due, wait) = self.line().give();
            for waker in due {
                waker.wake();
            }
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => self.asked.notified().await,
            }
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Clock + Clone> Line<C> {
    fn new(account: Account<C>) -> Self {
        Line { account, waiting: BTreeMap::new(), next: 0 }
    }

    fn poll(&mut self, place: &mut Place, waker: &Waker, now: Instant) -> Poll<()> {
        let slice = Slice { bytes: self.account.chunk(), until: now + SLICE };
        match *place {
            Place::Admitted(_) => {}
            Place::Resting(rest) if rest.bytes > 0 && now < rest.until => {
                self.account.extend();
                *place = Place::Admitted(rest);
            }
            Place::Waiting(number) => match self.waiting.get_mut(&number) {
                Some(known) => known.clone_from(waker),
                None => *place = Place::Admitted(slice),
            },
            Place::Nowhere | Place::Resting(_) => {
                if self.waiting.is_empty() && self.account.admit().is_ok() {
                    *place = Place::Admitted(slice);
                } else {
                    self.waiting.insert(self.next, waker.clone());
                    *place = Place::Waiting(self.next);
                    self.next += 1;
                }
            }
        }
        if matches!(place, Place::Admitted(_)) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn end(&mut self, place: &mut Place, moved: usize) {
        let was_admitted = match std::mem::replace(place, Place::Nowhere) {
            Place::Nowhere | Place::Resting(_) => false,
            Place::Waiting(number) => self.waiting.remove(&number).is_none(),
            Place::Admitted(Slice { bytes, until }) => {
                if moved > 0 {
                    *place = Place::Resting(Slice { bytes: bytes.saturating_sub(moved), until });
                }
                true
            }
        };
        // Who was not admitted has nothing to give back.
        let chunk = if was_admitted { 0 } else { self.account.chunk() };
        self.account.settle(moved + chunk);
    }

    /// Gives turns to as many as may have one; returns who has, and how long the next has to wait, if there is one.
    fn give(&mut self) -> (Vec<Waker>, Option<Duration>) {
        let mut due = Vec::new();
        while let Some(first) = self.waiting.first_entry() {
            if let Err(wait) = self.account.admit() {
                return (due, Some(wait));
            }
            due.push(first.remove());
        }
        (due, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    const RATE: u64 = 1_000_000;

    fn line() -> (Line<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let rate = NonZeroU64::new(RATE).expect("a rate");
        (Line::new(Account::new(rate, clock.clone())), clock)
    }

    /// What the clock shows, from an origin that is the same for the whole process.
    fn now(clock: &FakeRelativeClock) -> Instant {
        static ORIGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        *ORIGIN + Duration::from(clock.now())
    }

    fn ask(line: &mut Line<FakeRelativeClock>, place: &mut Place, clock: &FakeRelativeClock) -> Poll<()> {
        line.poll(place, Waker::noop(), now(clock))
    }

    /// Moves until it has to wait.
    fn spend(line: &mut Line<FakeRelativeClock>, place: &mut Place, clock: &FakeRelativeClock) {
        while ask(line, place, clock).is_ready() {
            line.end(place, 10_000);
        }
    }

    /// Parties that move this much in a turn, always want another, and have moved so much.
    struct Parties(Vec<(usize, Place, u64)>);

    impl Parties {
        fn new(sizes: &[usize]) -> Self {
            Parties(sizes.iter().map(|size| (*size, Place::Nowhere, 0)).collect())
        }

        fn run(&mut self, line: &mut Line<FakeRelativeClock>, clock: &FakeRelativeClock, time: Duration) {
            let mut passed = Duration::ZERO;
            while passed < time {
                let mut moves = true;
                while std::mem::take(&mut moves) {
                    for (size, place, moved) in &mut self.0 {
                        if ask(line, place, clock).is_ready() {
                            let piece = place.room().min(*size);
                            line.end(place, piece);
                            *moved += piece as u64;
                            moves = true;
                        }
                    }
                }
                if let (_, Some(wait)) = line.give() {
                    clock.advance(wait);
                    passed += wait;
                }
            }
        }

        fn moved(&self) -> Vec<u64> {
            self.0.iter().map(|(_, _, moved)| *moved).collect()
        }
    }

    #[test]
    fn all_who_always_want_more_get_equally_much_and_the_limit_together() {
        let (mut line, clock) = line();
        let chunk = line.account.chunk();
        let mut parties = Parties::new(&[chunk; 7]);
        parties.run(&mut line, &clock, Duration::from_secs(20));
        let moved = parties.moved();
        let (total, share) = (moved.iter().sum::<u64>(), 20 * RATE / 7);
        assert!(moved.iter().all(|moved| moved.abs_diff(share) < share / 50), "{moved:?}");
        assert!(total.abs_diff(20 * RATE) < RATE / 5, "{total}");
    }

    #[test]
    fn those_who_move_small_pieces_get_as_much_as_those_who_move_large_ones() {
        let (mut line, clock) = line();
        let chunk = line.account.chunk();
        let mut sizes = vec![chunk / 20; 10];
        sizes.extend([chunk; 3]);
        let mut parties = Parties::new(&sizes);
        parties.run(&mut line, &clock, Duration::from_secs(20));
        let (moved, share) = (parties.moved(), 20 * RATE / 13);
        assert!(moved.iter().all(|moved| moved.abs_diff(share) < share / 20), "{moved:?}");
    }

    #[test]
    fn one_that_is_admitted_and_stuck_elsewhere_holds_up_nobody() {
        let (mut line, clock) = line();
        let mut busy = Parties::new(&[1000]);
        busy.run(&mut line, &clock, Duration::from_secs(1));
        let mut stuck = Place::Nowhere;
        spend(&mut line, &mut stuck, &clock);
        let before = busy.moved()[0];
        busy.run(&mut line, &clock, Duration::from_secs(10));
        let moved = busy.moved()[0] - before;
        assert!(moved.abs_diff(10 * RATE) < RATE / 5, "{moved}");
        assert!(ask(&mut line, &mut stuck, &clock).is_ready(), "its turn has come, and is kept for it");
    }

    #[test]
    fn one_that_goes_leaves_neither_its_place_nor_its_debt() {
        let (mut line, clock) = line();
        let mut places = [Place::Nowhere; 3];
        let mut spent = Place::Nowhere;
        spend(&mut line, &mut spent, &clock);
        line.end(&mut spent, 0);
        for place in &mut places {
            assert!(ask(&mut line, place, &clock).is_pending());
        }
        line.end(&mut places[0], 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(line.give().0.len(), 2);
        for place in &mut places[1..] {
            line.end(place, 0);
        }
        assert!(line.waiting.is_empty());
        clock.advance(Duration::from_millis(1));
        assert!(ask(&mut line, &mut places[0], &clock).is_ready());
    }

    #[tokio::test]
    async fn a_limit_is_kept_by_the_clock_of_the_machine() {
        let tasks = Tasks::new();
        let bandwidth = Bandwidth::new(NonZeroU64::new(RATE).expect("a rate"), &tasks);
        let started = std::time::Instant::now();
        let parties = (0..3).map(|_| {
            let mut turn = bandwidth.turn();
            async move {
                for _ in 0..20 {
                    std::future::poll_fn(|cx| turn.poll(cx)).await;
                    turn.end(10_000);
                }
            }
        });
        for party in parties.map(tokio::spawn).collect::<Vec<_>>() {
            party.await.expect("it ends");
        }
        let took = started.elapsed();
        // 600 kB without the 100 kB of the burst and what need not be paid before the end.
        assert!((Duration::from_millis(450)..Duration::from_secs(2)).contains(&took), "{took:?}");
        drop(bandwidth);
        assert!(tasks.finished(Duration::from_secs(5)).await, "the task ends with the limit");
    }
}
