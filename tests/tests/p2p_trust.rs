//! What others learn of a session with a direct path, and what they can do to it: the server, and strangers.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tun_tests::eventually::{eventually, quiet};
use tun_tests::lab::{Access, Nat, SERVER, Site, Tap};
use tun_tests::memory::memory_holds;
use tun_tests::net::{REMOTE_PORT, SERVICE_PORT};
use tun_tests::p2p::flow::{Direction, Valve};
use tun_tests::p2p::stranger::{Sent, Stranger, can_reach};
use tun_tests::p2p::{DIRECT, LOST, Peers, Plan, Ways, relay, said};
use tun_tests::patience::alone;
use tun_tests::private::{NAME, SECRET};
use tun_tests::program::Launch;
use tun_tests::service::Service;
use tun_tests::tunnel::{Proxy, TOKEN, client_config};
use tun_tests::visitor::Visitor;

const MIB: u64 = 1 << 20;

/// What crosses a connection, again and again, towards the service and back.
const UP: &[u8] = b"<up-marker-77c1e90b5d>";
const DOWN: &[u8] = b"<down-marker-e2286fa413>";

/// How candidates are written where they may be read.
const CANDIDATES: [&[u8]; 3] = [b"\"kind\":\"host\"", b"\"kind\":\"srflx\"", b"\"reflexive\":["];

/// What the server must not know: the secret, what is said, candidates, and the addresses of two hosts in their own
/// networks, as text and as bytes.
struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    const COUNT: usize = 14;

    fn of(sites: [&Site; 2]) -> Self {
        let mut all = vec![UP.to_vec(), DOWN.to_vec(), SECRET.into()];
        all.extend(CANDIDATES.map(<[u8]>::to_vec));
        for site in sites {
            let (v4, v6) = (site.address(), site.v6(0));
            all.extend([v4.to_string().into(), mapped(v4), v6.to_string().into(), v6.octets().to_vec()]);
        }
        Self(all)
    }

    fn needles(&self) -> [&[u8]; Self::COUNT] {
        let all: Vec<&[u8]> = self.0.iter().map(Vec::as_slice).collect();
        std::array::from_fn(|n| all[n])
    }

    /// Those that were found, to be read.
    fn found(&self, found: [bool; Self::COUNT]) -> Vec<String> {
        let found = self.0.iter().zip(found).filter(|(_, found)| *found);
        found.map(|(secret, _)| String::from_utf8_lossy(secret).into_owned()).collect()
    }
}

/// An IPv4 address as sockets of both families have it.
fn mapped(address: Ipv4Addr) -> Vec<u8> {
    address.to_ipv6_mapped().octets().to_vec()
}

/// Sends words as long as somebody takes them, not too fast, and counts what comes.
async fn chat(
    mut reader: impl AsyncReadExt + Unpin,
    mut writer: impl AsyncWriteExt + Unpin,
    words: &[u8],
    came: &AtomicU64,
) -> io::Result<()> {
    let words = words.repeat(1000);
    let talking = async {
        loop {
            writer.write_all(&words).await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let listening = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut buffer).await? {
                0 => return Ok(()),
                n => came.fetch_add(n as u64, Ordering::Relaxed),
            };
        }
    };
    tokio::select! {
        result = talking => result,
        result = listening => result,
    }
}

