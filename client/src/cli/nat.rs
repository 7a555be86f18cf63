//! The flags of `tunc nat`.

use super::{Address, Failure, usage};
use crate::nat::Question;
use clap::{Args, Subcommand};
use std::path::Path;
use tun_common::config::{DEFAULT_PORT, Loader, flags};

/// The command under frp's name.
#[derive(Debug, Subcommand)]
pub(super) enum Nathole {
    /// The same as tunc nat
    Discover(NatFlags),
}

pub(super) const NAT_NOTES: &str = "\
It asks the STUN server in tuns, or any other. One with two addresses (stun.altAddr) can tell everything, one with
a single address most. It sends some dozens of small packets and takes a few seconds.

Exit codes: 0 measured, 1 the server cannot be reached over UDP, 2 wrong command line or configuration.";

/// Whom to ask.
#[derive(Debug, Args)]
pub(super) struct NatFlags {
    /// The server [default: the one of the file given by -c]
    #[arg(short, long, value_name = "HOST[:PORT]", visible_alias = "nat-hole-stun-server",
          value_parser = |text: &str| flags::host_and_port(text).map(Address))]
    server_addr: Option<Address>,

    /// The server's port [default: 7000]
    #[arg(short = 'P', long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    server_port: Option<u16>,

    /// Print JSON, for scripts
    #[arg(long)]
    json: bool,

    /// Also find out how long mappings live without traffic; takes up to five minutes
    #[arg(long)]
    lifetime: bool,
}

impl NatFlags {
    pub(super) fn into_question(self, loader: &Loader, file: Option<&Path>) -> Result<Question, Failure> {
        let (host, port) = match (self.server_addr, file) {
            (Some(Address((_, Some(_)))), _) if self.server_port.is_some() => {
                return Err(usage("the server's port is given twice, with -s and with -P"));
            }
            (Some(Address(address)), _) => address,
            (None, Some(path)) => {
                let config = loader.client(path)?.config;
                (config.server_addr, Some(config.server_port))
            }
            (None, None) => {
                return Err(usage("nat needs a server: -s HOST, or a file that names one: -c FILE"));
            }
        };
        let port = self.server_port.or(port).unwrap_or(DEFAULT_PORT);
        Ok(Question { server: (host, port), json: self.json, lifetime: self.lifetime })
    }
}
