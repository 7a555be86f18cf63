//! One client's control channel, and the life of its session.
//!
//! The task lives as long as the session. It answers registrations, passes on what the server has to say, and decides
//! what becomes of a session without links: after [`LISTEN_WITHOUT_LINK`] its ports close, after [`RESUME_WINDOW`]
//! it is over; a link that arrives in time restores everything.

use crate::clients::{Clients, NewClient};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tun_common::control::Channel;
use tun_common::link::heartbeat::LinkEvent;
use tun_common::session::Session;
use tun_proto::limits::{HANDSHAKE_DEADLINE, LISTEN_WITHOUT_LINK, RESUME_WINDOW};
use tun_proto::wire::control::{ClientMessage, ServerMessage};

/// How long the ports of a client that logged in anew wait for it to register them.
const SUCCESSION: Duration = Duration::from_secs(5);

/// How often the load of the links is looked at.
const LOAD_TICK: Duration = Duration::from_secs(1);

/// How long a goodbye may take to leave.
const GOODBYE_DEADLINE: Duration = Duration::from_millis(500);

type ClientChannel = Channel<ServerMessage, ClientMessage>;

/// Serves a client until its session is over.
pub(crate) async fn serve(clients: Arc<Clients>, new: NewClient) {
    let NewClient { identity, session, outbox, control, link_events } = new;
    let links = session.watch_links();
    let mut client = Client {
        clients: clients.clone(),
        identity,
        session: session.clone(),
        linkless: None,
        suspended: false,
    };
    let reason = client.run(outbox, control, link_events, links).await;
    tracing::info!("session {} of client {:?} ended: {reason}", session.id(), client.identity);
    session.end(&reason);
    let succeeded = reason == REPLACED;
    clients.remove(session.id(), succeeded);
    if succeeded {
        // Ports that the new session takes over never close; those it does not want go after a while.
        tokio::time::sleep(SUCCESSION).await;
        clients.withdraw_all(session.id());
    }
}

const REPLACED: &str = "the client logged in anew";

struct Client {
    clients: Arc<Clients>,
    identity: String,
    session: Session,
    linkless: Option<Instant>,
    suspended: bool,
}

enum Event {
    Message(std::io::Result<Option<ClientMessage>>),
    Outgoing(ServerMessage),
    Links,
    Link(u32, LinkEvent),
    Linkless,
    Tick,
    InUse,
    Over,
}

impl Client {
    /// Runs until the session is over; returns why.
    async fn run(
        &mut self,
        mut outbox: mpsc::Receiver<Box<ServerMessage>>,
        control: oneshot::Receiver<DuplexStream>,
        mut link_events: mpsc::Receiver<(u32, LinkEvent)>,
        mut links: watch::Receiver<usize>,
    ) -> String {
        let opened = tokio::time::timeout(HANDSHAKE_DEADLINE + LISTEN_WITHOUT_LINK, control);
        let pipe = tokio::select! {
            pipe = opened => pipe,
            () = self.session.over() => return REPLACED.into(),
        };
        let Ok(Ok(pipe)) = pipe else { return "the client opened no control channel".into() };
        let mut channel = ClientChannel::new(pipe);
        let mut streams = self.session.watch_streams();
        let mut tick = interval(LOAD_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // A session with nothing but its control channel is not looked at.
            let in_use = *streams.borrow_and_update() > 1;
            let linkless = self.linkless_deadline();
            let event = tokio::select! {
                message = channel.receive() => Event::Message(message),
                Some(message) = outbox.recv() => Event::Outgoing(*message),
                Ok(()) = links.changed() => Event::Links,
                Some((link, event)) = link_events.recv() => Event::Link(link, event),
                () = sleep_until(linkless.unwrap_or_else(Instant::now).into()), if linkless.is_some() => Event::Linkless,
                _ = tick.tick(), if in_use => Event::Tick,
                Ok(()) = streams.changed(), if !in_use => Event::InUse,
                () = self.session.over() => Event::Over,
            };
            let ended = match event {
                Event::Message(Ok(Some(message))) => self.handle_message(&mut channel, message).await,
                Event::Message(Ok(None)) => Some("the client closed the control channel".to_owned()),
                Event::Message(Err(error)) => Some(format!("the control channel failed: {error}")),
                Event::Outgoing(message) => self.handle_outgoing(&mut channel, message).await,
                Event::Links => self.handle_links(*links.borrow_and_update()),
                Event::Link(link, LinkEvent::Retire) => {
                    self.session.retire(link);
                    None
                }
                Event::Link(_, LinkEvent::Suspect) => None,
                Event::Linkless => self.handle_linkless(),
                Event::InUse => None,
                Event::Tick => self.consult_policy(&mut channel).await,
                Event::Over => Some(REPLACED.to_owned()),
            };
            if let Some(reason) = ended {
                return reason;
            }
        }
    }

