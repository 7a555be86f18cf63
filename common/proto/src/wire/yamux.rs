//! The multiplexer's frames, as the [specification of yamux](https://github.com/hashicorp/yamux/blob/master/spec.md) has
//! them: a header of 12 bytes, behind which only data frames have a payload.
//!
//! ```text
//! version(8) = 0 | type(8) | flags(16) | stream(32) | length(32)       all big-endian
//! ```

use super::WireError;

/// Bytes of a header.
pub const HEADER: usize = 12;

/// The stream begins.
pub const SYN: u16 = 1;
/// The stream is known here, too.
pub const ACK: u16 = 2;
/// The sender ends its half in order.
pub const FIN: u16 = 4;
/// The stream is over in both directions.
pub const RST: u16 = 8;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `length` bytes of a stream follow.
    Data,
    /// `length` bytes more may be sent.
    Window,
    /// "Are you there?" with [`SYN`], the answer with [`ACK`]; `length` is repeated by it.
    Ping,
    /// The sender is about to close the connection.
    GoAway,
}

/// A frame without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// Any of [`SYN`], [`ACK`], [`FIN`], [`RST`].
    pub flags: u16,
    /// Whom it concerns; 0 is the connection itself. The dialer's streams have odd numbers.
    pub stream: u32,
    /// See [`Kind`].
    pub length: u32,
}

impl Header {
    /// The header as bytes.
    pub fn encode(self) -> [u8; HEADER] {
        let kind = match self.kind {
            Kind::Data => 0,
            Kind::Window => 1,
            Kind::Ping => 2,
            Kind::GoAway => 3,
        };
        let mut out = [0; HEADER];
        out[1] = kind;
        out[2..4].copy_from_slice(&self.flags.to_be_bytes());
        out[4..8].copy_from_slice(&self.stream.to_be_bytes());
        out[8..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`WireError::UnknownType`] if it is none of this version.
    pub fn decode(bytes: [u8; HEADER]) -> Result<Self, WireError> {
        let [version, kind, f0, f1, s0, s1, s2, s3, l0, l1, l2, l3] = bytes;
        if version != 0 {
            return Err(WireError::UnknownType { what: "multiplexer version", value: version });
        }
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Window,
            2 => Kind::Ping,
            3 => Kind::GoAway,
            value => return Err(WireError::UnknownType { what: "multiplexer frame", value }),
        };
        Ok(Header {
            kind,
            flags: u16::from_be_bytes([f0, f1]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// True if all of `flags` are set.
    pub fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_a_round_trip() {
        for kind in [Kind::Data, Kind::Window, Kind::Ping, Kind::GoAway] {
            let header = Header { kind, flags: SYN | FIN, stream: 0x0102_0304, length: u32::MAX };
            assert_eq!(Header::decode(header.encode()), Ok(header));
        }
    }

    #[test]
    fn other_versions_and_unknown_types_are_refused() {
        let good = Header { kind: Kind::Data, flags: 0, stream: 1, length: 0 }.encode();
        for (at, value) in [(0, 1), (1, 4)] {
            let mut bad = good;
            bad[at] = value;
            assert!(Header::decode(bad).is_err());
        }
    }
}
