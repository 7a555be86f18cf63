//! What two peers tell each other about paths between them, on a stream of their session that the visitor opens.
//!
//! ```text
//! visitor                             client
//!   Attempt(1) ──────────────────────▶
//!   ◀────────────────────────── Joined(1)     or Declined
//!   Punch(1, …) ◀───────────────────▶ Punch(1, …)
//!   the direct link's own handshake, over the path that was found
//! ```
//! All of it is inside the end-to-end encryption: the server learns no address of the peers but those it sees.

use super::login::Bytes32;
use crate::p2p::punch::PunchMessage;
use serde::{Deserialize, Serialize};

/// A message about paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PathMessage {
    /// The visitor starts an attempt; one that was under way is over.
    Attempt {
        /// The attempt, and the direct link that comes of it.
        link: u32,
        /// What probes are authenticated with; fresh.
        secret: Bytes32,
        /// Fingerprint of the visitor's certificate.
        certificate: Bytes32,
    },
    /// The client takes part.
    Joined {
        /// The attempt.
        link: u32,
        /// Fingerprint of the client's certificate.
        certificate: Bytes32,
    },
    /// The client takes no part in it.
    Declined {
        /// The attempt.
        link: u32,
        /// Why, for a person.
        reason: String,
    },
    /// What the two ends of an attempt have to say.
    Punch {
        /// The attempt.
        link: u32,
        /// The message.
        message: PunchMessage,
    },
    /// The client's addresses have changed: another path may be found now.
    NetworkChanged,
}
