//! Gathering candidates: the sockets of a round, and under which addresses a peer may reach them (RFC 8445 §5.1.1).

use super::interfaces::host_addresses;
use super::servers::Servers;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};
use tun_common::stun::{
    MAX_MESSAGE, Received, Request, Response, TransactionId, canonical, decode, transaction_id,
};
use tun_proto::p2p::candidate::{Candidate, CandidateKind};
use tun_proto::p2p::nat::Change;
use tun_proto::p2p::punch::{Gathered, SocketId};

/// How long silent servers are waited for.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How long further answers are waited for at least, once there is one.
const GRACE: Duration = Duration::from_millis(300);

/// The same as a multiple of the time that the first answer took: enough for one repetition.
const GRACE_FACTOR: u32 = 4;

/// Wait before the first repetition; each further one takes twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// Endpoints of servers that are asked at most: two ports on two addresses.
const MAX_SERVERS: usize = 4;

/// What the user decided.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Keep the addresses of this machine's interfaces from peers (`natTraversal.disableAssistedAddrs`).
    pub(crate) disable_assisted_addrs: bool,
    /// Addresses under which this machine is reachable besides; port 0 stands for that of the socket.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The port to use here, if it is free; otherwise, and for 0, any.
    pub(crate) port: u16,
}

/// The sockets of a round.
#[derive(Debug)]
pub(crate) struct Gathering {
    pub(crate) sockets: Vec<(SocketId, UdpSocket)>,
    pub(crate) gathered: Vec<Gathered>,
}

/// Binds one socket for each version of IP that this machine has, numbered from `first` on, and finds out how they are
/// seen. Takes as long as the servers take to answer, at most 2.5 s.
///
/// # Errors
/// When there is no socket at all.
pub(crate) async fn gather(options: &Options, servers: &Servers, first: SocketId) -> io::Result<Gathering> {
    let hosts = host_addresses();
    let mut sockets = Vec::new();
    let mut failure = None;
    for (v4, servers) in [(true, &servers.v4), (false, &servers.v6)] {
        let own: Vec<IpAddr> = hosts.iter().copied().filter(|address| address.is_ipv4() == v4).collect();
        // Without an address, only a server that is on this very machine could be asked.
        if own.is_empty() && servers.is_empty() {
            continue;
        }
        match bind(v4, options.port) {
            Ok(socket) => sockets.push((socket, own, servers)),
            Err(error) => failure = Some(error),
        }
    }
    if let (true, Some(error)) = (sockets.is_empty(), failure) {
        return Err(error);
    }
    let questions: Vec<_> = sockets.iter().map(|(socket, _, servers)| (socket, servers.as_slice())).collect();
    let seen = reflect_all(&questions).await;
    let mut gathering = Gathering { sockets: Vec::new(), gathered: Vec::new() };
    for (id, ((socket, own, _), reflexive)) in (first..).zip(sockets.into_iter().zip(seen)) {
        let bound = socket.local_addr()?;
        let local = SocketAddr::new(own.first().copied().unwrap_or(bound.ip()), bound.port());
        let candidates = candidates(options, local, &own, &reflexive);
        gathering.gathered.push(Gathered { socket: id, local, candidates, reflexive });
        gathering.sockets.push((id, socket));
    }
    Ok(gathering)
}

