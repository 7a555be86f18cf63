//! rathole.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use tun_tests::program::Launch;

use super::{CONTROL_PORT, TOKEN, public};
use crate::recipe::{Ready, Recipe, Role};
use crate::stage::{Service, Stage};
use crate::tools::Tools;

/// What client and server speak.
#[derive(Debug, Clone, Copy)]
pub(super) enum Transport {
    Plain,
    Noise,
}

pub(super) fn recipe(
    tools: &Tools,
    stage: Stage<'_>,
    services: &[Service],
    transport: Transport,
) -> Result<Recipe> {
    let program = tools.rathole.as_ref().context("rathole is not found")?;
    let ip = stage.server;
    let mut server = format!("[server]\nbind_addr = \"{ip}:{CONTROL_PORT}\"\ndefault_token = \"{TOKEN}\"\n");
    let mut client =
        format!("[client]\nremote_addr = \"{ip}:{CONTROL_PORT}\"\ndefault_token = \"{TOKEN}\"\n");
    if let Transport::Noise = transport {
        let (private, shared) = keys(program)?;
        let table = |side: &str, key: &str| {
            format!("[{side}.transport]\ntype = \"noise\"\n[{side}.transport.noise]\n{key}\n")
        };
        server += &table("server", &format!("local_private_key = \"{private}\""));
        client += &table("client", &format!("remote_public_key = \"{shared}\""));
    }
    for service in services {
        let Service { name, kind, local, .. } = service;
        let kind = kind.word();
        let public = public(stage, service);
        writeln!(server, "[server.services.{name}]\ntype = \"{kind}\"\nbind_addr = \"{public}\"")?;
        writeln!(client, "[client.services.{name}]\ntype = \"{kind}\"\nlocal_addr = \"{local}\"")?;
    }
    let role = |label: &str, text: &str| {
        let launch = Launch::of(label, program);
        let file = launch.write("rathole.toml", text);
        launch.args([file])
    };
    Ok(Recipe {
        server: Some(Role {
            launch: stage.at_server(role("rathole server", &server)),
            ready: Ready::Says("Listening at", 1),
        }),
        clients: vec![Role {
            launch: stage.at_client(role("rathole client", &client)),
            ready: Ready::Says("Control channel established", services.len()),
        }],
    })
}

/// A private key for the server and the public one that belongs to it.
fn keys(program: &Path) -> Result<(String, String)> {
    let output = Command::new(program).arg("--genkey").output().context("rathole --genkey")?;
    let said = String::from_utf8(output.stdout)?;
    let after = |title: &str| {
        let mut lines = said.lines().skip_while(|line| !line.starts_with(title)).skip(1);
        lines.next().map(|line| line.trim().to_owned())
    };
    let keys = after("Private Key").zip(after("Public Key"));
    keys.with_context(|| format!("rathole --genkey said {said:?}"))
}
