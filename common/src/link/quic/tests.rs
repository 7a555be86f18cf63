mod path;
mod watching;

use super::direct::{Direct, FIRST_STREAMS, accept, dial, dial_to, first_destination};
use super::*;
use crate::link::tls::PeerTls;
use crate::link::{Health, Link, LinkKind, LinkStream, NewLink};
use path::Path;
use std::future::poll_fn;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tun_proto::wire::login::Bytes32;

/// Far more than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end of a link, driven.
struct End {
    link: Link,
    inbound: mpsc::Receiver<LinkStream>,
    driver: JoinHandle<()>,
    local: SocketAddr,
}

struct Peer {
    tls: PeerTls,
    socket: UdpSocket,
}

impl Peer {
    fn new() -> Self {
        Peer { tls: PeerTls::new().unwrap(), socket: UdpSocket::bind("127.0.0.1:0").unwrap() }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn direct(&self, remote: SocketAddr, peer: Bytes32) -> Direct {
        let socket = self.socket.try_clone().unwrap();
        Direct { socket, remote, number: 1, round_trip: Duration::from_millis(1), peer }
    }
}

impl End {
    fn new(new: NewLink, local: SocketAddr) -> Self {
        let NewLink { link, inbound, driver } = new;
        End { link, inbound, driver: tokio::spawn(driver), local }
    }

    async fn accepted(&mut self) -> LinkStream {
        soon(self.inbound.recv()).await.unwrap()
    }

