//! The attachments of a stream to links, and which of them carries what.

use super::send::End;
use crate::wire::stream::AttachMode;

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
    /// Next offset to send here.
    pub(super) cursor: u64,
    /// The end was sent here.
    pub(super) end_sent: Option<End>,
    pub(super) retiring: Option<Retiring>,
    /// A later attachment sends again whatever was sent here.
    covered: bool,
    /// The peer's `Switch` arrived.
    pub(super) switched_in: bool,
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

/// What becomes of an attachment after a switch to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retiring {
    /// `Switch` is still to be sent.
    Owed,
    /// It was.
    Told,
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
            old.retiring = Some(Retiring::Owed);
            cursor = old.cursor;
            end_sent = old.end_sent;
        } else {
            self.list.iter_mut().for_each(|a| a.covered = true);
        }
        self.next_epoch = epoch + 1;
        self.list.push(Attachment {
            epoch,
            greeting: Some(greeting),
            cursor,
            end_sent,
            retiring: None,
            covered: false,
            switched_in: false,
            confirmed: greeting == Greeting::Attached,
        });
    }

    /// Forgets an attachment: it is not needed any more, or lost. Everything before `acked` is acknowledged.
    pub(super) fn remove(&mut self, epoch: u32, acked: u64) {
        let Some(index) = self.list.iter().position(|a| a.epoch == epoch) else { return };
        let lost = self.list.remove(index);
        let unacknowledged = lost.cursor > acked || lost.end_sent.is_some();
        if self.current().is_none() || lost.covered || !unacknowledged {
            return;
        }
        // What a retiring link carried and nobody acknowledged goes out again over the current one.
        if let Some(current) = self.list.last_mut() {
            current.cursor = current.cursor.min(acked);
            current.end_sent = None;
        }
    }

    /// An attachment that nothing crosses any more, of which there is no need. Everything before `acked` is
    /// acknowledged; `ended` says whether the end is, too.
    pub(super) fn idle(&self, opener: bool, acked: u64, ended: bool) -> Option<u32> {
        let newest = self.list.last()?;
        let idle = self.list.iter().find(|a| {
            let arrived = a.cursor <= acked && (a.end_sent.is_none() || ended);
            let switched = a.retiring == Some(Retiring::Told) && a.switched_in && arrived;
            // The opener replaced this one without a switch, and the acceptor has followed.
            let replaced = opener && a.epoch != newest.epoch && a.retiring.is_none() && newest.confirmed;
            switched || replaced
        });
        let oldest = self.list.first().filter(|_| self.list.len() > MAX_ATTACHMENTS);
        idle.or(oldest).map(|a| a.epoch)
    }
}
