//! Datagrams of a UDP service: which source has which flow, and what waits for a link.
//!
//! A *flow* is all that passes between one source and the service. The end with the sources names flows by a number
//! ([`flows::Sources`]); the other end has a socket for each. Nothing in here is ever sent twice, and whatever is
//! full loses a datagram rather than making anybody wait.

pub mod flows;
pub mod queue;
