//! UDP sockets that many peers talk to: receive in batches, and answer from the address that was asked.

mod entrance;

pub use entrance::Entrance;

use crate::link::udp::bind;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::SockRef;
use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The kernel's buffers: what arrives while other tasks have their turn. It may grant less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// The longest datagram, or as many joined ones as the kernel hands over at once.
const BUFFER: usize = 64 * 1024;

/// Buffers of a batch.
const BATCH: usize = if BATCH_SIZE < 16 { BATCH_SIZE } else { 16 };

thread_local! {
    /// One batch for each worker, since it is empty again before anybody else has a turn. Pages that no datagram has
    /// touched cost nothing.
    static BUFFERS: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH * BUFFER]);
}

/// The socket.
#[derive(Debug)]
pub struct DatagramSocket {
    io: UdpSocket,
    state: UdpSocketState,
}

/// Who talks to the socket, and to which of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// The peer's address.
    pub address: SocketAddr,
    /// The address it sent to, if the system tells.
    pub local: Option<IpAddr>,
}

impl DatagramSocket {
    /// Binds `address`; `::` means every address of both families.
    ///
    /// # Errors
    /// Those of binding, typically that the port is in use or not permitted.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let io = bind(address)?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        let _ = SockRef::from(&io).set_recv_buffer_size(SOCKET_BUFFER);
        let _ = SockRef::from(&io).set_send_buffer_size(SOCKET_BUFFER);
        allow_fragments(&io, address);
        Ok(DatagramSocket { io, state })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Waits for datagrams and hands over those that are there, up to a batch of them. Cancellation safe.
    ///
    /// # Errors
    /// Those of the socket, such as news of datagrams that did not reach their peer.
    pub async fn receive(&self, mut each: impl FnMut(Peer, &[u8])) -> io::Result<()> {
        loop {
            self.io.readable().await?;
            let received = self.io.try_io(Interest::READABLE, || self.receive_batch(&mut each));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    fn receive_batch(&self, each: &mut impl FnMut(Peer, &[u8])) -> io::Result<()> {
        BUFFERS.with_borrow_mut(|buffers| {
            let mut metas = [RecvMeta::default(); BATCH];
            let count = {
                let mut chunks = buffers.chunks_exact_mut(BUFFER);
                let mut slices: [IoSliceMut<'_>; BATCH] =
                    std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
                self.state.recv(UdpSockRef::from(&self.io), &mut slices, &mut metas)?
            };
            for (meta, buffer) in metas.iter().zip(buffers.chunks_exact(BUFFER)).take(count) {
                let peer = Peer { address: meta.addr, local: meta.dst_ip };
                match meta.len {
                    0 => each(peer, &[]),
                    len => buffer[..len].chunks(meta.stride.max(1)).for_each(|datagram| each(peer, datagram)),
                }
            }
            Ok(())
        })
    }

    /// Sends a datagram at once, or not at all.
    ///
    /// # Errors
    /// `WouldBlock` when the socket's buffer is full; those of the network.
    pub fn try_send(&self, peer: Peer, contents: &[u8]) -> io::Result<()> {
        self.try_send_joined(peer, contents, None)
    }

    /// Sends datagrams of `size` bytes each (the last may be shorter) that stand one behind the other, at once or not at
    /// all. There may be [`DatagramSocket::most_joined`] of them.
    ///
    /// # Errors
    /// As of [`DatagramSocket::try_send`].
    pub fn try_send_joined(&self, peer: Peer, contents: &[u8], size: Option<usize>) -> io::Result<()> {
        let transmit = Transmit {
            destination: peer.address,
            ecn: None,
            contents,
            segment_size: size,
            src_ip: peer.local,
        };
        // Nobody waits for room in the socket, so the runtime need not know.
        self.state.try_send(UdpSockRef::from(&self.io), &transmit)
    }

    /// How many datagrams the system can send at once.
    pub fn most_joined(&self) -> usize {
        self.state.max_gso_segments()
    }
}

/// Datagrams may be longer than a packet. A socket made for QUIC would refuse to send those.
#[cfg(target_os = "linux")]
fn allow_fragments(socket: &UdpSocket, address: SocketAddr) {
    use rustix::net::sockopt;
    let _ = sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::DONT);
    if address.is_ipv6() {
        let _ = sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::DONT);
    }
}

#[cfg(not(target_os = "linux"))]
fn allow_fragments(_: &UdpSocket, _: SocketAddr) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn received(socket: &DatagramSocket, count: usize) -> Vec<(Peer, Vec<u8>)> {
        let mut all = Vec::new();
        let receiving = async {
            while all.len() < count {
                socket.receive(|peer, datagram| all.push((peer, datagram.to_vec()))).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(5), receiving).await.unwrap();
        all
    }

    #[tokio::test]
    async fn datagrams_of_every_size_are_answered_from_the_address_that_was_asked() {
        let socket = DatagramSocket::bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let asker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let asked: SocketAddr = ([127, 0, 0, 77], port).into();
        for len in [0, 1, 1400, 65_507] {
            let question = vec![len as u8; len];
            asker.send_to(&question, asked).await.unwrap();
            let [(peer, datagram)] = received(&socket, 1).await.try_into().unwrap();
            assert!(datagram == question, "{len}");
            socket.try_send(peer, &datagram).unwrap();
            let mut answer = vec![1; 65_536];
            let (n, from) = asker.recv_from(&mut answer).await.unwrap();
            assert!((n, from) == (len, asked) && answer[..n] == question, "{len} from {from}");
        }
    }

    #[tokio::test]
    async fn joined_datagrams_arrive_one_by_one() {
        let socket = DatagramSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let other = DatagramSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let peer = Peer { address: other.local_addr().unwrap(), local: None };
        let count = socket.most_joined().min(5);
        let contents: Vec<u8> = (0..count * 100 - 50).map(|n| (n / 100) as u8).collect();
        socket.try_send_joined(peer, &contents, Some(100)).unwrap();
        let got = received(&other, count).await;
        assert_eq!(got.concat_payloads(), contents);
        assert!(got.iter().take(count - 1).all(|(_, datagram)| datagram.len() == 100));
    }

    trait Payloads {
        fn concat_payloads(&self) -> Vec<u8>;
    }

    impl Payloads for Vec<(Peer, Vec<u8>)> {
        fn concat_payloads(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, datagram)| datagram.clone()).collect()
        }
    }
}
