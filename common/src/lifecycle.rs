//! Who owns which task.
//!
//! Every task of the programs is spawned through [`Tasks`], which is owned by whoever must wait for it: the program,
//! a session, a link. Stopping an owner stops what it owns; waiting for an owner waits for all of it.

use std::future::Future;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// A group of tasks with one owner.
#[derive(Debug, Clone)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Tasks { stop: CancellationToken::new(), tracker: TaskTracker::new() }
    }

    /// A group whose tasks stop with this one's, and may stop earlier.
    pub fn child(&self) -> Self {
        Tasks { stop: self.stop.child_token(), tracker: TaskTracker::new() }
    }

    /// Runs `task` until it ends or the group is stopped.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
            stop.run_until_cancelled_owned(task).await;
        });
    }

    /// Runs `task` until it ends, whatever happens to the group: for tasks that have their own way of being told,
    /// and something to finish.
    pub fn spawn_to_end(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Asks all tasks to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Resolves when the group was asked to stop. Cancellation safe.
    pub fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// True once the group was asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tasks that have not ended.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// True if all tasks have ended.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until all tasks have ended, at most for `deadline`; returns whether they have. Cancellation safe.
    pub async fn finished(&self, deadline: Duration) -> bool {
        self.tracker.close();
        let finished = tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok();
        self.tracker.reopen();
        finished
    }

    /// Stops all tasks and waits until they have ended. Cancellation safe.
    pub async fn shut_down(&self) {
        self.stop();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
