//! Thousands of clients in one process: each is to its server what an idle `tunc` with one TCP proxy is, at a hundredth of
//! the memory.
//!
//! They log in by the code that `tunc` uses itself, up to the session: connection, TLS or QUIC, login, heartbeats, control
//! channel, a proxy. What they lack is what the server does not see of an idle client: settings, a local service,
//! reconnecting.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tun_common::config::{DEFAULT_HEARTBEAT_INTERVAL, DEFAULT_HEARTBEAT_TIMEOUT, DEFAULT_TCP_KEEPALIVE};
use tun_common::control::{Channel, PIPE};
use tun_common::lifecycle::Tasks;
use tun_common::link::heartbeat::{self, LinkEvent};
use tun_common::link::quic::tunnel;
use tun_common::link::tcp::Dialer;
use tun_common::link::tls::{ClientTls, Files, Secured};
use tun_common::link::{Carrier, ReadAhead, Side, handshake};
use tun_common::random;
use tun_common::session::{Handler, Local, Session, pipe};
use tun_proto::auth::TokenKey;
use tun_proto::session::login::{ClientLogin, ClientOutcome};
use tun_proto::wire::control::{ClientMessage, ProxyKind, ProxySpec, ServerMessage, StreamMeta};
use tun_proto::wire::login::{Accepted, Bytes32, Hello, Intent};
use tun_proto::wire::stream::ResetCode;
use tun_tests::net::source;

/// Clients that come from one address, far below what a server may hold against one.
const PER_ADDRESS: usize = 64;

/// Clients that log in at a time.
const COMING: usize = 16;

/// How long a login with its proxy may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Streams that the server may open to one. Nobody visits an idle client.
const MAX_STREAMS: usize = 16;

/// What the clients speak with their server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS over TCP.
    Tls,
    /// TCP alone.
    Plain,
    /// QUIC.
    Quic,
}

/// Clients that are logged in. They go with this value.
pub struct Crowd {
    plan: Arc<Plan>,
    clients: Vec<Client>,
}

/// What the clients have in common.
struct Plan {
    server: SocketAddr,
    transport: Transport,
    key: TokenKey,
    tls: ClientTls,
    /// Nobody doubts their links.
    doubts: watch::Sender<u64>,
    tasks: Tasks,
}

/// What a client holds beside the tasks of its session.
struct Client {
    session: Session,
    _channel: Channel<ClientMessage, ServerMessage>,
    _link_events: mpsc::Receiver<(u32, LinkEvent)>,
}

impl Crowd {
    /// No client yet; they will come to this server, with its token.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(server: SocketAddr, transport: Transport, token: &str) -> Result<Self> {
        let plan = Plan {
            server,
            transport,
            key: TokenKey::new(token),
            tls: ClientTls::new(&Files::default(), "", &server.ip().to_string())?,
            doubts: watch::Sender::new(0),
            tasks: Tasks::new(),
        };
        Ok(Self { plan: Arc::new(plan), clients: Vec::new() })
    }

    /// Clients that are logged in.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Logs in more until there are so many, each with its proxy public. Runs on the current runtime. Cancelled, it gives up
    /// those that are about to come.
    ///
    /// # Errors
    /// A login fails or is refused, or a proxy is.
    pub async fn grow(&mut self, count: usize) -> Result<()> {
        let mut coming = JoinSet::new();
        let mut numbers = self.clients.len()..count;
        loop {
            while coming.len() < COMING
                && let Some(number) = numbers.next()
            {
                let plan = self.plan.clone();
                coming.spawn(async move {
                    let client = tokio::time::timeout(PATIENCE, plan.log_in(number)).await;
                    client.context("no login in time")?.with_context(|| format!("client {number}"))
                });
            }
            match coming.join_next().await {
                Some(client) => self.clients.push(client??),
                None => return Ok(()),
            }
        }
    }

    /// Fails if one of them has lost its link.
    ///
    /// # Errors
    /// How many did.
    pub fn check(&self) -> Result<()> {
        let lost = self.clients.iter().filter(|client| client.session.links().is_empty()).count();
        ensure!(lost == 0, "{lost} of {} clients have lost their links", self.clients.len());
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for client in &self.clients {
            client.session.end("the measurement is over");
        }
        self.plan.tasks.stop();
    }
}

