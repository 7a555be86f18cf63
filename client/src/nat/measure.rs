//! Asks what the discovery wants asked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tun_common::stun::{
    AskError, MAX_MESSAGE, Received, Request, Retransmission, ask, decode, transaction_id,
};
use tun_proto::p2p::nat::{Action, Answer, Change, Discovery, Findings, Outcome, Socket};

/// Patience with a server that should answer: 5.5 s. RFC 8489 waits for 39.5 s, which nobody sits through.
const EXPECTED: Retransmission = Retransmission { rto: Duration::from_millis(500), count: 4, last: 4 };

/// Bounds of the first wait where silence is a result. Together with the repetitions it lasts eleven times as long.
const SILENCE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_millis(500));

/// Pauses after the packets that two sockets send to each other through the NAT.
const HAIRPIN_WAITS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// Measures what lies between the address `local` and a server; `None` if the server does not answer.
pub(super) async fn measure(server: SocketAddr, local: IpAddr) -> io::Result<Option<Findings>> {
    let mapping = UdpSocket::bind((local, 0)).await?;
    let filtering = UdpSocket::bind((local, 0)).await?;
    let mut discovery = Discovery::new(server, mapping.local_addr()?, filtering.local_addr()?);
    let mut round_trip = SILENCE.1;
    while let Some(action) = discovery.poll_action() {
        match action {
            Action::Ask { socket, to, change, may_be_silent } => {
                let socket = match socket {
                    Socket::Mapping => &mapping,
                    Socket::Filtering => &filtering,
                };
                let rto = (round_trip * 2).clamp(SILENCE.0, SILENCE.1);
                let patience = if may_be_silent { Retransmission { rto, ..EXPECTED } } else { EXPECTED };
                let outcome = match ask(socket, to, change, patience).await {
                    Ok(reply) => {
                        round_trip = reply.round_trip;
                        let response = reply.response;
                        Outcome::Answered(Answer {
                            mapped: response.mapped,
                            other: response.other,
                            second_port: response.second_port,
                        })
                    }
                    Err(AskError::Refused(_)) => Outcome::Refused,
                    // What the own firewall forbids to send is as good as silence.
                    Err(AskError::Silent | AskError::Io(_)) => Outcome::Silent,
                };
                discovery.handle_outcome(outcome);
            }
            Action::Hairpin { mapping: first, filtering: second } => {
                discovery.handle_hairpin(hairpin((&mapping, first), (&filtering, second)).await);
            }
        }
    }
    Ok(discovery.findings())
}

/// Whether one of two sockets hears the other through their external endpoints. Both send, because a filter may demand
/// that the receiver has sent before.
async fn hairpin(one: (&UdpSocket, SocketAddr), two: (&UdpSocket, SocketAddr)) -> bool {
    let transaction = transaction_id();
    let request = Request::new(transaction, Change::NONE).encode();
    let hears = async |socket: &UdpSocket| {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            // An error is about an earlier packet, or lasts until the time is over.
            let Ok((length, _)) = socket.recv_from(&mut buffer).await else {
                tokio::task::yield_now().await;
                continue;
            };
            match decode(&buffer[..length]) {
                Some(Received::Request(heard)) if heard.transaction == transaction => return,
                _ => {}
            }
        }
    };
    for wait in HAIRPIN_WAITS {
        // A NAT that cannot do it may well say so by an error.
        let _ = one.0.send_to(&request, two.1).await;
        let _ = two.0.send_to(&request, one.1).await;
        let heard = async {
            tokio::select! {
                () = hears(one.0) => {}
                () = hears(two.0) => {}
            }
        };
        if tokio::time::timeout(wait, heard).await.is_ok() {
            return true;
        }
    }
    false
}
