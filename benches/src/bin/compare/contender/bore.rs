//! bore, which has one client for each service.

use anyhow::{Context as _, Result};
use tun_tests::program::Launch;

use super::TOKEN;
use crate::recipe::{Ready, Recipe, Role};
use crate::stage::{Service, Stage};
use crate::tools::Tools;

pub(super) fn recipe(tools: &Tools, stage: Stage<'_>, services: &[Service]) -> Result<Recipe> {
    let program = tools.bore.as_ref().context("bore is not found")?;
    let ip = stage.server.to_string();
    let server = Launch::of("bore server", program).args([
        "server",
        "--bind-addr",
        &ip,
        "--bind-tunnels",
        &ip,
        "--secret",
        TOKEN,
    ]);
    let client = |service: &Service| {
        let (local, port) = (service.local, service.public_port.to_string());
        let launch = Launch::of("bore client", program)
            .args(["local", &local.port().to_string(), "--local-host", &local.ip().to_string()])
            .args(["--to", &ip, "--port", &port, "--secret", TOKEN]);
        Role { launch: stage.at_client(launch), ready: Ready::Says("listening at", 1) }
    };
    Ok(Recipe {
        server: Some(Role { launch: stage.at_server(server), ready: Ready::Says("server listening", 1) }),
        clients: services.iter().map(client).collect(),
    })
}
