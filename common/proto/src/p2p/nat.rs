//! What a NAT does, in the terms of RFC 4787, found out as RFC 5780 describes.
//!
//! [`Discovery`] decides which question is asked next and what the answers mean; asking, waiting and repeating is the
//! caller's. It works with any STUN server. One that has two addresses answers everything; with the two ports of one
//! address, some of the answers stay open, and are reported as such.
//!
//! Questions about filtering come from a socket of their own: the mapping tests send to all addresses of the server,
//! which opens the filters towards them.

use std::net::{IpAddr, SocketAddr};

/// Most that two mappings made in a row may lie apart to be called sequential: other users of the NAT take ports in
/// between.
const SEQUENTIAL_GAP: u16 = 15;

/// What a NAT's mapping or filtering depends on (RFC 4787 §4.1 and §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// On nothing but the inner endpoint.
    EndpointIndependent,
    /// On the address of the peer as well.
    AddressDependent,
    /// On the address and the port of the peer as well.
    AddressAndPortDependent,
}

impl Behaviour {
    /// As the RFCs write it.
    pub fn name(self) -> &'static str {
        match self {
            Behaviour::EndpointIndependent => "endpoint-independent",
            Behaviour::AddressDependent => "address-dependent",
            Behaviour::AddressAndPortDependent => "address-and-port-dependent",
        }
    }
}

/// What could be found out about a behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// It was measured.
    Is(Behaviour),
    /// It does not depend on the peer's port. Whether it does on the address cannot be told with one server address.
    EndpointIndependentOrAddressDependent,
    /// It could not be measured.
    Unknown(Obstacle),
}

impl Measured {
    /// The behaviour, if it is certain.
    pub fn known(self) -> Option<Behaviour> {
        match self {
            Measured::Is(behaviour) => Some(behaviour),
            _ => None,
        }
    }

    /// True if it is as good for peers as it gets, as far as could be measured.
    pub fn is_independent_of_port(self) -> bool {
        matches!(
            self,
            Measured::EndpointIndependentOrAddressDependent
                | Measured::Is(Behaviour::EndpointIndependent | Behaviour::AddressDependent)
        )
    }
}

/// Why something could not be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The server names no second port or address, or refuses to answer from there.
    OneServerPort,
    /// The server's second port or address does not answer, for example because of a firewall in front of it.
    AlternateSilent,
}

/// How a NAT chooses external ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The external port is the inner one.
    Preserved,
    /// New mappings get ports in a row, this far apart.
    Sequential {
        /// From one mapping to the next; negative if they count down.
        step: i32,
    },
    /// No rule was seen.
    Random,
}

/// The two sockets a discovery uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Asks from one place to all places.
    Mapping,
    /// Has sent to the server's main endpoint only, until filtering is known.
    Filtering,
}

/// From where the server is asked to answer (RFC 5780 §7.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// From its other address.
    pub address: bool,
    /// From its other port.
    pub port: bool,
}

impl Change {
    /// From where the question went.
    pub const NONE: Change = Change { address: false, port: false };
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a Binding request and report with [`Discovery::handle_outcome`].
    Ask {
        /// From this socket.
        socket: Socket,
        /// To this endpoint.
        to: SocketAddr,
        /// Answered from there.
        change: Change,
        /// Whether silence is a likely outcome, and not worth long patience.
        may_be_silent: bool,
    },
    /// Let the two sockets send to each other's external endpoint, and report with [`Discovery::handle_hairpin`].
    Hairpin {
        /// External endpoint of [`Socket::Mapping`].
        mapping: SocketAddr,
        /// External endpoint of [`Socket::Filtering`].
        filtering: SocketAddr,
    },
}

/// What a server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The endpoint from which it saw the question come.
    pub mapped: SocketAddr,
    /// Its other address and port (OTHER-ADDRESS).
    pub other: Option<SocketAddr>,
    /// Its second port, where it has only one address.
    pub second_port: Option<u16>,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Answered(Answer),
    /// No answer came, in spite of repetitions.
    Silent,
    /// The server cannot do it.
    Refused,
}

