//! Bytes cross a WebSocket as they were, and what is none is told so.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

async fn pair() -> (WebSocket<DuplexStream>, WebSocket<DuplexStream>) {
    let (near, far) = tokio::io::duplex(10_000);
    let (near, far) = tokio::join!(connect(near, "example", "/x"), accept(far, "/x"));
    (near.unwrap(), far.unwrap())
}

#[tokio::test]
async fn bytes_arrive_in_order_in_both_directions_at_once() {
    let (near, far) = pair().await;
    let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
    let exchange = async |io: WebSocket<DuplexStream>| {
        let (mut reader, mut writer) = tokio::io::split(io);
        let send = async {
            for piece in sent.chunks(150_000) {
                writer.write_all(piece).await.unwrap();
            }
            writer.flush().await.unwrap();
        };
        let receive = async {
            let mut received = vec![0; sent.len()];
            reader.read_exact(&mut received).await.unwrap();
            received
        };
        tokio::join!(receive, send).0
    };
    let (near, far) = tokio::join!(exchange(near), exchange(far));
    assert!(near == sent && far == sent);
}

#[tokio::test]
async fn a_shutdown_is_an_end_and_a_cut_is_an_error() {
    let (mut near, mut far) = pair().await;
    near.write_all(b"last words").await.unwrap();
    near.shutdown().await.unwrap();
    let mut all = Vec::new();
    far.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"last words");

    let (near, mut far) = pair().await;
    drop(near);
    assert_eq!(far.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn another_path_is_not_found() {
    let (near, far) = tokio::io::duplex(10_000);
    let (near, far) = tokio::join!(connect(near, "example", "/other"), accept(far, "/x"));
    let near = near.err().unwrap().to_string();
    assert!(near.contains("404") && near.contains("/other") && near.contains("websocket.path"), "{near}");
    assert!(matches!(far.err().unwrap(), WebSocketError::NotOurs(what) if what.contains("/other")));
}

#[tokio::test]
async fn what_asks_for_no_upgrade_gets_an_answer() {
    let (mut near, far) = tokio::io::duplex(10_000);
    near.write_all(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").await.unwrap();
    let refused = accept(far, "/x").await.err().unwrap();
    assert!(matches!(refused, WebSocketError::NotOurs(_)), "{refused}");
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_frame_beyond_the_limit_is_refused_before_it_comes() {
    let (near, far) = tokio::io::duplex(10_000);
    let far = tokio::spawn(async move { accept(far, "/x").await.unwrap() });
    let near = connect(near, "example", "/x").await.unwrap();
    let (mut near, mut far) = (near.frames.into_inner(), far.await.unwrap());
    // A masked binary frame that announces 1 TiB.
    near.write_all(&[0x82, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]).await.unwrap();
    assert_eq!(far.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}
