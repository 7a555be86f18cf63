//! The first four bytes of every connection, in both directions: `TUN` and the protocol version.

use crate::limits::PROTOCOL_VERSION;

/// Length of the preface in bytes.
pub const LEN: usize = 4;

const MAGIC: [u8; 3] = *b"TUN";

/// What this side sends first.
pub fn ours() -> [u8; LEN] {
    [MAGIC[0], MAGIC[1], MAGIC[2], PROTOCOL_VERSION]
}

/// Why a peer's first bytes are not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// The peer speaks tun, in a version that this side does not.
    #[error("the peer speaks version {theirs} of the tun protocol, this side version {ours}: update the older one", ours = PROTOCOL_VERSION)]
    Version {
        /// The peer's version.
        theirs: u8,
    },
    /// The peer speaks something else.
    #[error("the peer does not speak the tun protocol ({guess})")]
    NotTun {
        /// What the bytes look like.
        guess: &'static str,
    },
}

/// Checks the first bytes of a peer.
///
/// # Errors
/// [`PrefaceError`], worded for the log line that reports it.
pub fn check(bytes: [u8; LEN]) -> Result<(), PrefaceError> {
    if bytes[..3] != MAGIC {
        return Err(PrefaceError::NotTun { guess: guess(bytes) });
    }
    if bytes[3] != PROTOCOL_VERSION {
        return Err(PrefaceError::Version { theirs: bytes[3] });
    }
    Ok(())
}

/// True for bytes that begin a TLS handshake record (RFC 8446, section 5.1).
pub fn is_tls(first: u8) -> bool {
    first == 0x16
}

/// True for bytes that begin an HTTP/1 request, whose sender deserves an answer it can read.
pub fn is_http(bytes: [u8; LEN]) -> bool {
    matches!(&bytes, b"GET " | b"POST" | b"HEAD" | b"PUT " | b"OPTI" | b"CONN" | b"DELE" | b"PRI ")
}

fn guess(bytes: [u8; LEN]) -> &'static str {
    match bytes {
        _ if is_http(bytes) => "it looks like HTTP",
        [0x16, 3, ..] => "it looks like TLS, is transport.tls.enable set the same on both sides?",
        [0, 0 | 1, 0, 0] => "it looks like yamux without encryption, as frp sends it",
        [b'F', b'R', b'P', 0] => "it looks like frp",
        [b'S', b'S', b'H', b'-'] => "it looks like SSH",
        [b'o' | b'w' | b'v', 0, 0, 0] => "it looks like frp",
        _ => "unknown bytes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_magic_in_our_version_is_accepted() {
        assert_eq!(check(ours()), Ok(()));
        assert_eq!(check(*b"TUN\x09"), Err(PrefaceError::Version { theirs: 9 }));
        assert!(check(*b"GET ").unwrap_err().to_string().contains("HTTP"));
        assert!(check([0x17, 0, 0, 0]).is_err());
    }
}