impl Plan {
    async fn log_in(&self, number: usize) -> Result<Client> {
        let (mut carrier, exporter, certificate) = self.dial(number).await?;
        let hello = Hello {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            identity: format!("idle-{number}"),
            user: String::new(),
            instance: random::id(),
            intent: Intent::Login { first: true },
            heartbeat_ms: DEFAULT_HEARTBEAT_INTERVAL.as_millis() as u32,
            saw_certificate: certificate,
            metadatas: BTreeMap::new(),
        };
        let mut login = ClientLogin::new(&hello, self.key.clone(), None, exporter)?;
        let mut input = BytesMut::new();
        match handshake::client(carrier.login(), &mut input, &mut login).await? {
            ClientOutcome::Accepted { accepted, .. } => self.serve(number, carrier, input, &accepted).await,
            ClientOutcome::Refused(refused) => bail!("refused: {}", refused.reason),
        }
    }

    async fn dial(&self, number: usize) -> Result<(Carrier, Option<[u8; 32]>, Option<Bytes32>)> {
        let from = source((number / PER_ADDRESS) as u16);
        if self.transport == Transport::Quic {
            let options = tunnel::Options::default();
            let Secured { stream, exporter, certificate } =
                tunnel::dial(self.server, Some(from), &self.tls, &options).await?;
            return Ok((Carrier::Quic(Box::new(stream)), Some(exporter), certificate));
        }
        let dialer = Dialer { from: Some(from), keepalive: Some(DEFAULT_TCP_KEEPALIVE), ..Dialer::default() };
        let stream = dialer.dial(&self.server.ip().to_string(), self.server.port()).await?;
        if self.transport == Transport::Plain {
            return Ok((Carrier::Stream(Box::new(ReadAhead::new(stream))), None, None));
        }
        let Secured { stream, exporter, certificate } = self.tls.connect(stream).await?;
        Ok((Carrier::Stream(Box::new(stream)), Some(exporter), certificate))
    }

    /// Makes a session of a login, and gives it a proxy.
    async fn serve(
        &self,
        number: usize,
        carrier: Carrier,
        input: BytesMut,
        accepted: &Accepted,
    ) -> Result<Client> {
        let tasks = self.tasks.child();
        let (session, link_events) = Session::new(accepted.session, Arc::new(Nobody), MAX_STREAMS, tasks);
        let (local, pipe) = pipe(PIPE);
        let meta = Bytes::from(serde_json::to_vec(&StreamMeta::Control)?);
        let pump = session.open(random::id(), meta, local, None).context("no control channel")?;
        session.tasks().spawn_to_end(async move {
            pump.await;
        });
        let new = carrier.into_link(input, Side::Dialer, accepted.link, self.server);
        session.tasks().spawn(heartbeat::ask(
            new.link.clone(),
            DEFAULT_HEARTBEAT_INTERVAL,
            DEFAULT_HEARTBEAT_TIMEOUT,
            Arc::new(Notify::new()),
            self.doubts.subscribe(),
            session.link_events(),
        ));
        session.add_link(new, |_, _| {});
        let mut channel = Channel::new(pipe);
        let kind = ProxyKind::Tcp { remote_port: 0, previous_port: None };
        let proxy = ProxySpec { name: format!("idle-{number}"), kind, bandwidth_limit: None };
        channel.send(&ClientMessage::Register(vec![proxy])).await?;
        match channel.receive().await? {
            Some(ServerMessage::Registered { outcome: Ok(_), .. }) => {}
            other => bail!("no proxy: {other:?}"),
        }
        Ok(Client { session, _channel: channel, _link_events: link_events })
    }
}

/// Takes no visitors.
struct Nobody;

impl Handler for Nobody {
    fn open(&self, _: &Session, _: &[u8]) -> Result<Box<dyn Local>, ResetCode> {
        Err(ResetCode::Refused)
    }
}
