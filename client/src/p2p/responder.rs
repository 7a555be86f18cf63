//! The client's side of direct paths with one visitor: takes part in the attempts that the visitor starts, and accepts the
//! direct link that comes of one.

use super::Search;
use super::attempt::AttemptError;
use super::meeting::{Meeting, Plan, Progress, progress};
use std::io;
use std::sync::Arc;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tun_common::control::Channel;
use tun_common::link::tls::PeerTls;
use tun_common::link::{Health, Link};
use tun_common::session::Session;
use tun_proto::p2p::punch::Role;
use tun_proto::wire::login::Bytes32;
use tun_proto::wire::paths::PathMessage;

/// The task of one visitor's session.
pub(crate) struct Responder {
    /// The session with the visitor.
    pub(crate) session: Session,
    /// The proxy, for the log.
    pub(crate) name: String,
    /// What probes lead to is encrypted with this.
    pub(crate) tls: PeerTls,
    pub(crate) search: Arc<Search>,
}

type Paths = Channel<PathMessage, PathMessage>;
enum Event {
    Message(PathMessage),
    Attempt(Progress),
    Network,
}

impl Responder {
    /// Serves the visitor's stream about paths until it ends.
    pub(crate) async fn run(self, io: DuplexStream) {
        let session = self.session.clone();
        let served = async {
            if let Err(error) = self.serve(Channel::new(io)).await {
                tracing::debug!("[{}] no more talk about direct paths: {error}", self.name);
            }
        };
        tokio::select! {
            () = session.over() => {}
            () = served => {}
        }
    }

    async fn serve(&self, mut channel: Paths) -> io::Result<()> {
        let mut network = self.search.surroundings.network.clone();
        let mut current: Option<Meeting> = None;
        loop {
            let event = tokio::select! {
                message = channel.receive() => match message? {
                    Some(message) => Event::Message(message),
                    None => return Ok(()),
                },
                progress = progress(&mut current) => Event::Attempt(progress),
                () = network.changed() => Event::Network,
            };
            match event {
                Event::Message(PathMessage::Attempt { link, secret, certificate }) => {
                    let answer = PathMessage::Joined { link, certificate: self.tls.fingerprint() };
                    channel.send(&answer).await?;
                    current = Some(self.join(link, secret, certificate));
                }
                Event::Message(PathMessage::Punch { link, message }) => {
                    let attempt = current.as_ref().filter(|current| current.link == link);
                    if attempt.is_some_and(|current| current.handle(message).is_err()) {
                        current = None;
                    }
                }
                // A client's messages, which a visitor does not send.
                Event::Message(_) => return Err(io::ErrorKind::InvalidData.into()),
                Event::Attempt(Progress::Tell(link, message)) => {
                    channel.send(&PathMessage::Punch { link, message }).await?;
                }
                Event::Attempt(Progress::Ended(_, Ok(new))) => {
                    current = None;
                    let address = new.link.peer();
                    tracing::info!("[{}] direct connection with the visitor at {address}", self.name);
                    self.session.tasks().spawn(share_doubts(new.link.clone(), self.search.clone()));
                    self.session.add_link(new, |_, _| {});
                }
                Event::Attempt(Progress::Ended(link, Err(error))) => {
                    current = None;
                    tracing::debug!("[{}] no direct path to the visitor: {error}", self.name);
                    // The visitor may know already; if not, it need not wait for the end of its patience.
                    let reason = match error {
                        AttemptError::Failed(failure) => failure.mirrored().to_string(),
                        other => other.to_string(),
                    };
                    channel.send(&PathMessage::Declined { link, reason }).await?;
                }
                Event::Network => channel.send(&PathMessage::NetworkChanged).await?,
            }
        }
    }

    fn join(&self, link: u32, secret: Bytes32, peer: Bytes32) -> Meeting {
        let (search, tls, tasks) = (self.search.clone(), self.tls.clone(), self.session.tasks().clone());
        let (_, peer) = watch::channel(Some(peer));
        Meeting::begin(Plan { role: Role::Responder, link, secret, search, tls, peer, tasks })
    }
}

/// Lets the other links of this program be examined whenever this one falls silent.
async fn share_doubts(link: Link, search: Arc<Search>) {
    let mut health = link.health();
    loop {
        tokio::select! {
            () = link.gone() => return,
            Ok(()) = health.changed() => {
                if *health.borrow_and_update() == Health::Suspect {
                    search.surroundings.doubt();
                }
            }
        }
    }
}
