//! What a visitor does while there is no server.

use super::*;
use std::io;
use std::task::{Context, Poll};
use tun_common::config::{ClientConfig, VisitorKind, XtcpVisitor};

/// A connection that breaks at once.
struct Broken;

impl Local for Broken {
    fn poll_readable(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        _: &mut bytes::buf::Limit<&mut BytesMut>,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {}
}

fn broken() -> Request {
    Request { local: Box::new(Broken), source: "a test".to_owned(), ended: None }
}

/// A visitor at work, and those that it depends on.
struct Bench {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<VisitStatus>,
    _server: watch::Sender<Option<Session>>,
    tasks: Tasks,
}

fn bench(xtcp: XtcpVisitor, idle: Duration, fallback: Option<Fallback>) -> Bench {
    let config = VisitorConfig {
        name: "v".into(),
        kind: VisitorKind::Xtcp(xtcp),
        server_name: "p".into(),
        secret_key: "s".into(),
        bind_addr: "127.0.0.1".into(),
        bind_port: None,
        udp_idle: None,
    };
    let tasks = Tasks::new();
    let (status, watched) = watch::channel(VisitStatus::default());
    let (requests, receiver) = mpsc::channel(BACKLOG);
    let server = watch::Sender::new(None);
    let visitor = Visitor {
        config,
        settings: Arc::new(Settings::new(&ClientConfig::default(), Tasks::new()).unwrap()),
        timing: Timing { patience: SHORT, idle },
        server: server.subscribe(),
        surroundings: Arc::new(Surroundings::new(&ClientConfig::default(), &tasks)),
        tasks: tasks.child(),
        shutdown: Shutdown::default(),
        fallback,
        refused: None,
        port: None,
        status,
    };
    tasks.spawn(visitor.run(receiver));
    Bench { requests, status: watched, _server: server, tasks }
}

impl Bench {
    async fn becomes(&mut self, state: VisitState) {
        self.status.wait_for(|status| status.state == state).await.unwrap();
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

const CONNECTING: VisitState = VisitState::Connecting { reason: None };
const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_session_that_nobody_uses_ends() {
    let mut bench = bench(XtcpVisitor::default(), SHORT, None);
    bench.becomes(VisitState::Idle).await;
    bench.requests.send(broken()).await.unwrap();
    bench.becomes(CONNECTING).await;
    bench.becomes(VisitState::Idle).await;
    assert!(bench.status.borrow().session.is_none());
    // The next connection begins another one.
    bench.requests.send(broken()).await.unwrap();
    bench.becomes(CONNECTING).await;
}

#[tokio::test]
async fn a_session_that_is_to_be_kept_begins_without_a_connection_and_does_not_end() {
    let xtcp = XtcpVisitor { keep_tunnel_open: true, ..XtcpVisitor::default() };
    let mut bench = bench(xtcp, SHORT, None);
    bench.becomes(CONNECTING).await;
    let ended = tokio::time::timeout(5 * SHORT, bench.becomes(VisitState::Idle)).await;
    assert!(ended.is_err());
}

#[tokio::test]
async fn connections_wait_as_long_as_they_should_and_go_elsewhere_in_their_order() {
    let (requests, mut elsewhere) = mpsc::channel(1);
    let fallback = Fallback { to: "w".to_owned(), requests, timeout: SHORT };
    let bench = bench(XtcpVisitor::default(), LONG, Some(fallback));
    let begun = Instant::now();
    for source in ["first", "second", "third"] {
        let request = Request { source: source.to_owned(), ..broken() };
        bench.requests.send(request).await.unwrap();
    }
    for source in ["first", "second", "third"] {
        assert_eq!(elsewhere.recv().await.unwrap().source, source);
        assert!(begun.elapsed() >= SHORT);
    }
}