/// All that was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The inner endpoint of the mapping socket.
    pub local: SocketAddr,
    /// The endpoints as which the mapping socket is seen from outside, in the order of their making.
    pub external: Vec<SocketAddr>,
    /// Addresses of the server that took part.
    pub server_addresses: u8,
    /// How mappings are made.
    pub mapping: Measured,
    /// Who may send to a mapping.
    pub filtering: Measured,
    /// How ports are chosen.
    pub ports: Ports,
    /// Whether two inner endpoints can reach each other through their external ones; `None` where there is no NAT.
    pub hairpinning: Option<bool>,
}

impl Findings {
    /// True if addresses or ports are translated on the way.
    pub fn is_translated(&self) -> bool {
        self.external.iter().any(|external| *external != self.local)
    }

    /// What it means for hole punching.
    pub fn outlook(&self) -> Outlook {
        match (self.mapping, self.filtering) {
            (_, Measured::Is(Behaviour::EndpointIndependent)) if !self.is_translated() => Outlook::Open,
            (Measured::Is(Behaviour::AddressAndPortDependent | Behaviour::AddressDependent), _) => {
                match self.ports {
                    Ports::Sequential { .. } => Outlook::Predictable,
                    Ports::Preserved | Ports::Random => Outlook::Hard,
                }
            }
            (_, filtering) if filtering.is_independent_of_port() => Outlook::Easy,
            (Measured::Unknown(_), _) => Outlook::Unknown,
            _ => Outlook::Restricted,
        }
    }
}

/// What a NAT means for hole punching, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Anybody can send here at once.
    Open,
    /// One outgoing packet lets a peer in, whatever its NAT does to ports.
    Easy,
    /// Works with every peer whose port can be known beforehand.
    Restricted,
    /// Only with peers that accept packets from unknown ports, or by guessing the next port.
    Predictable,
    /// Only with peers that accept packets from unknown ports, or by trying many.
    Hard,
    /// Too little is known.
    Unknown,
}

/// The questions, in the order in which they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Is anybody there?
    Reach,
    /// The mapping towards the second port.
    MapPort,
    /// The mapping towards the other address.
    MapAddress,
    /// The mapping towards the other address and port.
    MapBoth,
    /// A mapping of the filtering socket.
    Open,
    /// Does an answer from the other address and port come through?
    FilterBoth,
    /// Does an answer from the second port come through?
    FilterPort,
    /// The filtering socket's mapping towards the second port, to see how ports are chosen.
    Sample,
    /// Can the sockets reach each other?
    Hairpin,
    Done,
}

/// Finds out what lies between here and a server.
#[derive(Debug)]
pub struct Discovery {
    server: SocketAddr,
    mapping_local: SocketAddr,
    filtering_local: SocketAddr,
    step: Step,
    other: Option<SocketAddr>,
    second_port: Option<u16>,
    reach: Option<SocketAddr>,
    map_port: Option<SocketAddr>,
    map_address: Option<SocketAddr>,
    map_both: Option<SocketAddr>,
    filtering_external: Option<SocketAddr>,
    filter_both: Option<Outcome>,
    filter_port: Option<Outcome>,
    /// External ports of both sockets as they were seen.
    samples: Vec<(Socket, SocketAddr)>,
    hairpinning: Option<bool>,
}

impl Discovery {
    /// A discovery with the main endpoint of a server and the inner endpoints of two sockets that have not been used.
    pub fn new(server: SocketAddr, mapping_local: SocketAddr, filtering_local: SocketAddr) -> Self {
        Discovery {
            server,
            mapping_local,
            filtering_local,
            step: Step::Reach,
            other: None,
            second_port: None,
            reach: None,
            map_port: None,
            map_address: None,
            map_both: None,
            filtering_external: None,
            filter_both: None,
            filter_port: None,
            samples: Vec::new(),
            hairpinning: None,
        }
    }

    /// The next thing to do, or nothing when [`Discovery::findings`] are complete. Asking twice gives the same action.
    pub fn poll_action(&mut self) -> Option<Action> {
        loop {
            if self.step == Step::Done {
                return None;
            }
            if let Some(action) = self.action() {
                return Some(action);
            }
            self.advance();
        }
    }

