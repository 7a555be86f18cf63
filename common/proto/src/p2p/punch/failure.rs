//! Why an attempt ended without a path.

use super::predict::Mapping;
use serde::{Deserialize, Serialize};

/// Why there is no direct path, in words on which a person can act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum Failure {
    /// No UDP packet came back from the server.
    #[error("UDP is blocked {side}: allow outgoing UDP in the firewall there")]
    UdpBlocked {
        /// Where.
        side: Side,
    },
    /// Neither end's port can be known beforehand.
    #[error(
        "both networks use a different port for each peer (symmetric NAT): forward a UDP port on one side, or enable \
         IPv6 on both"
    )]
    BothSymmetric,
    /// No pair of addresses can reach each other even in theory.
    #[error("the two sides have no address family in common: enable IPv6 or IPv4 on both")]
    NoCommonFamily,
    /// Everything was tried.
    #[error(
        "no probe got through: {pairs} pairs of addresses tried{}; the NAT here {mine}, the other {theirs}: forward a \
         UDP port on one side, or enable IPv6 on both", guessed(.sprayed)
    )]
    NoAnswer {
        /// Pairs of addresses that were probed in the last round.
        pairs: u16,
        /// Whether ports were guessed at random.
        sprayed: bool,
        /// How this end's NAT chooses ports.
        mine: Mapping,
        /// How the other's does.
        theirs: Mapping,
    },
    /// A path answered, and then went silent before it could be used.
    #[error("a path was found and lost again at once: the network may be changing")]
    PathLost,
    /// The other end did not keep up with the attempt.
    #[error("the other side did not answer in time while a direct path was being looked for")]
    PeerSilent,
    /// This end did not keep up.
    #[error("gathering addresses took too long {side}")]
    GatheringTimedOut {
        /// Where.
        side: Side,
    },
    /// One end gave the attempt up, for example because its network changed.
    #[error("the attempt was given up {side}")]
    Aborted {
        /// Which.
        side: Side,
    },
}

/// One end or both, as the reader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// This end.
    Mine,
    /// The other.
    Theirs,
    /// Both.
    Both,
}

fn guessed(sprayed: &bool) -> &'static str {
    if *sprayed { ", and many ports guessed" } else { "" }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Mine => "on this side",
            Side::Theirs => "on the other side",
            Side::Both => "on both sides",
        })
    }
}

impl Side {
    /// As the other end sees it.
    fn mirrored(self) -> Self {
        match self {
            Side::Mine => Side::Theirs,
            Side::Theirs => Side::Mine,
            Side::Both => Side::Both,
        }
    }
}

impl Failure {
    /// The failure as the other end sees it.
    pub fn mirrored(self) -> Self {
        match self {
            Failure::UdpBlocked { side } => Failure::UdpBlocked { side: side.mirrored() },
            Failure::GatheringTimedOut { side } => Failure::GatheringTimedOut { side: side.mirrored() },
            Failure::Aborted { side } => Failure::Aborted { side: side.mirrored() },
            Failure::NoAnswer { pairs, sprayed, mine, theirs } => {
                Failure::NoAnswer { pairs, sprayed, mine: theirs, theirs: mine }
            }
            same => same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_whose_fault_it_is_on_both_sides() {
        let here = Failure::UdpBlocked { side: Side::Mine };
        assert!(here.to_string().starts_with("UDP is blocked on this side"));
        assert!(here.mirrored().to_string().starts_with("UDP is blocked on the other side"));
        let mine = Mapping::Random;
        let theirs = Mapping::Independent;
        let failure = Failure::NoAnswer { pairs: 3, sprayed: true, mine, theirs };
        assert!(
            failure
                .to_string()
                .starts_with("no probe got through: 3 pairs of addresses tried, and many ports")
        );
        assert_eq!(failure.mirrored().mirrored(), failure);
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
    }
}
