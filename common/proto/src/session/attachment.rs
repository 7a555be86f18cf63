//! The attachments of a stream to links, and which of them carries what.
//!
//! # Leaving an attachment
//! One that is replaced by `Resend` has served as soon as the acceptor has followed to a later one; the opener
//! closes it. One that is replaced by `Switch` is left with three frames on it, each of which says that its sender
//! sends nothing more there, and has got all that was sent before the frame it answers:
//!
//! ```text
//! opener ── Switch ──▶ acceptor      once it has attached the stream elsewhere
//! opener ◀── Switch ── acceptor      once it has seen that attachment and the first frame
//! opener ── Switch ──▶ acceptor      and closes
//! ```
//! An end that hears less than its share of these when the attachment is lost has to send again over the current
//! one what it sent there. No acknowledgement is waited for: those depend on the applications.

use super::send::End;
use crate::wire::stream::AttachMode;
use std::time::Instant;

/// Attachments kept at once: the current one, one that retires, and a hedge for each.
const MAX_ATTACHMENTS: usize = 4;

/// The attachments of one end of a stream; see [`super::stream`].
#[derive(Debug, Default)]
pub(super) struct Attachments {
    /// By ascending epoch.
    list: Vec<Attachment>,
    next_epoch: u32,
}

/// A multiplexed stream that carries the session stream, or did.
#[derive(Debug)]
pub(super) struct Attachment {
    epoch: u32,
    /// What goes out before anything else.
    pub(super) greeting: Option<Greeting>,
    /// When the answer to a new stream's opening leaves at the latest; until then it waits for something to ride along
    /// with.
    pub(super) answer_due: Option<Instant>,
    /// Next offset to send here.
    pub(super) cursor: u64,
    /// The end was sent here.
    pub(super) end_sent: Option<End>,
    /// Replaced by `Switch`.
    retiring: bool,
    /// A later attachment sends again whatever was sent here.
    covered: bool,
    /// Number of `Switch` frames sent here.
    told: u8,
    /// Number of `Switch` frames received here.
    heard: u8,
    /// The peer has answered on this attachment.
    pub(super) confirmed: bool,
}

/// The first thing sent over an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// The opener's header.
    Attach(AttachMode),
    /// The acceptor's answer.
    Attached,
}

impl Attachments {
    /// Epoch of the attachment to come.
    pub(super) fn next_epoch(&self) -> u32 {
        self.next_epoch
    }

    /// The attachment that carries what this end sends. Once it is lost, an earlier one does not take its place:
    /// the peer may have switched away from that, or be about to close it.
    pub(super) fn current(&self) -> Option<u32> {
        self.list.last().map(|a| a.epoch).filter(|epoch| epoch + 1 == self.next_epoch)
    }

    /// True if the peer has answered on the latest attachment.
    pub(super) fn is_settled(&self) -> bool {
        self.list.last().is_some_and(|a| a.confirmed)
    }

    /// When the current attachment's answer leaves at the latest, if it waits.
    pub(super) fn answer_due(&self) -> Option<Instant> {
        self.list.last().filter(|a| Some(a.epoch) == self.current())?.answer_due
    }

    /// The attachment of that epoch.
    pub(super) fn get_mut(&mut self, epoch: u32) -> Option<&mut Attachment> {
        self.list.iter_mut().find(|a| a.epoch == epoch)
    }

    /// Adds an attachment, which becomes the current one. It starts to send at `cursor`, unless it goes on where
    /// the one before it stops.
    pub(super) fn add(
        &mut self,
        epoch: u32,
        mode: AttachMode,
        greeting: Greeting,
        mut cursor: u64,
        mut end_sent: Option<End>,
    ) {
        let retire = mode == AttachMode::Switch && self.current().is_some();
        if retire && let Some(old) = self.list.last_mut() {
            old.retiring = true;
            cursor = old.cursor;
            end_sent = old.end_sent;
        } else {
            self.list.iter_mut().for_each(|a| a.covered = true);
        }
        self.next_epoch = epoch + 1;
        self.list.push(Attachment {
            epoch,
            greeting: Some(greeting),
            answer_due: None,
            cursor,
            end_sent,
            retiring: false,
            covered: false,
            told: 0,
            heard: 0,
            confirmed: greeting == Greeting::Attached,
        });
    }

    /// Forgets an attachment: it is not needed any more, or lost. Everything before `acked` is acknowledged.
    pub(super) fn remove(&mut self, epoch: u32, opener: bool, acked: u64) {
        let Some(index) = self.list.iter().position(|a| a.epoch == epoch) else { return };
        let lost = self.list.remove(index);
        let arrived = lost.heard >= if opener { 1 } else { 2 };
        if self.current().is_none() || lost.covered || arrived {
            return;
        }
        // What a retiring link carried and nobody acknowledged goes out again over the current one.
        let Some(current) = self.list.last_mut() else { return };
        current.cursor = current.cursor.min(acked);
        current.end_sent = None;
        // If that is not announced yet, the peer need not wait to find out that it should do the same.
        if let Some(greeting @ Greeting::Attach(AttachMode::Switch)) = &mut current.greeting {
            *greeting = Greeting::Attach(AttachMode::Resend);
            let others = self.list.len() - 1;
            self.list[..others].iter_mut().for_each(|a| a.covered = true);
        }
    }

    /// An attachment that nothing crosses any more, of which there is no need.
    pub(super) fn idle(&self, opener: bool) -> Option<u32> {
        let newest = self.list.last()?;
        // The acceptor hears of it when the opener closes one.
        let idle = self
            .list
            .iter()
            .find(|a| opener && a.epoch != newest.epoch && (a.told == 2 || a.covered && newest.confirmed));
        let oldest = self.list.first().filter(|_| self.list.len() > MAX_ATTACHMENTS);
        idle.or(oldest).map(|a| a.epoch)
    }
}

impl Attachment {
    /// Takes note of a `Switch` that came in.
    pub(super) fn hear(&mut self) {
        self.heard = self.heard.saturating_add(1);
    }

    /// True if a `Switch` is to be sent; counts it as sent.
    pub(super) fn tell(&mut self, opener: bool) -> bool {
        let due = match (opener, self.told) {
            (true, 0) => true,
            (true, 1) | (false, 0) => self.heard > 0,
            _ => false,
        };
        let tells = self.retiring && due;
        self.told += u8::from(tells);
        tells
    }
}
