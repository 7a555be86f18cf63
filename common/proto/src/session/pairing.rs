//! How a visitor and a client prove to each other that they know a proxy's secret, through a server that must not
//! learn it.
//!
//! A password-authenticated key exchange (SPAKE2, RFC 9382) gives both ends a key that only the right secret leads to;
//! a wrong one costs the guesser one visible attempt. The exchange's two messages are public and travel in front of the
//! TLS handshake, in the same flights. What ties the key to the TLS connection are the confirmations: the client's
//! covers its certificate, so that nobody else can be at the other end of the encryption, and travels with its TLS
//! handshake; the visitor's covers the connection's keying material as well.
//!
//! ```text
//! visitor                                              client
//!   preface, exchange, TLS client hello ─────────────▶
//!   ◀── preface, exchange, TLS server flight, {confirmation}
//!   TLS finished, {confirmation, PeerHello, streams…} ─▶          {…}: encrypted
//! ```

use crate::limits::PROTOCOL_VERSION;
use crate::wire::login::{Bytes32, Id};
use rand_core::{CryptoRng, RngCore};
use ring::{digest, hmac};
use serde::{Deserialize, Serialize};
use spake2::{Ed25519Group, Identity, Password, Spake2};

/// Length of the message that each side sends in front of TLS, in bytes: preface and group element.
pub const MESSAGE_LEN: usize = 4 + 33;

const PREFACE: [u8; 4] = [b'T', b'U', b'P', PROTOCOL_VERSION];

/// What the visitor says once the channel is its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHello {
    /// The session this link belongs to; chosen by the visitor, and a secret of the two.
    pub session: Id,
    /// Number of the link within it.
    pub link: u32,
    /// Longest time between two signs of life that the visitor promises, in milliseconds.
    pub heartbeat_ms: u32,
}

/// Why a pairing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairingError {
    /// The peer speaks something else.
    #[error("the peer does not speak this version of the tun protocol")]
    Preface,
    /// The peer's message is no group element.
    #[error("the peer's key exchange message is not valid")]
    Exchange,
    /// The secrets differ, or somebody sits in the middle.
    #[error("the secret does not match, or somebody in the middle ends the encryption")]
    Confirmation,
}

/// One side's exchange, begun.
pub struct Exchange {
    state: Spake2<Ed25519Group>,
    message: [u8; MESSAGE_LEN],
    visitor: bool,
}

/// The key that both sides have, and what it was made from.
#[derive(Debug)]
pub struct PairingKey {
    key: hmac::Key,
    transcript: digest::Digest,
}

impl Exchange {
    /// Begins an exchange over `secret` for `proxy`; `entropy` is fresh and random.
    pub fn new(visitor: bool, proxy: &str, secret: &str, entropy: [u8; 64]) -> Self {
        let password = Password::new(secret);
        let (a, b) = (Identity::new(b"visitor"), Identity::new(format!("client of {proxy}").as_bytes()));
        let random = Entropy(entropy);
        let (state, element) = match visitor {
            true => Spake2::<Ed25519Group>::start_a_with_rng(&password, &a, &b, random),
            false => Spake2::<Ed25519Group>::start_b_with_rng(&password, &a, &b, random),
        };
        let mut message = [0; MESSAGE_LEN];
        message[..4].copy_from_slice(&PREFACE);
        message[4..].copy_from_slice(&element);
        Exchange { state, message, visitor }
    }

    /// What the peer must get.
    pub fn message(&self) -> [u8; MESSAGE_LEN] {
        self.message
    }

    /// Takes the peer's message.
    ///
    /// # Errors
    /// [`PairingError`] if it is none.
    pub fn finish(self, theirs: [u8; MESSAGE_LEN]) -> Result<PairingKey, PairingError> {
        if theirs[..4] != PREFACE {
            return Err(PairingError::Preface);
        }
        let (first, second) = if self.visitor { (self.message, theirs) } else { (theirs, self.message) };
        let key = self.state.finish(&theirs[4..]).map_err(|_| PairingError::Exchange)?;
        let transcript = digest::digest(&digest::SHA256, &[first, second].concat());
        Ok(PairingKey { key: hmac::Key::new(hmac::HMAC_SHA256, &key), transcript })
    }
}

impl PairingKey {
    /// The client's confirmation: it knows the secret, and this is its certificate.
    pub fn confirm_client(&self, certificate: Bytes32) -> Bytes32 {
        self.mac(b"tun pairing client v1", &[&certificate.0])
    }

