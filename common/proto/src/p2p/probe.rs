//! Probes: the datagrams that open and test paths.
//!
//! ```text
//! 0        1         9          17                          64       80
//! | 0x05   | tag     | counter  | sealed contents           | MAC    |
//! ```
//! All probes have one length. The first byte cannot be that of a QUIC packet (its second highest bit is the fixed bit
//! of RFC 9000 §17) and is assigned to no protocol that shares ports (RFC 7983 §7). The tag tells the attempts of
//! one host apart before anything is decrypted. Contents are sealed with ChaCha20-Poly1305 (RFC 8439) under a key of
//! its own for each direction: a datagram that is thrown back at its sender fails like any forgery. The counter is
//! the nonce and, with a sliding window (as RFC 4303 §3.4.3), tells repetitions.

use crate::p2p::candidate::canonical;
use bytes::Bytes;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Length of every probe, in bytes.
pub const PROBE_LEN: usize = HEADER + CONTENTS + MAC;

/// First byte of every probe.
pub const FIRST_BYTE: u8 = 0x05;

/// Counters behind the highest one seen that are still told apart from repetitions.
pub const REPLAY_WINDOW: u64 = 1024;

const TAG: usize = 8;
const HEADER: usize = 1 + TAG + 8;
const CONTENTS: usize = 47;
const MAC: usize = 16;

/// What makes a datagram a STUN message (RFC 8489 §5), at offset 4.
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// What a probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Question or answer.
    pub kind: ProbeKind,
    /// The initiator has chosen this path.
    pub nominates: bool,
    /// The round it belongs to.
    pub round: u8,
    /// Chosen by the one who asks, at random; repeated by the one who answers.
    pub transaction: u64,
    /// Round trip that the sender measured on this path, in microseconds; 0 if it did not.
    pub round_trip_us: u32,
    /// In answers: where the question came from.
    pub observed: Option<SocketAddr>,
}

/// Question or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// Asks for an answer.
    Ping,
    /// Answers.
    Pong,
}

/// Seals the probes of one end.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    tag: [u8; TAG],
    counter: u64,
}

/// Opens the probes of the other end, each once.
#[derive(Debug)]
pub struct Opener {
    key: LessSafeKey,
    tag: [u8; TAG],
    window: Window,
}

/// Both ends of the channel for one attempt's `secret`, as the initiator or the responder has them; nothing only if
/// the library refuses a key of the right length.
pub fn channel(secret: &[u8; 32], is_initiator: bool) -> Option<(Sealer, Opener)> {
    let root = Salt::new(HKDF_SHA256, b"tun punch v1").extract(secret);
    let labels: [&[u8]; 2] = [b"initiator", b"responder"];
    let (own, theirs) = if is_initiator { (labels[0], labels[1]) } else { (labels[1], labels[0]) };
    let (key, tag) = direction(&root, own)?;
    let sealer = Sealer { key, tag, counter: 0 };
    let (key, tag) = direction(&root, theirs)?;
    Some((sealer, Opener { key, tag, window: Window::default() }))
}

struct TagLen;

impl KeyType for TagLen {
    fn len(&self) -> usize {
        TAG
    }
}

