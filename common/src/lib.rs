//! Sockets and libraries.
