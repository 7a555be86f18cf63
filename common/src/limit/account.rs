//! The arithmetic of a limit: what was moved, and when it is paid for.

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;
use tun_proto::limits::MAX_DATA;

/// Bytes of a cell at most rates. The limiter counts whole nanoseconds for each of its units, so that single bytes would
/// be a tenth off at 300 MB/s already; remainders are carried over, so that small datagrams count exactly as well.
const CELL: u64 = 1024;

/// Least time of a cell, which bounds the error of rounding to 0.05 %: beyond 1 GB/s cells are larger.
const MIN_PERIOD_NS: u64 = 1000;

/// Time whose bytes may be moved at once after a pause: what a page or a keystroke needs passes without waiting, and the
/// coarse alarms of the runtime (1 ms) cost nothing, while a transfer of a few seconds is exact to a few percent.
const BURST: Duration = Duration::from_millis(100);

/// The burst at the slowest rates, in cells.
const MIN_BURST: u32 = 4;

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// What was moved under a limit and is not paid yet.
///
/// Who may move gets a chunk on credit, and nobody gets another before that is paid: bytes are counted when it is known
/// how many there are, and one that is longer than any burst can still pass.
#[derive(Debug)]
pub(super) struct Account<C: Clock + Clone = DefaultClock> {
    limiter: Limiter<C>,
    clock: C,
    /// Bytes of a cell.
    cell: u64,
    /// Cells that can be paid at once.
    burst: NonZeroU32,
    /// Bytes that one turn is for.
    chunk: usize,
    /// Bytes to be paid; below zero if less was moved than was paid for.
    owed: i64,
}

impl<C: Clock + Clone> Account<C> {
    /// For `rate` bytes a second.
    pub(super) fn new(rate: NonZeroU64, clock: C) -> Self {
        let rate = rate.get();
        let mut cell = CELL;
        while period_ns(cell, rate) < MIN_PERIOD_NS {
            cell *= 2;
        }
        let period = period_ns(cell, rate);
        let cells = u64::try_from(BURST.as_nanos()).unwrap_or(u64::MAX) / period;
        let cells = u32::try_from(cells).unwrap_or(u32::MAX).max(MIN_BURST);
        let burst = NonZeroU32::new(cells).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(Duration::from_nanos(period)).unwrap_or(Quota::per_second(burst));
        let limiter = RateLimiter::direct_with_clock(quota.allow_burst(burst), clock.clone());
        // Small against the burst, so that several share it finely.
        let chunk = usize::try_from(u64::from(cells) * cell / 4).unwrap_or(MAX_DATA).min(MAX_DATA);
        Account { limiter, clock, cell, burst, chunk, owed: 0 }
    }

    /// Bytes that one turn is for.
    pub(super) fn chunk(&self) -> usize {
        self.chunk
    }

    /// Allows a chunk to be moved, or says how long to wait and ask again.
    pub(super) fn admit(&mut self) -> Result<(), Duration> {
        self.pay()?;
        self.extend();
        Ok(())
    }

    /// Allows a chunk to be moved although what was moved before is not paid: for who is in the middle of a turn.
    pub(super) fn extend(&mut self) {
        self.owed += signed(self.chunk);
    }

    /// Notes how much was moved of the chunk; more, if one datagram is longer.
    pub(super) fn settle(&mut self, moved: usize) {
        self.owed += signed(moved) - signed(self.chunk);
        // What is paid late is paid from a bucket that was too full to take in the time between.
        let _ = self.pay();
    }

    /// Pays all whole cells, or says how long to wait and ask again.
    fn pay(&mut self) -> Result<(), Duration> {
        loop {
            let cells = u64::try_from(self.owed).unwrap_or(0) / self.cell;
            let cells = u32::try_from(cells).unwrap_or(u32::MAX).min(self.burst.get());
            let Some(count) = NonZeroU32::new(cells) else { return Ok(()) };
            // It is never more than the burst, so that it can be had some time.
            if let Ok(Err(refused)) = self.limiter.check_n(count) {
                return Err(refused.wait_time_from(self.clock.now()));
            }
            self.owed -= i64::try_from(u64::from(cells) * self.cell).unwrap_or(i64::MAX);
        }
    }
}

