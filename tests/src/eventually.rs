//! Polling, for the few things that announce themselves by no event: numbers under `/proc`, a foreign program's
//! port, a counter that has stopped moving.

use std::future::Future;
use std::time::Duration;

use crate::patience::patience;

const POLL_EVERY: Duration = Duration::from_millis(20);

/// How long a counter must stand still to be called quiet: ten times the longest pause that a healthy tunnel
/// makes on loopback.
const QUIET: Duration = Duration::from_millis(800);

/// Asks `question` until it has an answer, and fails with `what` when patience runs out.
pub async fn eventually<T, F, Fut>(what: &str, mut question: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + patience();
    loop {
        if let Some(answer) = question().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Waits until `counter` has stopped moving, and returns where it stands.
pub async fn quiet(what: &str, counter: impl Fn() -> u64) -> u64 {
    let mut last = (counter(), tokio::time::Instant::now());
    eventually(what, || {
        let now = (counter(), tokio::time::Instant::now());
        if now.0 != last.0 {
            last = now;
        }
        let answer = (now.1 - last.1 >= QUIET).then_some(now.0);
        std::future::ready(answer)
    })
    .await
}
