//! Simulated links, and the multiplexed streams that cross them.
//!
//! A link is a queue in each direction. It can go deaf in one direction or both, which neither end notices
//! until it is told so ([`Net::forsake`]). Side 0 of everything is the opener's, side 1 the acceptor's.

use super::choices::Choices;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

pub(crate) type LinkId = usize;
pub(crate) type MuxId = usize;
pub(crate) type Side = usize;

/// All links and multiplexed streams of a run; the dead ones keep their numbers.
#[derive(Default)]
pub(crate) struct Net {
    pub(crate) links: Vec<Link>,
    pub(crate) muxes: Vec<Mux>,
}

pub(crate) struct Link {
    /// Streams of the link overtake each other, as those of QUIC do.
    unordered: bool,
    /// What this side sends vanishes.
    pub(crate) cut: [bool; 2],
    /// This side has given the link up.
    pub(crate) forsaken: [bool; 2],
    queue: [VecDeque<Item>; 2],
    /// Bytes of one multiplexed stream that are under way at most, as its flow control allows.
    pub(crate) capacity: usize,
}

struct Item {
    /// `None` for the end of the link itself.
    mux: Option<MuxId>,
    /// Empty for the end of the multiplexed stream.
    bytes: Bytes,
}

pub(crate) struct Mux {
    pub(crate) link: LinkId,
    /// This side does not use it any more.
    pub(crate) gone: [bool; 2],
    /// Received and not decoded yet.
    pub(crate) input: [BytesMut; 2],
    /// What it is attached as; the acceptor learns it from the header.
    pub(crate) epoch: [Option<u32>; 2],
    /// Index of the stream that uses it.
    pub(crate) pair: usize,
    /// Bytes sent by this side that are under way.
    pub(crate) queued: [usize; 2],
}

/// What reached a side.
pub(crate) enum Arrival {
    Bytes(MuxId, Bytes),
    End(MuxId),
    LinkEnd,
}

impl Net {
    pub(crate) fn open_link(&mut self, choices: &mut Choices) -> LinkId {
        self.links.push(Link {
            unordered: choices.once_in(3),
            cut: [false; 2],
            forsaken: [false; 2],
            queue: Default::default(),
            capacity: choices.pick(&[1 << 10, 1 << 14, 1 << 16, 1 << 18]).unwrap_or(1 << 16),
        });
        self.links.len() - 1
    }

    /// Links that `side` takes for usable.
    pub(crate) fn usable(&self, side: Side) -> Vec<LinkId> {
        (0..self.links.len()).filter(|&link| !self.links[link].forsaken[side]).collect()
    }

    /// Directions of links in which something is under way: link and sender.
    pub(crate) fn busy(&self) -> Vec<(LinkId, Side)> {
        (0..2 * self.links.len())
            .map(|i| (i / 2, i % 2))
            .filter(|&(link, from)| !self.links[link].queue[from].is_empty())
            .collect()
    }

    /// Sides that still use a link on which something was cut.
    pub(crate) fn unaware(&self) -> Vec<(LinkId, Side)> {
        (0..2 * self.links.len())
            .map(|i| (i / 2, i % 2))
            .filter(|&(link, side)| {
                let link = &self.links[link];
                (link.cut != [false; 2] || link.forsaken[1 - side]) && !link.forsaken[side]
            })
            .collect()
    }

    /// Opens a multiplexed stream; the other side learns of it when something arrives.
    pub(crate) fn open_mux(&mut self, link: LinkId, pair: usize, epoch: u32) -> MuxId {
        self.muxes.push(Mux {
            link,
            gone: [false; 2],
            input: Default::default(),
            epoch: [Some(epoch), None],
            pair,
            queued: [0; 2],
        });
        self.muxes.len() - 1
    }

    /// Room for bytes of `from` on a multiplexed stream.
    pub(crate) fn room(&self, mux: MuxId, from: Side) -> bool {
        let mux = &self.muxes[mux];
        mux.queued[from] < self.links[mux.link].capacity
    }

    pub(crate) fn send(&mut self, mux: MuxId, from: Side, bytes: Bytes) {
        if !bytes.is_empty() {
            self.enqueue(Some(mux), self.muxes[mux].link, from, bytes);
        }
    }

    /// `side` closes a multiplexed stream: what it sent still arrives, unless it is `abrupt`.
    pub(crate) fn close(&mut self, mux: MuxId, side: Side, abrupt: bool) {
        if std::mem::replace(&mut self.muxes[mux].gone[side], true) {
            return;
        }
        let link = self.muxes[mux].link;
        if abrupt {
            self.links[link].queue[side].retain(|item| item.mux != Some(mux) || item.bytes.is_empty());
            self.muxes[mux].queued[side] = 0;
        }
        self.enqueue(Some(mux), link, side, Bytes::new());
    }

    /// What `from` sends over `link` is lost from now on, what is under way as well.
    pub(crate) fn cut(&mut self, link: LinkId, from: Side) {
        self.links[link].cut[from] = true;
        for item in std::mem::take(&mut self.links[link].queue[from]) {
            if let Some(mux) = item.mux {
                self.muxes[mux].queued[from] -= item.bytes.len();
            }
        }
    }

    /// `side` gives a link up; returns the multiplexed streams that it thereby loses.
    pub(crate) fn forsake(&mut self, link: LinkId, side: Side) -> Vec<MuxId> {
        if std::mem::replace(&mut self.links[link].forsaken[side], true) {
            return Vec::new();
        }
        self.enqueue(None, link, side, Bytes::new());
        let lost: Vec<MuxId> = (0..self.muxes.len())
            .filter(|&mux| self.muxes[mux].link == link && !self.muxes[mux].gone[side])
            .collect();
        for &mux in &lost {
            self.muxes[mux].gone[side] = true;
        }
        lost
    }

    /// Takes what arrives next from `from`: some bytes, or an end; `None` if it is of no interest any more.
    pub(crate) fn deliver(&mut self, link: LinkId, from: Side, choices: &mut Choices) -> Option<Arrival> {
        let (unordered, queue) = (self.links[link].unordered, &mut self.links[link].queue[from]);
        let mut at = 0;
        if unordered && let Some(mux) = queue.get(choices.below(queue.len()))?.mux {
            at = queue.iter().position(|item| item.mux == Some(mux))?;
        }
        let item = queue.get_mut(at)?;
        let (mux, mut bytes) = (item.mux, item.bytes.clone());
        if bytes.len() > 1 && choices.once_in(4) {
            bytes = item.bytes.split_to(choices.between(1, bytes.len() - 1));
        } else {
            queue.remove(at);
        }
        let to = 1 - from;
        let Some(mux) = mux else { return Some(Arrival::LinkEnd) };
        self.muxes[mux].queued[from] -= bytes.len();
        if self.muxes[mux].gone[to] || self.links[link].forsaken[to] {
            return None;
        }
        Some(if bytes.is_empty() { Arrival::End(mux) } else { Arrival::Bytes(mux, bytes) })
    }

    fn enqueue(&mut self, mux: Option<MuxId>, link: LinkId, from: Side, bytes: Bytes) {
        if self.links[link].cut[from] {
            return;
        }
        if let Some(mux) = mux {
            self.muxes[mux].queued[from] += bytes.len();
        }
        self.links[link].queue[from].push_back(Item { mux, bytes });
    }
}
