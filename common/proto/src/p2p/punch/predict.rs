//! How a NAT chooses ports, seen from what a server's ports saw, and what port it will choose next.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Most that two mappings made in a row may lie apart to be called sequential.
const SEQUENTIAL_GAP: i32 = 15;

/// Ports tried in the direction in which the NAT counts. Other users of the NAT take some in between.
const AHEAD: i32 = 20;

/// Ports tried against it: for a NAT that was asked from both sides of its count.
const BEHIND: i32 = 3;

/// How a NAT maps the ports of one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mapping {
    /// The server saw nothing: UDP is blocked.
    Blocked,
    /// One port towards all, or no NAT at all.
    Independent,
    /// A port for each peer, in a row.
    Sequential {
        /// From one mapping to the next; negative if they count down.
        step: i32,
    },
    /// A port for each peer, without a rule.
    Random,
}

impl std::fmt::Display for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mapping::Blocked => "lets no UDP pass",
            Mapping::Independent => "uses one port for all peers",
            Mapping::Sequential { .. } => "uses a port for each peer, in a row",
            Mapping::Random => "uses a random port for each peer",
        })
    }
}

impl Mapping {
    /// What follows from what the server's ports saw, in the order in which they were asked.
    pub fn of(reflexive: &[SocketAddr]) -> Self {
        let Some(first) = reflexive.first() else { return Mapping::Blocked };
        if reflexive.iter().all(|seen| seen == first) {
            return Mapping::Independent;
        }
        if reflexive.iter().any(|seen| seen.ip() != first.ip()) {
            return Mapping::Random;
        }
        let steps = reflexive.windows(2).map(|two| i32::from(two[1].port()) - i32::from(two[0].port()));
        let near = |step: &i32| *step != 0 && step.abs() <= SEQUENTIAL_GAP;
        let steps: Vec<i32> = steps.collect();
        let one_way = steps.iter().all(|step| *step > 0) || steps.iter().all(|step| *step < 0);
        match steps.iter().min_by_key(|step| step.abs()) {
            Some(step) if one_way && steps.iter().all(near) => Mapping::Sequential { step: *step },
            _ => Mapping::Random,
        }
    }

    /// True if the port towards a peer differs from what the server saw.
    pub fn is_dependent(self) -> bool {
        matches!(self, Mapping::Sequential { .. } | Mapping::Random)
    }
}

/// Where a sequential NAT's next mappings are likely to be, likeliest first; IPv4 only, like such NATs.
pub(super) fn next_ports(reflexive: &[SocketAddr], step: i32) -> Vec<SocketAddr> {
    let Some(last) = reflexive.last().filter(|last| last.is_ipv4()) else { return Vec::new() };
    let mut ports = Vec::new();
    for times in (1..=AHEAD).chain((1..=BEHIND).map(|times| -times)) {
        let Ok(port) = u16::try_from(i32::from(last.port()).saturating_add(step.saturating_mul(times)))
        else {
            continue;
        };
        let guess = SocketAddr::new(last.ip(), port);
        if port >= 1024 && !reflexive.contains(&guess) && !ports.contains(&guess) {
            ports.push(guess);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([203, 0, 113, 7], *port))).collect()
    }

    #[test]
    fn the_kind_follows_from_what_the_ports_saw() {
        assert_eq!(Mapping::of(&[]), Mapping::Blocked);
        assert_eq!(Mapping::of(&seen(&[4000])), Mapping::Independent);
        assert_eq!(Mapping::of(&seen(&[4000, 4000])), Mapping::Independent);
        assert_eq!(Mapping::of(&seen(&[4000, 4002])), Mapping::Sequential { step: 2 });
        assert_eq!(Mapping::of(&seen(&[4000, 3999, 3997])), Mapping::Sequential { step: -1 });
        assert_eq!(Mapping::of(&seen(&[4000, 4002, 4001])), Mapping::Random);
        assert_eq!(Mapping::of(&seen(&[4000, 4016])), Mapping::Random);
        assert_eq!(
            Mapping::of(&["1.2.3.4:5".parse().unwrap(), "1.2.3.5:5".parse().unwrap()]),
            Mapping::Random
        );
    }

    #[test]
    fn the_next_ports_begin_with_the_very_next_and_stay_in_range() {
        let ports = next_ports(&seen(&[4000, 4001]), 1);
        assert_eq!(ports[0].port(), 4002);
        assert_eq!(ports.len(), 22, "all but the one the server already saw");
        assert!(next_ports(&seen(&[65_530, 65_535]), 5).iter().all(|port| port.port() < 65_530));
        assert!(next_ports(&seen(&[1030]), i32::MIN).is_empty());
    }
}
