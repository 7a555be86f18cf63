//! When attempts begin.
