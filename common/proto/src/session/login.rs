//! The handshake of a link, both sides, without I/O: bytes in, bytes out, one verdict.
//!
//! The messages and their order are in [`crate::wire::login`]. Each side is a state machine that is fed whatever
//! has arrived and takes only complete messages from it; what follows the last message stays in the buffer, for it
//! belongs to the multiplexer.

use crate::auth::{Binding, SessionSecret, TokenKey, Transcript};
use crate::limits::MAX_HANDSHAKE_MESSAGE;
use crate::wire::login::{
    Accepted, Bytes32, Challenge, Hello, Id, Proof, RefusalCode, Refused, StunService, Verdict,
};
use crate::wire::preface::{self, PrefaceError};
use crate::wire::{WireError, message};
use bytes::{Buf, BytesMut};

/// Why a handshake failed before a verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The first bytes are not ours.
    #[error(transparent)]
    Preface(#[from] PrefaceError),
    /// A message is not of this protocol.
    #[error("the peer broke the login protocol: {0}")]
    Wire(#[from] WireError),
    /// The server accepted the login but could not prove that it knows the token.
    #[error(
        "the server did not prove that it knows the token: it is not the server you think, or somebody in the \
         middle ends the encryption"
    )]
    ServerProof,
}

/// The client's side.
#[derive(Debug)]
pub struct ClientLogin {
    key: TokenKey,
    secret: Option<SessionSecret>,
    hello: Vec<u8>,
    state: ClientState,
    out: BytesMut,
}

#[derive(Debug)]
enum ClientState {
    Preface { exporter: Option<[u8; 32]> },
    Challenge,
    Verdict { transcript: Transcript },
}

/// What the client learns.
#[derive(Debug)]
pub enum ClientOutcome {
    /// Logged in; the secret is that of a session that this login began.
    Accepted {
        /// The server's answer, proven.
        accepted: Accepted,
        /// What later links of the session prove.
        secret: SessionSecret,
    },
    /// Refused.
    Refused(Refused),
}

impl ClientLogin {
    /// Begins a handshake. `exporter` is the TLS connection's keying material, absent without TLS; `secret` that of
    /// the session to join.
    ///
    /// # Errors
    /// [`WireError::TooLong`] if the hello is, which only very long metadata can bring about.
    pub fn new(
        hello: &Hello,
        key: TokenKey,
        secret: Option<SessionSecret>,
        exporter: Option<[u8; 32]>,
    ) -> Result<Self, WireError> {
        let mut out = BytesMut::from(&preface::ours()[..]);
        message::put(&mut out, hello, "hello", MAX_HANDSHAKE_MESSAGE)?;
        let hello = out[preface::LEN + 4..].to_vec();
        let mut login = ClientLogin { key, secret, hello, state: ClientState::Preface { exporter }, out };
        if let Some(exporter) = exporter {
            login.prove(Binding::Exporter(exporter))?;
        }
        Ok(login)
    }

    /// Bytes to send; empty if there are none now.
    pub fn poll_transmit(&mut self) -> BytesMut {
        self.out.split()
    }

    /// Takes complete messages from `input`.
    ///
    /// # Errors
    /// [`LoginError`]; the connection is of no use then.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<Option<ClientOutcome>, LoginError> {
        loop {
            match &self.state {
                ClientState::Preface { exporter } => {
                    if !take_preface(input)? {
                        return Ok(None);
                    }
                    match *exporter {
                        None => self.state = ClientState::Challenge,
                        Some(exporter) => self.await_verdict(Binding::Exporter(exporter)),
                    }
                }
                ClientState::Challenge => {
                    let Some(challenge) = take::<Challenge>(input, "challenge")? else { return Ok(None) };
                    let binding = Binding::Nonce(challenge.nonce.0);
                    self.prove(binding)?;
                    self.await_verdict(binding);
                }
                ClientState::Verdict { transcript } => {
                    return match take::<Verdict>(input, "verdict")? {
                        None => Ok(None),
                        Some(Verdict::Refused(refused)) => Ok(Some(ClientOutcome::Refused(refused))),
                        Some(Verdict::Accepted(accepted)) => {
                            if !self.key.verify_server(transcript, &accepted) {
                                return Err(LoginError::ServerProof);
                            }
                            let secret = self.key.session_secret(transcript);
                            Ok(Some(ClientOutcome::Accepted { accepted, secret }))
                        }
                    };
                }
            }
        }
    }

    fn await_verdict(&mut self, binding: Binding) {
        self.state = ClientState::Verdict { transcript: Transcript::new(binding, &self.hello) };
    }

    fn prove(&mut self, binding: Binding) -> Result<(), WireError> {
        let transcript = Transcript::new(binding, &self.hello);
        let mac = self.key.client_proof(&transcript, self.secret.as_ref());
        message::put(&mut self.out, &Proof { mac }, "proof", MAX_HANDSHAKE_MESSAGE)
    }
}

