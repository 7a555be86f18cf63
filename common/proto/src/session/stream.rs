//! A resumable byte stream: two halves, and the links they cross.
//!
//! Sans-IO. The caller reports what happened (`handle_*`), gives commands, and asks what to do next (`poll_*`).
//! Every method that depends on time takes `now`.
//!
//! # Attachments
//! A stream is *attached* to a link by a multiplexed stream of that link. Attachments are numbered by epoch; the
//! one with the highest epoch is *current* and carries what this end sends; if it is lost, there is none until the
//! opener attaches the stream once more. Frames are accepted from all of them, since every data frame names its
//! offset.
//!
//! ```text
//!            attach(Resend)                          attach(Switch) on a healthy link
//!  orphaned ────────────────▶ current ─────────────────────────────▶ retiring: Switch, Switch, Switch
//!     ▲                          │                                        │
//!     └──────── handle_lost ─────┘                                        ▼
//!                                                                      detached
//! ```
//! Only the opener of a stream attaches it; the acceptor follows. After `Resend` both ends send again from what
//! the other says it has received; after `Switch` they go on where they are. If a retiring link dies after all,
//! what it carried is sent again from the last acknowledgement.
//!
//! # The end
//! Who is told that all is acknowledged cannot tell the other that it knows. Only the opener can come back to
//! ask, so it is the last to go: the acceptor closes when it has nothing left to say and takes leave with
//! [`Frame::Unknown`], which the opener waits for. If that is lost, the opener attaches the stream once more and
//! is answered with the acceptor's [epitaph](put_epitaph).

use super::attachment::{Attachments, Greeting};
use super::budget::{Budget, Inbound};
use super::recv::{Next, RecvHalf, Violation};
use super::send::{End, Piece, SendHalf};
use crate::limits::{ACK_DELAY, RESET_LINGER};
use crate::wire::login::Id;
use crate::wire::stream::{Attach, AttachMode, Frame, ResetCode};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Instant;

/// One end of a resumable byte stream.
#[derive(Debug)]
pub struct Stream {
    id: Id,
    /// What the stream is for; present at the opener until the acceptor is known to know.
    meta: Option<Bytes>,
    opener: bool,
    send: SendHalf,
    recv: RecvHalf,
    inbound: Inbound,
    attachments: Attachments,
    /// Highest offset that was given to any link.
    transmitted: u64,
    /// When a reset is delivered although the application does not take the bytes before it.
    reset_due: Option<Instant>,
    /// The stream failed on this side; no peer needs to be told.
    failed: Option<ResetCode>,
    /// The application has yet to be told.
    failure_due: bool,
    /// The acceptor has closed, and both ends know.
    parted: bool,
}

/// Something to send over one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// The header that attaches the stream.
    Attach(Attach),
    /// A small frame.
    Frame(Frame),
    /// A data frame, encoded.
    Data(Bytes),
}

impl Transmit {
    /// Appends the bytes to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Transmit::Attach(attach) => attach.encode(out),
            Transmit::Frame(frame) => frame.encode(out),
            Transmit::Data(bytes) => out.extend_from_slice(bytes),
        }
    }
}

/// Appends the answer of an acceptor that has closed the stream which is attached, or has never known it.
pub fn put_epitaph(epitaph: Option<u64>, out: &mut BytesMut) {
    if let Some(offset) = epitaph {
        Frame::Attached { received: offset }.encode(out);
        Frame::Ack { offset }.encode(out);
    }
    Frame::Unknown.encode(out);
}

impl Stream {
    /// A stream that this side opens; `meta` tells the acceptor what for. It has no attachment yet.
    pub fn open(id: Id, meta: Bytes, budget: Arc<Budget>) -> Self {
        Self::new(id, Some(meta), true, budget)
    }

    /// A stream that the peer opens; follow with [`Stream::handle_attach`].
    pub fn accept(id: Id, budget: Arc<Budget>) -> Self {
        Self::new(id, None, false, budget)
    }

    fn new(id: Id, meta: Option<Bytes>, opener: bool, budget: Arc<Budget>) -> Self {
        Stream {
            id,
            meta,
            opener,
            inbound: Inbound::new(budget.clone()),
            send: SendHalf::new(budget),
            recv: RecvHalf::default(),
            attachments: Attachments::default(),
            transmitted: 0,
            reset_due: None,
            failed: None,
            failure_due: false,
            parted: false,
        }
    }

    // --- getters ---

    /// The stream's identifier.
    pub fn id(&self) -> Id {
        self.id
    }

    /// True if this side opens and attaches the stream.
    pub fn is_opener(&self) -> bool {
        self.opener
    }

    /// The attachment that carries what this end sends.
    pub fn current(&self) -> Option<u32> {
        self.attachments.current()
    }

