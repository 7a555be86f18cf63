//! Support of the benchmarks.

pub mod bare;
pub mod crowd;
pub mod links;
pub mod over;
pub mod processor;
pub mod programs;
pub mod statistics;
