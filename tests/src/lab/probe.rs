//! Single packets in a lab, to see what becomes of them.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Space;
use crate::patience::patience;

/// Where probes have their sockets.
pub const PORT: u16 = 40_000;

/// How long a packet is waited for that is not expected.
const SILENCE: Duration = Duration::from_millis(250);

/// Bytes of a probe.
pub const LEN: usize = 100;

/// Bytes of headers in front of them, with IPv4.
pub const HEADERS: usize = 28;

/// A UDP socket in some namespace.
#[derive(Debug)]
pub struct Probe(UdpSocket);

impl Probe {
    /// One at an address and [`PORT`].
    pub fn at(space: &Space, ip: impl Into<IpAddr>) -> Self {
        Self::bound(space, (ip.into(), PORT).into())
    }

    /// One at any address and port.
    pub fn bound(space: &Space, address: SocketAddr) -> Self {
        Self(space.within(|| UdpSocket::bind(address)).expect("the port is free"))
    }

    /// Sets how far its packets go.
    pub fn set_ttl(&self, ttl: u32) {
        self.0.set_ttl(ttl).expect("a socket takes a TTL");
    }

    /// Sends something, and says whether the kernel would.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) -> bool {
        self.0.send_to(bytes, to).is_ok()
    }

    /// Sends a packet, which must arrive there, and says where it seemed to come from.
    #[track_caller]
    pub fn reaches(&self, to: SocketAddr, receiver: &Probe) -> SocketAddr {
        let seen = self.try_reach(to, receiver, patience());
        seen.unwrap_or_else(|| panic!("no packet arrives that was sent to {to}"))
    }

    /// True if a packet that is sent there does not arrive.
    pub fn misses(&self, to: SocketAddr, receiver: &Probe) -> bool {
        self.try_reach(to, receiver, SILENCE).is_none()
    }

    /// The first bytes of all packets that come until none comes any more.
    pub fn drain(&self) -> Vec<u8> {
        std::iter::from_fn(|| self.receive(SILENCE).map(|(_, bytes)| bytes[0])).collect()
    }

    fn try_reach(&self, to: SocketAddr, receiver: &Probe, wait: Duration) -> Option<SocketAddr> {
        // Something may still come that was late for another test.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mark = NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        let mut packet = [0; LEN];
        packet[..mark.len()].copy_from_slice(&mark);
        assert!(self.send(&packet, to), "nothing can be sent to {to}");
        let deadline = Instant::now() + wait;
        while let Some((from, bytes)) = receiver.receive(deadline.saturating_duration_since(Instant::now())) {
            if bytes.starts_with(&mark) {
                return Some(from);
            }
        }
        None
    }

    fn receive(&self, wait: Duration) -> Option<(SocketAddr, [u8; LEN])> {
        let mut buffer = [0; LEN];
        let deadline = Instant::now() + wait;
        loop {
            // No time at all would mean that it waits for ever.
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.0.set_read_timeout(Some(left)).expect("it is a duration");
            match self.0.recv_from(&mut buffer) {
                Ok((_, from)) => return Some((from, buffer)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // Whoever stops and continues this process does that.
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => panic!("a probe cannot receive: {error}"),
            }
        }
    }
}
