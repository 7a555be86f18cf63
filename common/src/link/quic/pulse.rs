//! Drives the pulse of a direct link; the decisions are those of [`tun_proto::session::pulse`].

use super::congestion::Acknowledged;
use super::stream::Shared;
use crate::link::{Health, Link};
use bytes::Bytes;
use quinn::{Connection, ConnectionError};
use std::time::Instant;
use tokio::time::sleep_until;
use tun_proto::session::pulse::{Pulse, Sight};

/// The whole content of a pulse: any datagram is acknowledged, and its receiver has no use for it.
static PULSE: Bytes = Bytes::from_static(&[0]);

/// Watches the path while bytes move on it, and sleeps while none do. Ends with the connection.
pub(super) async fn watch(
    connection: &Connection,
    acknowledged: &Acknowledged,
    shared: &Shared,
    link: &Link,
) -> ConnectionError {
    let mut pulse = Pulse::new();
    let mut seen = 0;
    loop {
        match pulse.poll_timeout() {
            None => {
                shared.moved(seen).await;
                tracing::trace!(link = link.number(), "pulse begins");
            }
            Some(due) => sleep_until(due.into()).await,
        }
        let now = Instant::now();
        let moves = shared.moves();
        if moves != seen {
            seen = moves;
            pulse.handle_activity(now);
        }
        let sight = Sight { acknowledgements: acknowledged.count(), round_trip: connection.rtt() };
        link.note_round_trip(sight.round_trip);
        let due = pulse.poll(now, sight);
        match pulse.is_suspect() {
            true if due => acknowledged.allow_one_more(),
            true => {}
            false => acknowledged.settle(),
        }
        if due
            && let Err(quinn::SendDatagramError::ConnectionLost(error)) =
                connection.send_datagram(PULSE.clone())
        {
            return error;
        }
        show(link, pulse.is_suspect());
    }
}

/// Takes in the peer's datagrams: those of channels, and the pulses of a direct link. Ends with the connection.
pub(super) async fn listen(connection: &Connection, shared: &Shared, link: &Link) -> ConnectionError {
    loop {
        match connection.read_datagram().await {
            Ok(pulse) if pulse == PULSE => {}
            Ok(datagram) => {
                shared.note_datagram_received(datagram.len());
                link.inner.datagrams.receive(datagram);
            }
            Err(error) => return error,
        }
    }
}

fn show(link: &Link, suspect: bool) {
    let health = if suspect { Health::Suspect } else { Health::Good };
    let changed = link.inner.health.send_if_modified(|shown| std::mem::replace(shown, health) != health);
    if changed {
        tracing::debug!(link = link.number(), peer = %link.peer(), ?health, "direct path");
    }
}
