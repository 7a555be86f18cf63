//! Drives a race of connections; the decisions are those of [`tun_proto::race`].

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::fmt::Display;
use std::time::Instant;
use tokio::time::sleep_until;
use tun_proto::race::{Race, Runner, Turn};

/// How a race ended.
pub(super) struct Won<T> {
    pub(super) way: usize,
    pub(super) prize: T,
    /// Another that was ready as well, and is not needed.
    pub(super) late: Option<T>,
}

/// Lets them run; the order is that of preference. Cancellation safe if what `start` returns is.
///
/// # Errors
/// That of the one that failed first, which has the most to say; `None` if nobody took part.
pub(super) async fn run<T, E: Display, F: Future<Output = Result<T, E>>>(
    runners: impl IntoIterator<Item = Runner>,
    start: impl Fn(usize) -> F,
) -> Result<Won<T>, Option<E>> {
    let mut race = Race::new(runners);
    let mut attempts = FuturesUnordered::new();
    // More than two are never ready: the second is taken.
    let mut ready: Vec<(usize, T)> = Vec::new();
    let mut failed = None;
    loop {
        let until = match race.poll(Instant::now()) {
            Turn::Start(way) => {
                attempts.push(attempt(way, start(way)));
                continue;
            }
            Turn::Take(taken) => {
                let Some(index) = ready.iter().position(|(way, _)| *way == taken) else { return Err(failed) };
                let (way, prize) = ready.swap_remove(index);
                return Ok(Won { way, prize, late: ready.pop().map(|(_, late)| late) });
            }
            Turn::Lost => return Err(failed),
            Turn::Wait(until) => until,
        };
        tokio::select! {
            Some((way, result)) = attempts.next() => match result {
                Ok(prize) => {
                    ready.push((way, prize));
                    race.handle_ready(way, Instant::now());
                }
                Err(error) => {
                    tracing::debug!("{error}");
                    failed.get_or_insert(error);
                    race.handle_failed(way);
                }
            },
            () = sleep_until(until.unwrap_or_else(Instant::now).into()), if until.is_some() => {}
        }
    }
}

async fn attempt<T>(way: usize, attempt: impl Future<Output = T>) -> (usize, T) {
    (way, attempt.await)
}
