//! How long a mapping lives without traffic (RFC 5780 §4.6).
//!
//! One socket for each span opens its mapping at the start and keeps silent. When its time has come, another socket asks
//! the server to answer to the silent one's mapping (RESPONSE-PORT). So it takes as long as the longest span that holds,
//! and no mapping is refreshed by the question about it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout};
use tun_common::stun::{
    AskError, MAX_MESSAGE, Received, Request, Retransmission, TransactionId, ask, decode, transaction_id,
};
use tun_proto::p2p::nat::Change;

/// What is tried, in seconds. NATs are built with 30, 60, 120, 180 or 300; RFC 4787 demands 120 at least.
const SPANS: [u64; 10] = [5, 10, 20, 29, 45, 59, 90, 119, 179, 299];

/// Questions about one mapping, each after the one before was not answered in so long.
const TRIES: [Duration; 4] = [Duration::from_millis(500); 4];

/// Between what the lifetime of a mapping lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// It was seen to live so long.
    pub(super) at_least: Duration,
    /// It was gone after so long; `None` if it lived as long as was waited.
    pub(super) below: Option<Duration>,
}

/// Measures it; `None` where the server or the NAT do not allow to.
pub(super) async fn measure(server: SocketAddr, local: IpAddr) -> io::Result<Option<Lifetime>> {
    let asker = UdpSocket::bind((local, 0)).await?;
    let Some((first, port)) = open(server, local).await? else { return Ok(None) };
    if !is_alive(&asker, server, &first, port).await? {
        return Ok(None);
    }
    let mut silent = Vec::new();
    for span in SPANS {
        let Some((socket, port)) = open(server, local).await? else { return Ok(None) };
        silent.push((Duration::from_secs(span), socket, port));
    }
    let start = Instant::now();
    let mut lifetime = Lifetime { at_least: Duration::ZERO, below: None };
    for (span, socket, port) in silent {
        sleep_until(start + span).await;
        if !is_alive(&asker, server, &socket, port).await? {
            lifetime.below = Some(span);
            break;
        }
        lifetime.at_least = span;
    }
    Ok(Some(lifetime))
}

/// A socket with a mapping, and the external port of that.
async fn open(server: SocketAddr, local: IpAddr) -> io::Result<Option<(UdpSocket, u16)>> {
    let socket = UdpSocket::bind((local, 0)).await?;
    let patience = Retransmission { rto: Duration::from_millis(500), count: 4, last: 4 };
    match ask(&socket, server, Change::NONE, patience).await {
        Ok(reply) => Ok(Some((socket, reply.response.mapped.port()))),
        Err(AskError::Io(error)) => Err(error),
        Err(AskError::Silent | AskError::Refused(_)) => Ok(None),
    }
}

/// Whether what the server sends to the external `port` arrives at `silent`.
async fn is_alive(asker: &UdpSocket, server: SocketAddr, silent: &UdpSocket, port: u16) -> io::Result<bool> {
    let transaction = transaction_id();
    let request = Request { response_port: Some(port), ..Request::new(transaction, Change::NONE) }.encode();
    for wait in TRIES {
        asker.send_to(&request, server).await?;
        match timeout(wait, heard(silent, transaction)).await {
            Ok(arrived) => return arrived.map(|()| true),
            Err(_) => continue,
        }
    }
    Ok(false)
}

async fn heard(socket: &UdpSocket, transaction: TransactionId) -> io::Result<()> {
    let mut buffer = [0; MAX_MESSAGE];
    loop {
        let (length, _) = socket.recv_from(&mut buffer).await?;
        if matches!(decode(&buffer[..length]), Some(Received::Success(id, _)) if id == transaction) {
            return Ok(());
        }
    }
}
