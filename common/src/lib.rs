//! `tun-common`: what `tuns` and `tunc` share.
//!
//! * [`link`]: authenticated, multiplexed connections.
//! * [`session`]: the driver of resumable streams over one or more links.
//! * [`lifecycle`]: who owns which task.
//!
//! The two programs depend on this crate and never on each other; it depends on `tun-proto`, where all decisions are
//! made.

pub mod control;
pub mod lifecycle;
pub mod limit;
pub mod link;
pub mod session;
