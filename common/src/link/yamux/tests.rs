use super::super::{NewLink, ReadAhead, Side};
use super::*;
use futures_util::{AsyncReadExt as _, AsyncWriteExt as _};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::DuplexStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

const LEN: usize = 3 * 1024 * 1024;

type Theirs = yamux::Connection<Compat<DuplexStream>>;

/// A link of ours, and somebody else's implementation of yamux at the other end.
fn pair(side: Side) -> (NewLink, Theirs) {
    let (near, far) = tokio::io::duplex(100_000);
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let ours = Link::over_yamux(Box::new(ReadAhead::new(near)), BytesMut::new(), side, 1, peer);
    let mode = match side {
        Side::Dialer => yamux::Mode::Server,
        Side::Acceptor => yamux::Mode::Client,
    };
    (ours, yamux::Connection::new(far.compat(), yamux::Config::default(), mode))
}

fn pattern() -> Vec<u8> {
    (0..LEN).map(|n| (n ^ n >> 8) as u8).collect()
}

/// Sends the pattern and ends; returns what comes back.
async fn send_and_receive(mut stream: LinkStream) -> Vec<u8> {
    let sent = pattern();
    let mut rest = Bytes::from(sent);
    let mut received = Vec::new();
    poll_fn(|cx| {
        while !rest.is_empty() && stream.poll_write_chunk(cx, &mut rest)?.is_ready() {}
        if rest.is_empty() {
            ready!(stream.poll_close(cx))?;
        }
        while let Some(chunk) = ready!(stream.poll_read_chunk(cx))? {
            received.extend_from_slice(&chunk);
        }
        Poll::Ready(io::Result::Ok(()))
    })
    .await
    .unwrap();
    received
}

#[tokio::test]
async fn another_implementation_echoes_what_a_stream_of_ours_sends() {
    let (NewLink { link, driver, inbound: _inbound }, mut theirs) = pair(Side::Dialer);
    let stream = link.open().await.unwrap();
    let ours = async {
        let received = send_and_receive(stream).await;
        link.close("done");
        received
    };
    let echo = async {
        let stream = poll_fn(|cx| theirs.poll_next_inbound(cx)).await.unwrap().unwrap();
        let (reader, mut writer) = stream.split();
        let copy = async {
            futures_util::io::copy(reader, &mut writer).await.unwrap();
            writer.close().await.unwrap();
        };
        // Nothing moves unless the connection is polled; it ends when ours is closed.
        let moved = poll_fn(|cx| theirs.poll_next_inbound(cx));
        tokio::join!(copy, moved);
    };
    let (received, (), ()) = tokio::join!(ours, driver, echo);
    assert!(received == pattern());
}

#[tokio::test]
async fn a_stream_of_another_implementation_is_echoed() {
    let (NewLink { link, driver, mut inbound }, mut theirs) = pair(Side::Acceptor);
    let ours = async {
        let mut stream = inbound.recv().await.unwrap();
        while let Some(chunk) = stream.read_chunk().await.unwrap() {
            stream.write_all(&chunk).await.unwrap();
        }
        poll_fn(|cx| stream.poll_close(cx)).await.unwrap();
    };
    let echoed = async {
        let stream = poll_fn(|cx| theirs.poll_new_outbound(cx)).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let send = async {
            writer.write_all(&pattern()).await.unwrap();
            writer.close().await.unwrap();
        };
        let receive = async {
            let mut received = Vec::new();
            reader.read_to_end(&mut received).await.unwrap();
            link.close("done");
            received
        };
        let moved = poll_fn(|cx| theirs.poll_next_inbound(cx));
        let ((), received, _) = tokio::join!(send, receive, moved);
        received
    };
    let ((), (), received) = tokio::join!(ours, driver, echoed);
    assert!(received == pattern());
}

#[tokio::test]
async fn a_stream_that_another_implementation_drops_is_reset() {
    let (NewLink { link, driver, mut inbound }, mut theirs) = pair(Side::Acceptor);
    let ours = async {
        let mut stream = inbound.recv().await.unwrap();
        let first = stream.read_chunk().await.unwrap();
        let error = stream.read_chunk().await.unwrap_err();
        link.close("done");
        (first, error.kind())
    };
    let theirs = async {
        let mut stream = poll_fn(|cx| theirs.poll_new_outbound(cx)).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        drop(stream);
        poll_fn(|cx| theirs.poll_next_inbound(cx)).await
    };
    let ((first, error), (), _) = tokio::join!(ours, driver, theirs);
    assert_eq!(first, Some(Bytes::from_static(b"x")));
    assert_eq!(error, io::ErrorKind::ConnectionReset);
}