    /// What became of the question that [`Discovery::poll_action`] wanted asked.
    pub fn handle_outcome(&mut self, outcome: Outcome) {
        let mapped = match outcome {
            Outcome::Answered(answer) => Some(answer.mapped),
            _ => None,
        };
        match self.step {
            Step::Reach => match outcome {
                Outcome::Answered(answer) => {
                    self.other = answer.other.filter(|other| other.ip() != self.server.ip());
                    let second = answer.other.map(|other| other.port()).or(answer.second_port);
                    self.second_port = second.filter(|port| *port != 0 && *port != self.server.port());
                    self.reach = mapped;
                    self.sample(Socket::Mapping, mapped);
                }
                // Without a first answer, no other means anything.
                _ => {
                    self.step = Step::Done;
                    return;
                }
            },
            Step::MapPort => {
                self.map_port = mapped;
                self.sample(Socket::Mapping, mapped);
            }
            Step::MapAddress => {
                self.map_address = mapped;
                self.sample(Socket::Mapping, mapped);
            }
            Step::MapBoth => {
                self.map_both = mapped;
                self.sample(Socket::Mapping, mapped);
            }
            Step::Open => {
                self.filtering_external = mapped;
                self.sample(Socket::Filtering, mapped);
            }
            Step::FilterBoth => self.filter_both = Some(outcome),
            Step::FilterPort => self.filter_port = Some(outcome),
            Step::Sample => self.sample(Socket::Filtering, mapped),
            Step::Hairpin | Step::Done => return,
        }
        self.advance();
    }

    /// Whether one of the sockets heard the other.
    pub fn handle_hairpin(&mut self, heard: bool) {
        if self.step == Step::Hairpin {
            self.hairpinning = Some(heard);
            self.advance();
        }
    }

    /// What was found out; nothing if the server never answered.
    pub fn findings(&self) -> Option<Findings> {
        let first = self.reach?;
        let mut external = Vec::new();
        for seen in [Some(first), self.map_port, self.map_address, self.map_both].into_iter().flatten() {
            if !external.contains(&seen) {
                external.push(seen);
            }
        }
        Some(Findings {
            local: self.mapping_local,
            external,
            server_addresses: if self.has_second_address() { 2 } else { 1 },
            mapping: self.mapping(first),
            filtering: self.filtering(),
            ports: self.ports(),
            hairpinning: self.hairpinning,
        })
    }

    fn sample(&mut self, socket: Socket, mapped: Option<SocketAddr>) {
        self.samples.extend(mapped.map(|mapped| (socket, mapped)));
    }

    fn advance(&mut self) {
        self.step = match self.step {
            Step::Reach => Step::MapPort,
            Step::MapPort => Step::MapAddress,
            Step::MapAddress => Step::MapBoth,
            Step::MapBoth => Step::Open,
            Step::Open => Step::FilterBoth,
            Step::FilterBoth => Step::FilterPort,
            Step::FilterPort => Step::Sample,
            Step::Sample => Step::Hairpin,
            Step::Hairpin | Step::Done => Step::Done,
        };
    }

    /// The action of the current step, or nothing where it does not apply.
    fn action(&self) -> Option<Action> {
        let ask = |socket, to: Option<SocketAddr>, change, may_be_silent| {
            to.map(|to| Action::Ask { socket, to, change, may_be_silent })
        };
        let server = Some(self.server);
        let second = self.second_port.map(|port| SocketAddr::new(self.server.ip(), port));
        let other_ip = self.other.map(|other| other.ip());
        let let_in = |outcome: Option<Outcome>| matches!(outcome, Some(Outcome::Answered(_)));
        match self.step {
            Step::Reach => ask(Socket::Mapping, server, Change::NONE, false),
            Step::MapPort => ask(Socket::Mapping, second, Change::NONE, false),
            Step::MapAddress => {
                let to = other_ip.map(|ip| SocketAddr::new(ip, self.server.port()));
                ask(Socket::Mapping, to, Change::NONE, false)
            }
            Step::MapBoth => ask(Socket::Mapping, self.other, Change::NONE, false),
            Step::Open => ask(Socket::Filtering, server, Change::NONE, false),
            Step::FilterBoth => {
                // An answer from a place that never answers would say nothing about filters here.
                let to = server.filter(|_| self.map_both.is_some() && self.filtering_external.is_some());
                ask(Socket::Filtering, to, Change { address: true, port: true }, true)
            }
            Step::FilterPort => {
                let needed = self.map_port.is_some() && self.filtering_external.is_some();
                let to = server.filter(|_| needed && !let_in(self.filter_both));
                ask(Socket::Filtering, to, Change { address: false, port: true }, true)
            }
            Step::Sample => {
                let to = second.filter(|_| self.map_port.is_some() && self.filtering_external.is_some());
                ask(Socket::Filtering, to, Change::NONE, false)
            }
            Step::Hairpin => match (self.reach, self.filtering_external) {
                (Some(mapping), Some(filtering)) if mapping != self.mapping_local => {
                    Some(Action::Hairpin { mapping, filtering })
                }
                _ => None,
            },
            Step::Done => None,
        }
    }