/// Waits until a megabyte has gone this way and no other.
async fn goes(peers: &Peers, what: &str, way: fn(Ways, u64) -> bool) {
    let mut before = (peers.ways(), Instant::now());
    eventually(what, || {
        let went = peers.ways() - before.0;
        if before.1.elapsed() > Duration::from_secs(2) {
            before = (peers.ways(), Instant::now());
        }
        std::future::ready(way(went, MIB).then_some(()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_learns_nothing_of_a_session_that_finds_a_direct_path() {
    let _turn = alone().await;
    let access = Access::behind(Nat::PortRestricted).with_v6();
    let service = async |at| {
        Service::start(at, |mut stream, sent| async move {
            let (reader, writer) = stream.split();
            chat(reader, writer, DOWN, &sent).await.map(|()| String::new())
        })
        .await
    };
    let Some(mut peers) = Peers::start(Plan::new(access, access).in_the_clear(), service).await else {
        return;
    };
    let tap = peers.lab.tap(peers.lab.server_end());
    // It hears all that a client says.
    peers.client.kill().await;
    peers.client = peers.client_launch.start();
    peers.client.line("start proxy success").await;
    let program = peers.visitor_in_the_clear().await;
    let came = Arc::new(AtomicU64::new(0));
    let stream = peers.entrance().connect().await.expect("the visitor listens");
    let talk = tokio::spawn({
        let came = Arc::clone(&came);
        async move {
            let (reader, writer) = stream.into_split();
            chat(reader, writer, UP, &came).await
        }
    });

    let secrets = Secrets::of([&peers.serving, peers.visiting()]);
    let pid = peers.server.pid();
    let learned = |tap: &Tap| {
        [memory_holds(pid, secrets.needles()), tap.holds(secrets.needles())].map(|found| secrets.found(found))
    };
    let nothing: [Vec<String>; 2] = Default::default();
    said(&program, DIRECT, 1, Duration::from_secs(20)).await;
    assert_eq!(learned(&tap), nothing, "when the path was found");
    goes(&peers, "direct traffic", Ways::is_direct).await;
    let cut = peers.cut();
    goes(&peers, "relayed traffic", Ways::is_relayed).await;
    assert_eq!(learned(&tap), nothing, "while it is relayed");
    drop(cut);
    goes(&peers, "direct traffic again", Ways::is_direct).await;
    assert_eq!(learned(&tap), nothing, "in the end");
    assert!(came.load(Ordering::Relaxed) > MIB && peers.service.sent() > MIB);
    assert!(!talk.is_finished(), "the application's connection broke");
    let said = peers.server.log().text();
    for secret in secrets.needles().iter().filter_map(|secret| str::from_utf8(secret).ok()) {
        assert!(!said.contains(secret), "{secret:?} is in the server's log");
    }
    // What it must know, it knows: who has logged in, what is offered, and where from.
    let publics = [peers.serving.public(), peers.visiting().public()].map(mapped);
    let known = [NAME.as_bytes(), TOKEN.as_bytes(), &publics[0], &publics[1]];
    assert_eq!(memory_holds(pid, known), [true; 4]);
    assert_eq!(tap.holds([NAME.as_bytes()]), [true]);
    let sources: BTreeSet<IpAddr> = tap.datagrams_after(0).iter().map(|one| one.from.ip()).collect();
    let known = [SERVER[0], SERVER[1], peers.serving.public(), peers.visiting().public()].map(IpAddr::from);
    assert!(sources.len() >= 3 && sources.iter().all(|source| known.contains(source)), "{sources:?}");
    talk.abort();

    // And all of that, said over a public port, is found everywhere.
    let words = secrets.0.concat();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, SERVICE_PORT + 1));
    let indiscreet = Service::start((peers.serving.host(), at), move |mut stream, sent| {
        let words = words.repeat(100);
        async move {
            loop {
                stream.write_all(&words).await?;
                sent.fetch_add(words.len() as u64, Ordering::Relaxed);
            }
        }
    })
    .await;
    let proxy = Proxy { name: "public".into(), local: indiscreet.addr(), remote_port: REMOTE_PORT };
    let config = client_config(relay(), "transport.tls.enable = false", &[proxy]);
    let client =
        Launch::client().labelled("tunc public").within(peers.serving.host()).config(&config).start();
    client.line("start proxy success").await;
    let mut visitor =
        Visitor::connect((peers.visiting_host(), SocketAddr::from((SERVER[0], REMOTE_PORT)))).await;
    visitor.receive(100_000).await;
    quiet("all buffers are full", || indiscreet.sent()).await;
    assert_eq!(
        [memory_holds(pid, secrets.needles()), tap.holds(secrets.needles())],
        [[true; Secrets::COUNT]; 2]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_answer_at_a_punched_port_and_change_nothing() {
    const AFTERWARDS: Duration = Duration::from_secs(3);
    let _turn = alone().await;
    // No filter at either end: whatever is sent to the ports arrives.
    for (client, visitor) in [(Nat::Public, Nat::FullCone), (Nat::FullCone, Nat::Public)] {
        let valve = Valve::default();
        let direction = Direction::Download;
        let service = async |at| valve.serve(at, direction).await;
        let Some(mut peers) = Peers::start(Plan::new(client, visitor), service).await else { return };
        let site = peers.lab.site(Nat::Public);
        let answers = peers.lab.tap(site.end());
        let answers = || {
            let mut heard = answers.datagrams_after(0);
            heard.retain(|one| one.to.ip() == IpAddr::from(site.public()));
            heard
        };
        can_reach(&site, &peers.serving);
        can_reach(&site, peers.visiting());
        assert_eq!(answers().len(), 2, "answers that were to be heard");

        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(Sent::default()));
        let stranger = Stranger::at(&site, &peers);
        let program = peers.visitor().await;
        let harassing = thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || stranger.harass(&stop, &sent)
        });
        let flow = valve.open(peers.entrance(), direction).await;
        said(&program, DIRECT, 1, Duration::from_secs(20)).await;
        let during = sent.forged.load(Ordering::Relaxed);
        let before = peers.ways();
        flow.flow_until(Instant::now() + AFTERWARDS).await;
        let went = peers.ways() - before;
        stop.store(true, Ordering::Relaxed);
        harassing.join().expect("it does not panic");
        eprintln!("{visitor:?} visits {client:?}: {during} forgeries during the attempt, {sent:?} in all");
        assert!(during > 50 && sent.repeated.load(Ordering::Relaxed) > 50, "{during}, {sent:?}");

        let kinds: BTreeSet<_> =
            answers()[2..].iter().map(|one| (one.from, one.bytes.len(), one.bytes[0])).collect();
        assert!(kinds.is_empty(), "answers, with their lengths and first bytes: {kinds:?}");
        assert!(went.is_direct(8 * MIB), "{went:?}");
        assert_eq!((program.log().count(DIRECT), program.log().count(LOST)), (1, 0));
        assert_eq!(peers.client.log().count("direct connection with the visitor at"), 1);
        flow.finish(&peers.service, 1, direction).await;
    }
}
