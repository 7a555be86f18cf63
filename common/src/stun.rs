//! STUN (RFC 8489): Binding requests and responses, with the attributes of NAT behaviour discovery (RFC 5780).
//!
//! This is the only file that knows the codec. What peers send is checked before it is taken apart: a datagram that is
//! not exactly one STUN message is nobody's.
//!
//! One attribute is ours: a server with a single address tells where its second port is, to those that ask. OTHER-ADDRESS
//! cannot say that: to other clients it promises a second address.

mod transaction;

pub use transaction::{AskError, Reply, Retransmission, ask, transaction_id};

use std::net::SocketAddr;
use stun_types::attribute::{
    Attribute, AttributeStaticType, AttributeType, AttributeWrite, ErrorCode, Fingerprint, MappedSocketAddr,
    RawAttribute, Software, UnknownAttributes, XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec,
};
use tun_proto::p2p::nat::Change;

/// The port of STUN (RFC 8489 §18.4), where a host name comes without one and nothing else is known.
pub const DEFAULT_STUN_PORT: u16 = 3478;

/// Longest message that is looked at, in bytes: all that RFC 5780 asks for fits several times.
pub const MAX_MESSAGE: usize = 1280;

/// Bytes of a message's header.
const HEADER: usize = 20;
const MAGIC_COOKIE: [u8; 4] = 0x2112_A442_u32.to_be_bytes();

const RESPONSE_PORT: AttributeType = AttributeType::new(0x0027);
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0001);
const RESPONSE_ORIGIN: AttributeType = AttributeType::new(0x802B);
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802C);
/// Ours, from the range that servers and clients skip when they do not know it: four zero bytes in a request ask, a
/// port and two zero bytes in a response tell.
const SECOND_PORT: AttributeType = AttributeType::new(0xC7E5);

const CHANGE_ADDRESS_FLAG: u32 = 4;
const CHANGE_PORT_FLAG: u32 = 2;

/// What names us in SOFTWARE.
const SOFTWARE: &str = concat!("tun ", env!("CARGO_PKG_VERSION"));

/// Unknown attributes that an error names at most: it must not become much larger than what it answers.
const MAX_UNKNOWN: usize = 8;

/// The 96 bits that bind a response to its request.
pub type TransactionId = stun_types::message::TransactionId;

/// A Binding request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// To be repeated by the response.
    pub transaction: TransactionId,
    /// From where the response should come (CHANGE-REQUEST).
    pub change: Change,
    /// To which port of the sender the response should go, if not where the request came from (RESPONSE-PORT).
    pub response_port: Option<u16>,
    /// Whether the second port of a single address is asked for.
    pub asks_second_port: bool,
    /// Attributes that must be understood and are not.
    pub unknown: Vec<u16>,
}

/// What a response says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Where the request came from, as the server sees it.
    pub mapped: SocketAddr,
    /// Where the server says it sent this from (RESPONSE-ORIGIN).
    pub origin: Option<SocketAddr>,
    /// The server's other address and port (OTHER-ADDRESS).
    pub other: Option<SocketAddr>,
    /// The second port of a server with a single address.
    pub second_port: Option<u16>,
}

/// A STUN message that concerns us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A question.
    Request(Request),
    /// An answer.
    Success(TransactionId, Response),
    /// A refusal, with its code.
    Error(TransactionId, u16),
}

impl Request {
    /// A request of ours; `transaction` must be unpredictable.
    pub fn new(transaction: TransactionId, change: Change) -> Self {
        Request { transaction, change, response_port: None, asks_second_port: true, unknown: Vec::new() }
    }

    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
        let mut message = Message::builder(kind, self.transaction, MessageWriteVec::with_capacity(64));
        put_software(&mut message);
        let flags = if self.change.address { CHANGE_ADDRESS_FLAG } else { 0 }
            | if self.change.port { CHANGE_PORT_FLAG } else { 0 };
        if flags != 0 {
            put(&mut message, CHANGE_REQUEST, &flags.to_be_bytes());
        }
        if let Some(port) = self.response_port {
            put_port(&mut message, RESPONSE_PORT, port);
        }
        if self.asks_second_port {
            put(&mut message, SECOND_PORT, &[0; 4]);
        }
        message.finish()
    }
}

impl Response {
    /// The bytes that answer `request`.
    pub fn encode(&self, transaction: TransactionId) -> Vec<u8> {
        let kind = MessageType::from_class_method(MessageClass::Success, BINDING);
        let mut message = Message::builder(kind, transaction, MessageWriteVec::with_capacity(128));
        let mapped = XorMappedAddress::new(canonical(self.mapped), transaction);
        put_attribute(&mut message, &mapped);
        // RFC 5780 wants the plain form as well, so that meddling on the way is noticed.
        let plain = self.other.map(|_| self.mapped);
        let addresses =
            [(MAPPED_ADDRESS, plain), (RESPONSE_ORIGIN, self.origin), (OTHER_ADDRESS, self.other)];
        for (kind, address) in addresses {
            if let Some(address) = address {
                let address = MappedSocketAddr::new(canonical(address));
                put_attribute(&mut message, &address.to_raw(kind));
            }
        }
        if let Some(port) = self.second_port {
            put_port(&mut message, SECOND_PORT, port);
        }
        put_software(&mut message);
        message.finish()
    }
}

