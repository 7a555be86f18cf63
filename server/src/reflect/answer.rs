//! What a STUN request is answered with, and from where.

use std::net::{IpAddr, SocketAddr};
use tun_common::stun::{self, Received, Response, UNSUPPORTED_CHANGE, canonical, unknown_attributes};

/// One of the server's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) other_address: bool,
    pub(super) other_port: bool,
}

/// What sockets there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) ips: [IpAddr; 2],
    pub(super) ports: [u16; 2],
    pub(super) two_addresses: bool,
    pub(super) two_ports: bool,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    /// The socket that sends it.
    pub(super) from: Place,
    /// Where it goes.
    pub(super) to: SocketAddr,
}

impl Layout {
    /// The endpoint of a place; `local` is the address that the request came to, where the socket has many.
    fn endpoint(&self, place: Place, local: Option<IpAddr>) -> Option<SocketAddr> {
        let ip = match self.ips[usize::from(place.other_address)] {
            any if any.is_unspecified() => local?,
            ip => ip,
        };
        Some(SocketAddr::new(ip, self.ports[usize::from(place.other_port)]))
    }
}

/// Answers a datagram that came from `source` to the socket `at`; with silence, if it is not a Binding request.
pub(super) fn answer(
    datagram: &[u8],
    source: SocketAddr,
    at: Place,
    local: Option<IpAddr>,
    layout: &Layout,
) -> Option<Answer> {
    let Some(Received::Request(request)) = stun::decode(datagram) else { return None };
    let transaction = request.transaction;
    let refuse = |unknown: &[u16]| {
        Some(Answer { bytes: unknown_attributes(transaction, unknown), from: at, to: source })
    };
    if !request.unknown.is_empty() {
        return refuse(&request.unknown);
    }
    let change = request.change;
    if (change.address && !layout.two_addresses) || (change.port && !layout.two_ports) {
        return refuse(UNSUPPORTED_CHANGE);
    }
    let from =
        Place { other_address: at.other_address != change.address, other_port: at.other_port != change.port };
    let opposite = Place { other_address: !at.other_address, other_port: !at.other_port };
    let second = layout.two_ports && !layout.two_addresses && request.asks_second_port;
    let response = Response {
        mapped: canonical(source),
        origin: layout.endpoint(from, local),
        other: layout.two_addresses.then(|| layout.endpoint(opposite, None)).flatten(),
        second_port: second.then(|| layout.ports[usize::from(!at.other_port)]),
    };
    let mut to = source;
    to.set_port(request.response_port.unwrap_or(source.port()));
    Some(Answer { bytes: response.encode(transaction), from, to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tun_common::stun::Request;
    use tun_proto::p2p::nat::Change;

    const MAIN: Place = Place { other_address: false, other_port: false };
    const SOURCE: &str = "203.0.113.5:40000";

    fn layout(two_addresses: bool) -> Layout {
        let first = IpAddr::from([192, 0, 2, 1]);
        let second = if two_addresses { IpAddr::from([192, 0, 2, 2]) } else { first };
        Layout { ips: [first, second], ports: [7000, 7001], two_addresses, two_ports: true }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn asked(change: Change, place: Place, layout: &Layout) -> (Received, Place) {
        let request = Request::new(5.into(), change).encode();
        let answer = answer(&request, at(SOURCE), place, None, layout).unwrap();
        (stun::decode(&answer.bytes).unwrap(), answer.from)
    }

    #[test]
    fn with_two_addresses_all_places_answer_for_each_other() {
        let layout = layout(true);
        for (address, port, origin) in [
            (false, false, "192.0.2.1:7000"),
            (false, true, "192.0.2.1:7001"),
            (true, false, "192.0.2.2:7000"),
            (true, true, "192.0.2.2:7001"),
        ] {
            let (received, from) = asked(Change { address, port }, MAIN, &layout);
            assert_eq!(from, Place { other_address: address, other_port: port });
            let Received::Success(_, response) = received else { panic!("{received:?}") };
            assert_eq!(response.origin, Some(at(origin)));
            assert_eq!(response.other, Some(at("192.0.2.2:7001")));
            assert_eq!((response.mapped, response.second_port), (at(SOURCE), None));
        }
        let (received, from) = asked(
            Change { address: true, port: true },
            Place { other_address: true, other_port: true },
            &layout,
        );
        let Received::Success(_, response) = received else { panic!("{received:?}") };
        assert_eq!((from, response.other), (MAIN, Some(at("192.0.2.1:7000"))));
    }

    #[test]
    fn with_one_address_no_other_is_promised() {
        let (received, from) = asked(Change { address: false, port: true }, MAIN, &layout(false));
        let Received::Success(_, response) = received else { panic!("{received:?}") };
        assert!(from.other_port);
        assert_eq!((response.other, response.second_port), (None, Some(7001)));
        let (received, from) = asked(Change { address: true, port: true }, MAIN, &layout(false));
        assert_eq!((received, from), (Received::Error(5.into(), 420), MAIN));
    }

    #[test]
    fn behind_a_wildcard_the_origin_is_the_address_that_was_asked() {
        let mut layout = layout(false);
        layout.ips = [IpAddr::from([0; 4]); 2];
        let request = Request::new(5.into(), Change::NONE).encode();
        let local = IpAddr::from([10, 9, 8, 7]);
        let answer = answer(&request, at("[::ffff:203.0.113.5]:1"), MAIN, Some(local), &layout).unwrap();
        let Some(Received::Success(_, response)) = stun::decode(&answer.bytes) else { panic!("no success") };
        assert_eq!(response.origin, Some(SocketAddr::new(local, 7000)));
        assert_eq!(response.mapped, at("203.0.113.5:1"));
    }

    #[test]
    fn the_answer_goes_to_another_port_of_the_same_address_if_asked_for() {
        let request = Request { response_port: Some(9), ..Request::new(5.into(), Change::NONE) }.encode();
        let answer = answer(&request, at(SOURCE), MAIN, None, &layout(false)).unwrap();
        assert_eq!((answer.to, answer.from), (at("203.0.113.5:9"), MAIN));
    }

    #[test]
    fn responses_and_noise_are_met_with_silence() {
        let layout = layout(true);
        let response = Response { mapped: at(SOURCE), origin: None, other: None, second_port: None };
        assert_eq!(answer(&response.encode(1.into()), at(SOURCE), MAIN, None, &layout), None);
        assert_eq!(answer(&unknown_attributes(1.into(), &[1]), at(SOURCE), MAIN, None, &layout), None);
        assert_eq!(answer(b"hello", at(SOURCE), MAIN, None, &layout), None);
    }

    #[test]
    fn answers_amplify_little() {
        // On the wire, with the headers of IP and UDP.
        let bare = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        let v4 = answer(&bare, at(SOURCE), MAIN, None, &layout(true)).unwrap();
        assert!((bare.len() + 28) * 5 / 2 >= v4.bytes.len() + 28, "{}", v4.bytes.len());
        let mut v6 = layout(true);
        v6.ips = ["2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        let large = answer(&bare, at("[2001:db8::9]:1"), MAIN, None, &v6).unwrap();
        assert!((bare.len() + 48) * 8 / 3 >= large.bytes.len() + 48, "{}", large.bytes.len());
    }
}
