//! How long a test waits for what should happen at once.

use std::future::Future;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// Longest wait for a single event. Generous, since it is spent only by tests that are about to fail;
/// `TUN_TEST_PATIENCE` (seconds) overrides it on slow machines.
pub fn patience() -> Duration {
    Duration::from_secs(seconds_from_environment().unwrap_or(30))
}

/// Longest wait for a bulk transfer of up to 1 GiB.
pub fn transfer_patience() -> Duration {
    patience() * 8
}

fn seconds_from_environment() -> Option<u64> {
    std::env::var("TUN_TEST_PATIENCE").ok()?.parse().ok()
}

/// Runs `future` to its end, or fails with `what` when patience runs out.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    within(patience(), what, future).await
}

/// Runs `future` to its end, or fails with `what` when `limit` has passed.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}

/// Held by tests that measure a time or move much data, so that those of one file do not slow each other down.
pub async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