/// The bytes that refuse a request whose `unknown` attributes must be understood (RFC 8489 §6.3.1).
pub fn unknown_attributes(transaction: TransactionId, unknown: &[u16]) -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Error, BINDING);
    let mut message = Message::builder(kind, transaction, MessageWriteVec::with_capacity(96));
    if let Ok(code) = ErrorCode::new(420, "Unknown Attribute") {
        put_attribute(&mut message, &code);
    }
    let mut named: Vec<AttributeType> = Vec::new();
    for kind in unknown.iter().map(|kind| AttributeType::new(*kind)) {
        if named.len() < MAX_UNKNOWN && !named.contains(&kind) {
            named.push(kind);
        }
    }
    put_attribute(&mut message, &UnknownAttributes::new(&named));
    put_software(&mut message);
    message.finish()
}

/// CHANGE-REQUEST as an unknown attribute: how a server says that it cannot do it (RFC 5780 §7.2).
pub const UNSUPPORTED_CHANGE: &[u16] = &[0x0003];

/// Takes a datagram apart; `None` for all that is not a well-formed message of the Binding method.
pub fn decode(datagram: &[u8]) -> Option<Received> {
    if !is_well_formed(datagram) {
        return None;
    }
    let message = Message::from_bytes(datagram).ok()?;
    if message.method() != BINDING {
        return None;
    }
    let transaction = message.transaction_id();
    match message.class() {
        MessageClass::Request => {
            let mut request = Request { asks_second_port: false, ..Request::new(transaction, Change::NONE) };
            for (_, attribute) in message.iter_attributes() {
                let kind = attribute.get_type().value();
                if kind == CHANGE_REQUEST.value() {
                    let flags = u32::from_be_bytes(attribute.value.as_ref().try_into().ok()?);
                    request.change = Change {
                        address: flags & CHANGE_ADDRESS_FLAG != 0,
                        port: flags & CHANGE_PORT_FLAG != 0,
                    };
                } else if kind == RESPONSE_PORT.value() {
                    let port = u16::from_be_bytes(*attribute.value.first_chunk()?);
                    request.response_port = Some(port).filter(|port| *port != 0);
                } else if kind == SECOND_PORT.value() {
                    request.asks_second_port = true;
                } else if kind < 0x8000 && !is_harmless(kind) {
                    request.unknown.push(kind);
                }
            }
            Some(Received::Request(request))
        }
        MessageClass::Success => {
            let address = |kind| {
                let raw = message.raw_attribute(kind)?;
                MappedSocketAddr::from_raw(&raw).ok().map(|address| canonical(address.addr()))
            };
            let xor =
                message.attribute::<XorMappedAddress>().ok().map(|xor| canonical(xor.addr(transaction)));
            let second = message.raw_attribute(SECOND_PORT);
            let second = second.and_then(|raw| raw.value.first_chunk().map(|port| u16::from_be_bytes(*port)));
            let response = Response {
                mapped: xor.or_else(|| address(MAPPED_ADDRESS))?,
                origin: address(RESPONSE_ORIGIN),
                other: address(OTHER_ADDRESS),
                second_port: second.filter(|port| *port != 0),
            };
            Some(Received::Success(transaction, response))
        }
        MessageClass::Error => {
            let code = message.attribute::<ErrorCode>().ok()?.code();
            Some(Received::Error(transaction, code))
        }
        MessageClass::Indication => None,
    }
}

/// The same endpoint without the mapping of IPv4 into IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Header, cookie and lengths, before the codec sees it: it would complain in the log about every stray datagram.
fn is_well_formed(datagram: &[u8]) -> bool {
    if datagram.len() < HEADER || datagram.len() > MAX_MESSAGE || datagram[0] & 0xC0 != 0 {
        return false;
    }
    let length = usize::from(u16::from_be_bytes([datagram[2], datagram[3]]));
    if datagram[4..8] != MAGIC_COOKIE || length + HEADER != datagram.len() || length % 4 != 0 {
        return false;
    }
    let mut rest = &datagram[HEADER..];
    while let [_, _, high, low, value @ ..] = rest {
        let padded = usize::from(u16::from_be_bytes([*high, *low])).next_multiple_of(4);
        match value.get(padded..) {
            Some(next) => rest = next,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Attributes of RFC 8489 that change nothing here: credentials are of no use where everybody is served.
fn is_harmless(kind: u16) -> bool {
    // USERNAME, MESSAGE-INTEGRITY, REALM, NONCE, MESSAGE-INTEGRITY-SHA256, USERHASH.
    matches!(kind, 0x0006 | 0x0008 | 0x0014 | 0x0015 | 0x001C | 0x001E) || kind == Fingerprint::TYPE.value()
}

fn put(message: &mut MessageWriteVec, kind: AttributeType, value: &[u8]) {
    put_attribute(message, &RawAttribute::new(kind, value));
}

/// A port and two bytes that mean nothing.
fn put_port(message: &mut MessageWriteVec, kind: AttributeType, port: u16) {
    let [high, low] = port.to_be_bytes();
    put(message, kind, &[high, low, 0, 0]);
}

fn put_software(message: &mut MessageWriteVec) {
    if let Ok(software) = Software::new(SOFTWARE) {
        put_attribute(message, &software);
    }
}

fn put_attribute(message: &mut MessageWriteVec, attribute: &dyn AttributeWrite) {
    // Refused only are attributes that are there already or come behind an integrity check; neither is.
    let added = message.add_attribute(attribute);
    debug_assert!(added.is_ok(), "{added:?}");
}

#[cfg(test)]
mod tests;
