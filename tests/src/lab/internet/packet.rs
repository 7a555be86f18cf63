//! What the internet reads of a packet, and writes into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers of IP.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    Tcp,
    Udp,
    Other,
}

/// The header of a packet of either version of IP (RFC 791, RFC 8200).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) payload: Payload,
}

impl Header {
    /// Reads it; `None` of what is no packet.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let (from, to, protocol): (IpAddr, IpAddr, u8) = match packet.first()? >> 4 {
            4 => {
                let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
                let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
                (Ipv4Addr::from(from).into(), Ipv4Addr::from(to).into(), packet[9])
            }
            6 => {
                let from: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
                let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
                (Ipv6Addr::from(from).into(), Ipv6Addr::from(to).into(), packet[6])
            }
            _ => return None,
        };
        let payload = match protocol {
            TCP => Payload::Tcp,
            UDP => Payload::Udp,
            _ => Payload::Other,
        };
        Some(Self { from, to, payload })
    }
}

/// What UDP and TCP begin with, and what follows (RFC 768, RFC 9293).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports<'a> {
    pub(super) source: u16,
    pub(super) destination: u16,
    pub(super) bytes: &'a [u8],
}

impl<'a> Ports<'a> {
    /// Reads them behind the header of a packet; `None` where there are none, as in the later fragments of IPv4.
    pub(super) fn of(header: Header, packet: &'a [u8]) -> Option<Self> {
        let skipped = match header.from {
            IpAddr::V4(_) if packet.get(6)? & 0x1f != 0 || *packet.get(7)? != 0 => return None,
            IpAddr::V4(_) => usize::from(packet.first()? & 0xf) * 4,
            IpAddr::V6(_) => 40,
        };
        let segment = packet.get(skipped..)?;
        let skipped = match header.payload {
            Payload::Udp => 8,
            Payload::Tcp => usize::from(segment.get(12)? >> 4) * 4,
            Payload::Other => return None,
        };
        let port = |at: usize| Some(u16::from_be_bytes([*segment.get(at)?, *segment.get(at + 1)?]));
        Some(Self { source: port(0)?, destination: port(2)?, bytes: segment.get(skipped..)? })
    }
}

/// Takes so many hops off what a packet may still go; false if it does not live that long. The packet has a header.
pub(super) fn travel(packet: &mut [u8], hops: u8) -> bool {
    let version = packet[0] >> 4;
    let at = if version == 4 { 8 } else { 7 };
    if packet[at] <= hops {
        return false;
    }
    packet[at] -= hops;
    if version == 4 {
        // RFC 1624, equation 3, for a word that became smaller by `hops << 8`.
        let sum =
            u32::from(!u16::from_be_bytes([packet[10], packet[11]])) + u32::from(!(u16::from(hops) << 8));
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        let check = !u16::try_from(folded).unwrap_or(u16::MAX);
        packet[10..12].copy_from_slice(&check.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum over a header that is right is all ones.
    fn sum(header: &[u8]) -> u32 {
        let sum = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
        (sum & 0xffff) + (sum >> 16)
    }

    #[test]
    fn the_checksum_stays_right_whatever_the_way() {
        // RFC 1071's reference example as found in textbooks: a UDP packet from 192.168.0.1 to 192.168.0.199.
        let packet =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(sum(&packet), 0xffff);
        for hops in 0..64 {
            let mut there = packet;
            assert!(travel(&mut there, hops));
            assert_eq!((there[8], sum(&there)), (64 - hops, 0xffff), "{hops} hops");
        }
        assert!(!travel(&mut packet.clone(), 64));
        let header = Header::of(&packet).unwrap();
        assert_eq!((header.payload, header.to), (Payload::Udp, "192.168.0.199".parse().unwrap()));
        let whole = [&packet[..], &[0xe9, 0x7c, 0x1b, 0x58, 0, 9, 0, 0, 7]].concat();
        assert_eq!(Ports::of(header, &whole), Some(Ports { source: 59_772, destination: 7000, bytes: &[7] }));
        assert_eq!(Ports::of(header, &whole[..27]), None);
    }
}
