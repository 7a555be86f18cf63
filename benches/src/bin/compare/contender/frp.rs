//! frp: the program that our users come from.

use anyhow::{Context as _, Result};
use tun_tests::program::Launch;

use super::{CONTROL_PORT, TOKEN, proxies};
use crate::recipe::{Ready, Recipe, Role};
use crate::stage::{Service, Stage};
use crate::tools::Tools;

/// What the server says of each TCP proxy that is public now.
pub(super) const SAYS_OF_A_PROXY: &str = "tcp proxy listen port";

/// What client and server speak.
#[derive(Debug, Clone, Copy)]
pub(super) enum Transport {
    Tls,
    Quic,
}

pub(super) fn recipe(
    tools: &Tools,
    stage: Stage<'_>,
    services: &[Service],
    transport: Transport,
) -> Result<Recipe> {
    let (at_server, at_client) = match transport {
        Transport::Tls => (String::new(), ""),
        Transport::Quic => (format!("quicBindPort = {CONTROL_PORT}\n"), "transport.protocol = \"quic\"\n"),
    };
    let ip = stage.server;
    let server = format!(
        "bindAddr = \"{ip}\"\nproxyBindAddr = \"{ip}\"\nbindPort = {CONTROL_PORT}\nauth.token = \"{TOKEN}\"\n{at_server}"
    );
    let client = format!(
        "serverAddr = \"{ip}\"\nserverPort = {CONTROL_PORT}\nauth.token = \"{TOKEN}\"\n{at_client}{}",
        proxies(services)
    );
    let frps = tools.frps.as_ref().context("frps is not found")?;
    let frpc = tools.frpc.as_ref().context("frpc is not found")?;
    Ok(Recipe {
        server: Some(Role {
            launch: stage.at_server(Launch::of("frps", frps).config(&server)),
            ready: Ready::Says("frps started successfully", 1),
        }),
        clients: vec![Role {
            launch: stage.at_client(Launch::of("frpc", frpc).config(&client)),
            ready: Ready::Says("start proxy success", services.len()),
        }],
    })
}