/// Nanoseconds that a cell of so many bytes takes, rounded.
fn period_ns(cell: u64, rate: u64) -> u64 {
    let exact = (u128::from(cell) * 1_000_000_000 + u128::from(rate) / 2) / u128::from(rate);
    u64::try_from(exact).unwrap_or(u64::MAX)
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    const KB: u64 = 1000;

    fn account(rate: u64) -> (Account<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Account::new(NonZeroU64::new(rate).expect("a rate"), clock.clone()), clock)
    }

    /// Moves for so long as much as may be, in pieces of these sizes in turn; returns how much that was.
    fn moved(rate: u64, time: Duration, sizes: &[usize]) -> u64 {
        let (mut account, clock) = account(rate);
        let (mut passed, mut moved) = (Duration::ZERO, 0);
        let mut sizes = sizes.iter().cycle();
        while passed < time {
            match account.admit() {
                Ok(()) => {
                    let size = *sizes.next().expect("sizes");
                    account.settle(size);
                    moved += size as u64;
                }
                Err(wait) => {
                    assert!(!wait.is_zero(), "it would be asked again and again");
                    // Alarms of the runtime come up to a millisecond late.
                    let wait = wait + Duration::from_micros(730);
                    clock.advance(wait);
                    passed += wait;
                }
            }
        }
        moved
    }

    fn assert_exact(rate: u64, seconds: u64, sizes: &[usize]) {
        let (account, _) = account(rate);
        // And what is not a whole cell yet, or was moved on credit.
        let longest = sizes.iter().max().map_or(0, |size| *size as u64);
        let burst = (u64::from(account.burst.get()) + 1) * account.cell + 2 * longest;
        let due = rate * seconds;
        let moved = moved(rate, Duration::from_secs(seconds), sizes);
        let (least, most) = (due - due / 1000, due + due / 1000 + burst);
        assert!(
            (least..=most).contains(&moved),
            "{rate} B/s in pieces of {sizes:?}: {moved} instead of {due}"
        );
    }

    #[test]
    fn rates_from_64_kb_to_10_gb_are_exact_to_a_thousandth_after_the_burst() {
        for rate in
            [64 * KB, 100 * KB, 1 << 20, 10_000 * KB, 300_000 * KB, 600_000 * KB, 1_000_000 * KB, 10 << 30]
        {
            let (account, _) = account(rate);
            assert_exact(rate, 20, &[account.chunk()]);
        }
    }

    #[test]
    fn small_pieces_and_such_that_are_longer_than_the_burst_count_as_what_they_are() {
        assert_exact(64 * KB, 20, &[1, 7, 200, 1023]);
        assert_exact(64 * KB, 60, &[65_507]);
        assert_exact(1000 * KB, 20, &[0, 1200, 65_507, 3]);
    }

    #[test]
    fn the_slowest_and_the_fastest_rates_are_ones() {
        assert_exact(1, 100_000, &[1]);
        let (mut fastest, _) = account(u64::MAX);
        for _ in 0..1000 {
            fastest.admit().expect("nothing is so fast");
            fastest.settle(fastest.chunk());
        }
    }

    #[test]
    fn after_a_pause_there_is_a_burst_and_no_more() {
        let (mut account, clock) = account(1000 * KB);
        let burst = |account: &mut Account<_>| {
            clock.advance(Duration::from_secs(3600));
            let mut moved = 0;
            while account.admit().is_ok() {
                account.settle(1000);
                moved += 1000;
            }
            moved
        };
        for _ in 0..3 {
            let moved = burst(&mut account);
            assert!((98_000..=104_000).contains(&moved), "{moved}");
        }
    }

    #[test]
    fn what_was_not_moved_is_given_back() {
        let (mut account, _) = account(64 * KB);
        for _ in 0..1000 {
            account.admit().expect("nothing was moved");
            account.settle(0);
        }
    }

    proptest! {
        #[test]
        fn every_rate_is_within_a_thousandth(rate in 1u64..100_000_000_000) {
            let (account, _) = account(rate);
            let kept = account.cell as f64 * 1e9 / period_ns(account.cell, rate) as f64;
            prop_assert!((kept / rate as f64 - 1.0).abs() < 0.001, "{rate} is kept as {kept}");
        }
    }
}
