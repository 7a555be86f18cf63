//! Structured messages: JSON behind a 32-bit big-endian length.

use super::WireError;
use bytes::{Buf, BufMut, BytesMut};
use serde::{Serialize, de::DeserializeOwned};

/// Appends `message` to `out`.
///
/// # Errors
/// [`WireError::Malformed`] if it cannot be expressed as JSON, [`WireError::TooLong`] beyond `max` bytes.
pub fn put<T: Serialize>(
    out: &mut BytesMut,
    message: &T,
    what: &'static str,
    max: usize,
) -> Result<(), WireError> {
    let body = serde_json::to_vec(message)
        .map_err(|error| WireError::Malformed { what, reason: error.to_string() })?;
    if body.len() > max {
        return Err(WireError::TooLong { what, len: body.len() as u64, max: max as u64 });
    }
    out.put_u32(body.len() as u32);
    out.extend_from_slice(&body);
    Ok(())
}

/// Reads the length that precedes a message.
///
/// # Errors
/// [`WireError::TooLong`] before any memory is taken for it.
pub fn check_len(prefix: [u8; 4], what: &'static str, max: usize) -> Result<usize, WireError> {
    let len = u32::from_be_bytes(prefix) as usize;
    if len > max {
        return Err(WireError::TooLong { what, len: len as u64, max: max as u64 });
    }
    Ok(len)
}

/// Decodes the body of a message.
///
/// # Errors
/// [`WireError::Malformed`] with the place of the fault.
pub fn parse<T: DeserializeOwned>(body: &[u8], what: &'static str) -> Result<T, WireError> {
    serde_json::from_slice(body).map_err(|error| WireError::Malformed { what, reason: error.to_string() })
}

/// Takes a complete message from the front of `input`; `None` if it is not complete yet.
///
/// # Errors
/// As [`check_len`] and [`parse`].
pub fn take<T: DeserializeOwned>(
    input: &mut BytesMut,
    what: &'static str,
    max: usize,
) -> Result<Option<T>, WireError> {
    take_body(input, what, max)?.map(|body| parse(&body, what)).transpose()
}

/// As [`take`], but the message's body as it crossed the wire.
///
/// # Errors
/// As [`check_len`].
pub fn take_body(
    input: &mut BytesMut,
    what: &'static str,
    max: usize,
) -> Result<Option<BytesMut>, WireError> {
    let Some(prefix) = input.first_chunk::<4>() else { return Ok(None) };
    let len = check_len(*prefix, what, max)?;
    if input.len() < 4 + len {
        return Ok(None);
    }
    input.advance(4);
    Ok(Some(input.split_to(len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_only_when_it_is_complete() {
        let mut whole = BytesMut::new();
        put(&mut whole, &vec![1u32, 2, 3], "list", 100).unwrap();
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(take::<Vec<u32>>(&mut part, "list", 100), Ok(None));
        }
        assert_eq!(take::<Vec<u32>>(&mut whole, "list", 100), Ok(Some(vec![1, 2, 3])));
        assert!(whole.is_empty());
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_body_arrives() {
        let mut input = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(take::<()>(&mut input, "list", 100), Err(WireError::TooLong { .. })));
    }
}
