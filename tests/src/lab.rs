//! A small internet in network namespaces, with NATs of every kind.
//!
//! A router in the middle (`net`) connects a server with two public addresses and any number of sites. A site is a host,
//! alone with a public address or behind a router of its own that translates. Everything lies in namespaces of its own:
//! nothing of it is seen from outside, and labs do not meet, whoever runs tests beside.
//!
//! Namespaces are named after the process that made them and go with the lab; those of a process that did not come to
//! its end are swept by the next one. It needs root, `ip` and `nft`; where they are missing, [`Lab::start`] says so.

mod nat;
mod space;

pub use nat::Nat;
pub use space::{Space, find, leave, names, sweep};

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// What the router in the middle is called by its neighbours.
const GATEWAY: &str = "192.0.2.254";

/// The two addresses of the server.
pub const SERVER: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2)];

/// The server's IPv6 address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Says that the running test does not test here.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not by a macro, whose output a passing test would swallow.
    writeln!(std::io::stderr(), "SKIPPED {test}: {why}").ok();
}

/// A network of namespaces.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    net: Space,
    server: Space,
    sites: u8,
}

/// A host, and what stands between it and the internet.
#[derive(Debug)]
pub struct Site {
    host: Space,
    router: Option<Space>,
    address: Ipv4Addr,
    public: Ipv4Addr,
}

impl Lab {
    /// A lab with its server; `None`, with a word about it, where there can be none.
    pub fn start() -> Option<Self> {
        static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
        if let Some(obstacle) = OBSTACLE.get_or_init(space::obstacle) {
            skipped(&format!("no network lab here: {obstacle}"));
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = space::prefix(NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Space::create(&format!("{prefix}-net"));
        net.forward();
        let server = Space::create(&format!("{prefix}-srv"));
        let lab = Lab { prefix, net, server, sites: 0 };
        lab.connect(&lab.server, "srv", &SERVER.map(|address| address.to_string()));
        lab.server.ip(&format!("-6 addr add {SERVER_V6}/128 dev wan nodad"));
        lab.net.ip(&format!("-6 route add {SERVER_V6}/128 via fe80::2 dev srv"));
        Some(lab)
    }

    /// The namespace of the server.
    pub fn server(&self) -> &Space {
        &self.server
    }

    /// Adds a host behind a NAT of some kind.
    pub fn site(&mut self, nat: Nat) -> Site {
        self.sites += 1;
        let number = self.sites;
        let public = Ipv4Addr::new(203, 0, 113, number);
        let link = format!("s{number}");
        let host = Space::create(&format!("{}-h{number}", self.prefix));
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, u16::from(number), 0, 0, 0, 0, 2);
        if nat == Nat::Public {
            self.connect(&host, &link, &[public.to_string()]);
            host.ip(&format!("-6 addr add {v6}/128 dev wan nodad"));
            self.net.ip(&format!("-6 route add {v6}/128 via fe80::2 dev {link}"));
            return Site { host, router: None, address: public, public };
        }
        let router = Space::create(&format!("{}-r{number}", self.prefix));
        router.forward();
        self.connect(&router, &link, &[public.to_string()]);
        self.net.ip(&format!("-6 route add {v6}/64 via fe80::2 dev {link}").replace("::2/64", "::/64"));
        let (gateway, address) = (Ipv4Addr::new(10, 0, number, 1), Ipv4Addr::new(10, 0, number, 2));
        router.ip(&format!("link add lan type veth peer name eth0 netns {}", host.name()));
        router.ip(&format!("addr add {gateway}/24 dev lan"));
        router.ip("-6 addr add fe80::1/64 dev lan nodad");
        router.ip("link set lan up");
        router.ip(&format!("-6 route add {v6}/128 dev lan"));
        host.ip(&format!("addr add {address}/24 dev eth0"));
        host.ip(&format!("-6 addr add {v6}/128 dev eth0 nodad"));
        host.ip("link set eth0 up");
        host.ip(&format!("route add default via {gateway}"));
        host.ip("-6 route add default via fe80::1 dev eth0");
        router.nft(&nat.rules(public, address));
        Site { host, router: Some(router), address, public }
    }

    /// Links a namespace to the middle: its `wan`, whose other end is called `link` there.
    fn connect(&self, space: &Space, link: &str, addresses: &[String]) {
        let net = &self.net;
        net.ip(&format!("link add {link} type veth peer name wan netns {}", space.name()));
        net.ip(&format!("addr add {GATEWAY}/32 dev {link}"));
        net.ip(&format!("-6 addr add fe80::1/64 dev {link} nodad"));
        net.ip(&format!("link set {link} up"));
        space.ip("-6 addr add fe80::2/64 dev wan nodad");
        space.ip("link set wan up");
        for address in addresses {
            space.ip(&format!("addr add {address}/32 dev wan"));
            net.ip(&format!("route add {address}/32 dev {link}"));
        }
        space.ip(&format!("route add {GATEWAY}/32 dev wan"));
        space.ip(&format!("route add default via {GATEWAY} dev wan src {}", addresses[0]));
        space.ip("-6 route add default via fe80::1 dev wan");
    }
}

impl Site {
    /// The namespace of the host.
    pub fn host(&self) -> &Space {
        &self.host
    }

    /// The namespace of the router, if there is one.
    pub fn router(&self) -> Option<&Space> {
        self.router.as_ref()
    }

    /// The host's own address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The address as which the internet knows the site.
    pub fn public(&self) -> Ipv4Addr {
        self.public
    }
}
