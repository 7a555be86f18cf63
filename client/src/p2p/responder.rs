//! The client's side of direct paths with one visitor: takes part in the attempts that the visitor starts, and accepts the
//! direct link that comes of one.

use super::Search;
use super::attempt::{Attempt, AttemptError, MESSAGES};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tun_common::control::Channel;
use tun_common::link::quic::{self, Direct};
use tun_common::link::tls::PeerTls;
use tun_common::link::{Health, Link, NewLink};
use tun_common::session::Session;
use tun_proto::p2p::punch::{PunchMessage, Role};
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
type Running = Pin<Box<dyn Future<Output = Result<NewLink, AttemptError>> + Send>>;

/// An attempt under way.
struct Current {
    link: u32,
    running: Running,
    messages: mpsc::Sender<PunchMessage>,
    told: mpsc::Receiver<PunchMessage>,
}

enum Event {
    Message(PathMessage),
    Tell(u32, PunchMessage),
    Ended(u32, Result<NewLink, AttemptError>),
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
        let mut current: Option<Current> = None;
        loop {
            let event = tokio::select! {
                message = channel.receive() => match message? {
                    Some(message) => Event::Message(message),
                    None => return Ok(()),
                },
                event = happening(&mut current) => event,
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
                    // One that keeps to the protocol has few messages under way.
                    if attempt.is_some_and(|current| current.messages.try_send(message).is_err()) {
                        current = None;
                    }
                }
                // A client's messages, which a visitor does not send.
                Event::Message(_) => return Err(io::ErrorKind::InvalidData.into()),
                Event::Tell(link, message) => channel.send(&PathMessage::Punch { link, message }).await?,
                Event::Ended(_, Ok(new)) => {
                    current = None;
                    let address = new.link.peer();
                    tracing::info!("[{}] direct connection with the visitor at {address}", self.name);
                    self.session.tasks().spawn(share_doubts(new.link.clone(), self.search.clone()));
                    self.session.add_link(new, |_, _| {});
                }
                Event::Ended(link, Err(error)) => {
                    current = None;
                    tracing::debug!("[{}] no direct path to the visitor: {error}", self.name);
                    // The visitor may know already; if not, it need not wait for the end of its patience.
                    let reason = error.to_string();
                    channel.send(&PathMessage::Declined { link, reason }).await?;
                }
                Event::Network => channel.send(&PathMessage::NetworkChanged).await?,
            }
        }
    }

    fn join(&self, link: u32, secret: Bytes32, peer: Bytes32) -> Current {
        let tls = self.tls.clone();
        let (messages, receiver) = mpsc::channel(MESSAGES);
        let (tell, told) = mpsc::channel(MESSAGES);
        let attempt = Attempt::new(Role::Responder, secret, self.search.clone(), tell);
        let tasks = self.session.tasks().clone();
        let running = Box::pin(async move {
            let won = attempt.run(receiver).await?;
            let direct = Direct {
                socket: won.socket,
                remote: won.remote,
                number: link,
                round_trip: won.round_trip,
                peer,
            };
            let new = quic::accept(direct, &tls).await.map_err(AttemptError::Handshake)?;
            if let Some(mapping) = won.mapping {
                let link = new.link.clone();
                tasks.spawn(async move {
                    link.gone().await;
                    drop(mapping);
                });
            }
            Ok(new)
        });
        Current { link, running, messages, told }
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

/// What happens to the attempt that is under way.
async fn happening(current: &mut Option<Current>) -> Event {
    let Some(current) = current else { return std::future::pending().await };
    tokio::select! {
        biased;
        // What it still has to say goes first.
        Some(message) = current.told.recv() => Event::Tell(current.link, message),
        result = &mut current.running => Event::Ended(current.link, result),
    }
}
