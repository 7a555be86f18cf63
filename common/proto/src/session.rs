//! Sessions: two ends that know each other, and byte streams that outlive the links they cross.
//!
//! * [`stream`]: one resumable stream, made of [`send`] and [`recv`] halves and its attachments to links.
//! * [`budget`]: the memory that all streams of a session share.
//! * [`login`]: the handshake of a link, both sides.
//! * [`pairing`]: how a visitor and a client get to trust each other through the server.
//! * [`heartbeat`]: when to ask for a sign of life, and when to give a link up.
//! * [`pulse`]: whether a direct path can be trusted at this moment.
//! * [`takeover`]: which instance of an identity holds its place.

mod attachment;
pub mod budget;
pub mod heartbeat;
pub mod login;
pub mod pairing;
pub mod pulse;
pub mod recv;
pub mod send;
pub mod stream;
pub mod takeover;

/// Where time begins in unit tests.
#[cfg(test)]
#[allow(
    clippy::disallowed_methods,
    reason = "an Instant can be had from the clock only; tests add to this one"
)]
pub(crate) fn test_clock() -> std::time::Instant {
    std::time::Instant::now()
}