/// A socket of one version of IP, on every address of this machine.
///
/// # Errors
/// Those of the system, which may lack a version of IP or file descriptors.
pub(crate) fn bind(v4: bool, port: u16) -> io::Result<UdpSocket> {
    let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    match open(SocketAddr::new(any, port)) {
        Err(error) if port != 0 => {
            tracing::debug!("port {port} (UDP) cannot be used for a direct path, taking any: {error}");
            open(SocketAddr::new(any, 0))
        }
        result => result,
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Every address once, as what it was learned first.
fn candidates(
    options: &Options,
    local: SocketAddr,
    own: &[IpAddr],
    reflexive: &[SocketAddr],
) -> Vec<Candidate> {
    let own = own.iter().filter(|_| !options.disable_assisted_addrs);
    let host = own.map(|ip| (SocketAddr::new(*ip, local.port()), CandidateKind::Host));
    let reflexive = reflexive.iter().map(|address| (*address, CandidateKind::ServerReflexive));
    let configured = options.addresses.iter().filter(|address| address.is_ipv4() == local.is_ipv4());
    let configured = configured.map(|address| {
        let port = if address.port() == 0 { local.port() } else { address.port() };
        (SocketAddr::new(address.ip(), port), CandidateKind::Configured)
    });
    let mut candidates: Vec<Candidate> = Vec::new();
    for (address, kind) in configured.chain(host).chain(reflexive) {
        if !candidates.iter().any(|known| known.address == address) {
            candidates.push(Candidate { address, kind });
        }
    }
    candidates
}

/// Asks for every socket at once. A socket that is answered gives the others a bounded time: a version of IP that leads
/// nowhere must not hold up the one that works.
async fn reflect_all(questions: &[(&UdpSocket, &[SocketAddr])]) -> Vec<Vec<SocketAddr>> {
    let start = Instant::now();
    let mut asking: Vec<Asking<'_>> =
        questions.iter().map(|(socket, servers)| Asking::new(socket, servers, start)).collect();
    match &mut asking[..] {
        [one, two] => {
            let answered = tokio::select! {
                () = one.run() => &*one,
                () = two.run() => &*two,
            };
            let deadline = match answered.answers().is_empty() {
                true => start + PATIENCE,
                false => answered.deadline,
            };
            for rest in &mut asking {
                rest.deadline = rest.deadline.min(deadline);
                rest.run().await;
            }
        }
        others => {
            for one in others {
                one.run().await;
            }
        }
    }
    asking.iter().map(Asking::answers).collect()
}

/// How the socket is seen by each of `servers`, in their order, without those that do not answer. A single server that
/// knows of a second endpoint of its own makes that be asked too. Nobody else may read from the socket meanwhile.
/// Takes 2.5 s at most, and returns empty at once where there is no route. Cancellation safe.
#[cfg(test)]
async fn reflect(socket: &UdpSocket, servers: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut asking = Asking::new(socket, servers, Instant::now());
    asking.run().await;
    asking.answers()
}

/// Questions of one socket.
struct Asking<'a> {
    socket: &'a UdpSocket,
    questions: Vec<Question>,
    start: Instant,
    /// When it is over.
    deadline: Instant,
    /// When what is not answered is asked again, and how long after that once more.
    repeat: Instant,
    wait: Duration,
}

struct Question {
    to: SocketAddr,
    transaction: TransactionId,
    seen: Option<SocketAddr>,
}

impl Question {
    fn new(to: SocketAddr) -> Self {
        Question { to, transaction: transaction_id(), seen: None }
    }
}

impl<'a> Asking<'a> {
    fn new(socket: &'a UdpSocket, servers: &[SocketAddr], start: Instant) -> Self {
        let questions = servers.iter().take(MAX_SERVERS).map(|server| Question::new(*server)).collect();
        Asking { socket, questions, start, deadline: start + PATIENCE, repeat: start, wait: FIRST_WAIT }
    }

    fn answers(&self) -> Vec<SocketAddr> {
        self.questions.iter().filter_map(|question| question.seen).collect()
    }

    /// Runs until all is answered or the time is over. Cancellation safe: to be run again.
    async fn run(&mut self) {
        let mut buffer = [0; MAX_MESSAGE];
        while self.questions.iter().any(|question| question.seen.is_none()) {
            let now = Instant::now();
            if now >= self.deadline {
                return;
            }
            if now >= self.repeat {
                if !self.send().await {
                    return;
                }
                self.repeat = now + self.wait;
                self.wait *= 2;
            }
            let until = self.repeat.min(self.deadline);
            match timeout_at(until, self.socket.recv_from(&mut buffer)).await {
                Ok(Ok((length, from))) => self.handle(&buffer[..length], canonical(from)),
                // An error is about an earlier packet, or lasts.
                Ok(Err(_)) => sleep_until(until).await,
                Err(_) => {}
            }
        }
    }

    /// Asks what is not answered; returns whether anything could be sent.
    async fn send(&self) -> bool {
        let mut sent = false;
        for question in self.questions.iter().filter(|question| question.seen.is_none()) {
            let request = Request::new(question.transaction, Change::NONE).encode();
            match self.socket.send_to(&request, question.to).await {
                Ok(_) => sent = true,
                Err(error) => tracing::debug!("the STUN server {} cannot be asked: {error}", question.to),
            }
        }
        sent
    }

    fn handle(&mut self, datagram: &[u8], from: SocketAddr) {
        let Some(Received::Success(transaction, response)) = decode(datagram) else { return };
        let asked = |question: &&mut Question| {
            question.transaction == transaction && question.to == from && question.seen.is_none()
        };
        let Some(question) = self.questions.iter_mut().find(asked) else { return };
        question.seen = Some(response.mapped);
        let now = Instant::now();
        let grace = GRACE.max((now - self.start) * GRACE_FACTOR);
        self.deadline = self.deadline.min(self.start + grace);
        if let ([_], Some(second)) = (&self.questions[..], second_endpoint(from, &response)) {
            self.questions.push(Question::new(second));
            self.repeat = now;
            self.wait = FIRST_WAIT;
            self.deadline = self.start.max(now) + grace;
        }
    }
}

/// Where else the server at `from` says that it answers.
fn second_endpoint(from: SocketAddr, response: &Response) -> Option<SocketAddr> {
    let second = response.second_port.map(|port| SocketAddr::new(from.ip(), port));
    second.or(response.other).filter(|other| *other != from && other.is_ipv4() == from.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tun_common::lifecycle::Tasks;

    /// A STUN server on 127.0.0.1 or ::1 that drops the first `lost` questions and then tells each asker what `sees`
    /// makes of its address.
    async fn server(
        tasks: &Tasks,
        ip: &str,
        mut lost: u32,
        sees: impl Fn(SocketAddr) -> Response + Send + 'static,
    ) -> SocketAddr {
        let socket = UdpSocket::bind((ip, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        tasks.spawn(async move {
            let mut buffer = [0; MAX_MESSAGE];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Some(Received::Request(request)) = decode(&buffer[..length]) else { continue };
                if lost > 0 {
                    lost -= 1;
                    continue;
                }
                // A stranger's answer, which must not be taken for one.
                let stranger = Response { mapped: "192.0.2.66:6".parse().unwrap(), ..sees(from) };
                socket.send_to(&stranger.encode(transaction_id()), from).await.unwrap();
                socket.send_to(&sees(from).encode(request.transaction), from).await.unwrap();
            }
        });
        address
    }

    fn mapped(mapped: SocketAddr) -> Response {
        Response { mapped, origin: None, other: None, second_port: None }
    }

    /// Sees every asker at that external port.
    fn at(port: u16) -> impl Fn(SocketAddr) -> Response + Send + 'static {
        move |_| mapped(SocketAddr::from(([203, 0, 113, 1], port)))
    }

    /// Where nobody answers.
    async fn silent(tasks: &Tasks, ip: &str) -> SocketAddr {
        server(tasks, ip, u32::MAX, mapped).await
    }

    fn external(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([203, 0, 113, 1], *port))).collect()
    }

    #[tokio::test]
    async fn what_the_servers_see_comes_in_the_order_in_which_they_were_asked() {
        let tasks = Tasks::new();
        // The first one answers last.
        let servers =
            [server(&tasks, "127.0.0.1", 1, at(1)).await, server(&tasks, "127.0.0.1", 0, at(2)).await];
        let socket = bind(true, 0).unwrap();
        assert_eq!(reflect(&socket, &servers).await, external(&[1, 2]));
        tasks.stop();
    }

    #[tokio::test]
    async fn a_lost_question_is_repeated_and_a_silent_server_costs_little() {
        let tasks = Tasks::new();
        let servers = [server(&tasks, "127.0.0.1", 2, at(1)).await, silent(&tasks, "127.0.0.1").await];
        let socket = bind(true, 0).unwrap();
        let start = Instant::now();
        assert_eq!(reflect(&socket, &servers).await, external(&[1]));
        assert!(start.elapsed() <= PATIENCE + GRACE, "{:?}", start.elapsed());
        assert_eq!(reflect(&socket, &servers[1..]).await, []);
        tasks.stop();
    }

    #[tokio::test]
    async fn a_server_that_tells_of_its_second_port_is_asked_there_too() {
        let tasks = Tasks::new();
        let second = server(&tasks, "127.0.0.1", 0, at(2)).await.port();
        let first = move |_| Response { second_port: Some(second), ..mapped(external(&[1])[0]) };
        let first = server(&tasks, "127.0.0.1", 0, first).await;
        assert_eq!(reflect(&bind(true, 0).unwrap(), &[first]).await, external(&[1, 2]));
        tasks.stop();
    }

    #[tokio::test]
    async fn a_version_of_ip_that_leads_nowhere_does_not_hold_up_the_other() {
        let tasks = Tasks::new();
        let servers = Servers {
            v4: vec![server(&tasks, "127.0.0.1", 0, mapped).await],
            v6: vec![silent(&tasks, "::1").await],
        };
        let start = Instant::now();
        let gathering = gather(&Options::default(), &servers, 7).await.unwrap();
        assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
        let ids: Vec<SocketId> = gathering.gathered.iter().map(|gathered| gathered.socket).collect();
        assert_eq!(ids, [7, 8]);
        let [v4, v6] = &gathering.gathered[..] else { panic!("two sockets are expected") };
        assert_eq!(v4.reflexive, [SocketAddr::from(([127, 0, 0, 1], v4.local.port()))]);
        assert_eq!((v6.local.is_ipv6(), v6.reflexive.len()), (true, 0));
        tasks.stop();
    }

    #[tokio::test]
    async fn a_port_that_was_configured_is_used_if_it_is_free() {
        let holder = bind(true, 0).unwrap();
        let port = holder.local_addr().unwrap().port();
        assert_ne!(bind(true, port).unwrap().local_addr().unwrap().port(), port);
        drop(holder);
        assert_eq!(bind(true, port).unwrap().local_addr().unwrap().port(), port);
    }

    #[test]
    fn every_address_is_told_once_and_own_ones_only_if_the_user_lets_them() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let own = [IpAddr::from([192, 168, 0, 2]), IpAddr::from([203, 0, 113, 1])];
        let local = SocketAddr::new(own[0], 40_000);
        let reflexive = [address("203.0.113.1:40000"), address("203.0.113.1:40001")];
        let mut options = Options {
            addresses: vec![address("198.51.100.1:0"), address("[2001:db8::1]:1")],
            ..Options::default()
        };
        let listed = |options: &Options| -> Vec<(String, CandidateKind)> {
            let candidates = candidates(options, local, &own, &reflexive);
            candidates.into_iter().map(|candidate| (candidate.address.to_string(), candidate.kind)).collect()
        };
        use CandidateKind::{Configured, Host, ServerReflexive};
        let named = |text: &str, kind| (text.to_owned(), kind);
        assert_eq!(
            listed(&options),
            [
                named("198.51.100.1:40000", Configured),
                named("192.168.0.2:40000", Host),
                named("203.0.113.1:40000", Host),
                named("203.0.113.1:40001", ServerReflexive),
            ]
        );
        options.disable_assisted_addrs = true;
        assert_eq!(
            listed(&options),
            [
                named("198.51.100.1:40000", Configured),
                named("203.0.113.1:40000", ServerReflexive),
                named("203.0.113.1:40001", ServerReflexive),
            ]
        );
    }
}
