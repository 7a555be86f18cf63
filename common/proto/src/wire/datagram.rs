//! A channel of datagrams on a link: a multiplexed stream that begins with an opening, and then carries frames both ways.
//!
//! A channel belongs to its session and has a number there; its opener attaches it to one link after the other, each
//! time with a higher epoch. Nothing in it is acknowledged or repeated: what is on a link that breaks is lost.
//!
//! ```text
//! opening  = 0x30 channel epoch meta_len meta          from the one who opens it; frames may follow at once
//! answer   = code(1)                                   from the one who accepts it, in front of its own frames
//! frame    = flow len bytes
//! ```
//!
//! Where the link has datagrams of its own, they may carry what fits, once the answer has shown that the other end knows
//! the channel:
//!
//! ```text
//! datagram = 0x01 channel flow bytes
//! ```

use super::{WireError, varint};
use crate::limits::{MAX_DATAGRAM, MAX_STREAM_META};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Type byte that opens a channel of datagrams where a session stream would have its own.
pub const OPEN: u8 = 0x30;

/// The answer that the channel is taken.
pub const ACCEPTED: u8 = 0;

/// The answer that it is not: there is no such service.
pub const REFUSED: u8 = 1;

/// First byte of a link's own datagrams that are of a channel; 0 is the pulse.
pub const TAG: u8 = 0x01;

/// How a channel is attached to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The channel's number, unique in its session among those of the same opener.
    pub channel: u64,
    /// Counts its attachments; the highest is the one to send on.
    pub epoch: u64,
    /// What the channel is for.
    pub meta: Bytes,
}

impl Opening {
    /// Appends the opening to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(OPEN);
        varint::put(out, self.channel);
        varint::put(out, self.epoch);
        varint::put(out, self.meta.len() as u64);
        out.put_slice(&self.meta);
    }

    /// Takes an opening from the front of `input`; `None` if it is not complete yet.
    ///
    /// # Errors
    /// [`WireError`] if it is none, or announces more than [`MAX_STREAM_META`].
    pub fn take(input: &mut Bytes) -> Result<Option<Self>, WireError> {
        let mut rest = &input[..];
        if rest.is_empty() {
            return Ok(None);
        }
        match rest.get_u8() {
            OPEN => {}
            value => return Err(WireError::UnknownType { what: "stream header", value }),
        }
        let Some(channel) = varint::get(&mut rest)? else { return Ok(None) };
        let Some(epoch) = varint::get(&mut rest)? else { return Ok(None) };
        let Some(len) = varint::get(&mut rest)? else { return Ok(None) };
        if len > MAX_STREAM_META as u64 {
            return Err(WireError::TooLong { what: "stream description", len, max: MAX_STREAM_META as u64 });
        }
        if rest.remaining() < len as usize {
            return Ok(None);
        }
        let header = input.len() - rest.len();
        input.advance(header);
        Ok(Some(Opening { channel, epoch, meta: input.split_to(len as usize) }))
    }
}

/// Appends a frame to `out`.
pub fn put_frame(flow: u64, payload: &[u8], out: &mut BytesMut) {
    varint::put(out, flow);
    varint::put(out, payload.len() as u64);
    out.put_slice(payload);
}

/// Takes a frame, flow and payload, from the front of `input`; `None` if it is not complete yet. The payload shares the
/// memory of `input`.
///
/// # Errors
/// [`WireError::TooLong`] if it announces more than [`MAX_DATAGRAM`] bytes.
pub fn take_frame(input: &mut Bytes) -> Result<Option<(u64, Bytes)>, WireError> {
    let mut rest = &input[..];
    let Some(flow) = varint::get(&mut rest)? else { return Ok(None) };
    let Some(len) = varint::get(&mut rest)? else { return Ok(None) };
    if len > MAX_DATAGRAM as u64 {
        return Err(WireError::TooLong { what: "datagram", len, max: MAX_DATAGRAM as u64 });
    }
    if rest.remaining() < len as usize {
        return Ok(None);
    }
    let header = input.len() - rest.len();
    input.advance(header);
    Ok(Some((flow, input.split_to(len as usize))))
}

/// Length of a link's own datagram with this content, in bytes.
pub fn tagged_len(channel: u64, flow: u64, payload: usize) -> usize {
    1 + varint::len(channel) + varint::len(flow) + payload
}

/// A link's own datagram.
pub fn tagged(channel: u64, flow: u64, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(tagged_len(channel, flow, payload.len()));
    out.put_u8(TAG);
    varint::put(&mut out, channel);
    varint::put(&mut out, flow);
    out.put_slice(payload);
    out.freeze()
}

/// Channel, flow and payload of a link's own datagram; `None` if it is no channel's.
pub fn untag(mut datagram: Bytes) -> Option<(u64, u64, Bytes)> {
    if !datagram.has_remaining() || datagram.get_u8() != TAG {
        return None;
    }
    let channel = varint::get(&mut datagram).ok()??;
    let flow = varint::get(&mut datagram).ok()??;
    Some((channel, flow, datagram))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_survives_a_round_trip_and_waits_for_its_last_byte() {
        let opening = Opening { channel: 300, epoch: 5, meta: Bytes::from(vec![b'm'; 300]) };
        let mut whole = BytesMut::new();
        opening.encode(&mut whole);
        let whole = whole.freeze();
        for cut in 0..whole.len() {
            assert_eq!(Opening::take(&mut whole.slice(..cut)), Ok(None), "cut at {cut}");
        }
        assert_eq!(Opening::take(&mut whole.clone()), Ok(Some(opening)));
        assert!(Opening::take(&mut Bytes::from_static(&[0x20, 0, 0, 0])).is_err());
    }

    #[test]
    fn datagrams_of_every_size_survive_a_round_trip() {
        for len in [0, 1, 127, 128, 1400, MAX_DATAGRAM] {
            let payload = Bytes::from(vec![7; len]);
            let mut whole = BytesMut::new();
            put_frame(1 << 40, &payload, &mut whole);
            let whole = whole.freeze();
            for cut in (0..whole.len()).step_by(if len > 2000 { 997 } else { 1 }) {
                assert_eq!(take_frame(&mut whole.slice(..cut)), Ok(None), "{len} cut at {cut}");
            }
            assert_eq!(take_frame(&mut whole.clone()), Ok(Some((1 << 40, payload.clone()))));
            let tagged = tagged(3, 300, &payload);
            assert_eq!(tagged.len(), tagged_len(3, 300, len));
            assert_eq!(untag(tagged), Some((3, 300, payload)));
        }
    }

    #[test]
    fn hostile_lengths_are_refused_before_their_bytes_arrive() {
        let mut hostile = BytesMut::new();
        varint::put(&mut hostile, 1);
        varint::put(&mut hostile, MAX_DATAGRAM as u64 + 1);
        assert!(matches!(take_frame(&mut hostile.freeze()), Err(WireError::TooLong { .. })));
        let mut hostile = BytesMut::from(&[OPEN, 0, 0][..]);
        varint::put(&mut hostile, MAX_STREAM_META as u64 + 1);
        assert!(matches!(Opening::take(&mut hostile.freeze()), Err(WireError::TooLong { .. })));
        for pulse in [&[0][..], &[], &[TAG], &[TAG, 0x80], &[2, 0, 0]] {
            assert_eq!(untag(Bytes::from_static(pulse)), None);
        }
    }
}