    async fn handle_message(
        &mut self,
        channel: &mut ClientChannel,
        message: ClientMessage,
    ) -> Option<String> {
        match message {
            ClientMessage::Register(specs) => {
                for spec in specs {
                    let answer = self.clients.register(&self.identity, &self.session, &spec);
                    if let Some(ended) = self.send(channel, &answer).await {
                        return Some(ended);
                    }
                }
            }
            ClientMessage::Withdraw { name } => self.clients.withdraw(self.session.id(), &name),
            ClientMessage::Drain => self.clients.withdraw_all(self.session.id()),
            ClientMessage::Goodbye => return Some("the client said goodbye".into()),
        }
        None
    }

    /// The client decides about tunnels, but only the server knows how busy its own sending is.
    async fn consult_policy(&mut self, channel: &mut ClientChannel) -> Option<String> {
        let loads = self.session.measure();
        if loads.is_empty() || !loads.iter().all(|load| load.is_busy()) {
            return None;
        }
        self.send(channel, &ServerMessage::Busy).await
    }

    async fn handle_outgoing(
        &mut self,
        channel: &mut ClientChannel,
        message: ServerMessage,
    ) -> Option<String> {
        let last = matches!(message, ServerMessage::Goodbye { .. });
        let failed = self.send(channel, &message).await;
        if !last {
            return failed;
        }
        let _ = channel.finish().await;
        // The client answers a goodbye by closing the channel, which shows that it has arrived.
        let _ = tokio::time::timeout(GOODBYE_DEADLINE, channel.receive()).await;
        Some("the server was stopped".into())
    }

    /// Sends a message, unless the session ends meanwhile: a channel without a link takes no more than its pipe holds.
    async fn send(&self, channel: &mut ClientChannel, message: &ServerMessage) -> Option<String> {
        tokio::select! {
            sent = channel.send(message) => sent.err().map(|error| format!("the control channel failed: {error}")),
            () = self.session.over() => Some(REPLACED.into()),
            () = tokio::time::sleep(RESUME_WINDOW) => Some("the client takes no messages".into()),
        }
    }

    fn handle_links(&mut self, count: usize) -> Option<String> {
        if count == 0 {
            if self.clients.is_superseded(self.session.id()) {
                return Some("another instance of the client took its place".into());
            }
            self.linkless.get_or_insert_with(Instant::now);
        } else {
            self.linkless = None;
            if std::mem::take(&mut self.suspended) {
                self.clients.resume(&self.session);
            }
        }
        self.clients.set_linkless(&self.identity, self.session.id(), self.linkless);
        None
    }

    fn linkless_deadline(&self) -> Option<Instant> {
        let since = self.linkless?;
        Some(since + if self.suspended { RESUME_WINDOW } else { LISTEN_WITHOUT_LINK })
    }

    fn handle_linkless(&mut self) -> Option<String> {
        if self.suspended {
            return Some(format!("the client did not come back within {} s", RESUME_WINDOW.as_secs()));
        }
        self.suspended = true;
        self.clients.suspend(self.session.id());
        None
    }
}
