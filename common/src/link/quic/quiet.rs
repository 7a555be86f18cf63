//! A socket that hides from quinn what would make it answer strangers.

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, UdpPoller};
use quinn_proto::{HashedConnectionIdGenerator, InvalidCid};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Keeps packets of handshakes away that are not the link's: quinn answers an Initial that it has no use for with a
/// stateless reset or a close, and a version that it does not speak with those that it does. Both would show what
/// listens here. Packets with short headers it judges by itself, and drops without a word thanks to [`Ids`].
#[derive(Debug)]
pub(super) struct Quiet {
    pub(super) socket: Arc<dyn AsyncUdpSocket>,
    /// What tells the connection IDs of this end from others.
    pub(super) key: u64,
    /// Where the handshake's first packets are addressed to, at the end that gets them.
    pub(super) first: Option<ConnectionId>,
    /// There is a connection: Initials have no use any more (RFC 9001 §4.9.1), not even repeated ones.
    pub(super) connected: AtomicBool,
}

/// Length of the connection IDs of [`HashedConnectionIdGenerator`], in bytes.
const OWN_LEN: usize = 8;

/// What both ends speak (RFC 9000).
const VERSION: [u8; 4] = [0, 0, 0, 1];

impl Quiet {
    fn is_welcome(&self, packet: &[u8]) -> bool {
        let Some(id) = destination(packet) else { return is_short(packet) };
        if is_initial(packet) && self.connected.load(Ordering::Relaxed) {
            return false;
        }
        self.first.is_some_and(|first| *id == *first)
            || id.len() == OWN_LEN && Ids::new(self.key).0.validate(&ConnectionId::new(id)).is_ok()
    }
}

impl AsyncUdpSocket for Quiet {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(cx, buffers, meta);
        if let Poll::Ready(Ok(count)) = received {
            for (buffer, meta) in buffers.iter_mut().zip(meta.iter()).take(count) {
                for packet in buffer[..meta.len].chunks_mut(meta.stride.max(1)) {
                    if !self.is_welcome(packet) {
                        // No QUIC packet begins like that (RFC 9000 §17); quinn forgets it.
                        packet[0] = 0;
                    }
                }
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// Makes the connection IDs of an end, and denies all that quinn asks about: it does so before it resets a connection that
/// it does not know any more, which is an answer to whoever repeats an old packet. A link finds its end in other ways.
pub(super) struct Ids(HashedConnectionIdGenerator);

impl Ids {
    pub(super) fn new(key: u64) -> Self {
        Self(HashedConnectionIdGenerator::from_key(key))
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        self.0.generate_cid()
    }

    fn validate(&self, _: &ConnectionId) -> Result<(), InvalidCid> {
        Err(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        self.0.cid_len()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.0.cid_lifetime()
    }
}

fn is_short(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & 0x80 == 0)
}

/// Whether a packet with a long header of [`VERSION`] is an Initial (RFC 9000 §17.2.2).
fn is_initial(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & 0x30 == 0)
}

/// The destination connection ID of a packet with a long header (RFC 9000 §17.2).
fn destination(packet: &[u8]) -> Option<&[u8]> {
    let (first, rest) = packet.split_first()?;
    let (len, rest) = rest.strip_prefix(&VERSION)?.split_first()?;
    if first & 0x80 == 0 { None } else { rest.get(..usize::from(*len)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn::{Runtime, TokioRuntime};
    use std::net::UdpSocket;

    fn long(first: u8, version: u8, id: &[u8]) -> Vec<u8> {
        [&[first, 0, 0, 0, version, id.len() as u8], id, &[0; 1180]].concat()
    }

    #[tokio::test]
    async fn handshakes_of_strangers_are_not_let_in() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let key = 4711;
        let first = ConnectionId::new(&[7; 20]);
        let mut quiet = Quiet {
            socket: TokioRuntime.wrap_udp_socket(socket).unwrap(),
            key,
            first: Some(first),
            connected: false.into(),
        };
        let id = Ids::new(key).generate_cid();
        assert_eq!(id.len(), OWN_LEN);
        assert!(quiet.is_welcome(&long(0xc0, 1, &first)), "the first Initial");
        assert!(quiet.is_welcome(&long(0xe0, 1, &id)), "a packet of the handshake");
        assert!(quiet.is_welcome(&[0x43; 30]), "what quinn judges by itself");
        for strange in [&[1; 8][..], &[7; 19], &[7; 21], &[]] {
            assert!(!quiet.is_welcome(&long(0xc0, 1, strange)), "{strange:?}");
        }
        for version in [0, 2] {
            assert!(!quiet.is_welcome(&long(0xc0, version, &first)), "version {version}");
        }
        for len in 0..26 {
            assert!(!quiet.is_welcome(&long(0xc0, 1, &first)[..len]), "the first {len} bytes");
        }
        quiet.connected.store(true, Ordering::Relaxed);
        assert!(
            !quiet.is_welcome(&long(0xc0, 1, &first)) && !quiet.is_welcome(&long(0xc0, 1, &id)),
            "too late"
        );
        assert!(quiet.is_welcome(&long(0xe0, 1, &id)), "the handshake's end may be repeated");
        quiet.connected.store(false, Ordering::Relaxed);
        quiet.first = None;
        assert!(!quiet.is_welcome(&long(0xc0, 1, &first)), "what this end sent itself");
    }
}
