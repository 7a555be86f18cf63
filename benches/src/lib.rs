//! Support of the benchmarks.
