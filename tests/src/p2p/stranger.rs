//! Somebody else on the internet, who sends two peers whatever may upset them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::Peers;
use crate::lab::probe::{PORT, Probe};
use crate::lab::{Datagram, SERVER, Site, Tap};
use crate::pattern::Pattern;

/// Somebody on the internet who hears what two peers send each other, and sends them things.
#[derive(Debug)]
pub struct Stranger {
    socket: UdpSocket,
    tap: Tap,
    /// The peers' public addresses.
    peers: [IpAddr; 2],
    luck: Pattern,
    heard: usize,
    /// The ports that the peers have used for each other.
    targets: BTreeSet<SocketAddr>,
    /// The last probe, to take its outside from.
    probe: Option<Vec<u8>>,
}

/// What a stranger has done.
#[derive(Debug, Default)]
pub struct Sent {
    /// Datagrams that nobody ever sent.
    pub forged: AtomicU64,
    /// Datagrams that one peer sent to the other before.
    pub repeated: AtomicU64,
}

impl Stranger {
    const PROBE_LEN: usize = 80;
    const FIRST_BYTE: u8 = 0x05;
    /// Packets that are repeated each time: all probes and the handshake are among them.
    const REPEATED: usize = 40;

    /// One at a site of its own, who listens at the visitor's.
    pub fn at(site: &Site, peers: &Peers) -> Self {
        let socket = site.host().within(|| UdpSocket::bind((site.public(), 0))).expect("a port is free");
        socket.set_nonblocking(true).expect("it is a socket");
        Self {
            socket,
            tap: peers.lab.tap(peers.visiting().end()),
            peers: [peers.serving.public(), peers.visiting().public()].map(IpAddr::from),
            luck: Pattern::new(4711),
            heard: 0,
            targets: BTreeSet::new(),
            probe: None,
        }
    }

    /// Goes on until it is told to stop.
    pub fn harass(mut self, stop: &AtomicBool, sent: &Sent) {
        while !stop.load(Ordering::Relaxed) {
            for Datagram { from, to, bytes } in self.listen() {
                let mut forged = bytes.clone();
                let at = self.luck.word() as usize % forged.len().max(1);
                if let Some(byte) = forged.get_mut(at) {
                    *byte ^= 1 << (self.luck.word() % 6);
                }
                // To whom it was sent, and back to its sender.
                for target in [to, from] {
                    self.send(&bytes, target, &sent.repeated);
                    self.send(&forged, target, &sent.forged);
                }
            }
            for target in self.targets.clone() {
                for datagram in self.forgeries() {
                    self.send(&datagram, target, &sent.forged);
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the peers have newly sent each other, the first of it.
    fn listen(&mut self) -> Vec<Datagram> {
        let mut heard = self.tap.datagrams_after(self.heard);
        self.heard += heard.len();
        heard.retain(|one| [one.from, one.to].iter().all(|address| self.peers.contains(&address.ip())));
        for Datagram { from, to, bytes } in &heard {
            self.targets.extend([*from, *to]);
            if bytes.len() == Self::PROBE_LEN && bytes[0] == Self::FIRST_BYTE {
                self.probe = Some(bytes.clone());
            }
        }
        heard.truncate(Self::REPEATED);
        heard
    }

    fn send(&self, datagram: &[u8], to: SocketAddr, counter: &AtomicU64) {
        if self.socket.send_to(datagram, to).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn random(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.luck.fill(&mut bytes);
        bytes
    }

    /// One of everything that may look like something.
    fn forgeries(&mut self) -> Vec<Vec<u8>> {
        let len = 1 + self.luck.word() as usize % 1200;
        let noise = self.random(len);
        let mut probe = self.random(Self::PROBE_LEN);
        probe[0] = Self::FIRST_BYTE;
        let mut tagged = probe.clone();
        if let Some(real) = &self.probe {
            // Its tag, and a counter that is to come.
            tagged[..16].copy_from_slice(&real[..16]);
        }
        // A binding request and a success response of STUN (RFC 8489 §5), the latter with a mapped address.
        let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        request.extend(self.random(12));
        let mut response = vec![1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42];
        response.extend(self.random(12));
        response.extend([0, 0x20, 0, 8, 0, 1, 0x12, 0x34]);
        response.extend(self.random(4));
        // QUIC: an Initial of version 1 (RFC 9000 §17.2.2), one of a version that nobody knows, and a short header.
        let mut initial = self.random(1200);
        initial[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        initial[14] = 8;
        initial[23..26].copy_from_slice(&[0, 0x44, 0x96]);
        let mut unknown = self.random(1200);
        unknown[..6].copy_from_slice(&[0xc3, 0x5a, 0x6a, 0x7a, 0x8a, 8]);
        unknown[14] = 8;
        let mut short = self.random(60);
        short[0] = 0x40 | short[0] & 0x3f;
        vec![noise, probe, tagged, request, response, initial, unknown, short]
    }
}

/// Checks that what a stranger sends to an open port of a host arrives, and that an answer would.
pub fn can_reach(stranger: &Site, site: &Site) {
    let (here, there) =
        (Probe::at(stranger.host(), stranger.public()), Probe::at(site.host(), site.address()));
    // It opens the port, if it has to be, towards somebody else.
    assert!(there.send(b"open", (SERVER[1], PORT).into()));
    assert_eq!(here.reaches((site.public(), PORT).into(), &there).ip(), IpAddr::from(stranger.public()));
    there.reaches((stranger.public(), PORT).into(), &here);
}
