//! The client from start to stop: log in, serve, come back when the session is lost, drain.

use crate::backend::Backends;
use crate::control::{Connection, Ended};
use crate::dial::{self, DialError};
use crate::settings::Settings;
use anyhow::Context;
use std::sync::Arc;
use std::time::Duration;
use tun_common::config::ClientConfig;
use tun_common::lifecycle::Tasks;
use tun_common::random;
use tun_common::shutdown::Shutdown;
use tun_proto::backoff::Backoff;
use tun_proto::limits::STANDBY_RETRY;
use tun_proto::wire::login::RefusalCode;

/// Pauses between attempts to reach a server that is away. The longest is what bounds how late after the server's
/// return the client is back.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Pause after a refusal that only a person can mend.
const REFUSED_PAUSE: Duration = Duration::from_secs(20);

/// How long tasks may take to end once they are told to.
const LAST_DEADLINE: Duration = Duration::from_secs(1);

/// Attempts between two lines of the log that say the same.
const REPEAT_EVERY: u32 = 30;

/// How the program ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exit {
    /// The first login failed, and `loginFailExit` is on.
    #[error("{0}")]
    Unreachable(#[source] DialError),
    /// The server refused the client.
    #[error("{0}")]
    Refused(#[source] DialError),
    /// Something on this side does not work.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Runs the client until it is told to stop.
pub(crate) async fn run(config: &ClientConfig) -> Result<(), Exit> {
    let settings = Arc::new(Settings::new(config)?);
    let tasks = Tasks::new();
    let shutdown = Shutdown::listen(&tasks).context("signals cannot be listened to")?;
    tracing::info!("tunc {}, client \"{}\"", env!("CARGO_PKG_VERSION"), settings.identity);
    if settings.proxies.is_empty() && config.visitors.is_empty() {
        tracing::warn!("the configuration names no proxy to serve");
    }
    for visitor in &config.visitors {
        tracing::error!("[{}] start visitor error: visitors are not wired", visitor.name);
    }
    let client = Client { backends: Arc::new(Backends::new(&settings.proxies)), settings, tasks, shutdown };
    let result = client.run().await;
    client.tasks.shut_down(LAST_DEADLINE).await;
    if result.is_ok() {
        tracing::info!("stopped");
    }
    result
}

struct Client {
    settings: Arc<Settings>,
    backends: Arc<Backends>,
    tasks: Tasks,
    shutdown: Shutdown,
}

impl Client {
    async fn run(&self) -> Result<(), Exit> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, u64::from_le_bytes(random::bytes()));
        let mut had_session = false;
        let mut standing_by = false;
        let mut ports = Default::default();
        loop {
            let first = !had_session && !standing_by;
            let dialled = tokio::select! {
                dialled = dial::log_in(&self.settings, first) => dialled,
                () = self.shutdown.asked() => return Ok(()),
            };
            let pause = match dialled {
                Ok(dialled) => {
                    tracing::info!("login to server success, session {}", dialled.accepted.session);
                    had_session = true;
                    standing_by = false;
                    backoff.reset();
                    let connection = Connection::new(
                        self.settings.clone(),
                        self.backends.clone(),
                        self.tasks.child(),
                        dialled,
                        &mut ports,
                    );
                    match connection.serve(&self.shutdown).await {
                        Ended::Stopped => return Ok(()),
                        Ended::Superseded => {
                            standing_by = true;
                            STANDBY_RETRY
                        }
                        Ended::Lost => backoff.next_pause(),
                    }
                }
                Err(error) => self.judge(error, had_session, &mut standing_by, &mut backoff)?,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shutdown.asked() => return Ok(()),
            }
        }
    }

    /// What a failed login means: how long to wait, or the end.
    fn judge(
        &self,
        error: DialError,
        had_session: bool,
        standing_by: &mut bool,
        backoff: &mut Backoff,
    ) -> Result<Duration, Exit> {
        let fatal = self.settings.login_fail_exit && !had_session && !*standing_by;
        match error.refusal() {
            Some(RefusalCode::Superseded) => {
                if !std::mem::replace(standing_by, true) {
                    tracing::warn!("{error}; standing by");
                }
                return Ok(STANDBY_RETRY);
            }
            Some(RefusalCode::Token | RefusalCode::Protocol) if fatal => return Err(Exit::Refused(error)),
            Some(RefusalCode::Token | RefusalCode::Protocol | RefusalCode::RateLimited) if !fatal => {
                tracing::warn!("{error}; trying again in {} s", REFUSED_PAUSE.as_secs());
                return Ok(REFUSED_PAUSE);
            }
            _ if fatal => {
                return Err(if error.refusal().is_some() {
                    Exit::Refused(error)
                } else {
                    Exit::Unreachable(error)
                });
            }
            _ => {}
        }
        if backoff.attempts().is_multiple_of(REPEAT_EVERY) {
            tracing::warn!("{error}; trying again");
        } else {
            tracing::debug!("{error}");
        }
        Ok(backoff.next_pause())
    }
}
