//! `tunc nat`: what lies between this machine and the server, measured with the server's STUN.

mod lifetime;
mod measure;
mod report;

use crate::p2p::interfaces::{anywhere, source_address};
use crate::p2p::portmap;
use report::{Family, Report};
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};

/// How long a TCP connection may take that is only to tell a blocked UDP from an absent server.
const TCP_PATIENCE: Duration = Duration::from_secs(3);

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Host and port of a STUN server.
    pub(crate) server: (String, u16),
    /// JSON instead of text.
    pub(crate) json: bool,
    /// Whether to wait for mappings to die.
    pub(crate) lifetime: bool,
}

/// Measures and prints; fails if the server cannot be reached over UDP.
pub(crate) fn run(question: &Question) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tunc: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(discover(question)) {
        Ok(report) => {
            let text = if question.json { report.json() } else { report.text() };
            // Whoever closes the pipe has read enough.
            std::io::stdout().write_all(text.as_bytes()).ok();
            if report.is_reachable() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("tunc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn discover(question: &Question) -> anyhow::Result<Report> {
    let (host, port) = &question.server;
    let server = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let addresses: Vec<SocketAddr> = lookup_host((host.as_str(), *port))
        .await
        .map_err(|error| anyhow::anyhow!("the address of {server} cannot be found: {error}"))?
        .collect();
    let of_family = |v4: bool| addresses.iter().copied().find(|address| address.is_ipv4() == v4);
    let (ipv4, ipv6, mapping) = tokio::join!(
        family(of_family(true), true, question.lifetime),
        family(of_family(false), false, question.lifetime),
        portmap::probe(),
    );
    let mut report = Report { server, ipv4, ipv6, mapping, tcp: None };
    if !report.is_reachable() {
        let connect = tokio::time::timeout(TCP_PATIENCE, TcpStream::connect((host.as_str(), *port)));
        report.tcp = Some(matches!(connect.await, Ok(Ok(_))));
    }
    Ok(report)
}

async fn family(server: Option<SocketAddr>, v4: bool, lifetime: bool) -> Family {
    let mut family = Family { local: None, server, result: None, lifetime: None };
    let local = source_address(server.unwrap_or(anywhere(v4)));
    family.local = local.as_ref().ok().copied();
    let Some(server) = server else { return family };
    let measured = async {
        let local = local?;
        let findings = measure::measure(server, local).await?;
        if lifetime && findings.is_some() {
            family.lifetime = Some(lifetime::measure(server, local).await.unwrap_or_default());
        }
        std::io::Result::Ok(findings)
    };
    family.result = Some(measured.await.map_err(|error| error.to_string()));
    family
}
