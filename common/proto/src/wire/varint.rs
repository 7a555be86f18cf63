//! Unsigned LEB128 integers: seven bits a byte, least significant first.

use super::WireError;
use bytes::{Buf, BufMut};

/// Longest encoding of a 64-bit integer, in bytes.
pub const MAX_LEN: usize = 10;

/// Appends `value` to `out`.
pub fn put(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Bytes that [`put`] writes for `value`.
pub fn len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Takes an integer from the front of `input`; `None` if it is not complete yet.
///
/// # Errors
/// [`WireError::VarintTooLong`] if the integer does not fit 64 bits.
pub fn get(input: &mut impl Buf) -> Result<Option<u64>, WireError> {
    let mut value = 0u64;
    for shift in (0..MAX_LEN).map(|i| 7 * i as u32) {
        if !input.has_remaining() {
            return Ok(None);
        }
        let byte = input.get_u8();
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            return Err(WireError::VarintTooLong);
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Ok(Some(value));
        }
    }
    Err(WireError::VarintTooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_survives_a_round_trip_and_announces_its_size() {
        for value in (0..64).map(|s| 1u64 << s).chain([0, 127, 128, 16383, 16384, u64::MAX]) {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out.len(), len(value), "{value}");
            assert_eq!(get(&mut out.as_slice()), Ok(Some(value)));
            for cut in 0..out.len() {
                assert_eq!(get(&mut &out[..cut]), Ok(None), "a truncated integer is not an integer");
            }
        }
    }

    #[test]
    fn an_integer_of_more_than_64_bits_is_refused() {
        assert_eq!(get(&mut [0xff; 11].as_slice()), Err(WireError::VarintTooLong));
        let two_too_many = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(get(&mut two_too_many.as_slice()), Err(WireError::VarintTooLong));
    }
}
