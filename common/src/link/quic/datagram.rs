//! The datagrams of a link over QUIC.

use super::stream::Shared;
use crate::link::Wait;
use crate::link::datagram::DatagramPath;
use bytes::Bytes;
use quinn::Connection;
use std::sync::Arc;

/// QUIC's DATAGRAM frames: as reliable as the packets that carry them.
pub(super) struct Datagrams {
    connection: Connection,
    shared: Arc<Shared>,
}

impl Datagrams {
    pub(super) fn new(connection: Connection, shared: Arc<Shared>) -> Self {
        Datagrams { connection, shared }
    }
}

impl DatagramPath for Datagrams {
    fn max(&self) -> Option<usize> {
        self.connection.max_datagram_size()
    }

    fn send(&self, datagram: Bytes) -> Option<Wait> {
        self.shared.note_datagram(datagram.len());
        // More than there is room for would push out the oldest, whosever they are; while the path is congested it is the
        // channel's own queue that chooses.
        if datagram.len() <= self.connection.datagram_send_buffer_space() {
            let _ = self.connection.send_datagram(datagram);
            return None;
        }
        let connection = self.connection.clone();
        Some(Box::pin(async move {
            let _ = connection.send_datagram_wait(datagram).await;
        }))
    }
}
