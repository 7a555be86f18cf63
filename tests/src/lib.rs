//! Support of the black-box tests: the two real binaries, real services, and a network that fails on command.
//!
//! A test starts what it needs, waits for what it can observe (a log line, a closed connection, a counter) and
//! never for a time to pass. Everything it waits for is bounded by [`patience`]; a requirement that names a time
//! is checked against the moments at which things were observed.
//!
//! Each test has a loopback address of its own ([`net::Loopback`]), so that ports are fixed, restarts get the
//! same ones, and tests that run at the same time cannot meet. Loopback addresses other than 127.0.0.1 exist
//! without set-up on Linux only, which is where these tests run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this crate is test support, and a test reports by panicking"
)]

pub mod binaries;
pub mod certs;
pub mod datagram_forwarder;
pub mod datagrams;
pub mod dns;
pub mod eventually;
pub mod forwarder;
pub mod http;
pub mod lab;
pub mod log;
pub mod memory;
pub mod mitm;
pub mod net;
pub mod network;
pub mod p2p;
pub mod patience;
pub mod pattern;
pub mod private;
pub mod program;
pub mod proxy;
pub mod quic;
pub mod service;
pub mod stall;
pub mod stranger;
pub mod terminal;
pub mod tunnel;
pub mod visitor;
pub mod way;
