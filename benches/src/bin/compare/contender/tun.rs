//! tun itself.

use tun_benches::crowd::Transport;
use tun_tests::program::Launch;

use super::{CONTROL_PORT, TOKEN, proxies};
use crate::recipe::{Ready, Recipe, Role};
use crate::stage::{Service, Stage};
use crate::tools::Tools;

/// What the server says of each TCP proxy that is public now.
pub(super) const SAYS_OF_A_PROXY: &str = "] listening on";

pub(super) fn recipe(tools: &Tools, stage: Stage<'_>, services: &[Service], transport: Transport) -> Recipe {
    let server = Launch::of("tuns", &tools.tuns).config(&server_config(stage, transport));
    let client = Launch::of("tunc", &tools.tunc).config(&client_config(stage, services, transport));
    Recipe {
        server: Some(Role { launch: stage.at_server(server), ready: Ready::Says("listening on", 1) }),
        clients: vec![Role {
            launch: stage.at_client(client),
            ready: Ready::Says("start proxy success", services.len()),
        }],
    }
}

/// What the programs say against QUIC, if they do.
pub(super) async fn refuses_quic(tools: &Tools) -> Option<String> {
    let stage = Stage::at([127, 0, 0, 1].into());
    for (label, program, config) in [
        ("tuns", &tools.tuns, server_config(stage, Transport::Quic)),
        ("tunc", &tools.tunc, client_config(stage, &[], Transport::Quic)),
    ] {
        let verified = Launch::of(label, program).args(["verify"]).config(&config).run().await;
        if verified.exit.code != Some(0) {
            return Some(format!("{label} does not accept it: {}", verified.output.trim()));
        }
    }
    None
}

fn server_config(stage: Stage<'_>, transport: Transport) -> String {
    let quic =
        if transport == Transport::Quic { format!("quicBindPort = {CONTROL_PORT}\n") } else { String::new() };
    format!("bindAddr = \"{}\"\nbindPort = {CONTROL_PORT}\n{quic}auth.token = \"{TOKEN}\"\n", stage.server)
}

fn client_config(stage: Stage<'_>, services: &[Service], transport: Transport) -> String {
    let transport = match transport {
        Transport::Tls => "",
        Transport::Plain => "transport.tls.enable = false\n",
        Transport::Quic => "transport.protocol = \"quic\"\n",
    };
    format!(
        "serverAddr = \"{}\"\nserverPort = {CONTROL_PORT}\nauth.token = \"{TOKEN}\"\n{transport}{}",
        stage.server,
        proxies(services)
    )
}
