//! Two nginx one behind the other, which pass bytes on and do nothing else: a tunnel has two hops as well.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use tun_tests::program::Launch;

use super::{CONTROL_PORT, public};
use crate::recipe::{Ready, Recipe, Role};
use crate::stage::{Kind, Service, Stage};
use crate::tools::Tools;

/// What is added to a public port for the second hop's.
const SECOND_HOP: u16 = 3000;

/// Connections of one process. A hop takes two for each that it passes on.
const CONNECTIONS: usize = 16_384;

pub(super) fn recipe(tools: &Tools, stage: Stage<'_>, services: &[Service]) -> Result<Recipe> {
    let first_hop = |service: &Service| (public(stage, service), second(stage, service));
    let second_hop = |service: &Service| (second(stage, service), service.local);
    let server = services.iter().map(|service| (service.kind, first_hop(service)));
    let client = services.iter().map(|service| (service.kind, second_hop(service)));
    let (at_server, at_client) =
        (SocketAddr::new(stage.server, CONTROL_PORT), SocketAddr::new(stage.client, CONTROL_PORT + 1));
    Ok(Recipe {
        server: Some(Role {
            launch: stage.at_server(hop(tools, "nginx server", at_server, server)?),
            ready: Ready::Accepts(at_server),
        }),
        clients: vec![Role {
            launch: stage.at_client(hop(tools, "nginx client", at_client, client)?),
            ready: Ready::Accepts(at_client),
        }],
    })
}

fn second(stage: Stage<'_>, service: &Service) -> SocketAddr {
    SocketAddr::new(stage.client, service.public_port + SECOND_HOP)
}

/// A process that passes on what comes to addresses, and besides accepts connections at one where it tells that it is there.
fn hop(
    tools: &Tools,
    label: &str,
    there: SocketAddr,
    ways: impl Iterator<Item = (Kind, (SocketAddr, SocketAddr))>,
) -> Result<Launch> {
    let launch = Launch::of(label, tools.nginx.as_ref().context("nginx is not found")?);
    let dir = launch.dir().display().to_string();
    let module = tools.nginx_stream.as_ref().map(|file| format!("load_module {};\n", file.display()));
    let mut config = format!(
        "{}daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\n\
         events {{ worker_connections {CONNECTIONS}; }}\nstream {{\nserver {{ listen {there}; return ''; }}\n",
        module.unwrap_or_default()
    );
    for (kind, (from, to)) in ways {
        let udp = if kind == Kind::Udp { " udp" } else { "" };
        writeln!(config, "server {{ listen {from}{udp}; proxy_pass {to}; }}")?;
    }
    config += "}\n";
    let file = launch.write("nginx.conf", &config);
    Ok(launch.args([Path::new("-c"), &file, Path::new("-e"), Path::new("stderr")]))
}
