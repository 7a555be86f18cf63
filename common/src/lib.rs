//! `tun-common`: what `tuns` and `tunc` share.
//!
//! * [`link`]: authenticated, multiplexed connections.
//! * [`session`]: the driver of resumable streams over one or more links; [`control`] is one of them.
//! * [`peer`]: how two clients meet through the server, unseen by it.
//! * [`limit`]: how often something may happen.
//! * [`stun`]: how an endpoint is seen from outside.
//! * [`udp`]: sockets for datagrams, and the flows of those who send them.
//! * [`lifecycle`]: who owns which task.
//! * [`cli`], [`config`] and [`log`]: what the programs are told, and what they tell.
//!
//! The two programs depend on this crate and never on each other; it depends on `tun-proto`, where all decisions are
//! made.

pub mod cli;
pub mod config;
pub mod control;
pub mod lifecycle;
pub mod limit;
pub mod link;
pub mod log;
pub mod peer;
pub mod random;
pub mod session;
pub mod shutdown;
pub mod stun;
pub mod udp;
