//! The link's own channel: the first multiplexed stream of a link, opened by the client.
//!
//! It carries what concerns the link and not the session: heartbeats, and the notice that a link takes no new
//! streams because it is about to be closed.

use super::WireError;
use bytes::{Buf, BufMut};

/// Type byte that opens the channel where a session stream would have its own.
pub const OPEN: u8 = 0x10;

/// A message of the link channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// "Are you there?"; answered by [`Beat::Pong`] with the same number.
    Ping(u32),
    /// The answer to a ping.
    Pong(u32),
    /// The sender takes this link out of use: streams move to another one, and it closes when none is left.
    Retire,
}

/// Encoded length of every beat, in bytes.
pub const LEN: usize = 5;

impl Beat {
    /// The message as bytes.
    pub fn encode(self) -> [u8; LEN] {
        let (kind, number) = match self {
            Beat::Ping(n) => (1, n),
            Beat::Pong(n) => (2, n),
            Beat::Retire => (3, 0),
        };
        let mut out = [0; LEN];
        (&mut out[..]).put_u8(kind);
        (&mut out[1..]).put_u32(number);
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`WireError::UnknownType`].
    pub fn decode(bytes: [u8; LEN]) -> Result<Beat, WireError> {
        let mut input = &bytes[1..];
        let number = input.get_u32();
        match bytes[0] {
            1 => Ok(Beat::Ping(number)),
            2 => Ok(Beat::Pong(number)),
            3 => Ok(Beat::Retire),
            value => Err(WireError::UnknownType { what: "link message", value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_survive_a_round_trip() {
        for beat in [Beat::Ping(7), Beat::Pong(u32::MAX), Beat::Retire] {
            assert_eq!(Beat::decode(beat.encode()), Ok(beat));
        }
        assert!(Beat::decode([9, 0, 0, 0, 0]).is_err());
    }
}