/// The server's side.
#[derive(Debug)]
pub struct ServerLogin {
    key: TokenKey,
    state: ServerState,
    nonce: [u8; 32],
    exporter: Option<[u8; 32]>,
    certificate: Option<Bytes32>,
    out: BytesMut,
}

#[derive(Debug)]
enum ServerState {
    Preface,
    Hello,
    Proof { hello: Box<Hello>, transcript: Transcript },
    Done,
}

/// A client's login, complete but not judged.
#[derive(Debug)]
pub struct Candidate {
    /// What the client says of itself.
    pub hello: Hello,
    mac: Bytes32,
    transcript: Transcript,
    key: TokenKey,
}

impl Candidate {
    /// True if the client knows the token, and `secret` if it wants to join a session.
    #[must_use]
    pub fn is_genuine(&self, secret: Option<&SessionSecret>) -> bool {
        self.key.verify_client(&self.transcript, secret, self.mac)
    }

    /// The secret of a session that begins with this login.
    pub fn session_secret(&self) -> SessionSecret {
        self.key.session_secret(&self.transcript)
    }
}

impl ServerLogin {
    /// Awaits a client. `exporter` is the TLS connection's keying material, absent without TLS, where `nonce` (fresh,
    /// random) takes its place; `certificate` is the fingerprint of the server's own certificate.
    pub fn new(
        key: TokenKey,
        exporter: Option<[u8; 32]>,
        nonce: [u8; 32],
        certificate: Option<Bytes32>,
    ) -> Self {
        ServerLogin { key, state: ServerState::Preface, nonce, exporter, certificate, out: BytesMut::new() }
    }

    /// Bytes to send; empty if there are none now.
    pub fn poll_transmit(&mut self) -> BytesMut {
        self.out.split()
    }

    /// Takes complete messages from `input`. Answer the candidate with [`ServerLogin::accept`] or
    /// [`ServerLogin::refuse`].
    ///
    /// # Errors
    /// [`LoginError`]; [`ServerLogin::poll_transmit`] may still have an answer for the peer.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<Option<Candidate>, LoginError> {
        loop {
            match std::mem::replace(&mut self.state, ServerState::Done) {
                ServerState::Preface => {
                    if input.len() < preface::LEN {
                        self.state = ServerState::Preface;
                        return Ok(None);
                    }
                    let checked = take_preface(input);
                    // Our own version tells a peer of another one what to do; a stranger would not understand it.
                    if !matches!(checked, Err(PrefaceError::NotTun { .. })) {
                        self.out.extend_from_slice(&preface::ours());
                    }
                    checked?;
                    self.state = ServerState::Hello;
                }
                ServerState::Hello => {
                    let Some(hello) = message::take_body(input, "hello", MAX_HANDSHAKE_MESSAGE)? else {
                        self.state = ServerState::Hello;
                        return Ok(None);
                    };
                    let binding = match self.exporter {
                        Some(exporter) => Binding::Exporter(exporter),
                        None => {
                            let challenge = Challenge { nonce: Bytes32(self.nonce) };
                            message::put(&mut self.out, &challenge, "challenge", MAX_HANDSHAKE_MESSAGE)?;
                            Binding::Nonce(self.nonce)
                        }
                    };
                    let transcript = Transcript::new(binding, &hello);
                    self.state = ServerState::Proof { hello: message::parse(&hello, "hello")?, transcript };
                }
                ServerState::Proof { hello, transcript } => {
                    let Some(proof) = take::<Proof>(input, "proof")? else {
                        self.state = ServerState::Proof { hello, transcript };
                        return Ok(None);
                    };
                    let key = self.key.clone();
                    return Ok(Some(Candidate { hello: *hello, mac: proof.mac, transcript, key }));
                }
                ServerState::Done => return Ok(None),
            }
        }
    }

    /// Accepts the candidate's link into a session, and tells the client where STUN is served.
    ///
    /// # Errors
    /// [`WireError`] does not occur with these messages.
    pub fn accept(
        &mut self,
        candidate: &Candidate,
        program: &str,
        session: Id,
        link: u32,
        max_links: u8,
        stun: Option<StunService>,
    ) -> Result<(), WireError> {
        let program = program.to_owned();
        let mac = Bytes32([0; 32]);
        let mut accepted = Accepted { program, session, link, max_links, stun, mac };
        accepted.mac = self.key.server_proof(&candidate.transcript, &accepted);
        message::put(&mut self.out, &Verdict::Accepted(accepted), "verdict", MAX_HANDSHAKE_MESSAGE)
    }

    /// Refuses the peer with a reason it can show to a person.
    ///
    /// # Errors
    /// [`WireError::TooLong`] if the reason is.
    pub fn refuse(&mut self, code: RefusalCode, reason: String) -> Result<(), WireError> {
        let refused = Refused { code, reason, certificate: self.certificate };
        message::put(&mut self.out, &Verdict::Refused(refused), "verdict", MAX_HANDSHAKE_MESSAGE)
    }
}

