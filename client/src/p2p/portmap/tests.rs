//! Mappings at a small router, which speaks PCP and NAT-PMP or only one of them.

use super::*;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// What the router was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Map { version: u8, port: u16, lifetime: u32 },
    Address,
}

/// What a router does.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// 2 is PCP; 0 is NAT-PMP alone.
    version: u8,
    external: Ipv4Addr,
    /// Seconds that it grants at most.
    most: u32,
}

/// A router on a loopback address of its own.
struct Router {
    gateway: Gateway,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Router {
    async fn start(tasks: &Tasks, last: u8, manner: Manner) -> Self {
        let address = Ipv4Addr::new(127, 53, 51, last);
        let socket = UdpSocket::bind((address, crab_nat::GATEWAY_PORT)).await.unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        tasks.spawn(async move {
            let mut buffer = [0; 1100];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let (request, answer) = answer(&buffer[..length], manner);
                log.lock().unwrap().extend(request);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Router { gateway: Gateway { address, local: Ipv4Addr::LOCALHOST }, requests }
    }

    /// What it was asked to map, in order.
    fn asked(&self) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests.iter().copied().filter(|request| *request != Request::Address).collect()
    }

    fn map(&self, tasks: &Tasks, port: u16) -> Mapping {
        let (sender, external) = watch::channel(None);
        let released = CancellationToken::new();
        let port = NonZeroU16::new(port).unwrap();
        tasks.spawn_to_end(keep(self.gateway, port, sender, released.clone()));
        Mapping { external, _release: released.drop_guard() }
    }
}

/// The answer to a request, by the formats of RFC 6886 §3.2, §3.3 and RFC 6887 §7.2, §11.1.
fn answer(request: &[u8], manner: Manner) -> (Option<Request>, Vec<u8>) {
    let port = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
    let word = |at: usize| u32::from_be_bytes(request[at..at + 4].try_into().unwrap());
    let epoch = 1000_u32.to_be_bytes();
    match (request[0], request[1]) {
        (2, 1) if manner.version == 2 => {
            let lifetime = word(4).min(manner.most);
            let mut answer = vec![2, 0x81, 0, 0];
            answer.extend(lifetime.to_be_bytes());
            answer.extend(epoch);
            answer.extend([0; 12]);
            // Nonce, protocol, reserved bytes and the internal port, as they came.
            answer.extend(&request[24..42]);
            answer.extend((port(40) + 1).to_be_bytes());
            answer.extend(manner.external.to_ipv6_mapped().octets());
            (Some(Request::Map { version: 2, port: port(40), lifetime: word(4) }), answer)
        }
        // Not that version: the one it has.
        (2, _) => (None, [&[0, 0x80, 0, 1][..], &epoch].concat()),
        (_, 0) => {
            (Some(Request::Address), [&[0, 0x80, 0, 0][..], &epoch, &manner.external.octets()].concat())
        }
        _ => {
            let lifetime = word(8).min(manner.most);
            let external = if lifetime == 0 { 0 } else { port(4) + 1 };
            let mut answer = vec![0, 0x81, 0, 0];
            answer.extend(epoch);
            answer.extend(port(4).to_be_bytes());
            answer.extend(external.to_be_bytes());
            answer.extend(lifetime.to_be_bytes());
            (Some(Request::Map { version: 0, port: port(4), lifetime: word(8) }), answer)
        }
    }
}

/// Everything that takes part in this ends within so long.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_port_is_opened_by_pcp_and_closed_when_nobody_wants_it_any_more() {
    for (last, version) in [(1, 2), (2, 0)] {
        let (network, tasks) = (Tasks::new(), Tasks::new());
        let router = Router::start(&network, last, Manner { version, external: EXTERNAL, most: 7200 }).await;
        let mut mapping = router.map(&tasks, 40_000);
        let granted = timeout(SOON, mapping.granted()).await.unwrap();
        assert_eq!(granted, SocketAddr::from((EXTERNAL, 40_001)));
        let map = |lifetime| Request::Map { version, port: 40_000, lifetime };
        assert_eq!(router.asked(), [map(7200)]);
        drop(mapping);
        assert!(tasks.finished(SOON).await);
        assert_eq!(router.asked(), [map(7200), map(0)]);
        network.stop();
    }
}

#[tokio::test]
async fn a_mapping_is_renewed_when_half_of_its_time_has_passed() {
    let (network, tasks) = (Tasks::new(), Tasks::new());
    let router = Router::start(&network, 3, Manner { version: 2, external: EXTERNAL, most: 8 }).await;
    let mut mapping = router.map(&tasks, 40_000);
    timeout(SOON, mapping.granted()).await.unwrap();
    let start = Instant::now();
    while router.asked().len() < 2 {
        assert!(start.elapsed() < SHORTEST_RENEWAL + SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() > Duration::from_secs(3), "{:?}", start.elapsed());
    drop(mapping);
    assert!(tasks.finished(SOON).await);
    network.stop();
}

#[tokio::test]
async fn an_external_address_that_is_not_public_is_of_no_use() {
    let (network, tasks) = (Tasks::new(), Tasks::new());
    let external = Ipv4Addr::new(100, 64, 0, 1);
    let router = Router::start(&network, 4, Manner { version: 2, external, most: 7200 }).await;
    let mapping = router.map(&tasks, 40_000);
    // It ends by itself.
    assert!(tasks.finished(SOON).await);
    assert_eq!(*mapping.external.borrow(), None);
    let lifetimes: Vec<u32> = router
        .asked()
        .iter()
        .filter_map(|request| match request {
            Request::Map { lifetime, .. } => Some(*lifetime),
            Request::Address => None,
        })
        .collect();
    assert_eq!(lifetimes, [7200, 0]);
    network.stop();
}

#[tokio::test]
async fn a_router_that_is_silent_costs_a_bounded_time() {
    let tasks = Tasks::new();
    let (sender, external) = watch::channel(None);
    let gateway = Gateway { address: Ipv4Addr::new(127, 53, 51, 5), local: Ipv4Addr::LOCALHOST };
    let _silent = UdpSocket::bind((gateway.address, crab_nat::GATEWAY_PORT)).await.unwrap();
    let start = Instant::now();
    tasks.spawn_to_end(keep(gateway, NonZeroU16::MIN, sender, CancellationToken::new()));
    assert!(tasks.finished(SOON).await);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(*external.borrow(), None);
}
