//! The application on one side of a stream, and what it may expect of the stream.

use super::choices::Choices;
use super::net::Side;
use bytes::BytesMut;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tun_proto::limits::{DATA_HEADROOM, MAX_DATA, RESET_LINGER};
use tun_proto::session::recv::Next;
use tun_proto::session::stream::Stream;
use tun_proto::wire::stream::ResetCode;

/// Writes known bytes, reads and compares; takes notes of all it does and sees.
pub(crate) struct App {
    /// Where in [`PATTERN`] its bytes begin.
    shift: u64,
    /// Bytes it means to write.
    pub(crate) target: u64,
    pub(crate) written: u64,
    pub(crate) finished: bool,
    pub(crate) abort: Option<Abort>,
    pub(crate) pace: Pace,
    pub(crate) read: u64,
    fin_seen: bool,
    reset_seen: bool,
}

/// How an application aborted.
#[derive(Clone, Copy)]
pub(crate) struct Abort {
    code: ResetCode,
    at: Instant,
    /// Bytes that had left by then, which the peer is to get all the same.
    left: u64,
}

/// How an application reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Eager,
    Slow,
    Stopped,
}

/// Bytes that applications write, over and over. The length is prime, so that no shift by a usual length of
/// chunks or windows goes unnoticed.
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1u64;
    (0..65_521)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
});

impl App {
    pub(crate) fn new(pair: usize, side: Side, choices: &mut Choices) -> Self {
        let most =
            choices.pick(&[0, 1, 100, 5_000, 70_000, 70_000, 400_000, 400_000, 3_000_000]).unwrap_or(0);
        App {
            shift: (2 * pair + side) as u64 * 7919,
            target: choices.below(most + 1) as u64,
            written: 0,
            finished: false,
            abort: None,
            pace: choices.pick(&[Pace::Eager, Pace::Eager, Pace::Slow, Pace::Stopped]).unwrap_or(Pace::Eager),
            read: 0,
            fin_seen: false,
            reset_seen: false,
        }
    }

    /// True if it still may write, finish or abort.
    pub(crate) fn is_active(&self) -> bool {
        !self.finished && self.abort.is_none()
    }

    /// Writes a chunk of any size if there is room; returns its size.
    pub(crate) fn write(&mut self, stream: &mut Stream, choices: &mut Choices) -> usize {
        if !self.is_active() || self.written == self.target {
            return 0;
        }
        let most = stream.room().min((self.target - self.written) as usize);
        let wanted = choices.pick(&[MAX_DATA, MAX_DATA, 2_000, 60, 1]).unwrap_or(1);
        let len = most.min(choices.between(wanted / 2, wanted)).max(most.min(1));
        if len == 0 {
            return 0;
        }
        let mut frame = BytesMut::zeroed(DATA_HEADROOM);
        for piece in expected(self.shift + self.written, len) {
            frame.extend_from_slice(piece);
        }
        stream.push(frame);
        self.written += len as u64;
        len
    }

    pub(crate) fn finish(&mut self, stream: &mut Stream) {
        if self.is_active() {
            stream.finish();
            self.finished = true;
            self.target = self.written;
        }
    }

    /// Aborts; an application may do so after it has finished, too. `sent` bytes have left.
    pub(crate) fn abort(
        &mut self,
        stream: &mut Stream,
        code: ResetCode,
        sent: u64,
        now: Instant,
    ) -> Result<(), String> {
        if self.abort.is_none() {
            stream.abort(code, now);
            self.abort = Some(Abort { code, at: now, left: stream.progress().0 });
            self.target = self.written;
            if stream.held().0 > 0 && stream.progress().0 > sent {
                return Err(format!("an abort lets {} bytes through, {sent} had left", stream.progress().0));
            }
        }
        Ok(())
    }