    /// True if nothing is left to do, and the peer knows all it needs to.
    pub fn is_closed(&self) -> bool {
        if self.failed.is_some() || self.parted {
            return true;
        }
        // The opener waits to hear that its last acknowledgement arrived, if there was an end to acknowledge. The
        // acceptor says what it owes and takes leave, but its epitaph can do so as well.
        let parting = if self.opener { self.recv.is_done() } else { self.current().is_some() };
        self.is_over() && !parting
    }

    /// True if the peer has followed to the current attachment. A `Switch` away from one that it has not heard of yet
    /// works, but makes both ends send again.
    pub fn is_settled(&self) -> bool {
        self.attachments.is_settled()
    }

    /// True once the acceptor is known to know the stream.
    pub fn is_answered(&self) -> bool {
        self.meta.is_none()
    }

    /// True if the application finished or aborted its half.
    pub fn is_ended(&self) -> bool {
        self.send.ending().is_some()
    }

    /// Why the stream failed on this side without the application's doing.
    pub fn failure(&self) -> Option<ResetCode> {
        self.failed
    }

    /// What to tell the opener, by [`put_epitaph`], if it attaches the stream once more after it is closed; `None`
    /// after a failure.
    pub fn epitaph(&self) -> Option<u64> {
        (self.failed.is_none() && self.recv.is_done()).then(|| self.recv.final_ack())
    }

    /// Bytes held for retransmission and for delivery, with the overhead that is charged for them.
    pub fn held(&self) -> (u64, u64) {
        (self.send.held(), self.recv.held())
    }

    /// Bytes written by the application, and bytes delivered to it.
    pub fn progress(&self) -> (u64, u64) {
        (self.send.end(), self.recv.received() - self.recv.held())
    }

    // --- commands of the application ---

    /// Bytes that may be written now.
    pub fn room(&mut self) -> usize {
        if self.failed.is_some() { 0 } else { self.send.room() }
    }

    /// Writes a chunk, see [`SendHalf::push`].
    pub fn push(&mut self, frame: BytesMut) {
        self.send.push(frame);
    }

    /// Ends this side's half in order.
    pub fn finish(&mut self) {
        self.send.finish(End::Fin, self.transmitted);
    }

    /// Aborts the stream in both directions. Bytes that left already are still delivered before the abort. Changes
    /// nothing once both directions have come to their end.
    pub fn abort(&mut self, code: ResetCode, now: Instant) {
        if self.send.is_done() && self.recv.is_done() {
            return;
        }
        self.send.finish(End::Reset(code), self.transmitted);
        self.recv.discard();
        self.forget_delivered();
        if self.recv.is_reset() && !self.recv.is_done() {
            self.recv.consume_end(now, true);
            self.forget_delivered();
        }
        self.reset_due = None;
    }

    /// Ends the stream on this side only: there is no peer any more, or it broke the rules.
    pub fn fail(&mut self, code: ResetCode) {
        self.failure_due |= self.failed.is_none() && !self.is_application_gone();
        self.failed.get_or_insert(code);
        self.reset_due = None;
        self.send.abandon();
        self.recv.discard();
        self.forget_delivered();
        self.attachments = Attachments::default();
    }

