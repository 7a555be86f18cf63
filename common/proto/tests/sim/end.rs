//! One end of a stream as its driver sees it: the state machine, its application, its multiplexed streams.

use super::app::App;
use super::choices::Choices;
use super::net::{MuxId, Net, Side};
use bytes::{Bytes, BytesMut};
use std::time::Instant;
use tun_proto::limits::{INITIAL_WINDOW, MAX_DATA, MAX_WINDOW};
use tun_proto::session::recv::Next;
use tun_proto::session::stream::{Stream, Transmit, put_epitaph};
use tun_proto::wire::stream::{Attach, AttachMode, Frame, ResetCode};
use tun_proto::wire::varint;

/// Attachments that a driver need not expect more of.
pub(crate) const MAX_ATTACHMENTS: usize = 4;

pub(crate) struct End {
    side: Side,
    /// Absent before the acceptor knows of it, and once it is closed.
    pub(crate) stream: Option<Stream>,
    /// Set once the stream is closed: what is remembered of it.
    pub(crate) epitaph: Option<Option<u64>>,
    pub(crate) app: App,
    /// Multiplexed streams by epoch.
    pub(crate) muxes: Vec<(u32, MuxId)>,
    /// Number of attachments made so far.
    pub(crate) attached: u32,
    /// The driver of this acceptor, once closed, waits for something else before it lets its stream go.
    stuck: Option<bool>,
    /// What the stream may send again, and what it did send.
    traffic: Traffic,
}

/// Payload bytes and ends that a stream sent, against those that it has reason to send.
#[derive(Default)]
struct Traffic {
    bytes: u64,
    ends: u64,
    /// Highest offset sent.
    sent_to: u64,
    /// Bytes that losses and hedges allow to be sent again.
    again: u64,
    /// Losses and hedges so far.
    reasons: u64,
}

impl End {
    pub(crate) fn new(side: Side, stream: Option<Stream>, app: App) -> Self {
        End {
            side,
            stream,
            epitaph: None,
            app,
            muxes: Vec::new(),
            attached: 0,
            stuck: None,
            traffic: Traffic::default(),
        }
    }

    /// The opener attaches its stream to a link.
    pub(crate) fn attach(
        &mut self,
        net: &mut Net,
        link: usize,
        mode: AttachMode,
        pair: usize,
    ) -> Option<u32> {
        let switches = mode == AttachMode::Switch && self.stream.as_ref()?.current().is_some();
        if !switches {
            self.allow_repetition();
        }
        let epoch = self.stream.as_mut()?.attach(mode);
        let mux = net.open_mux(link, pair, epoch);
        self.muxes.push((epoch, mux));
        self.attached += 1;
        Some(epoch)
    }

    /// The header of an attachment reached the acceptor.
    pub(crate) fn handle_attach(
        &mut self,
        net: &mut Net,
        mux: MuxId,
        attach: &Attach,
        accept: impl FnOnce() -> Stream,
        now: Instant,
    ) -> Result<(), String> {
        net.muxes[mux].epoch[self.side] = Some(attach.epoch);
        if let Some(epitaph) = self.epitaph {
            let mut answer = BytesMut::new();
            put_epitaph(epitaph, &mut answer);
            net.send(mux, self.side, answer.freeze());
            net.close(mux, self.side, false);
            return Ok(());
        }
        if self.stream.is_none() && attach.meta.is_empty() {
            return Err("the opener gave no description to an acceptor that has none".into());
        }
        let current = self.stream.get_or_insert_with(accept).current();
        if attach.mode == AttachMode::Resend || current.is_none() {
            self.allow_repetition();
        }
        match self.stream.as_mut().map_or(Ok(0), |stream| stream.handle_attach(attach, now)) {
            Ok(epoch) => {
                self.muxes.push((epoch, mux));
                self.attached = epoch + 1;
            }
            Err(_) if attach.epoch < self.attached => net.close(mux, self.side, false),
            Err(violation) => return Err(format!("{violation}: {attach:?}")),
        }
        Ok(())
    }