    /// Reads once, as the application's pace demands; returns whether there was anything to take.
    pub(crate) fn read(
        &mut self,
        stream: &mut Stream,
        peer: &App,
        choices: &mut Choices,
        now: Instant,
    ) -> Result<bool, String> {
        let len = match stream.next(now) {
            None => return Ok(false),
            Some(_) if self.abort.is_some() => return Err("something is delivered after an abort".into()),
            Some(Next::Data(_) | Next::Fin) if self.pace == Pace::Stopped => return Ok(false),
            Some(Next::Data(data)) => {
                if self.fin_seen || self.reset_seen {
                    return Err("bytes are delivered after the end".into());
                }
                if self.read + data.len() as u64 > peer.written {
                    return Err("more bytes are delivered than were written".into());
                }
                let mut rest = data;
                for piece in expected(peer.shift + self.read, data.len()) {
                    if piece != &rest[..piece.len()] {
                        return Err(format!("wrong bytes are delivered at {}", self.read));
                    }
                    rest = &rest[piece.len()..];
                }
                if self.pace == Pace::Slow { choices.between(1, data.len()) } else { data.len() }
            }
            Some(Next::Fin) => {
                self.check_fin(peer)?;
                self.fin_seen = true;
                stream.consume_end(now);
                return Ok(true);
            }
            Some(Next::Reset(code)) => {
                self.check_reset(code, peer, now)?;
                self.reset_seen = true;
                stream.consume_end(now);
                return Ok(true);
            }
        };
        stream.consume(len, now);
        self.read += len as u64;
        Ok(true)
    }

    /// Checks that the application got from `peer` what it must get in the end.
    pub(crate) fn check_outcome(&self, peer: &App) -> Result<(), String> {
        if self.abort.is_some() {
            return Ok(());
        }
        if peer.abort.is_none() && !(self.fin_seen && self.read == peer.written) {
            return Err(format!(
                "{} of {} bytes were delivered, end: {}",
                self.read, peer.written, self.fin_seen
            ));
        }
        if peer.abort.is_some() && !self.reset_seen && !(self.fin_seen && self.finished) {
            return Err("the peer's abort did not get through".into());
        }
        Ok(())
    }

    /// True once nothing more will be delivered to the application that matters to it.
    pub(crate) fn has_seen_the_end(&self) -> bool {
        self.fin_seen || self.reset_seen || self.abort.is_some()
    }

    /// Checks what the application's deeds mean for the memory of its stream: none is needed for what nobody wants.
    pub(crate) fn check_held(&self, stream: &Stream) -> Result<(), String> {
        let (sending, received) = stream.held();
        if self.abort.is_some() && received > 0 {
            return Err(format!("{received} bytes are held for an application that has aborted"));
        }
        if self.reset_seen && sending > 0 {
            return Err(format!("{sending} bytes are held for a peer that has aborted"));
        }
        Ok(())
    }

    fn check_fin(&self, peer: &App) -> Result<(), String> {
        if self.fin_seen || self.reset_seen {
            return Err("an end is delivered twice".into());
        }
        if !peer.finished || self.read != peer.written {
            return Err(format!("the end is delivered at {} of {}", self.read, peer.written));
        }
        Ok(())
    }

    fn check_reset(&self, code: ResetCode, peer: &App, now: Instant) -> Result<(), String> {
        let Some(abort) = peer.abort else {
            return Err(format!("{code:?} is delivered, and nobody aborted"));
        };
        if self.reset_seen {
            return Err("an abort is delivered twice".into());
        }
        if code != abort.code {
            return Err(format!("an abort for {:?} is delivered as one for {code:?}", abort.code));
        }
        if now < abort.at + RESET_LINGER && self.read != abort.left {
            return Err(format!("an abort cut the stream at {} of {}", self.read, abort.left));
        }
        Ok(())
    }
}

/// The bytes that stand at `offset` and after, in pieces.
fn expected(offset: u64, len: usize) -> impl Iterator<Item = &'static [u8]> {
    let mut at = (offset % PATTERN.len() as u64) as usize;
    let mut left = len;
    std::iter::from_fn(move || {
        let piece = &PATTERN[at..][..left.min(PATTERN.len() - at)];
        left -= piece.len();
        at = 0;
        (!piece.is_empty()).then_some(piece)
    })
}

/// A step of virtual time.
pub(crate) fn pause(choices: &mut Choices) -> Duration {
    match choices.below(20) {
        0 => Duration::from_millis(choices.between(1_000, 6_000) as u64),
        1..5 => Duration::from_millis(choices.between(20, 100) as u64),
        _ => Duration::from_micros(choices.between(1, 5_000) as u64),
    }
}
