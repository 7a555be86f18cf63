//! The kinds of NATs, as rules for the kernel's packet filter.
//!
//! A router has `wan` and `lan`. One statement a line: nft 1.0.6 wants it so.

use std::net::Ipv4Addr;

use super::Access;

/// What stands between a host and the internet. The names are those that people use; RFC 4787's are in the comments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Nothing.
    Public,
    /// Endpoint-independent mapping and filtering; hairpins.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address-and-port-dependent filtering: most routers at home.
    PortRestricted,
    /// Address-and-port-dependent mapping and filtering, random ports.
    SymmetricRandom,
    /// Address-and-port-dependent mapping and filtering, one port after the other.
    SymmetricSequential,
    /// [`Nat::PortRestricted`] behind another one, the provider's.
    CarrierGrade,
    /// Like [`Nat::PortRestricted`], and no UDP at all.
    UdpBlocked,
}

/// First port of the sequential kind.
const FIRST_PORT: u16 = 20_000;

/// Ports of the sequential kind, which then begins anew.
const PORTS: u16 = 4096;

/// What a router must know to translate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Translation<'a> {
    pub(super) access: Access,
    /// The address of its `wan`.
    pub(super) public: Ipv4Addr,
    /// The addresses behind its `lan`.
    pub(super) inside: &'a str,
}

impl Translation<'_> {
    /// The rules of the router, in place of all that it had.
    pub(super) fn rules(self) -> String {
        let Self { access, public, .. } = self;
        let cone = format!("oifname \"wan\" snat to {public}");
        let rules = match access.nat {
            Nat::Public => String::new(),
            Nat::FullCone => self.open_cone(false),
            Nat::AddressRestricted => self.open_cone(true),
            Nat::PortRestricted | Nat::CarrierGrade => conntrack(&cone, ""),
            Nat::SymmetricRandom => conntrack("oifname \"wan\" masquerade fully-random", ""),
            Nat::SymmetricSequential => {
                let ports: Vec<String> = (0..PORTS).map(|n| format!("{n} : {}", FIRST_PORT + n)).collect();
                let next = format!("numgen inc mod {PORTS} map {{ {} }}", ports.join(", "));
                let udp = format!("oifname \"wan\" meta l4proto udp snat to {public} : {next}");
                conntrack(&format!("{udp}\n{cone}"), "")
            }
            Nat::UdpBlocked => conntrack(&cone, BLOCK_UDP),
        };
        let input = if access.poisoned { "" } else { QUIET_INPUT };
        let forward_v6 = if access.nat == Nat::UdpBlocked { BLOCK_UDP } else { "" };
        format!("flush ruleset\n{rules}\n{input}\n{}", firewall_v6(forward_v6))
    }

    /// Lets peers in that the connection tracker does not know: a map of the open ports sends them to the host. Where that
    /// is restricted, a set remembers to which addresses each port has sent; ports are the same inside and outside. Packets
    /// of the inside to its own outside are turned around, which [`Nat::FullCone`] is to show.
    fn open_cone(self, restricted: bool) -> String {
        let Self { public, inside, .. } = self;
        let (remember, admit) = match restricted {
            true => (
                "oifname \"wan\" meta l4proto udp update @contacted { ip daddr . udp sport }",
                "iifname \"wan\" meta l4proto udp ip saddr . udp dport @contacted accept\n\
                 iifname \"wan\" ct state established,related accept\niifname \"wan\" drop",
            ),
            false => ("", ""),
        };
        let arrives = match restricted {
            true => "iifname \"wan\"".to_owned(),
            false => format!("ip daddr {public}"),
        };
        format!(
            "table ip nat {{
                map open {{
                    type inet_service : ipv4_addr . inet_service
                    flags dynamic,timeout
                    timeout 300s
                    size 65536
                }}
                chain pre {{
                    type nat hook prerouting priority dstnat; policy accept;
                    {arrives} meta l4proto udp dnat to udp dport map @open
                }}
                chain post {{
                    type nat hook postrouting priority srcnat; policy accept;
                    oifname \"lan\" ip saddr {inside} masquerade
                    oifname \"wan\" meta l4proto udp update @open {{ udp sport timeout 300s : ip saddr . udp sport }}
                    oifname \"wan\" snat to {public}
                }}
            }}
            table ip fw {{
                set contacted {{
                    type ipv4_addr . inet_service
                    flags dynamic,timeout
                    timeout 120s
                    size 65536
                }}
                chain post {{
                    type filter hook postrouting priority 0; policy accept;
                    {remember}
                }}
                chain forward {{
                    type filter hook forward priority 0; policy accept;
                    {admit}
                }}
            }}"
        )
    }
}

const BLOCK_UDP: &str = "meta l4proto udp drop";

/// What Linux does by itself: filters by address and port.
fn conntrack(source: &str, forward: &str) -> String {
    format!(
        "table ip nat {{
            chain post {{
                type nat hook postrouting priority srcnat; policy accept;
                {source}
            }}
        }}
        table ip fw {{
            chain forward {{
                type filter hook forward priority 0; policy accept;
                {forward}
                iifname \"wan\" ct state established,related accept
                iifname \"wan\" drop
            }}
        }}"
    )
}

/// What is not asked for never reaches the router itself, or the kernel would take note of it, and give a mapping that is
/// wanted later another port: such a router is called poisoned here.
const QUIET_INPUT: &str = "table ip own {
        chain input {
            type filter hook input priority 0; policy accept;
            iifname \"wan\" ct state new drop
        }
    }";

/// IPv6 is not translated, but guarded.
fn firewall_v6(forward: &str) -> String {
    format!(
        "table ip6 fw {{
            chain forward {{
                type filter hook forward priority 0; policy accept;
                {forward}
                iifname \"wan\" ct state established,related accept
                iifname \"wan\" drop
            }}
        }}"
    )
}
