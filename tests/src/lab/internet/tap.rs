//! Listening at one end of the internet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::packet::{Header, Payload, Ports};
use super::{Core, End};
use crate::memory::holds;

/// Bytes of packets that are kept at most.
const LIMIT: usize = 256 << 20;

/// Keeps what passes one end of the internet, either way, until this value goes. What gets lost is not heard.
#[derive(Debug)]
pub struct Tap {
    core: Arc<Core>,
    kept: Arc<Kept>,
}

/// A UDP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// What it carries.
    pub bytes: Vec<u8>,
}

/// What one tap has heard.
#[derive(Debug)]
pub(super) struct Kept {
    end: End,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    bytes: usize,
    datagrams: Vec<Datagram>,
    /// The bytes of each connection and direction, as they came.
    streams: BTreeMap<(SocketAddr, SocketAddr), Vec<u8>>,
}

impl Tap {
    pub(super) fn start(core: &Arc<Core>, end: End) -> Self {
        let kept = Arc::new(Kept { end, heard: Mutex::default() });
        core.map.write().expect("no panic while held").taps.push(Arc::clone(&kept));
        Self { core: Arc::clone(core), kept }
    }

    /// The UDP packets heard so far, without the first `count`.
    pub fn datagrams_after(&self, count: usize) -> Vec<Datagram> {
        self.heard(|heard| heard.datagrams.get(count..).unwrap_or_default().to_vec())
    }

    /// Which of the needles have passed: in a UDP packet or a TCP connection, addresses included.
    pub fn holds<const N: usize>(&self, needles: [&[u8]; N]) -> [bool; N] {
        self.heard(|heard| {
            let datagrams = heard.datagrams.iter().map(|datagram| &datagram.bytes);
            let all: Vec<&Vec<u8>> = datagrams.chain(heard.streams.values()).collect();
            needles.map(|needle| all.iter().any(|bytes| holds(bytes, needle)))
        })
    }

    /// Bytes heard so far.
    pub fn len(&self) -> usize {
        self.heard(|heard| heard.bytes)
    }

    /// True as long as nothing has passed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn heard<T>(&self, f: impl FnOnce(&Heard) -> T) -> T {
        let heard = self.kept.heard.lock().expect("no panic while held");
        assert!(heard.bytes < LIMIT, "more has passed than a tap keeps");
        f(&heard)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // A test that fails must still be able to end.
        if let Ok(mut map) = self.core.map.write() {
            map.taps.retain(|kept| !Arc::ptr_eq(kept, &self.kept));
        }
    }
}

impl Kept {
    /// Takes note of a packet, if it concerns the end.
    pub(super) fn hear(&self, from: End, to: End, header: Header, packet: &[u8]) {
        if self.end != from && self.end != to {
            return;
        }
        let mut heard = self.heard.lock().expect("no panic while held");
        let Some(Ports { source, destination, bytes }) = Ports::of(header, packet) else { return };
        if heard.bytes + packet.len() > LIMIT {
            heard.bytes = LIMIT;
            return;
        }
        heard.bytes += packet.len();
        let (from, to) = ((header.from, source).into(), (header.to, destination).into());
        match header.payload {
            Payload::Udp => heard.datagrams.push(Datagram { from, to, bytes: bytes.to_vec() }),
            _ => heard.streams.entry((from, to)).or_default().extend_from_slice(bytes),
        }
    }
}
