//! A client's question, repeated until it is answered (RFC 8489 §6.2.1).

use super::{MAX_MESSAGE, Received, Request, Response, TransactionId, canonical, decode};
use crate::random;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tun_proto::p2p::nat::Change;

/// When a request over UDP is sent again, and when it has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retransmission {
    /// Time to the first repetition; each further one takes twice as long.
    pub rto: Duration,
    /// Requests sent in all.
    pub count: u32,
    /// Waited after the last one, in units of `rto`.
    pub last: u32,
}

impl Retransmission {
    /// The values of RFC 8489 §6.2.1: failed after 39.5 s.
    pub const RFC: Self = Self { rto: Duration::from_millis(500), count: 7, last: 16 };

    /// The wait after each request.
    pub fn waits(self) -> impl Iterator<Item = Duration> {
        (0..self.count).map(move |sent| {
            let factor = if sent + 1 == self.count { self.last } else { 1 << sent.min(16) };
            self.rto * factor
        })
    }
}

/// An answer.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// What it says.
    pub response: Response,
    /// Where it came from.
    pub from: SocketAddr,
    /// From the last request to the answer.
    pub round_trip: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody answered.
    #[error("no answer")]
    Silent,
    /// The server refused.
    #[error("refused with code {0}")]
    Refused(u16),
    /// Nothing could be sent or received.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Asks the server at `to` how it sees `socket`. Whatever else arrives meanwhile is dropped, as are answers from another
/// place than was asked for. Cancellation safe.
///
/// # Errors
/// Silence, a refusal, or those of the socket.
pub async fn ask(
    socket: &UdpSocket,
    to: SocketAddr,
    change: Change,
    retransmission: Retransmission,
) -> Result<Reply, AskError> {
    let transaction = transaction_id();
    let request = Request::new(transaction, change).encode();
    let mut buffer = [0; MAX_MESSAGE];
    for wait in retransmission.waits() {
        socket.send_to(&request, to).await?;
        let sent = Instant::now();
        let answer = async {
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await?;
                let from = canonical(from);
                let expected = (change.address || from.ip() == to.ip().to_canonical())
                    && (change.port || from.port() == to.port());
                match decode(&buffer[..length]) {
                    Some(Received::Success(id, response)) if id == transaction && expected => {
                        return Ok(Reply { response, from, round_trip: sent.elapsed() });
                    }
                    Some(Received::Error(id, code)) if id == transaction => {
                        return Err(AskError::Refused(code));
                    }
                    _ => {}
                }
            }
        };
        if let Ok(result) = tokio::time::timeout(wait, answer).await {
            return result;
        }
    }
    Err(AskError::Silent)
}

/// An unpredictable transaction id.
pub fn transaction_id() -> TransactionId {
    TransactionId::from(u128::from_be_bytes(random::bytes()))
}