fn direction(root: &Prk, label: &[u8]) -> Option<(LessSafeKey, [u8; TAG])> {
    let key = UnboundKey::from(root.expand(&[label, b" key"], &CHACHA20_POLY1305).ok()?);
    let mut tag = [0; TAG];
    root.expand(&[label, b" tag"], TagLen).ok()?.fill(&mut tag).ok()?;
    // Bytes 4 to 8 of the datagram.
    if tag[3..7] == STUN_COOKIE {
        tag[3] ^= 0xff;
    }
    Some((LessSafeKey::new(key), tag))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Sealer {
    /// The datagram for `probe`; nothing once the counter is used up.
    pub fn seal(&mut self, probe: &Probe) -> Option<Bytes> {
        let counter = self.counter;
        self.counter = self.counter.checked_add(1)?;
        let mut out = Vec::with_capacity(PROBE_LEN);
        out.push(FIRST_BYTE);
        out.extend_from_slice(&self.tag);
        out.extend_from_slice(&counter.to_be_bytes());
        out.extend_from_slice(&probe.encode());
        let (header, contents) = out.split_at_mut(HEADER);
        let mac = self.key.seal_in_place_separate_tag(nonce(counter), Aad::from(header), contents).ok()?;
        out.extend_from_slice(mac.as_ref());
        Some(out.into())
    }
}

impl Opener {
    /// The probe in a datagram, if it is one, the peer sealed it and it was not opened before.
    pub fn open(&mut self, datagram: &[u8]) -> Option<Probe> {
        let datagram: &[u8; PROBE_LEN] = datagram.try_into().ok()?;
        if datagram[0] != FIRST_BYTE || datagram[1..1 + TAG] != self.tag {
            return None;
        }
        let counter = u64::from_be_bytes(datagram[1 + TAG..HEADER].try_into().ok()?);
        if !self.window.is_new(counter) {
            return None;
        }
        let (header, sealed) = datagram.split_at(HEADER);
        let mut sealed: [u8; CONTENTS + MAC] = sealed.try_into().ok()?;
        let contents = self.key.open_in_place(nonce(counter), Aad::from(header), &mut sealed).ok()?;
        let probe = Probe::decode(contents)?;
        self.window.mark(counter);
        Some(probe)
    }
}

impl Probe {
    fn encode(&self) -> [u8; CONTENTS] {
        let mut out = [0; CONTENTS];
        out[0] = match self.kind {
            ProbeKind::Ping => 1,
            ProbeKind::Pong => 2,
        };
        out[1] = u8::from(self.nominates);
        out[2] = self.round;
        out[3..11].copy_from_slice(&self.transaction.to_be_bytes());
        out[11..15].copy_from_slice(&self.round_trip_us.to_be_bytes());
        if let Some(observed) = self.observed {
            let ip = match observed.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            out[15..31].copy_from_slice(&ip.octets());
            out[31..33].copy_from_slice(&observed.port().to_be_bytes());
        }
        out
    }

    fn decode(contents: &[u8]) -> Option<Self> {
        let contents: &[u8; CONTENTS] = contents.try_into().ok()?;
        let kind = match contents[0] {
            1 => ProbeKind::Ping,
            2 => ProbeKind::Pong,
            _ => return None,
        };
        let ip: [u8; 16] = contents[15..31].try_into().ok()?;
        let port = u16::from_be_bytes([contents[31], contents[32]]);
        let observed = (port != 0).then(|| canonical(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), port)));
        Some(Probe {
            kind,
            nominates: contents[1] & 1 != 0,
            round: contents[2],
            transaction: u64::from_be_bytes(contents[3..11].try_into().ok()?),
            round_trip_us: u32::from_be_bytes(contents[11..15].try_into().ok()?),
            observed,
        })
    }
}

const WORDS: usize = (REPLAY_WINDOW / 64) as usize;

/// Which of the last counters were seen.
#[derive(Debug, Default)]
struct Window {
    /// One beyond the highest counter seen.
    next: u64,
    /// One bit for each counter, at its place modulo the window's length.
    seen: [u64; WORDS],
}

impl Window {
    fn is_new(&self, counter: u64) -> bool {
        let too_old = counter.saturating_add(REPLAY_WINDOW) < self.next;
        // The last counter of all is never sent: there is no next one.
        counter != u64::MAX && (counter >= self.next || (!too_old && self.word(counter) & bit(counter) == 0))
    }

    fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            if counter - self.next >= REPLAY_WINDOW {
                self.seen = [0; WORDS];
            } else {
                for passed in self.next..=counter {
                    self.seen[place(passed)] &= !bit(passed);
                }
            }
            self.next = counter + 1;
        }
        self.seen[place(counter)] |= bit(counter);
    }

    fn word(&self, counter: u64) -> u64 {
        self.seen[place(counter)]
    }
}

fn place(counter: u64) -> usize {
    (counter % REPLAY_WINDOW / 64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
#[path = "probe/tests.rs"]
mod tests;