fn take_preface(input: &mut BytesMut) -> Result<bool, PrefaceError> {
    let Some(bytes) = input.first_chunk::<{ preface::LEN }>() else { return Ok(false) };
    preface::check(*bytes)?;
    input.advance(preface::LEN);
    Ok(true)
}

fn take<T: serde::de::DeserializeOwned>(
    input: &mut BytesMut,
    what: &'static str,
) -> Result<Option<T>, WireError> {
    message::take(input, what, MAX_HANDSHAKE_MESSAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::login::Intent;

    fn hello() -> Hello {
        Hello {
            program: "test".into(),
            identity: "home".into(),
            user: String::new(),
            instance: Id([1; 16]),
            intent: Intent::Login { first: true },
            heartbeat_ms: 3000,
            saw_certificate: None,
            metadatas: Default::default(),
        }
    }

    /// Runs a handshake, one byte at a time in both directions.
    fn run(
        client_exporter: Option<[u8; 32]>,
        server_exporter: Option<[u8; 32]>,
        client_token: &str,
    ) -> Result<ClientOutcome, LoginError> {
        let server_key = TokenKey::new("token");
        let mut client = ClientLogin::new(&hello(), TokenKey::new(client_token), None, client_exporter)?;
        let mut server = ServerLogin::new(server_key, server_exporter, [9; 32], None);
        let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
        for _ in 0..10 {
            for byte in client.poll_transmit() {
                to_server.extend_from_slice(&[byte]);
                if let Some(candidate) = server.handle_input(&mut to_server)? {
                    if candidate.is_genuine(None) {
                        server.accept(&candidate, "test", Id([7; 16]), 0, 4, None)?;
                    } else {
                        server.refuse(RefusalCode::Token, "wrong".into())?;
                    }
                }
            }
            for byte in server.poll_transmit() {
                to_client.extend_from_slice(&[byte]);
                if let Some(outcome) = client.handle_input(&mut to_client)? {
                    return Ok(outcome);
                }
            }
        }
        panic!("the handshake does not end");
    }

    #[test]
    fn a_client_with_the_token_gets_in_with_and_without_tls() {
        for exporter in [None, Some([4; 32])] {
            assert!(matches!(run(exporter, exporter, "token"), Ok(ClientOutcome::Accepted { .. })));
            assert!(matches!(run(exporter, exporter, "guess"), Ok(ClientOutcome::Refused(_))));
        }
    }

    #[test]
    fn a_man_in_the_middle_who_ends_the_encryption_is_noticed() {
        assert!(matches!(run(Some([4; 32]), Some([5; 32]), "token"), Ok(ClientOutcome::Refused(_))));
    }

    #[test]
    fn a_server_that_does_not_know_the_token_is_noticed() {
        let key = TokenKey::new("mine");
        let mut client = ClientLogin::new(&hello(), key, None, Some([4; 32])).unwrap();
        let mut server = ServerLogin::new(TokenKey::new("other"), Some([4; 32]), [0; 32], None);
        let candidate = server.handle_input(&mut client.poll_transmit()).unwrap().unwrap();
        server.accept(&candidate, "test", Id([7; 16]), 0, 4, None).unwrap();
        let outcome = client.handle_input(&mut server.poll_transmit());
        assert_eq!(outcome.unwrap_err(), LoginError::ServerProof);
    }

    #[test]
    fn a_peer_of_another_version_learns_ours_and_gets_no_further() {
        let mut server = ServerLogin::new(TokenKey::new(""), None, [0; 32], None);
        let error = server.handle_input(&mut BytesMut::from(&b"TUN\x07junk"[..])).unwrap_err();
        assert!(matches!(error, LoginError::Preface(PrefaceError::Version { theirs: 7 })));
        assert_eq!(&server.poll_transmit()[..], preface::ours());
    }
}
