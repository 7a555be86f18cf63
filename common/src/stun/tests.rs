use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn id(number: u128) -> TransactionId {
    TransactionId::from(number)
}

/// The sample response of RFC 5769 §2.2, which has SOFTWARE, XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY and FINGERPRINT.
const SAMPLE: &[u8] = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
\x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\
\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
\x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
\x80\x28\x00\x04\xc0\x7d\x4c\x96";

#[test]
fn the_sample_of_the_rfc_is_understood() {
    let Some(Received::Success(_, response)) = decode(SAMPLE) else { panic!("not understood") };
    assert_eq!(response.mapped, at("192.0.2.1:32853"));
    assert_eq!((response.origin, response.other, response.second_port), (None, None, None));
}

#[test]
fn requests_and_responses_survive_the_wire() {
    for change in [(false, false), (true, false), (false, true), (true, true)] {
        let change = Change { address: change.0, port: change.1 };
        let request = Request { response_port: Some(1025), ..Request::new(id(7), change) };
        assert_eq!(decode(&request.encode()), Some(Received::Request(request)));
    }
    for mapped in ["192.0.2.9:1234", "[2001:db8::9]:65535"] {
        let response = Response {
            mapped: at(mapped),
            origin: Some(at("192.0.2.1:7000")),
            other: Some(at("[2001:db8::2]:7001")),
            second_port: Some(7001),
        };
        assert_eq!(decode(&response.encode(id(9))), Some(Received::Success(id(9), response)));
    }
}

#[test]
fn ipv4_seen_through_an_ipv6_socket_is_ipv4() {
    let response =
        Response { mapped: at("[::ffff:192.0.2.9]:5"), origin: None, other: None, second_port: None };
    let Some(Received::Success(_, response)) = decode(&response.encode(id(1))) else {
        panic!("not understood")
    };
    assert_eq!(response.mapped, at("192.0.2.9:5"));
}

#[test]
fn what_must_be_understood_and_is_not_is_named() {
    let mut bytes = Request::new(id(1), Change::NONE).encode();
    for kind in [0x7001_u16, 0x0024, 0x9001] {
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 3, 1, 2, 3, 0]);
    }
    let length = (bytes.len() - HEADER) as u16;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let Some(Received::Request(request)) = decode(&bytes) else { panic!("not understood") };
    assert_eq!(request.unknown, [0x7001, 0x0024]);
    let refusal = unknown_attributes(id(1), &request.unknown);
    assert_eq!(decode(&refusal), Some(Received::Error(id(1), 420)));
}

#[test]
fn what_is_not_exactly_one_message_is_nobodys() {
    let good = Request::new(id(1), Change::NONE).encode();
    assert!(decode(&good).is_some());
    for length in 0..good.len() {
        assert_eq!(decode(&good[..length]), None, "cut to {length}");
    }
    let longer = [&good[..], &[0; 4]].concat();
    assert_eq!(decode(&longer), None);
    let mut without_cookie = good.clone();
    without_cookie[4] = 0;
    assert_eq!(decode(&without_cookie), None);
    let mut other_method = good;
    other_method[1] = 3;
    assert_eq!(decode(&other_method), None);
    assert_eq!(decode(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"), None);
}

#[test]
fn requests_are_repeated_as_the_rfc_says() {
    let milliseconds: Vec<u128> = Retransmission::RFC.waits().map(|wait| wait.as_millis()).collect();
    assert_eq!(milliseconds, [500, 1000, 2000, 4000, 8000, 16_000, 8000]);
    assert_eq!(Retransmission::RFC.waits().sum::<Duration>(), Duration::from_millis(39_500));
}

proptest! {
    #[test]
    fn no_datagram_is_too_odd(mut bytes in prop::collection::vec(any::<u8>(), 0..200), shape in 0..3_u8) {
        if shape > 0 && bytes.len() >= HEADER {
            bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
            bytes[..2].copy_from_slice(if shape == 1 { &[0, 1] } else { &[1, 1] });
            bytes.truncate(HEADER + (bytes.len() - HEADER) / 4 * 4);
            let length = (bytes.len() - HEADER) as u16;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
        }
        decode(&bytes);
    }

    #[test]
    fn a_damaged_message_does_no_harm(place in 0..SAMPLE.len(), value in any::<u8>()) {
        let mut bytes = SAMPLE.to_vec();
        bytes[place] = value;
        decode(&bytes);
    }
}
