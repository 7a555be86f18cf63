//! Finding a path between two peers that can both reach the server.

pub mod candidate;
pub mod nat;
pub mod path;
pub mod probe;
pub mod punch;
