//! A relayed stream: bytes between two clients that the server passes on as they are.
//!
//! It is a multiplexed stream like any other and no session stream: nothing in it is numbered, acknowledged or kept,
//! and it ends with its link. What crosses it is a link of a session that the two clients have with each other, and
//! that session resumes by itself.
//!
//! ```text
//! opening = 0x20 meta_len meta      from the one who opens it; bytes may follow at once
//! answer  = code(1)                 from the one who accepts it, in front of its own bytes
//! ```
//!
//! The server answers by itself only when it does not let the stream through. Otherwise the answer is that of the
//! client it leads to.

use super::{WireError, varint};
use crate::limits::MAX_STREAM_META;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Type byte that opens a relayed stream where a session stream would have its own.
pub const OPEN: u8 = 0x20;

/// Appends the opening to `out`; `meta` says what the stream is for.
pub fn put_opening(meta: &[u8], out: &mut BytesMut) {
    out.put_u8(OPEN);
    varint::put(out, meta.len() as u64);
    out.put_slice(meta);
}

/// Takes an opening from the front of `input` and returns what the stream is for; `None` if it is not complete yet.
///
/// # Errors
/// [`WireError`] if it is none, or announces more than [`MAX_STREAM_META`].
pub fn take_opening(input: &mut Bytes) -> Result<Option<Bytes>, WireError> {
    let mut rest = &input[..];
    if rest.is_empty() {
        return Ok(None);
    }
    match rest.get_u8() {
        OPEN => {}
        value => return Err(WireError::UnknownType { what: "stream header", value }),
    }
    let Some(len) = varint::get(&mut rest)? else { return Ok(None) };
    if len > MAX_STREAM_META as u64 {
        return Err(WireError::TooLong { what: "stream description", len, max: MAX_STREAM_META as u64 });
    }
    if rest.remaining() < len as usize {
        return Ok(None);
    }
    let header = input.remaining() - rest.remaining();
    input.advance(header);
    Ok(Some(input.split_to(len as usize)))
}

/// The answer that a stream goes through.
pub const THROUGH: u8 = 0;

/// Why a relayed stream does not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// There is no such proxy, or it is for others: the two look the same.
    #[error("no such proxy for this user")]
    NotThere = 1,
    /// There is one, but it takes no more at the moment.
    #[error("it takes no more visitors at the moment")]
    Busy = 2,
    /// Its client cannot be reached at the moment.
    #[error("its client cannot be reached at the moment")]
    Unreachable = 3,
}

/// Reads an answer: whether the stream goes through.
///
/// # Errors
/// [`WireError::UnknownType`].
pub fn decode_answer(code: u8) -> Result<Result<(), Refusal>, WireError> {
    match code {
        THROUGH => Ok(Ok(())),
        1 => Ok(Err(Refusal::NotThere)),
        2 => Ok(Err(Refusal::Busy)),
        3 => Ok(Err(Refusal::Unreachable)),
        value => Err(WireError::UnknownType { what: "answer to a relayed stream", value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(meta: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        put_opening(meta, &mut out);
        out.freeze()
    }

    #[test]
    fn an_opening_survives_a_round_trip_and_waits_for_its_last_byte() {
        let meta = [b'm'; 300];
        let whole = opening(&meta);
        for cut in 0..whole.len() {
            assert_eq!(take_opening(&mut whole.slice(..cut)), Ok(None), "cut at {cut}");
        }
        let mut followed = BytesMut::from(&whole[..]);
        followed.extend_from_slice(b"first bytes");
        let mut followed = followed.freeze();
        assert_eq!(take_opening(&mut followed), Ok(Some(Bytes::copy_from_slice(&meta))));
        assert_eq!(&followed[..], b"first bytes");
    }

    #[test]
    fn a_hostile_length_is_refused_before_its_bytes_arrive() {
        let mut hostile = BytesMut::from(&[OPEN][..]);
        varint::put(&mut hostile, MAX_STREAM_META as u64 + 1);
        assert!(matches!(take_opening(&mut hostile.freeze()), Err(WireError::TooLong { .. })));
        assert!(take_opening(&mut Bytes::from_static(&[0x01, 0])).is_err());
    }

    #[test]
    fn every_refusal_survives_a_round_trip() {
        for refusal in [Refusal::NotThere, Refusal::Busy, Refusal::Unreachable] {
            assert_eq!(decode_answer(refusal as u8), Ok(Err(refusal)));
        }
        assert_eq!(decode_answer(THROUGH), Ok(Ok(())));
        assert!(decode_answer(9).is_err());
    }
}
