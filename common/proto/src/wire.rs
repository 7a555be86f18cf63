//! What crosses a connection: encodings without I/O, one message family a file.
//!
//! A connection opens with the [`preface`]; [`login`] messages follow until both ends are authenticated. From
//! then on the link is multiplexed, and the first byte of each multiplexed stream says what it is: a session
//! [`stream`], the link's own [`beat`] channel, a stream of bytes to [`relay`], or a channel of [`datagram`]s. The
//! [`control`] messages travel inside a session stream.
//!
//! Integers of the binary families are LEB128 variable-length integers; structured messages are JSON behind a
//! 32-bit big-endian length, so that fields can be added without a new version.

pub mod beat;
pub mod control;
pub mod datagram;
pub mod login;
pub mod message;
pub mod paths;
pub mod preface;
pub mod relay;
pub mod stream;
pub mod varint;
pub mod yamux;

/// A peer sent something that is not of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes are announced than this kind of message may have.
    #[error("a {what} of {len} bytes is announced, at most {max} are allowed")]
    TooLong {
        /// What was announced.
        what: &'static str,
        /// The announced length, in bytes.
        len: u64,
        /// The longest allowed, in bytes.
        max: u64,
    },
    /// A byte where none of the known types stands.
    #[error("unknown {what} type {value:#04x}")]
    UnknownType {
        /// The family the type belongs to.
        what: &'static str,
        /// The byte found.
        value: u8,
    },
    /// An integer that does not fit 64 bits.
    #[error("a variable-length integer is longer than 64 bits")]
    VarintTooLong,
    /// A structured message that cannot be read.
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// The message family.
        what: &'static str,
        /// What the decoder found.
        reason: String,
    },
}
