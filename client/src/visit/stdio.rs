//! Standard input and output as the visitor's one connection, for programs like ssh that start their own transport.

use super::Request;
use tokio::io::{AsyncWriteExt, copy, split, stdin, stdout};
use tokio::sync::{mpsc, oneshot};
use tun_common::session::{Outcome, pipe};

/// Bytes that wait between standard input or output and the connection, in each direction.
const PIPE: usize = 64 * 1024;

/// Connects standard input and output; resolves when both directions have ended.
pub(crate) async fn connect(requests: mpsc::Sender<Request>) -> Option<Outcome> {
    let (local, io) = pipe(PIPE);
    let (ended, outcome) = oneshot::channel();
    let request = Request { local, source: "standard input".to_owned(), ended: Some(ended) };
    requests.send(request).await.ok()?;
    let (mut from_peer, mut to_peer) = split(io);
    let input = async {
        let _ = copy(&mut stdin(), &mut to_peer).await;
        let _ = to_peer.shutdown().await;
        // The end of the input is not the end of the connection.
        std::future::pending::<()>().await;
    };
    let output = async {
        let mut stdout = stdout();
        let _ = copy(&mut from_peer, &mut stdout).await;
        let _ = stdout.flush().await;
        outcome.await.ok()
    };
    tokio::select! {
        outcome = output => outcome,
        () = input => None,
    }
}
