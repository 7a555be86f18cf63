//! The visitor's side of direct paths: decides when to try, starts the attempts, and keeps the link that comes of one.
//!
//! It speaks with the other client over a stream of their session, so that it goes on while the server is away, and the
//! other way round: what it does never touches the relayed link.

use super::meeting::{Meeting, Plan, Progress, progress};
use super::{PathState, Search};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep_until;
use tun_common::control::{Channel, PIPE};
use tun_common::link::tls::PeerTls;
use tun_common::link::{Health, Link, NewLink};
use tun_common::random;
use tun_common::session::{Outcome, Session, channel};
use tun_proto::p2p::path::{PathFinder, Retries};
use tun_proto::p2p::punch::Role;
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::login::Bytes32;
use tun_proto::wire::paths::PathMessage;
use tun_proto::wire::stream::ResetCode;

/// How long the other client may take to answer that it talks about paths.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a direct link may be in doubt before another path is looked for. Most doubts are over sooner.
const DOUBT: Duration = Duration::from_secs(1);

/// How long it may be in doubt before it is given up.
const HOPELESS: Duration = Duration::from_secs(10);

/// The task of one session.
pub(crate) struct Initiator {
    /// The session with the proxy's client.
    pub(crate) session: Session,
    /// The proxy, for the log.
    pub(crate) name: String,
    /// What probes lead to is encrypted with this.
    pub(crate) tls: PeerTls,
    pub(crate) search: Arc<Search>,
    /// The server, for the log.
    pub(crate) relay: String,
    /// Numbers of the session's links.
    pub(crate) next_link: Arc<AtomicU32>,
    /// How often it tries in vain.
    pub(crate) retries: Retries,
    /// What it found, for whoever shows it.
    pub(crate) state: watch::Sender<PathState>,
}

type Paths = Channel<PathMessage, PathMessage>;

/// The direct link that streams are on.
struct Present {
    link: Link,
    health: watch::Receiver<Health>,
    doubted: Option<Instant>,
    /// Another path is looked for already.
    replacing: bool,
}

enum Event {
    Message(PathMessage),
    Attempt(Progress),
    Network,
    LinkGone,
    Health(Health),
    Timer,
}

impl Initiator {
    /// Runs until the session is over, or the other client wants no direct paths.
    pub(crate) async fn run(mut self) {
        let session = self.session.clone();
        tokio::select! {
            () = session.over() => {}
            () = self.serve() => {}
        }
    }

    async fn serve(&mut self) {
        let (local, io) = channel(PIPE);
        let meta = Bytes::from(serde_json::to_vec(&StreamMeta::Paths).unwrap_or_default());
        let Some(pump) = self.session.open(random::id(), meta, local, Some(PATIENCE)) else { return };
        let (tell, ended) = oneshot::channel();
        self.session.tasks().spawn_to_end(async move {
            let _ = tell.send(pump.await);
        });
        if let Err(error) = self.talk(Channel::new(io)).await {
            tracing::debug!("[{}] no more talk about direct paths: {error}", self.name);
        }
        if let Ok(Outcome { reset: Some(ResetCode::Refused), .. }) = ended.await {
            self.set_relayed("its client serves it over the relay only".to_owned());
        }
    }

    async fn talk(&mut self, mut channel: Paths) -> io::Result<()> {
        let mut finder = PathFinder::new(self.retries);
        finder.handle_wanted(true, Instant::now());
        let mut network = self.search.surroundings.network.clone();
        let mut current: Option<Meeting> = None;
        // The other client's certificate, once it takes part in the attempt.
        let mut certificate = watch::Sender::new(None);
        let mut present: Option<Present> = None;
        loop {
            if current.is_none() && finder.poll(Instant::now()).is_some() {
                certificate = watch::Sender::new(None);
                current = Some(self.start(&mut channel, certificate.subscribe()).await?);
            }
            let wake = [finder.poll_timeout(), present.as_ref().and_then(Present::alarm)];
            let wake = wake.into_iter().flatten().min();
            let event = tokio::select! {
                message = channel.receive() => Event::Message(message?.ok_or(io::ErrorKind::UnexpectedEof)?),
                progress = progress(&mut current) => Event::Attempt(progress),
                event = changing(&mut present) => event,
                () = network.changed() => Event::Network,
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => Event::Timer,
            };
            let now = Instant::now();
            match event {
                Event::Message(PathMessage::NetworkChanged) | Event::Network => {
                    finder.handle_network_change(now);
                    // What it has gathered is not true any more.
                    current = None;
                }
                Event::Message(message) => {
                    let handled = current.as_ref().map(|current| handle(current, &certificate, message));
                    if let Some(Err(reason)) = handled {
                        current = None;
                        finder.handle_failed(now);
                        if present.is_none() {
                            self.set_relayed(reason);
                        }
                    }
                }
                Event::Attempt(Progress::Tell(link, message)) => {
                    channel.send(&PathMessage::Punch { link, message }).await?;
                }
                Event::Attempt(Progress::Ended(_, Ok(new))) => {
                    current = None;
                    finder.handle_link_up(now);
                    let old = present.replace(self.adopt(new));
                    if let Some(old) = old {
                        self.session.retire(old.link.number());
                    }
                }
                Event::Attempt(Progress::Ended(_, Err(error))) => {
                    current = None;
                    finder.handle_failed(now);
                    if present.is_none() {
                        self.set_relayed(error.to_string());
                    } else {
                        tracing::debug!("[{}] no better direct path: {error}", self.name);
                    }
                }
                Event::Health(health) => {
                    if let Some(present) = &mut present {
                        self.note_health(present, health, &mut finder);
                    }
                }
                Event::LinkGone => {
                    if let Some(lost) = present.take() {
                        if !lost.replacing {
                            finder.handle_link_down(now);
                        }
                        let (name, relay) = (&self.name, &self.relay);
                        tracing::warn!(
                            "[{name}] direct connection lost: {}; relayed by {relay}",
                            lost.link.reason()
                        );
                        self.state.send_replace(PathState::Relayed {
                            why: Some("the direct path was lost".to_owned()),
                        });
                    }
                }
                Event::Timer => {
                    if let Some(present) = &mut present {
                        present.handle_alarm(now, &mut finder);
                    }
                }
            }
        }
    }