    /// Checks the client's confirmation, in constant time.
    ///
    /// # Errors
    /// [`PairingError::Confirmation`].
    pub fn verify_client(&self, certificate: Bytes32, mac: Bytes32) -> Result<(), PairingError> {
        self.verify(b"tun pairing client v1", &[&certificate.0], mac)
    }

    /// The visitor's confirmation: it knows the secret, and is at the other end of this very connection.
    pub fn confirm_visitor(&self, certificate: Bytes32, exporter: [u8; 32]) -> Bytes32 {
        self.mac(b"tun pairing visitor v1", &[&certificate.0, &exporter])
    }

    /// Checks the visitor's confirmation, in constant time.
    ///
    /// # Errors
    /// [`PairingError::Confirmation`].
    pub fn verify_visitor(
        &self,
        certificate: Bytes32,
        exporter: [u8; 32],
        mac: Bytes32,
    ) -> Result<(), PairingError> {
        self.verify(b"tun pairing visitor v1", &[&certificate.0, &exporter], mac)
    }

    fn mac(&self, label: &[u8], parts: &[&[u8; 32]]) -> Bytes32 {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.key, &self.covered(label, parts)).as_ref());
        Bytes32(out)
    }

    fn verify(&self, label: &[u8], parts: &[&[u8; 32]], mac: Bytes32) -> Result<(), PairingError> {
        hmac::verify(&self.key, &self.covered(label, parts), &mac.0).map_err(|_| PairingError::Confirmation)
    }

    /// The labels have one length each and differ, and all parts have a fixed length.
    fn covered(&self, label: &[u8], parts: &[&[u8; 32]]) -> Vec<u8> {
        let mut out = label.to_vec();
        out.extend_from_slice(self.transcript.as_ref());
        parts.iter().for_each(|part| out.extend_from_slice(&part[..]));
        out
    }
}

/// Bytes that the caller drew, in the form that the exchange asks for.
struct Entropy([u8; 64]);

impl RngCore for Entropy {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    /// The exchange draws its one scalar from 64 bytes; a second draw would repeat them, so it is hashed on.
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for chunk in dest.chunks_mut(64) {
            chunk.copy_from_slice(&self.0[..chunk.len()]);
            let next = digest::digest(&digest::SHA512, &self.0);
            self.0.copy_from_slice(next.as_ref());
        }
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Entropy {}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: Bytes32 = Bytes32([1; 32]);

    fn pair(visitor: (&str, &str), client: (&str, &str)) -> (PairingKey, PairingKey) {
        let a = Exchange::new(true, visitor.0, visitor.1, [7; 64]);
        let b = Exchange::new(false, client.0, client.1, [8; 64]);
        let (to_b, to_a) = (a.message(), b.message());
        (a.finish(to_a).unwrap(), b.finish(to_b).unwrap())
    }

    #[test]
    fn the_right_secret_confirms_both_ends_of_one_connection_only() {
        let (visitor, client) = pair(("ssh", "open"), ("ssh", "open"));
        assert_eq!(visitor.verify_client(CERTIFICATE, client.confirm_client(CERTIFICATE)), Ok(()));
        let mac = visitor.confirm_visitor(CERTIFICATE, [2; 32]);
        assert_eq!(client.verify_visitor(CERTIFICATE, [2; 32], mac), Ok(()));
        assert!(client.verify_visitor(CERTIFICATE, [3; 32], mac).is_err(), "another connection");
        assert!(client.verify_visitor(Bytes32([9; 32]), [2; 32], mac).is_err(), "another certificate");
        assert!(visitor.verify_client(Bytes32([9; 32]), client.confirm_client(CERTIFICATE)).is_err());
    }

    #[test]
    fn a_wrong_secret_or_another_proxy_confirms_nothing() {
        for other in [("ssh", "shut"), ("web", "open"), ("ssh", "")] {
            let (visitor, client) = pair(other, ("ssh", "open"));
            let confirmed = visitor.verify_client(CERTIFICATE, client.confirm_client(CERTIFICATE));
            assert_eq!(confirmed, Err(PairingError::Confirmation));
        }
    }

    #[test]
    fn a_message_that_is_none_is_refused() {
        let exchange = || Exchange::new(true, "ssh", "open", [7; 64]);
        assert_eq!(exchange().finish([0; MESSAGE_LEN]).unwrap_err(), PairingError::Preface);
        let own = exchange().message();
        assert_eq!(exchange().finish(own).unwrap_err(), PairingError::Exchange, "its own message sent back");
    }
}
