//! `tun-proto`: bytes and decisions of tun.
//!
//! Nothing in this crate opens a socket, reads a clock, draws a random number or runs a task. Time, randomness
//! and bytes are handed in; decisions and bytes come out. That is what lets property tests replay millions of
//! steps, and it is held by the crate's dependencies (no async runtime) and by `clippy.toml`.
//!
//! The rooms:
//! * [`wire`]: what crosses a connection, one message family a file.
//! * [`auth`]: the proofs both ends give that they know the token.
//! * [`mux`]: many streams over one connection.
//! * [`session`]: resumable streams, login, heartbeat, takeover of an identity.
//! * [`registry`]: who owns which proxy name and port.
//! * [`tunnels`]: how many data tunnels a client holds and where a new stream goes.
//! * [`admission`]: which unauthenticated connections may wait, and which must go.
//! * [`backoff`]: when to try again.
//! * [`race`]: which of several ways to the server is tried when, and which is taken.
//! * [`datagram`]: the flows of UDP services, and what waits for a link.
//! * [`p2p`]: how two peers find a path to each other.
//! * [`limits`]: every number of the protocol, with its reason.

pub mod admission;
pub mod auth;
pub mod backoff;
pub mod datagram;
pub mod limits;
pub mod mux;
pub mod p2p;
pub mod race;
pub mod registry;
pub mod session;
pub mod tunnels;
pub mod wire;
