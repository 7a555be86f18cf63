//! The public side: one file per kind of proxy.

pub(crate) mod tcp;
