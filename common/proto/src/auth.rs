//! The proofs both ends of a link give that they know the token, which itself never crosses the link.
//!
//! A proof is an HMAC-SHA-256 (RFC 2104) keyed with the token over a [`Transcript`]: what binds the proof to this
//! one connection, and the client's hello. Under TLS the binding is keying material exported from the connection
//! (RFC 8446, section 7.5; used for channel binding as in RFC 9266): a man in the middle has two connections with
//! two different exporters, so a proof made for one is worth nothing on the other, and no CA is needed to notice
//! him. Without TLS the binding is the server's nonce, which prevents replay and nothing more.
//!
//! The client proves first: a server that answered a stranger with its own proof would let anyone guess at the
//! token offline.

use crate::wire::login::{Accepted, Bytes32};
use ring::{digest, hmac};
use std::net::IpAddr;
use zeroize::Zeroizing;

/// Label of the exported keying material (RFC 8446, section 7.5), registered to nobody else.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-tun-login-v1";

/// What ties a proof to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Keying material exported from the TLS connection.
    Exporter([u8; 32]),
    /// The server's nonce, where there is no TLS.
    Nonce([u8; 32]),
}

/// Digest of everything a proof speaks about.
#[derive(Debug, Clone, Copy)]
pub struct Transcript([u8; 32]);

impl Transcript {
    /// Digest of the binding and the hello as it crossed the wire.
    pub fn new(binding: Binding, hello: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        let (kind, bytes) = match &binding {
            Binding::Exporter(bytes) => (b"exporter", bytes),
            Binding::Nonce(bytes) => (b"nonce\0\0\0", bytes),
        };
        context.update(kind);
        context.update(bytes);
        context.update(hello);
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Transcript(out)
    }
}

/// The token, ready to make and check proofs.
#[derive(Debug, Clone)]
pub struct TokenKey(hmac::Key);

/// A secret that only the two ends of one session know; a link that joins the session proves it, too.
#[derive(Clone)]
pub struct SessionSecret(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSecret")
    }
}

impl TokenKey {
    /// The key for `token`; an empty one is allowed and proves nothing.
    pub fn new(token: &str) -> Self {
        TokenKey(hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()))
    }

    /// The client's proof; `secret` is that of the session it joins.
    pub fn client_proof(&self, transcript: &Transcript, secret: Option<&SessionSecret>) -> Bytes32 {
        self.mac(b"tun client proof v1", &[&transcript.0, &joins(transcript, secret)])
    }

    /// Checks the client's proof, in constant time.
    #[must_use]
    pub fn verify_client(
        &self,
        transcript: &Transcript,
        secret: Option<&SessionSecret>,
        mac: Bytes32,
    ) -> bool {
        self.verify(b"tun client proof v1", &[&transcript.0, &joins(transcript, secret)], mac)
    }

    /// The server's proof, over its answer as well.
    pub fn server_proof(&self, transcript: &Transcript, accepted: &Accepted) -> Bytes32 {
        self.mac(b"tun server proof v1", &[&transcript.0, &answer(accepted), &stun(accepted)])
    }

    /// Checks the server's proof, in constant time.
    #[must_use]
    pub fn verify_server(&self, transcript: &Transcript, accepted: &Accepted) -> bool {
        self.verify(
            b"tun server proof v1",
            &[&transcript.0, &answer(accepted), &stun(accepted)],
            accepted.mac,
        )
    }

    /// The secret of the session that a link with this transcript began.
    pub fn session_secret(&self, transcript: &Transcript) -> SessionSecret {
        SessionSecret(Zeroizing::new(self.mac(b"tun session secret v1", &[&transcript.0]).0))
    }

    /// A secret of this side alone for another purpose, which `place` tells apart from the same one elsewhere. It is the
    /// same for everybody who has the same token.
    pub fn own_secret(&self, purpose: &[u8], place: &[u8]) -> [u8; 32] {
        self.mac(b"tun own secret v1", &[purpose, place]).0
    }

    fn mac(&self, label: &[u8], parts: &[&[u8]]) -> Bytes32 {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.0, &message(label, parts)).as_ref());
        Bytes32(out)
    }

    fn verify(&self, label: &[u8], parts: &[&[u8]], mac: Bytes32) -> bool {
        hmac::verify(&self.0, &message(label, parts), &mac.0).is_ok()
    }
}

/// Every part is prefixed by its length, so that no two lists of parts look the same.
fn message(label: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    for part in std::iter::once(&label).chain(parts) {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

fn joins(transcript: &Transcript, secret: Option<&SessionSecret>) -> Vec<u8> {
    match secret {
        None => Vec::new(),
        Some(secret) => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.0[..]);
            hmac::sign(&key, &message(b"tun join v1", &[&transcript.0])).as_ref().to_vec()
        }
    }
}

fn answer(accepted: &Accepted) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(&accepted.session.0);
    out.extend_from_slice(&accepted.link.to_be_bytes());
    out.push(accepted.max_links);
    out.extend_from_slice(accepted.program.as_bytes());
    out
}

fn stun(accepted: &Accepted) -> Vec<u8> {
    let Some(service) = &accepted.stun else { return Vec::new() };
    let mut out = Vec::with_capacity(24);
    match service.other_address {
        None => out.push(0),
        Some(IpAddr::V4(address)) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        Some(IpAddr::V6(address)) => {
            out.push(6);
            out.extend_from_slice(&address.octets());
        }
    }
    out.extend(service.ports.iter().flat_map(|port| port.to_be_bytes()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::login::{Id, StunService};

    const BINDING: Binding = Binding::Exporter([1; 32]);

    #[test]
    fn a_proof_holds_for_one_token_one_connection_one_hello_and_one_session_only() {
        let key = TokenKey::new("right");
        let transcript = Transcript::new(BINDING, b"hello");
        let secret = key.session_secret(&transcript);
        let proof = key.client_proof(&transcript, Some(&secret));
        assert!(key.verify_client(&transcript, Some(&secret), proof));
        assert!(!TokenKey::new("wrong").verify_client(&transcript, Some(&secret), proof));
        assert!(!key.verify_client(&transcript, None, proof));
        for other in [
            Transcript::new(Binding::Exporter([2; 32]), b"hello"),
            Transcript::new(Binding::Nonce([1; 32]), b"hello"),
            Transcript::new(BINDING, b"hallo"),
        ] {
            assert!(!key.verify_client(&other, Some(&secret), proof));
        }
    }

    #[test]
    fn the_server_proves_its_answer_and_a_client_proof_is_no_server_proof() {
        let key = TokenKey::new("token");
        let transcript = Transcript::new(BINDING, b"hello");
        let mut accepted = Accepted {
            program: "1".into(),
            session: Id([3; 16]),
            link: 0,
            max_links: 4,
            stun: None,
            mac: Bytes32([0; 32]),
        };
        accepted.mac = key.server_proof(&transcript, &accepted);
        assert!(key.verify_server(&transcript, &accepted));
        let honest = accepted.clone();
        accepted.link = 1;
        assert!(!key.verify_server(&transcript, &accepted));
        accepted = honest;
        accepted.stun = Some(StunService { ports: vec![7000], other_address: None });
        assert!(!key.verify_server(&transcript, &accepted));
        accepted.mac = key.client_proof(&transcript, None);
        assert!(!key.verify_server(&transcript, &accepted));
    }
}