    /// What the application gets next.
    pub fn next(&self, now: Instant) -> Option<Next<'_>> {
        if let Some(code) = self.failed {
            return self.failure_due.then_some(Next::Reset(code));
        }
        if self.is_aborted() {
            return None;
        }
        if self.reset_due.is_some_and(|due| due <= now) {
            return self.recv.early_reset().map(Next::Reset);
        }
        self.recv.next()
    }

    /// The application took `len` bytes.
    pub fn consume(&mut self, len: usize, now: Instant) {
        self.recv.consume(len, now);
        self.forget_delivered();
    }

    /// The application took the end or the reset.
    pub fn consume_end(&mut self, now: Instant) {
        self.recv.consume_end(now, self.is_ended());
        self.forget_delivered();
        self.reset_due = None;
        self.failure_due = false;
    }

    // --- commands and events of the links ---

    /// Attaches the stream to another link; only the opener does. Returns the attachment's epoch.
    ///
    /// A `Switch` needs a current attachment to switch from; without one it becomes a `Resend`.
    pub fn attach(&mut self, mode: AttachMode) -> u32 {
        let mode = if self.current().is_some() { mode } else { AttachMode::Resend };
        let epoch = self.attachments.next_epoch();
        let acked = self.send.acked();
        self.add_attachment(epoch, mode, acked, Greeting::Attach(mode));
        epoch
    }

    /// The peer attaches the stream. Returns the attachment's epoch.
    ///
    /// # Errors
    /// [`Violation`] if the header cannot belong to this stream, or is older than an attachment that exists.
    pub fn handle_attach(&mut self, attach: &Attach, now: Instant) -> Result<u32, Violation> {
        if self.opener {
            return Err(Violation("the acceptor of a stream attached it"));
        }
        if attach.epoch < self.attachments.next_epoch() || attach.epoch == u32::MAX {
            return Err(Violation("an attachment older than the current one"));
        }
        self.check_received(attach.received)?;
        // An opener that comes back waits for the answer, which tells it what to send again.
        let is_new = self.attachments.next_epoch() == 0 && attach.epoch == 0;
        self.add_attachment(attach.epoch, attach.mode, attach.received, Greeting::Attached);
        if is_new && let Some(attachment) = self.attachments.get_mut(attach.epoch) {
            attachment.answer_due = Some(now + ACK_DELAY);
        }
        // An opener that comes back has not heard that the acceptor took leave.
        self.parted = false;
        self.recv.repeat_ack(now);
        Ok(attach.epoch)
    }

    /// A frame arrived over an attachment; one that is not known any more changes nothing.
    ///
    /// # Errors
    /// [`Violation`] if the peer broke the protocol; the stream must then be aborted.
    pub fn handle_frame(&mut self, epoch: u32, frame: Frame, now: Instant) -> Result<(), Violation> {
        let Some(attachment) = self.attachments.get_mut(epoch) else { return Ok(()) };
        match frame {
            Frame::Attached { received } => self.handle_attached(epoch, received, now),
            Frame::Data { offset, payload, prompt } => {
                if self.is_aborted() {
                    return Ok(());
                }
                self.recv.handle_data(offset, payload, prompt)?;
                if self.inbound.set(self.recv.held()) {
                    Ok(())
                } else {
                    Err(Violation("more bytes in flight than a session may have"))
                }
            }
            Frame::Ack { offset } => {
                if self.send.handle_ack(offset, now) {
                    Ok(())
                } else {
                    Err(Violation("an acknowledgement of bytes never sent"))
                }
            }
            Frame::Fin { offset } => {
                if self.is_aborted() {
                    return Ok(());
                }
                self.recv.handle_fin(offset)
            }
            Frame::Reset { offset, code } => self.handle_reset(offset, code, now),
            Frame::Switch { .. } => {
                attachment.hear();
                Ok(())
            }
            Frame::Unknown if self.opener => {
                if self.is_aborted() || self.send.is_done() && self.recv.is_done() {
                    self.parted = true;
                } else {
                    self.fail(ResetCode::SessionOver);
                }
                Ok(())
            }
            Frame::Unknown => Err(Violation("the opener does not know its stream")),
        }
    }

    /// The multiplexed stream of an attachment ended, or its link died.
    pub fn handle_lost(&mut self, epoch: u32) {
        self.attachments.remove(epoch, self.opener, self.send.acked());
    }

    /// True if the opener should attach the stream to a link: it has no current attachment.
    pub fn wants_attachment(&self) -> bool {
        self.opener && !self.is_closed() && self.current().is_none()
    }

    /// An attachment with which the caller can close the multiplexed stream: nothing more crosses it.
    pub fn poll_detached(&mut self) -> Option<u32> {
        let epoch = self.attachments.idle(self.opener)?;
        self.handle_lost(epoch);
        Some(epoch)
    }

    /// What to send over attachment `epoch` next.
    pub fn poll_transmit(&mut self, epoch: u32, now: Instant) -> Option<Transmit> {
        let current = self.current();
        let later = current == Some(epoch) && self.may_answer_later(now);
        let attachment = self.attachments.get_mut(epoch)?;
        if let Some(greeting) = attachment.greeting {
            if greeting == Greeting::Attached && later {
                return None;
            }
            attachment.greeting = None;
            attachment.answer_due = None;
            return Some(self.greet(epoch, greeting));
        }
        if current != Some(epoch) {
            let tells = attachment.tell(self.opener);
            return tells.then_some(Transmit::Frame(Frame::Switch { offset: attachment.cursor }));
        }
        attachment.cursor = attachment.cursor.max(self.send.acked());
        let piece = self.send.piece(attachment.cursor);
        let end = match self.send.ending() {
            Some(end) if piece.is_none() && !self.send.is_done() && attachment.end_sent != Some(end) => {
                Some(end)
            }
            _ => None,
        };
        if let Some(offset) = self.recv.take_ack(piece.is_some() || end.is_some(), now) {
            return Some(Transmit::Frame(Frame::Ack { offset }));
        }
        if let Some(piece) = piece {
            let (end, transmit) = match piece {
                Piece::Frame(frame, end) => (end, Transmit::Data(frame)),
                Piece::Part(offset, payload) => {
                    let end = offset + payload.len() as u64;
                    let frame = Frame::Data { offset, payload, prompt: false };
                    (end, Transmit::Frame(frame))
                }
            };
            attachment.cursor = end;
            self.transmitted = self.transmitted.max(end);
            self.send.handle_sent(end, now);
            return Some(transmit);
        }
        let Some(end) = end else { return self.part() };
        attachment.end_sent = Some(end);
        let offset = self.send.end();
        Some(Transmit::Frame(match end {
            End::Fin => Frame::Fin { offset },
            End::Reset(code) => Frame::Reset { offset, code },
        }))
    }

    /// When [`Stream::next`] and [`Stream::poll_transmit`] may have something new to say, though nothing happens.
    /// `writable`: the current attachment takes frames; while it does not, no acknowledgement can leave.
    pub fn poll_timeout(&self, writable: bool) -> Option<Instant> {
        let ack = self.current().filter(|_| writable).and(self.recv.ack_deadline());
        let answer = self.attachments.answer_due().filter(|_| writable);
        [ack, answer, self.reset_due].into_iter().flatten().min()
    }

    // --- internals ---

    fn forget_delivered(&mut self) {
        // Less than before is always allowed.
        let _ = self.inbound.set(self.recv.held());
    }

    /// True for an application that has ended its half and got the peer's end, or has aborted.
    fn is_application_gone(&self) -> bool {
        self.is_aborted() || self.is_ended() && self.recv.is_done()
    }

    fn is_aborted(&self) -> bool {
        matches!(self.send.ending(), Some(End::Reset(_)))
    }

    /// True if both directions have come to their end on this side.
    fn is_over(&self) -> bool {
        self.send.is_done() && (self.recv.is_done() || self.is_aborted() && !self.recv.is_reset())
    }

    /// The acceptor's last frame.
    fn part(&mut self) -> Option<Transmit> {
        let over = self.failed.is_some() || self.is_over() && !self.recv.owes_ack();
        let parts = !self.opener && !self.parted && over;
        self.parted |= parts;
        parts.then_some(Transmit::Frame(Frame::Unknown))
    }

    fn add_attachment(&mut self, epoch: u32, mode: AttachMode, resume_at: u64, greeting: Greeting) {
        let end = self.send.end();
        let end_sent = self.send.ending().filter(|e| resume_at >= end + e.weight());
        self.attachments.add(epoch, mode, greeting, resume_at.min(end), end_sent);
        self.send.handle_path_change();
    }

    /// True if nothing leaves now that the answer to the opening would have to precede.
    fn may_answer_later(&self, now: Instant) -> bool {
        let waits = self.attachments.answer_due().is_some_and(|at| at > now);
        waits
            && self.send.piece(0).is_none()
            && self.send.ending().is_none()
            && self.recv.ack_deadline().is_none_or(|at| at > now)
    }

    fn greet(&self, epoch: u32, greeting: Greeting) -> Transmit {
        let received = self.recv.received();
        match greeting {
            Greeting::Attached => Transmit::Frame(Frame::Attached { received }),
            Greeting::Attach(mode) => Transmit::Attach(Attach {
                stream: self.id,
                epoch,
                mode,
                received,
                meta: self.meta.clone().unwrap_or_default(),
            }),
        }
    }

    fn check_received(&self, received: u64) -> Result<(), Violation> {
        let most = self.send.end() + self.send.ending().map_or(0, End::weight);
        if received > most {
            return Err(Violation("the peer received more than was sent"));
        }
        Ok(())
    }

    fn handle_attached(&mut self, epoch: u32, received: u64, now: Instant) -> Result<(), Violation> {
        if !self.opener {
            return Err(Violation("the opener answered an attachment"));
        }
        self.check_received(received)?;
        let end = self.send.end();
        let ending = self.send.ending();
        let current = self.current();
        let Some(attachment) = self.attachments.get_mut(epoch) else { return Ok(()) };
        attachment.confirmed = true;
        attachment.cursor = attachment.cursor.max(received.min(end));
        if let Some(ending) = ending.filter(|e| received >= end + e.weight()) {
            attachment.end_sent = Some(ending);
        }
        self.meta = None;
        if current == Some(epoch) {
            self.recv.repeat_ack(now);
        }
        Ok(())
    }

    fn handle_reset(&mut self, offset: u64, code: ResetCode, now: Instant) -> Result<(), Violation> {
        let gone = self.is_application_gone();
        self.recv.handle_reset(offset, code)?;
        self.send.abandon();
        if gone {
            self.recv.consume_end(now, true);
            self.forget_delivered();
        } else if self.recv.early_reset().is_some() {
            self.reset_due.get_or_insert(now + RESET_LINGER);
        }
        Ok(())
    }
}