    /// The server's other address took part.
    fn has_second_address(&self) -> bool {
        self.map_address.is_some() || self.map_both.is_some()
    }

    /// Why the alternate endpoints were of no use.
    fn obstacle(&self) -> Obstacle {
        if self.second_port.is_some() || self.other.is_some() {
            Obstacle::AlternateSilent
        } else {
            Obstacle::OneServerPort
        }
    }

    fn mapping(&self, first: SocketAddr) -> Measured {
        let of_other_address = [self.map_address, self.map_both];
        let by_port = self.map_port.is_some_and(|mapped| mapped != first)
            || matches!(of_other_address, [Some(one), Some(two)] if one != two);
        let by_address = of_other_address.into_iter().flatten().any(|mapped| mapped != first);
        match (by_port, by_address) {
            (true, _) => Measured::Is(Behaviour::AddressAndPortDependent),
            (false, true) if self.map_port.is_some() || !of_other_address.contains(&None) => {
                Measured::Is(Behaviour::AddressDependent)
            }
            (false, true) => Measured::Unknown(self.obstacle()),
            (false, false) if self.has_second_address() => Measured::Is(Behaviour::EndpointIndependent),
            (false, false) if self.map_port.is_some() => Measured::EndpointIndependentOrAddressDependent,
            (false, false) => Measured::Unknown(self.obstacle()),
        }
    }

    fn filtering(&self) -> Measured {
        match (self.filter_both, self.filter_port) {
            (Some(Outcome::Answered(_)), _) => Measured::Is(Behaviour::EndpointIndependent),
            (Some(Outcome::Silent), Some(Outcome::Answered(_))) => Measured::Is(Behaviour::AddressDependent),
            (_, Some(Outcome::Answered(_))) => Measured::EndpointIndependentOrAddressDependent,
            (_, Some(Outcome::Silent)) => Measured::Is(Behaviour::AddressAndPortDependent),
            (_, Some(Outcome::Refused)) => Measured::Unknown(Obstacle::OneServerPort),
            (_, None) => Measured::Unknown(self.obstacle()),
        }
    }

    fn ports(&self) -> Ports {
        let preserved = |(socket, seen): &(Socket, SocketAddr)| match socket {
            Socket::Mapping => seen.port() == self.mapping_local.port(),
            Socket::Filtering => seen.port() == self.filtering_local.port(),
        };
        if self.samples.iter().all(preserved) {
            return Ports::Preserved;
        }
        let mut made: Vec<SocketAddr> = Vec::new();
        for (_, seen) in &self.samples {
            if !made.contains(seen) {
                made.push(*seen);
            }
        }
        let steps: Vec<i32> =
            made.windows(2).map(|pair| i32::from(pair[1].port()) - i32::from(pair[0].port())).collect();
        let near = |step: &i32| (1..=u32::from(SEQUENTIAL_GAP)).contains(&step.unsigned_abs());
        let one_way = steps.iter().all(|step| *step > 0) || steps.iter().all(|step| *step < 0);
        match steps.iter().min_by_key(|step| step.unsigned_abs()) {
            Some(step) if steps.len() >= 2 && one_way && steps.iter().all(near) => {
                Ports::Sequential { step: *step }
            }
            _ => Ports::Random,
        }
    }
}

/// True for addresses that no NAT of a provider or a home gives to the outside (RFC 1918, 6598, 4193, 3927).
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
#[path = "nat/tests.rs"]
mod tests;
