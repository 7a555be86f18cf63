//! What the two ends of an attempt tell each other, in order and reliably, inside their encrypted session.

use super::failure::Failure;
use crate::p2p::candidate::Candidate;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A message from one end of an attempt to the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PunchMessage {
    /// What the sender gathered for a round.
    Offer(Offer),
    /// More candidates for a round, found after the offer.
    Candidates {
        /// The round.
        round: u32,
        /// What was found.
        candidates: Vec<Candidate>,
    },
    /// The initiator measures the round trip of these messages.
    Echo {
        /// Repeated in the reply.
        id: u32,
    },
    /// Answers an echo, at once.
    EchoReply {
        /// As in the echo.
        id: u32,
    },
    /// The responder has both offers and waits for the start.
    Ready {
        /// The round.
        round: u32,
    },
    /// The responder starts now; the initiator does when this arrives, as far as it knows.
    Go {
        /// The round.
        round: u32,
        /// The round trip of these messages, in milliseconds.
        round_trip_ms: u32,
    },
    /// The many sockets of the sender have opened its NAT: guess their ports now.
    Spray {
        /// The round.
        round: u32,
    },
    /// The initiator saw nothing come through: the next round begins.
    End {
        /// The round that is over.
        round: u32,
    },
    /// The attempt is over without a path, as the sender sees it.
    Failed(Failure),
}

/// What one end gathered for a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// The round.
    pub round: u32,
    /// Where the sender may be reached.
    pub candidates: Vec<Candidate>,
    /// What the server's ports saw of one and the same socket, in the order in which they were asked.
    pub reflexive: Vec<SocketAddr>,
    /// Whether the sender agrees to try many ports.
    pub spray: bool,
}
