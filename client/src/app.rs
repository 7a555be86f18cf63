//! The client from start to stop: log in, serve, come back when the session is lost, drain.

use crate::backend::Backends;
use crate::control::{Connection, Ended};
use crate::dial::{self, DialError, Dialled};
use crate::p2p::Surroundings;
use crate::peers::Peers;
use crate::settings::Settings;
use crate::visit::fallback::Fallback;
use crate::visit::status::VisitStatus;
use crate::visit::{self, Request, Timing, VisitError, Visitor, display, listen, stdio, udp};
use anyhow::Context;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tun_common::config::{ClientConfig, VisitorConfig};
use tun_common::lifecycle::Tasks;
use tun_common::log::StatusLine;
use tun_common::session::{Outcome, Session};
use tun_common::shutdown::Shutdown;
use tun_proto::backoff::Backoff;
use tun_proto::limits::STANDBY_RETRY;
use tun_proto::wire::login::RefusalCode;

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
    /// The proxy to visit cannot be.
    #[error("the proxy cannot be visited: {0}")]
    NotVisited(#[source] VisitError),
    /// Something on this side does not work.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Runs the client until it is told to stop.
pub(crate) async fn run(config: &ClientConfig) -> Result<(), Exit> {
    let client = Client::new(config)?;
    if config.proxies.is_empty() && config.visitors.is_empty() {
        tracing::warn!("the configuration names no proxy to serve");
    }
    // Held to the end: visitors run although nobody can reach them at the moment.
    let _visitors = client.start_visitors(&config.visitors)?;
    client.finish(client.run().await).await
}

/// Visits one proxy: over a local port until told to stop, or over standard input and output until that connection ends.
/// With a `line` it shows how the visit is doing.
pub(crate) async fn visit(
    config: &ClientConfig,
    over_stdio: bool,
    line: Option<StatusLine>,
) -> Result<(), Exit> {
    let client = Client::new(config)?;
    let (refused, mut refusals) = mpsc::channel(1);
    let connection = async {
        for visitor in &config.visitors {
            let (requests, receiver) = mpsc::channel(visit::BACKLOG);
            let port = client.take_datagrams(visitor)?;
            let status = client.visitor(visitor, receiver, None, Some(refused.clone()), port);
            if over_stdio {
                return Ok(stdio::connect(requests).await);
            }
            if let Some(line) = &line {
                client.tasks.spawn(display::show(line.clone(), visitor.server_name.clone(), status));
            }
            client.listen(visitor, requests)?;
        }
        std::future::pending::<Result<_, Exit>>().await
    };
    let mut running = pin!(client.run());
    let result = tokio::select! {
        biased;
        result = &mut running => return client.finish(result).await,
        // A refusal ends the connection as well, and is what the user has to know.
        Some(error) = refusals.recv() => Err(Exit::NotVisited(error)),
        ended = connection => match ended {
            Ok(Some(Outcome { reset: None, .. })) => Ok(()),
            Ok(_) => Err(Exit::Failed(anyhow::anyhow!("the connection was cut"))),
            Err(error) => Err(error),
        },
    };
    // The server gets a goodbye, as after any other end.
    client.shutdown.ask();
    let stopped = running.await;
    client.finish(result.and(stopped)).await
}

struct Client {
    settings: Arc<Settings>,
    backends: Arc<Backends>,
    /// The session with the server, while there is one.
    server: watch::Sender<Option<Session>>,
    surroundings: Arc<Surroundings>,
    tasks: Tasks,
    shutdown: Shutdown,
}

impl Client {
    fn new(config: &ClientConfig) -> Result<Self, Exit> {
        let tasks = Tasks::new();
        let settings = Arc::new(Settings::new(config, tasks.child())?);
        let shutdown = Shutdown::listen(&tasks).context("signals cannot be listened to")?;
        tracing::info!("tunc {}, client \"{}\"", env!("CARGO_PKG_VERSION"), settings.identity);
        let peers = Peers::new(settings.peer_tls.clone(), settings.heartbeat_timeout, tasks.child());
        let surroundings = Arc::new(Surroundings::new(config, &tasks));
        let backends = Arc::new(Backends::new(&settings.proxies, peers, &surroundings, &tasks));
        Ok(Client { settings, backends, server: watch::Sender::new(None), surroundings, tasks, shutdown })
    }

    /// Starts all visitors; returns where connections are handed to them.
    fn start_visitors(&self, configs: &[VisitorConfig]) -> Result<Vec<mpsc::Sender<Request>>, Exit> {
        let (senders, receivers): (Vec<_>, Vec<_>) =
            configs.iter().map(|_| mpsc::channel(visit::BACKLOG)).unzip();
        for ((config, requests), receiver) in configs.iter().zip(&senders).zip(receivers) {
            let fallback = config.xtcp().and_then(|xtcp| xtcp.fallback.as_ref()).and_then(|fallback| {
                let index = configs.iter().position(|other| other.name == fallback.to)?;
                let requests = senders[index].clone();
                Some(Fallback { to: fallback.to.clone(), requests, timeout: fallback.timeout })
            });
            let port = self.take_datagrams(config)?;
            self.visitor(config, receiver, fallback, None, port);
            self.listen(config, requests.clone())?;
        }
        Ok(senders)
    }

    /// Starts a visitor; returns how it is doing.
    fn visitor(
        &self,
        config: &VisitorConfig,
        requests: mpsc::Receiver<Request>,
        fallback: Option<Fallback>,
        refused: Option<mpsc::Sender<VisitError>>,
        port: Option<udp::Port>,
    ) -> watch::Receiver<VisitStatus> {
        let (status, watched) = watch::channel(VisitStatus::default());
        let visitor = Visitor {
            config: config.clone(),
            settings: self.settings.clone(),
            timing: Timing::default(),
            server: self.server.subscribe(),
            surroundings: self.surroundings.clone(),
            tasks: self.tasks.child(),
            shutdown: self.shutdown.clone(),
            fallback,
            refused,
            port,
            status,
        };
        self.tasks.spawn(visitor.run(requests));
        watched
    }

    /// Gives a visitor its local port, if it is to have one.
    fn listen(&self, config: &VisitorConfig, requests: mpsc::Sender<Request>) -> Result<(), Exit> {
        let Some(port) = config.bind_port.filter(|_| config.udp_idle.is_none()) else { return Ok(()) };
        let listener = listen::bind(&config.bind_addr, port)
            .with_context(|| format!("[{}] start visitor error", config.name))?;
        let address = listener.local_addr().context("the visitor's port")?;
        tracing::info!("[{}] start visitor success, listening on {address}", config.name);
        self.tasks.spawn(listen::serve(config.name.clone(), listener, requests));
        Ok(())
    }

    /// The same for one of datagrams.
    fn take_datagrams(&self, config: &VisitorConfig) -> Result<Option<udp::Port>, Exit> {
        let (Some(port), Some(idle)) = (config.bind_port, config.udp_idle) else { return Ok(None) };
        let name = &config.name;
        let bound = udp::Port::bind(name, &config.bind_addr, port, idle)
            .with_context(|| format!("[{name}] start visitor error"))?;
        let address = bound.entrance.local_addr().context("the visitor's port")?;
        tracing::info!("[{name}] start visitor success, listening on {address} (UDP)");
        self.tasks.spawn(bound.entrance.clone().serve());
        Ok(Some(bound))
    }

    async fn finish(&self, result: Result<(), Exit>) -> Result<(), Exit> {
        self.tasks.shut_down(LAST_DEADLINE).await;
        if result.is_ok() {
            tracing::info!("stopped");
        }
        result
    }

    async fn run(&self) -> Result<(), Exit> {
        let mut backoff = dial::backoff();
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
                    self.learn_stun_servers(&dialled);
                    let connection = Connection::new(
                        self.settings.clone(),
                        self.backends.clone(),
                        self.tasks.child(),
                        dialled,
                        self.surroundings.doubts(),
                        &mut ports,
                    );
                    self.server.send_replace(Some(connection.session()));
                    let ended = connection.serve(&self.shutdown).await;
                    self.server.send_replace(None);
                    match ended {
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

    /// Keeps where the server answers STUN. Names are looked up in the background.
    fn learn_stun_servers(&self, dialled: &Dialled) {
        let (settings, surroundings) = (self.settings.clone(), self.surroundings.clone());
        let (peer, service) = (dialled.server, dialled.accepted.stun.clone());
        self.tasks.spawn(async move {
            let (host, resolver) = (&settings.server.0, &settings.dialer.resolver);
            surroundings.stun.learn(host, peer, service.as_ref(), resolver).await;
        });
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
