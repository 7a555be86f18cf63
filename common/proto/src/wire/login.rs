//! Messages of a link's handshake, between the preface and the multiplexer.
//!
//! ```text
//! client                                   server
//!   preface, Hello, [Proof] ───────────────▶          the proof rides along when TLS gives a binding
//!   ◀─────────────── preface, [Challenge]             without TLS the server's nonce is the binding
//!   [Proof] ───────────────────────────────▶
//!   ◀──────────────────── Accepted | Refused
//! ```

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// 128 random bits that name something: an instance, a session, a stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// The identifier as 32 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl fmt::Display for Id {
    /// The first eight digits: enough to follow one in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

/// 32 bytes written as hexadecimal digits: a MAC, a nonce, a fingerprint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bytes32(pub [u8; 32]);

impl fmt::Display for Bytes32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Bytes32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes32({}…)", hex(&self.0[..4]))
    }
}

macro_rules! as_hex {
    ($kind:ident, $len:literal) => {
        impl Serialize for $kind {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&hex(&self.0))
            }
        }
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                unhex::<$len>(&text)
                    .map($kind)
                    .ok_or_else(|| serde::de::Error::custom(concat!($len, " bytes in hexadecimal expected")))
            }
        }
    };
}
as_hex!(Id, 16);
as_hex!(Bytes32, 32);

/// The client's first message: who it is and what the link is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the program, for logs.
    pub program: String,
    /// Name under which the client is known to the server; see [`crate::session::takeover`].
    pub identity: String,
    /// The client's user, by which visitors of private proxies are let through.
    #[serde(default)]
    pub user: String,
    /// This run of the client.
    pub instance: Id,
    /// What the link is for.
    pub intent: Intent,
    /// Longest time between two signs of life that the client promises, in milliseconds.
    pub heartbeat_ms: u32,
    /// Fingerprint (SHA-256) of the server's certificate as the client saw it; absent without TLS.
    pub saw_certificate: Option<Bytes32>,
    /// Free-form facts about the client, as its configuration gives them.
    #[serde(default)]
    pub metadatas: std::collections::BTreeMap<String, String>,
}

/// What a new link is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// Begin a session.
    Login {
        /// True for an instance that never had a session: it may replace another instance of its identity.
        first: bool,
    },
    /// Add a link to a session that exists.
    Join {
        /// The session.
        session: Id,
        /// Links of the session that the client has given up, so that the server does not wait for them.
        lost: Vec<u32>,
    },
}

/// The server's nonce, where there is no TLS to bind the proofs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Fresh for every connection.
    pub nonce: Bytes32,
}

/// The client's proof that it knows the token, and the session's secret if it joins one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// MAC over the binding and the hello.
    pub mac: Bytes32,
}

/// The server's last message of the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The link is part of a session.
    Accepted(Accepted),
    /// It is not; the server closes the connection.
    Refused(Refused),
}

/// The client is logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Version of the server program, for logs.
    pub program: String,
    /// The session this link belongs to.
    pub session: Id,
    /// Number of the link within the session.
    pub link: u32,
    /// Most links the server allows this client.
    pub max_links: u8,
    /// Where the server answers STUN, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stun: Option<StunService>,
    /// The server's proof that it knows the token.
    pub mac: Bytes32,
}

/// Where a server answers STUN (RFC 8489) over UDP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StunService {
    /// Ports, on the address at which the client reaches the server; the main one first.
    pub ports: Vec<u16>,
    /// Another address with the same ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_address: Option<IpAddr>,
}

/// The client is not logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What the client can base a decision on.
    pub code: RefusalCode,
    /// What a person can read.
    pub reason: String,
    /// Fingerprint of the server's own certificate, to compare with what the client saw.
    pub certificate: Option<Bytes32>,
}

/// Why a login was refused, as far as the client's behaviour depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The proof is wrong.
    Token,
    /// Too many failed logins from this address.
    RateLimited,
    /// The session to join does not exist (any more): log in anew.
    UnknownSession,
    /// Another instance holds the identity.
    Superseded,
    /// The message does not make sense.
    Protocol,
    /// The server has no room or is about to stop.
    Unavailable,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        out.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        out.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        out
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_travel_as_hexadecimal_and_nothing_else_is_taken_for_one() {
        let id = Id(*b"0123456789abcdef");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"30313233343536373839616263646566\"");
        assert_eq!(serde_json::from_str::<Id>(&json).unwrap(), id);
        for bad in [
            "\"\"",
            "\"3\"",
            "\"zz313233343536373839616263646566\"",
            "\"é0313233343536373839616263646\"",
            "7",
        ] {
            assert!(serde_json::from_str::<Id>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hello_with_fields_of_a_later_version_is_still_understood() {
        let hello = Hello {
            program: "0.1.0".into(),
            identity: "home".into(),
            user: String::new(),
            instance: Id([1; 16]),
            intent: Intent::Login { first: true },
            heartbeat_ms: 3000,
            saw_certificate: None,
            metadatas: Default::default(),
        };
        let mut value = serde_json::to_value(&hello).unwrap();
        value["from_the_future"] = true.into();
        assert_eq!(serde_json::from_value::<Hello>(value).unwrap(), hello);
    }
}
