//! An attempt under way, as those see it who talk with the peer about it, up to the direct link that comes of it.

use super::Search;
use super::attempt::{Attempt, AttemptError};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tun_common::lifecycle::Tasks;
use tun_common::link::NewLink;
use tun_common::link::quic::direct::{self, Direct};
use tun_common::link::tls::PeerTls;
use tun_proto::p2p::punch::{PunchMessage, Role};
use tun_proto::wire::login::Bytes32;

/// Messages that wait for the attempt, or for the peer. A peer that keeps to the protocol has fewer under way.
const MESSAGES: usize = 64;

/// An attempt under way. Dropping it ends it.
pub(super) struct Meeting {
    /// The attempt, and the direct link.
    pub(super) link: u32,
    running: Pin<Box<dyn Future<Output = Result<NewLink, AttemptError>> + Send>>,
    messages: mpsc::Sender<PunchMessage>,
    told: mpsc::Receiver<PunchMessage>,
}

/// What an attempt needs to begin.
pub(super) struct Plan {
    pub(super) role: Role,
    pub(super) link: u32,
    /// What probes are sealed with.
    pub(super) secret: Bytes32,
    pub(super) search: Arc<Search>,
    pub(super) tls: PeerTls,
    /// The peer's certificate, once it has said which.
    pub(super) peer: watch::Receiver<Option<Bytes32>>,
    /// Of the session.
    pub(super) tasks: Tasks,
}

/// What an attempt has come to.
pub(super) enum Progress {
    /// The peer must be told this about the attempt of that number.
    Tell(u32, PunchMessage),
    /// The attempt of that number is over.
    Ended(u32, Result<NewLink, AttemptError>),
}

impl Meeting {
    /// Begins; nothing happens before [`progress`] is asked for.
    pub(super) fn begin(plan: Plan) -> Self {
        let (messages, receiver) = mpsc::channel(MESSAGES);
        let (tell, told) = mpsc::channel(MESSAGES);
        Meeting { link: plan.link, running: Box::pin(meet(plan, receiver, tell)), messages, told }
    }

    /// Passes on what the peer says.
    ///
    /// # Errors
    /// [`AttemptError::PeerGone`] if it says more than one that keeps to the protocol would: the attempt is to be dropped.
    pub(super) fn handle(&self, message: PunchMessage) -> Result<(), AttemptError> {
        self.messages.try_send(message).map_err(|_| AttemptError::PeerGone)
    }
}

/// What comes of the attempt that is under way; never resolves if there is none. Cancellation safe.
pub(super) async fn progress(meeting: &mut Option<Meeting>) -> Progress {
    let Some(meeting) = meeting else { return std::future::pending().await };
    tokio::select! {
        biased;
        // What it still has to say goes first.
        Some(message) = meeting.told.recv() => Progress::Tell(meeting.link, message),
        result = &mut meeting.running => Progress::Ended(meeting.link, result),
    }
}

async fn meet(
    plan: Plan,
    messages: mpsc::Receiver<PunchMessage>,
    tell: mpsc::Sender<PunchMessage>,
) -> Result<NewLink, AttemptError> {
    let Plan { role, link, secret, search, tls, mut peer, tasks } = plan;
    let won = Attempt::new(role, secret, search, tell).run(messages).await?;
    // The peer has said it before anything else.
    let certificate = peer.wait_for(Option::is_some).await.ok().and_then(|known| *known);
    let direct = Direct {
        socket: won.socket,
        remote: won.remote,
        number: link,
        round_trip: won.round_trip,
        peer: certificate.ok_or(AttemptError::PeerGone)?,
    };
    let new = match role {
        Role::Initiator => direct::dial(direct, &tls).await,
        Role::Responder => direct::accept(direct, &tls).await,
    };
    let new = new.map_err(AttemptError::Handshake)?;
    if let Some(mapping) = won.mapping {
        let link = new.link.clone();
        tasks.spawn(async move {
            link.gone().await;
            drop(mapping);
        });
    }
    Ok(new)
}