    /// Waits until nothing is left of the link.
    async fn ended(self) {
        let End { link, inbound, driver, local } = self;
        soon(driver).await.unwrap();
        assert!(link.is_gone());
        drop((link, inbound));
        UdpSocket::bind(local).expect("the socket is closed");
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// Two ends whose datagrams take `path`.
async fn linked_over(path: &Path) -> (End, End) {
    let (one, other) = (Peer::new(), Peer::new());
    path.lead_to(other.address());
    let dialing = one.direct(path.near(), other.tls.fingerprint());
    let accepting = other.direct(path.far(), one.tls.fingerprint());
    joined(one, other, dialing, accepting).await
}

/// Two ends with nothing between them.
async fn linked() -> (End, End) {
    let (one, other) = (Peer::new(), Peer::new());
    let dialing = one.direct(other.address(), other.tls.fingerprint());
    let accepting = other.direct(one.address(), one.tls.fingerprint());
    joined(one, other, dialing, accepting).await
}

async fn joined(one: Peer, other: Peer, dialing: Direct, accepting: Direct) -> (End, End) {
    let (dialed, accepted) = tokio::join!(dial(dialing, &one.tls), accept(accepting, &other.tls));
    (End::new(dialed.unwrap(), one.address()), End::new(accepted.unwrap(), other.address()))
}

async fn close(stream: &mut LinkStream) {
    poll_fn(|cx| stream.poll_close(cx)).await.unwrap();
}

async fn read_all(stream: &mut LinkStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = soon(stream.read_chunk()).await.unwrap() {
        all.extend_from_slice(&chunk);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_may_open_ever_more_streams_as_it_goes_on() {
    const STREAMS: usize = 4 * FIRST_STREAMS as usize;
    let (one, mut other) = linked().await;
    let mut held = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = soon(one.link.open()).await.unwrap();
        soon(stream.write_all(b"x")).await.unwrap();
        held.push((stream, other.accepted().await));
    }
    assert_eq!((one.link.streams(), other.link.streams()), (STREAMS, STREAMS));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_carry_bytes_both_ways_and_end_one_way_at_a_time() {
    let (one, mut other) = linked().await;
    let mut stream = one.link.open().await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    close(&mut stream).await;
    let mut accepted = other.accepted().await;
    assert_eq!(read_all(&mut accepted).await, b"ping");
    accepted.write_all(b"pong").await.unwrap();
    close(&mut accepted).await;
    assert_eq!(read_all(&mut stream).await, b"pong");
    assert_eq!((one.link.kind(), one.link.streams()), (LinkKind::Direct, 1));
    assert!(one.link.round_trip().unwrap() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn either_end_opens_streams() {
    let (mut one, mut other) = linked().await;
    let links = [one.link.clone(), other.link.clone()];
    for (opener, acceptor) in links.iter().zip([&mut other, &mut one]) {
        let mut stream = opener.open().await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut accepted = acceptor.accepted().await;
        assert_eq!(soon(accepted.read_chunk()).await.unwrap().unwrap(), "hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_is_reset_for_the_reader_and_the_writer() {
    let (one, mut other) = linked().await;
    let mut stream = one.link.open().await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut accepted = other.accepted().await;
    assert_eq!(soon(accepted.read_chunk()).await.unwrap().unwrap(), "hello");
    drop(stream);
    assert_eq!(soon(accepted.read_chunk()).await.unwrap(), None);
    let refused = async { while accepted.write_all(b"anybody?").await.is_ok() {} };
    soon(refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_never_written_to_disturbs_nobody() {
    let (one, mut other) = linked().await;
    drop(one.link.open().await.unwrap());
    let silent = one.link.open().await.unwrap();
    let mut stream = one.link.open().await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(soon(other.accepted().await.read_chunk()).await.unwrap(), None);
    let mut accepted = other.accepted().await;
    drop(silent);
    assert_eq!(soon(accepted.read_chunk()).await.unwrap(), None);
    assert_eq!(soon(other.accepted().await.read_chunk()).await.unwrap().unwrap(), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_stops_the_writer_and_nobody_else() {
    let (one, mut other) = linked().await;
    let mut stuck = one.link.open().await.unwrap();
    let chunk = vec![7; 64 * 1024];
    let mut written = 0;
    let mut full = false;
    while !full {
        match tokio::time::timeout(Duration::from_millis(500), stuck.write_all(&chunk)).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => full = true,
        }
        written += chunk.len();
        assert!(written <= STREAM_WINDOW as usize + 2 * chunk.len(), "{written}");
    }
    let mut accepted = other.accepted().await;
    let mut stream = one.link.open().await.unwrap();
    stream.write_all(b"past it").await.unwrap();
    assert_eq!(soon(other.accepted().await.read_chunk()).await.unwrap().unwrap(), "past it");
    assert!(soon(accepted.read_chunk()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_closed_in_order_arrives_before_the_end_of_the_link() {
    let (one, mut other) = linked().await;
    let bytes = vec![7; 1024 * 1024];
    let mut stream = one.link.open().await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    close(&mut stream).await;
    drop(stream);
    one.link.close("enough\n");
    assert!(read_all(&mut other.accepted().await).await == bytes);
    soon(other.link.gone()).await;
    assert_eq!(other.link.reason(), "the peer closed the connection: enough ");
    assert!(one.link.open().await.is_err());
    one.ended().await;
    other.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_is_dropped_leaves_nothing() {
    let (one, other) = linked().await;
    let mut stream = one.link.open().await.unwrap();
    one.driver.abort();
    soon(one.link.gone()).await;
    assert!(soon(stream.read_chunk()).await.is_err());
    drop(stream);
    assert!(soon(one.driver).await.unwrap_err().is_cancelled());
    other.link.close("over");
    other.ended().await;
    assert!(
        soon(async {
            while UdpSocket::bind(one.local).is_err() {
                tokio::task::yield_now().await;
            }
            true
        })
        .await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_talk_to_another_than_its_peer() {
    let (one, other) = (Peer::new(), Peer::new());
    let dialing = one.direct(other.address(), one.tls.fingerprint());
    let accepting = other.direct(one.address(), one.tls.fingerprint());
    // Otherwise the other would not even answer.
    let destination = first_destination(one.tls.fingerprint(), other.tls.fingerprint(), accepting.number);
    let refused = tokio::select! {
        dialed = dial_to(destination, dialing, &one.tls) => dialed.err().unwrap(),
        _ = accept(accepting, &other.tls) => panic!("accepted a peer that refused"),
    };
    assert!(refused.to_string().starts_with("no direct connection: "), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_is_accepted_and_a_stranger_before_it_not_even_answered() {
    /// Many of them, on loopback.
    const ROUND_TRIPS: Duration = Duration::from_millis(500);
    let (one, other, stranger) = (Peer::new(), Peer::new(), Peer::new());
    let strange = stranger.direct(other.address(), other.tls.fingerprint());
    let accepting = other.direct(one.address(), one.tls.fingerprint());
    let dialing = one.direct(other.address(), other.tls.fingerprint());
    let dialed_second = async {
        // Nobody refuses the stranger: nothing comes back at all.
        let answered = tokio::time::timeout(ROUND_TRIPS, dial(strange, &stranger.tls)).await;
        assert!(answered.is_err(), "a stranger was answered");
        dial(dialing, &one.tls).await
    };
    let (accepted, dialed) = tokio::join!(accept(accepting, &other.tls), dialed_second);
    let (one, mut other) =
        (End::new(dialed.unwrap(), one.address()), End::new(accepted.unwrap(), other.address()));
    let mut stream = one.link.open().await.unwrap();
    stream.write_all(b"me").await.unwrap();
    assert_eq!(soon(other.accepted().await.read_chunk()).await.unwrap().unwrap(), "me");
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_left_over_from_the_opening_of_the_path_are_ignored() {
    let (one, other) = (Peer::new(), Peer::new());
    for byte in [0x00, 0x05, 0x3f] {
        one.socket.send_to(&[byte; 96], other.address()).unwrap();
        other.socket.send_to(&[byte; 96], one.address()).unwrap();
    }
    let dialing = one.direct(other.address(), other.tls.fingerprint());
    let accepting = other.direct(one.address(), one.tls.fingerprint());
    let (one, other) = joined(one, other, dialing, accepting).await;
    assert!(!one.link.is_gone() && !other.link.is_gone());
}