    /// Starts an attempt; the other client takes part when it hears of it.
    async fn start(
        &self,
        channel: &mut Paths,
        peer: watch::Receiver<Option<Bytes32>>,
    ) -> io::Result<Meeting> {
        let link = self.next_link.fetch_add(1, Ordering::Relaxed);
        let secret = Bytes32(random::bytes());
        let attempt = PathMessage::Attempt { link, secret, certificate: self.tls.fingerprint() };
        channel.send(&attempt).await?;
        tracing::debug!("[{}] looking for a direct path", self.name);
        let (search, tls, tasks) = (self.search.clone(), self.tls.clone(), self.session.tasks().clone());
        Ok(Meeting::begin(Plan { role: Role::Initiator, link, secret, search, tls, peer, tasks }))
    }

    fn adopt(&self, new: NewLink) -> Present {
        let link = new.link.clone();
        let address = link.peer();
        let round_trip = link.round_trip().unwrap_or_default().as_millis();
        tracing::info!(
            "[{}] direct connection to its client at {address}, round trip {round_trip} ms",
            self.name
        );
        self.session.add_link(new, |_, _| {});
        self.state.send_replace(PathState::Direct { address });
        Present { health: link.health(), link, doubted: None, replacing: false }
    }

    /// There is no direct link, and this is why; said once for each reason.
    fn set_relayed(&self, why: String) {
        let changed = self.state.send_if_modified(|state| {
            let new = PathState::Relayed { why: Some(why.clone()) };
            let changed = *state != new;
            *state = new;
            changed
        });
        if changed {
            tracing::info!("[{}] no direct connection: {why}; relayed by {}", self.name, self.relay);
        }
    }

    fn note_health(&self, present: &mut Present, health: Health, finder: &mut PathFinder) {
        let now = Instant::now();
        let address = present.link.peer();
        match health {
            Health::Suspect => {
                present.doubted.get_or_insert(now);
                self.search.surroundings.doubt();
                tracing::debug!("[{}] the direct path to {address} is silent", self.name);
                let why = Some("the direct path is silent".to_owned());
                self.state.send_replace(PathState::Relayed { why });
            }
            Health::Good => {
                present.doubted = None;
                if std::mem::take(&mut present.replacing) {
                    finder.handle_link_up(now);
                }
                tracing::debug!("[{}] the direct path to {address} is alive", self.name);
                self.state.send_replace(PathState::Direct { address });
            }
        }
    }
}

/// Passes on what concerns the attempt; fails with the reason why it is over if it is.
fn handle(
    current: &Meeting,
    certificate: &watch::Sender<Option<Bytes32>>,
    message: PathMessage,
) -> Result<(), String> {
    match message {
        PathMessage::Joined { link, certificate: theirs } if link == current.link => {
            certificate.send_replace(Some(theirs));
            Ok(())
        }
        PathMessage::Declined { link, reason } if link == current.link => Err(reason),
        PathMessage::Punch { link, message } if link == current.link => {
            current.handle(message).map_err(|error| error.to_string())
        }
        // Of an attempt that is over here.
        _ => Ok(()),
    }
}

impl Present {
    /// When something is to be done about a doubt.
    fn alarm(&self) -> Option<Instant> {
        let patience = if self.replacing { HOPELESS } else { DOUBT };
        self.doubted.map(|since| since + patience)
    }

    fn handle_alarm(&mut self, now: Instant, finder: &mut PathFinder) {
        if self.alarm().is_none_or(|alarm| alarm > now) {
            return;
        }
        if std::mem::replace(&mut self.replacing, true) {
            self.link.close(format!("nothing was heard for {} s", HOPELESS.as_secs()));
            self.doubted = None;
        } else {
            finder.handle_link_down(now);
        }
    }
}

/// What happens to the direct link.
async fn changing(present: &mut Option<Present>) -> Event {
    let Some(present) = present else { return std::future::pending().await };
    tokio::select! {
        () = present.link.gone() => Event::LinkGone,
        Ok(()) = present.health.changed() => Event::Health(*present.health.borrow_and_update()),
    }
}
