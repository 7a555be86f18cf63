//! When attempts begin, over hours of a made-up clock.

use super::*;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    Instant::now()
}

fn wanted(now: Instant) -> PathFinder {
    let mut finder = PathFinder::new(Retries::default());
    finder.handle_wanted(true, now);
    finder
}

/// A path that was looked for at `now`, and died at the age of `age`.
fn live(finder: &mut PathFinder, now: Instant, age: Duration) -> Instant {
    assert!(finder.poll(now).is_some());
    finder.handle_link_up(now);
    finder.handle_link_down(now + age);
    now + age
}

#[test]
fn the_first_attempt_is_made_at_once_and_only_one_at_a_time() {
    let now = start();
    assert_eq!(PathFinder::new(Retries::default()).poll(now), None, "nobody wants one");
    let mut finder = wanted(now);
    assert_eq!(finder.poll(now), Some(StartAttempt { renews: false }));
    assert_eq!(finder.poll(now + seconds(3600)), None);
    assert_eq!(finder.poll_timeout(), None);
}

#[test]
fn failures_are_followed_by_growing_pauses() {
    let mut now = start();
    let mut finder = wanted(now);
    for pause in [30, 120, 600, 1800, 1800] {
        assert!(finder.poll(now).is_some());
        finder.handle_failed(now);
        assert_eq!(finder.poll_timeout(), Some(now + seconds(pause)));
        assert_eq!(finder.poll(now + seconds(pause - 1)), None);
        now += seconds(pause);
    }
}

#[test]
fn a_network_change_ends_the_pause() {
    let now = start();
    let mut finder = wanted(now);
    assert!(finder.poll(now).is_some());
    finder.handle_failed(now + seconds(3));
    finder.handle_network_change(now + seconds(4));
    assert!(finder.poll(now + seconds(4)).is_some());
    finder.handle_failed(now + seconds(5));
    assert_eq!(finder.poll_timeout(), Some(now + seconds(35)), "the pauses begin anew");
}

#[test]
fn a_network_change_voids_the_attempt_under_way() {
    let now = start();
    let mut finder = wanted(now);
    assert!(finder.poll(now).is_some());
    finder.handle_network_change(now);
    assert_eq!(finder.poll(now), None, "however often the peer says so");
    assert!(finder.poll(now + MIN_INTERVAL).is_some());
}

#[test]
fn a_lost_path_is_looked_for_at_once_unless_it_died_young() {
    let now = start();
    let mut finder = wanted(now);
    let lost = live(&mut finder, now, seconds(100));
    let lost = live(&mut finder, lost, seconds(1));
    assert_eq!(finder.poll(lost), None);
    assert_eq!(finder.poll_timeout(), Some(lost + PROVEN[0]));
}

#[test]
fn where_a_path_has_been_the_pauses_are_shorter_at_first() {
    let now = start();
    let mut finder = wanted(now);
    let mut now = live(&mut finder, now, seconds(100));
    for pause in PROVEN.into_iter().chain(BACKOFF) {
        assert!(finder.poll(now).is_some());
        finder.handle_failed(now);
        assert_eq!(finder.poll_timeout(), Some(now + pause));
        now += pause;
    }
}

#[test]
fn a_regular_death_is_forestalled() {
    let now = start();
    let mut finder = wanted(now);
    let now = live(&mut finder, now, seconds(60));
    let now = live(&mut finder, now, seconds(66));
    assert!(finder.poll(now).is_some());
    finder.handle_link_up(now);
    let renew = now + seconds(42);
    assert_eq!(finder.poll_timeout(), Some(renew));
    assert_eq!(finder.poll(renew), Some(StartAttempt { renews: true }));
    finder.handle_link_up(renew);
    assert_eq!(finder.poll_timeout(), Some(renew + seconds(42)), "the new one has the same span");
}

#[test]
fn a_failed_renewal_does_not_end_the_path_in_use() {
    let now = start();
    let mut finder = wanted(now);
    let now = live(&mut finder, now, seconds(60));
    let now = live(&mut finder, now, seconds(60));
    assert!(finder.poll(now).is_some());
    finder.handle_link_up(now);
    assert!(finder.poll(now + seconds(42)).is_some());
    finder.handle_failed(now + seconds(45));
    finder.handle_link_down(now + seconds(60));
    assert_eq!(finder.poll(now + seconds(60)), Some(StartAttempt { renews: false }));
}

#[test]
fn ages_that_differ_teach_nothing() {
    let now = start();
    let mut finder = wanted(now);
    let now = live(&mut finder, now, seconds(60));
    let now = live(&mut finder, now, seconds(90));
    assert!(finder.poll(now).is_some());
    finder.handle_link_up(now);
    assert_eq!(finder.poll_timeout(), None);
}

#[test]
fn what_is_not_wanted_is_not_looked_for() {
    let now = start();
    let mut finder = wanted(now);
    finder.handle_wanted(false, now);
    assert_eq!((finder.poll(now), finder.poll_timeout()), (None, None));
    finder.handle_wanted(true, now + seconds(5));
    assert!(finder.poll(now + seconds(5)).is_some());
}
