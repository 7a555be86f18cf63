//! One end of a stream as its driver sees it: the state machine, its application, its multiplexed streams.

use super::app::App;
use super::choices::Choices;
use super::net::{MuxId, Net, Side};
use bytes::{Bytes, BytesMut};
use std::time::Instant;
use tun_proto::limits::{INITIAL_WINDOW, MAX_DATA, MAX_WINDOW};
use tun_proto::session::stream::{Stream, put_epitaph};
use tun_proto::wire::stream::{Attach, AttachMode, Frame};

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
}

impl End {
    pub(crate) fn new(side: Side, stream: Option<Stream>, app: App) -> Self {
        End { side, stream, epitaph: None, app, muxes: Vec::new(), attached: 0 }
    }

    /// The opener attaches its stream to a link.
    pub(crate) fn attach(
        &mut self,
        net: &mut Net,
        link: usize,
        mode: AttachMode,
        pair: usize,
    ) -> Option<u32> {
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
        let stream = self.stream.get_or_insert_with(accept);
        match stream.handle_attach(attach, now) {
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

    /// A multiplexed stream ended, or its link is lost.
    pub(crate) fn handle_lost(&mut self, mux: MuxId) {
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
        choices: &mut Choices,
        orderly: bool,
    ) -> Result<bool, String> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        let mut worked = false;
        while let Some(epoch) = stream.poll_detached() {
            worked = true;
            if let Some(index) = self.muxes.iter().position(|&(e, _)| e == epoch) {
                let (_, mux) = self.muxes.remove(index);
                net.close(mux, self.side, !orderly && choices.once_in(3));
            }
        }
        if stream.is_closed() {
            if !self.app.has_seen_the_end() {
                return Err("closed before its application saw the end".into());
            }
            worked = true;
            self.epitaph = Some(stream.epitaph());
            self.stream = None;
            for (_, mux) in std::mem::take(&mut self.muxes) {
                net.close(mux, self.side, !orderly && choices.once_in(6));
            }
        }
        Ok(worked)
    }

    /// Checks what must hold at any time.
    pub(crate) fn check(&self, peer: &App) -> Result<(), String> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let (sending, received) = stream.held();
        // The window doubles once it has been acknowledged as a whole, so it is never larger than this.
        if sending > (INITIAL_WINDOW + peer.read).min(MAX_WINDOW) {
            return Err(format!("{sending} bytes are held for retransmission"));
        }
        if received > (peer.written - self.app.read).min(MAX_WINDOW + MAX_DATA as u64) {
            return Err(format!("{received} bytes are held for delivery"));
        }
        let mut epochs: Vec<u32> = self.muxes.iter().map(|&(epoch, _)| epoch).collect();
        epochs.sort_unstable();
        if let Some(current) = stream.current()
            && epochs.binary_search(&current).is_err()
        {
            return Err(format!("attachment {current} is current and has no multiplexed stream"));
        }
        Ok(())
    }
}

/// A frame as a line of a trace: its bytes would only be in the way.
pub(crate) fn format_frame(frame: &Frame) -> String {
    match frame {
        Frame::Data { offset, payload } => format!("Data {offset}..{}", offset + payload.len() as u64),
        frame => format!("{frame:?}"),
    }
}

/// The description that travels with the stream.
pub(crate) fn meta() -> Bytes {
    Bytes::from_static(b"a service")
}
