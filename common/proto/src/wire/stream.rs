//! A session stream on a link: the header that attaches it, and its frames.
//!
//! The opener of the session stream opens a multiplexed stream on some link and sends an [`Attach`] header; the
//! acceptor answers with [`Frame::Attached`], together with its first frame or after a moment, before it does anything
//! slow. Both ends then exchange frames until the stream is finished or switched to another link.
//!
//! ```text
//! attach    = 0x01 id(16) epoch mode(1) received meta_len meta
//! attached  = 0x02 received
//! data      = 0x03 offset len bytes
//! ack       = 0x04 offset
//! fin       = 0x05 offset
//! reset     = 0x06 offset code(1)
//! switch    = 0x07 offset
//! unknown   = 0x08
//! prompt    = 0x09 offset len bytes           data, to be acknowledged as soon as it is delivered
//! ```

use super::{WireError, login::Id, varint};
use crate::limits::{DATA_HEADROOM, MAX_DATA, MAX_STREAM_META};
use bytes::{Buf, BufMut, Bytes, BytesMut};

const ATTACH: u8 = 0x01;
const ATTACHED: u8 = 0x02;
const DATA: u8 = 0x03;
const ACK: u8 = 0x04;
const FIN: u8 = 0x05;
const RESET: u8 = 0x06;
const SWITCH: u8 = 0x07;
const UNKNOWN: u8 = 0x08;
const PROMPT: u8 = 0x09;

/// First message of a session stream on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// The session stream.
    pub stream: Id,
    /// Counts the attachments of the stream, from 0; the highest carries the data.
    pub epoch: u32,
    /// What becomes of the attachment before.
    pub mode: AttachMode,
    /// How far the opener has received, in order; the acceptor sends from there.
    pub received: u64,
    /// What the stream is for; empty once the acceptor is known to know.
    pub meta: Bytes,
}

/// What an attachment means for the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachMode {
    /// The link before is dead or suspect: send again whatever is not acknowledged. Also the first attachment.
    Resend,
    /// The link before is healthy: finish it with [`Frame::Switch`] and go on here.
    Switch,
}

/// A frame of a session stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The acceptor's answer to [`Attach`]: how far it has received, in order.
    Attached {
        /// Offset of the next byte it expects.
        received: u64,
    },
    /// Bytes of the stream.
    Data {
        /// Offset of the first byte.
        offset: u64,
        /// The bytes, 1 to [`MAX_DATA`].
        payload: Bytes,
        /// The sender may run out of window before long: acknowledge them as soon as they are delivered.
        prompt: bool,
    },
    /// All bytes before this offset are delivered. An end of the stream counts as one byte.
    Ack {
        /// The offset.
        offset: u64,
    },
    /// The sender's side of the stream ends here.
    Fin {
        /// Number of bytes the sender sent in all.
        offset: u64,
    },
    /// The stream is aborted, in both directions.
    Reset {
        /// Number of bytes the sender sent before.
        offset: u64,
        /// Why.
        code: ResetCode,
    },
    /// Bytes from this offset on come over a newer attachment: the sender sends nothing more on this one, except to
    /// answer the peer's own `Switch`.
    Switch {
        /// The offset.
        offset: u64,
    },
    /// The acceptor does not know the stream that was to be attached, or does not any more: it has closed.
    Unknown,
}

/// Why a stream was aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ResetCode {
    /// The application aborted its connection.
    Aborted = 0,
    /// The service behind the proxy could not be reached.
    Unreachable = 1,
    /// The stream was not wanted: no such proxy, or too many streams.
    Refused = 2,
    /// The session is over, or no link came back in time.
    SessionOver = 3,
    /// The peer broke the rules of this protocol.
    Protocol = 4,
}

impl ResetCode {
    fn decode(value: u8) -> Result<Self, WireError> {
        Ok(match value {
            0 => ResetCode::Aborted,
            1 => ResetCode::Unreachable,
            2 => ResetCode::Refused,
            3 => ResetCode::SessionOver,
            4 => ResetCode::Protocol,
            value => return Err(WireError::UnknownType { what: "reset", value }),
        })
    }
}

