//! A DNS server (RFC 1035) that knows one answer.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::UdpSocket;

use crate::service::AbortOnDrop;

/// A running DNS server.
#[derive(Debug)]
pub struct Dns(#[expect(dead_code, reason = "it runs as long as this lives")] AbortOnDrop);

impl Dns {
    /// Says of every name that it has this IPv4 address, and no other.
    pub async fn start(at: SocketAddr, answer: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind(at).await.expect("the server's address is free");
        Self(AbortOnDrop::new(tokio::spawn(async move {
            let mut query = [0; 512];
            loop {
                let (len, from) = socket.recv_from(&mut query).await.expect("the server can receive");
                if let Some(reply) = reply(&query[..len], answer) {
                    socket.send_to(&reply, from).await.expect("the server can send");
                }
            }
        })))
    }
}

fn reply(query: &[u8], answer: Ipv4Addr) -> Option<Vec<u8>> {
    // The name of the first question ends with an empty label; type and class follow.
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
    let question = query.get(12..end)?;
    let wants_v4 = question.ends_with(&[0, 1, 0, 1]);
    let mut reply = query.get(..2)?.to_vec();
    reply.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_v4), 0, 0, 0, 0]);
    reply.extend(question);
    if wants_v4 {
        // The name by a pointer to the question, A, IN, a minute.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(answer.octets());
    }
    Some(reply)
}