    /// A frame reached this end.
    pub(crate) fn handle_frame(&mut self, epoch: u32, frame: Frame, now: Instant) -> Result<(), String> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let shown = format_frame(&frame);
        stream.handle_frame(epoch, frame, now).map_err(|violation| format!("{violation}: {shown}"))?;
        match stream.failure() {
            Some(code) => Err(format!("the stream failed with {code:?} upon {shown}")),
            None => Ok(()),
        }
    }

    /// A multiplexed stream ended, or its link is lost. Unless that was `expected`, what it carried may have to be
    /// sent again.
    pub(crate) fn handle_lost(&mut self, mux: MuxId, expected: bool) {
        if !expected {
            self.allow_repetition();
        }
        let Some(index) = self.muxes.iter().position(|&(_, m)| m == mux) else { return };
        let (epoch, _) = self.muxes.remove(index);
        if let Some(stream) = &mut self.stream {
            stream.handle_lost(epoch);
        }
    }

    /// Sends at most `count` things over one attachment, as one segment; returns how many.
    pub(crate) fn transmit(&mut self, net: &mut Net, at: usize, count: usize, now: Instant) -> usize {
        let (Some(stream), Some(&(epoch, mux))) = (&mut self.stream, self.muxes.get(at)) else { return 0 };
        let mut out = BytesMut::new();
        let mut sent = 0;
        while sent < count && out.len() < MAX_DATA && net.room(mux, self.side) {
            let Some(transmit) = stream.poll_transmit(epoch, now) else { break };
            self.traffic.count(&transmit);
            transmit.encode(&mut out);
            sent += 1;
        }
        net.send(mux, self.side, out.freeze());
        sent
    }

    /// Closes multiplexed streams that are not needed any more, and the whole end once it is done.
    pub(crate) fn tidy(
        &mut self,
        net: &mut Net,
        peer: &End,
        choices: &mut Choices,
        orderly: bool,
    ) -> Result<bool, String> {
        if self.muxes.len() > MAX_ATTACHMENTS {
            self.allow_repetition();
        }
        let Some(stream) = &mut self.stream else { return Ok(false) };
        let mut worked = false;
        while let Some(epoch) = stream.poll_detached() {
            worked = true;
            let followed = peer.epitaph.is_some() || peer.attached > epoch + 1 || self.side == 1;
            if !followed && self.muxes.len() <= MAX_ATTACHMENTS {
                return Err(format!("attachment {epoch} is closed before the acceptor has another"));
            }
            if let Some(index) = self.muxes.iter().position(|&(e, _)| e == epoch) {
                let (_, mux) = self.muxes.remove(index);
                net.close(mux, self.side, !orderly && choices.once_in(3));
            }
        }
        if self.muxes.len() > MAX_ATTACHMENTS {
            return Err("too many attachments".into());
        }
        if stream.is_closed() {
            if !self.app.has_seen_the_end() {
                return Err("closed before its application saw the end".into());
            }
            let stuck = *self.stuck.get_or_insert_with(|| choices.once_in(4));
            if self.side == 0 || !stuck || peer.epitaph.is_some() {
                worked = true;
                self.epitaph = Some(stream.epitaph());
                self.stream = None;
            }
            for (_, mux) in std::mem::take(&mut self.muxes) {
                net.close(mux, self.side, !orderly && choices.once_in(6));
            }
        }
        Ok(worked)
    }

    /// The application aborts.
    pub(crate) fn abort(&mut self, code: ResetCode, now: Instant) -> Result<(), String> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        self.app.abort(stream, code, self.traffic.sent_to, now)
    }

    /// What is not acknowledged may be sent once more.
    fn allow_repetition(&mut self) {
        self.traffic.again += self.stream.as_ref().map_or(0, |stream| stream.held().0);
        self.traffic.reasons += 1;
    }

    /// True once the stream was closed, even if its driver still has it.
    pub(crate) fn has_closed(&self) -> bool {
        self.stuck.is_some()
    }

    /// Checks what must hold at any time.
    pub(crate) fn check(&self, peer: &App, now: Instant) -> Result<(), String> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let (sending, received) = stream.held();
        // The window doubles once it has been acknowledged as a whole, so it is never larger than this.
        if sending > (INITIAL_WINDOW + peer.read).min(MAX_WINDOW) {
            return Err(format!("{sending} bytes are held for retransmission"));
        }
        if received > (peer.written - self.app.read).min(MAX_WINDOW + MAX_DATA as u64) {
            return Err(format!("{received} bytes are held for delivery"));
        }
        self.app.check_held(stream)?;
        let Traffic { bytes, ends, again, reasons, .. } = self.traffic;
        if bytes > self.app.written + again || ends > 2 + 2 * reasons {
            return Err(format!("{bytes} bytes and {ends} ends were sent of {}, {again}", self.app.written));
        }
        if let Some(current) = stream.current()
            && !stream.is_closed()
            && !self.muxes.iter().any(|&(epoch, _)| epoch == current)
        {
            return Err(format!("attachment {current} is current and has no multiplexed stream"));
        }
        let due = stream.poll_timeout(true).is_some_and(|at| at <= now);
        if due && stream.current().is_none() && !matches!(stream.next(now), Some(Next::Reset(_))) {
            return Err("a time-out is due when nothing can be done".into());
        }
        Ok(())
    }

    /// Checks an end to which nothing has happened for long, and none of whose applications has aborted.
    pub(crate) fn check_lull(&self) -> Result<(), String> {
        match &self.stream {
            Some(stream) if stream.held() != (0, 0) => {
                Err(format!("{:?} bytes are held in a lull", stream.held()))
            }
            Some(stream) if self.muxes.len() != 1 && !stream.is_closed() => {
                Err(format!("{} attachments in a lull", self.muxes.len()))
            }
            _ => Ok(()),
        }
    }
}

impl Traffic {
    fn count(&mut self, transmit: &Transmit) {
        match transmit {
            Transmit::Data(frame) => {
                let mut fields = frame.slice(1..);
                let offset = varint::get(&mut fields).ok().flatten().unwrap_or(0);
                let len = varint::get(&mut fields).ok().flatten().unwrap_or(0);
                self.count_bytes(offset, len);
            }
            Transmit::Frame(Frame::Data { offset, payload, .. }) => {
                self.count_bytes(*offset, payload.len() as u64)
            }
            Transmit::Frame(Frame::Fin { .. } | Frame::Reset { .. }) => self.ends += 1,
            _ => {}
        }
    }

    fn count_bytes(&mut self, offset: u64, len: u64) {
        self.bytes += len;
        self.sent_to = self.sent_to.max(offset + len);
    }
}

/// A frame as a line of a trace: its bytes would only be in the way.
pub(crate) fn format_frame(frame: &Frame) -> String {
    match frame {
        Frame::Data { offset, payload, .. } => format!("Data {offset}..{}", offset + payload.len() as u64),
        frame => format!("{frame:?}"),
    }
}

/// The description that travels with the stream.
pub(crate) fn meta() -> Bytes {
    Bytes::from_static(b"a service")
}