impl Attach {
    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(ATTACH);
        out.put_slice(&self.stream.0);
        varint::put(out, u64::from(self.epoch));
        out.put_u8(match self.mode {
            AttachMode::Resend => 0,
            AttachMode::Switch => 1,
        });
        varint::put(out, self.received);
        varint::put(out, self.meta.len() as u64);
        out.put_slice(&self.meta);
    }

    /// True if `first` is the first byte of such a header.
    pub fn starts_with(first: u8) -> bool {
        first == ATTACH
    }

    /// Takes a header from the front of `input`, a buffer in one piece ([`Bytes`] or [`BytesMut`]); `None` if it is
    /// not complete yet.
    ///
    /// # Errors
    /// [`WireError`] if it is no header, or announces more than [`MAX_STREAM_META`].
    pub fn decode(input: &mut impl Buf) -> Result<Option<Attach>, WireError> {
        let mut rest = input.chunk();
        if !rest.has_remaining() {
            return Ok(None);
        }
        match rest.get_u8() {
            ATTACH => {}
            value => return Err(WireError::UnknownType { what: "stream header", value }),
        }
        let Some(stream) = rest.first_chunk::<16>().map(|id| Id(*id)) else { return Ok(None) };
        rest.advance(16);
        let Some(epoch) = varint::get(&mut rest)? else { return Ok(None) };
        let epoch = u32::try_from(epoch).map_err(|_| WireError::TooLong {
            what: "epoch",
            len: epoch,
            max: u64::from(u32::MAX),
        })?;
        if !rest.has_remaining() {
            return Ok(None);
        }
        let mode = match rest.get_u8() {
            0 => AttachMode::Resend,
            1 => AttachMode::Switch,
            value => return Err(WireError::UnknownType { what: "attachment", value }),
        };
        let Some(received) = varint::get(&mut rest)? else { return Ok(None) };
        let Some(len) = varint::get(&mut rest)? else { return Ok(None) };
        if len > MAX_STREAM_META as u64 {
            return Err(WireError::TooLong { what: "stream description", len, max: MAX_STREAM_META as u64 });
        }
        if rest.remaining() < len as usize {
            return Ok(None);
        }
        let header = input.remaining() - rest.remaining();
        input.advance(header);
        let meta = input.copy_to_bytes(len as usize);
        Ok(Some(Attach { stream, epoch, mode, received, meta }))
    }
}

impl Frame {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Frame::Attached { received } => put(out, ATTACHED, *received),
            Frame::Data { offset, payload, prompt } => {
                put(out, kind_of_data(*prompt), *offset);
                varint::put(out, payload.len() as u64);
                out.put_slice(payload);
            }
            Frame::Ack { offset } => put(out, ACK, *offset),
            Frame::Fin { offset } => put(out, FIN, *offset),
            Frame::Reset { offset, code } => {
                put(out, RESET, *offset);
                out.put_u8(*code as u8);
            }
            Frame::Switch { offset } => put(out, SWITCH, *offset),
            Frame::Unknown => out.put_u8(UNKNOWN),
        }
    }

    /// Takes a frame from the front of `input`, a buffer in one piece ([`Bytes`] or [`BytesMut`]); `None` if it is
    /// not complete yet. A payload shares the memory of `input`.
    ///
    /// # Errors
    /// [`WireError`] if it is no frame, or announces more than [`MAX_DATA`] bytes.
    pub fn decode(input: &mut impl Buf) -> Result<Option<Frame>, WireError> {
        let mut rest = input.chunk();
        if !rest.has_remaining() {
            return Ok(None);
        }
        let kind = rest.get_u8();
        if kind == UNKNOWN {
            input.advance(1);
            return Ok(Some(Frame::Unknown));
        }
        if !(ATTACHED..=SWITCH).contains(&kind) && kind != PROMPT {
            return Err(WireError::UnknownType { what: "stream frame", value: kind });
        }
        let Some(offset) = varint::get(&mut rest)? else { return Ok(None) };
        let frame = match kind {
            ATTACHED => Frame::Attached { received: offset },
            ACK => Frame::Ack { offset },
            FIN => Frame::Fin { offset },
            SWITCH => Frame::Switch { offset },
            RESET => {
                if !rest.has_remaining() {
                    return Ok(None);
                }
                Frame::Reset { offset, code: ResetCode::decode(rest.get_u8())? }
            }
            _ => {
                let consumed = input.remaining() - rest.remaining();
                return Self::decode_data(input, consumed, offset, kind == PROMPT);
            }
        };
        let len = input.remaining() - rest.remaining();
        input.advance(len);
        Ok(Some(frame))
    }

    /// How many bytes the frame that begins with `input`, and is not complete, lacks at least: all that it does once the
    /// header of a data frame is there.
    pub fn missing(input: &[u8]) -> usize {
        let mut rest = input;
        if ![Some(&DATA), Some(&PROMPT)].contains(&rest.first()) {
            return 1;
        }
        rest.advance(1);
        let Ok(Some(_)) = varint::get(&mut rest) else { return 1 };
        let Ok(Some(len)) = varint::get(&mut rest) else { return 1 };
        (len.min(MAX_DATA as u64) as usize).saturating_sub(rest.len()).max(1)
    }

    fn decode_data(
        input: &mut impl Buf,
        consumed: usize,
        offset: u64,
        prompt: bool,
    ) -> Result<Option<Frame>, WireError> {
        let mut rest = &input.chunk()[consumed..];
        let Some(len) = varint::get(&mut rest)? else { return Ok(None) };
        if len == 0 || len > MAX_DATA as u64 {
            return Err(WireError::TooLong { what: "data frame", len, max: MAX_DATA as u64 });
        }
        if rest.remaining() < len as usize {
            return Ok(None);
        }
        let header = input.remaining() - rest.remaining();
        input.advance(header);
        Ok(Some(Frame::Data { offset, payload: input.copy_to_bytes(len as usize), prompt }))
    }
}

