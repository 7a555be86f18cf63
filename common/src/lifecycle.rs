//! Who owns which task.
//!
//! Every task of the programs is spawned through [`Tasks`], which is owned by whoever must wait for it: the program,
//! a session, a link. Stopping a group stops the groups below it; the program waits for all of them at its end.

use std::future::Future;
use std::time::Duration;
use tokio_util::future::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks with one owner.
#[derive(Debug, Clone)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
    /// Of the whole tree of groups.
    all: TaskTracker,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Self {
        Tasks { stop: CancellationToken::new(), tracker: TaskTracker::new(), all: TaskTracker::new() }
    }

    /// A group whose tasks stop with this one's, and may stop earlier.
    pub fn child(&self) -> Self {
        Tasks { stop: self.stop.child_token(), tracker: TaskTracker::new(), all: self.all.clone() }
    }

    /// Runs `task` until it ends or the group is stopped.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.start(task.with_cancellation_token_owned(self.stop.clone()));
    }

    /// Runs `task` until it ends, whatever happens to the group: for tasks that have their own way of being told,
    /// and something to finish.
    pub fn spawn_to_end(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.start(task);
    }

    /// No async block is put around a task: it would hold the task twice, once for before it runs and once for while it
    /// runs, and every idle connection and client has some.
    fn start<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) {
        self.tracker.spawn(self.all.track_future(task));
    }

    /// Asks all tasks to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// True once the group was asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until all tasks of this group have ended, at most for `deadline`; returns whether they have.
    /// Cancellation safe.
    pub async fn finished(&self, deadline: Duration) -> bool {
        wait(&self.tracker, deadline).await
    }

    /// Stops this group and those below it, and waits until the whole tree has ended, at most for `deadline`; returns
    /// whether it has. For the root of the tree.
    pub async fn shut_down(&self, deadline: Duration) -> bool {
        self.stop();
        wait(&self.all, deadline).await
    }
}

async fn wait(tracker: &TaskTracker, deadline: Duration) -> bool {
    tracker.close();
    let finished = tokio::time::timeout(deadline, tracker.wait()).await.is_ok();
    tracker.reopen();
    finished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stopping_the_root_ends_the_tasks_of_every_group_below() {
        let root = Tasks::new();
        let leaf = root.child().child();
        leaf.spawn(std::future::pending());
        assert!(!leaf.finished(Duration::ZERO).await);
        assert!(root.shut_down(Duration::from_secs(5)).await);
        assert!(leaf.is_stopped());
    }

    #[tokio::test]
    async fn a_task_that_has_something_to_finish_is_waited_for() {
        let root = Tasks::new();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        root.child().spawn_to_end(async move {
            let _ = told.await;
        });
        assert!(!root.shut_down(Duration::ZERO).await);
        drop(tell);
        assert!(root.shut_down(Duration::from_secs(5)).await);
    }
}
