//! The signals that stop a program: the first asks, the second insists.

use std::io;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Tasks;

/// What the signals asked for so far.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    asked: CancellationToken,
    insisted: CancellationToken,
}

impl Shutdown {
    /// Listens to SIGTERM and SIGINT (Ctrl-C) from now on.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub fn listen(tasks: &Tasks) -> io::Result<Self> {
        let shutdown = Shutdown::default();
        let heard = shutdown.clone();
        let mut signals = Signals::new()?;
        tasks.spawn(async move {
            loop {
                signals.next().await;
                if heard.is_asked() {
                    return heard.insisted.cancel();
                }
                heard.ask();
            }
        });
        Ok(shutdown)
    }

    /// Asks as a signal would: the program has done what it was started for.
    pub fn ask(&self) {
        self.asked.cancel();
    }

    /// Resolves when the program was asked to stop. Cancellation safe.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// True once the program was asked to stop.
    pub fn is_asked(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Resolves when the program was asked a second time. Cancellation safe.
    pub async fn insisted(&self) {
        self.insisted.cancelled().await;
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals)
    }

    async fn next(&mut self) {
        // Without a console there is nothing to hear.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