/// Writes the header of a data frame into the last bytes of `headroom`; returns where it begins.
///
/// The payload stands right behind the headroom, so header and payload leave in one piece without a copy.
pub fn put_data_header(headroom: &mut [u8; DATA_HEADROOM], offset: u64, len: usize, prompt: bool) -> usize {
    let size = 1 + varint::len(offset) + varint::len(len as u64);
    let start = DATA_HEADROOM - size;
    let mut out = &mut headroom[start..];
    out.put_u8(kind_of_data(prompt));
    varint::put(&mut out, offset);
    varint::put(&mut out, len as u64);
    start
}

fn kind_of_data(prompt: bool) -> u8 {
    if prompt { PROMPT } else { DATA }
}

fn put(out: &mut BytesMut, kind: u8, offset: u64) {
    out.put_u8(kind);
    varint::put(out, offset);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        vec![
            Frame::Attached { received: 0 },
            Frame::Data { offset: 1 << 40, payload: Bytes::from_static(b"payload"), prompt: false },
            Frame::Data { offset: 200, payload: Bytes::from_static(b"more"), prompt: true },
            Frame::Ack { offset: 300 },
            Frame::Fin { offset: u64::MAX },
            Frame::Reset { offset: 5, code: ResetCode::Unreachable },
            Frame::Switch { offset: 127 },
            Frame::Unknown,
        ]
    }

    #[test]
    fn frames_survive_a_round_trip_and_wait_for_their_last_byte() {
        for frame in frames() {
            let mut whole = BytesMut::new();
            frame.encode(&mut whole);
            for cut in 0..whole.len() {
                assert_eq!(
                    Frame::decode(&mut BytesMut::from(&whole[..cut])),
                    Ok(None),
                    "{frame:?} cut at {cut}"
                );
                assert!((1..=whole.len() - cut).contains(&Frame::missing(&whole[..cut])));
            }
            assert_eq!(Frame::decode(&mut whole), Ok(Some(frame)));
            assert!(whole.is_empty());
        }
    }

    #[test]
    fn a_header_survives_a_round_trip_and_waits_for_its_last_byte() {
        for mode in [AttachMode::Resend, AttachMode::Switch] {
            let attach = Attach {
                stream: Id([7; 16]),
                epoch: 300,
                mode,
                received: 1 << 33,
                meta: Bytes::from_static(b"{}"),
            };
            let mut whole = BytesMut::new();
            attach.encode(&mut whole);
            for cut in 0..whole.len() {
                assert_eq!(Attach::decode(&mut BytesMut::from(&whole[..cut])), Ok(None));
            }
            assert_eq!(Attach::decode(&mut whole), Ok(Some(attach)));
        }
    }

    #[test]
    fn hostile_lengths_are_refused_before_their_bytes_arrive() {
        let mut data = BytesMut::new();
        put(&mut data, DATA, 0);
        varint::put(&mut data, MAX_DATA as u64 + 1);
        assert!(matches!(Frame::decode(&mut data), Err(WireError::TooLong { .. })));
        let mut empty = BytesMut::new();
        put(&mut empty, DATA, 0);
        varint::put(&mut empty, 0);
        assert!(Frame::decode(&mut empty).is_err(), "an empty data frame would cost and carry nothing");
        for kind in [0, 0x0a, 0xff] {
            assert!(Frame::decode(&mut BytesMut::from(&[kind, 0, 0][..])).is_err());
        }
    }

    #[test]
    fn a_header_written_into_the_headroom_is_the_header_of_the_frame() {
        for offset in [0, 127, 128, 1 << 35, 1 << 62] {
            let payload = Bytes::from(vec![9; MAX_DATA]);
            let mut headroom = [0; DATA_HEADROOM];
            for prompt in [false, true] {
                let start = put_data_header(&mut headroom, offset, payload.len(), prompt);
                let mut joined = BytesMut::from(&headroom[start..]);
                joined.extend_from_slice(&payload);
                let frame = Frame::Data { offset, payload: payload.clone(), prompt };
                assert_eq!(Frame::decode(&mut joined), Ok(Some(frame)));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..24)
                .map(|_| {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (seed >> 56) as u8 % 32
                })
                .collect();
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut input) {}
            let _ = Attach::decode(&mut BytesMut::from(&bytes[..]));
        }
    }
}
