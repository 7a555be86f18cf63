//! tun at work, in one command and on one machine.
//!
//! Starts a small HTTP service on a port of its own, a server, and a client that exposes the service there; prints
//! the public address, and stays up until Ctrl-C. Nothing is installed and no file is written but the build.

use std::io;

use anyhow::{Context, Result};
use ring::rand::{SecureRandom, SystemRandom};

use crate::program::Program;

mod build;
mod program;
mod service;

/// The name of the proxy in the logs.
const PROXY: &str = "demo";

#[tokio::main]
async fn main() -> Result<()> {
    println!("Building tuns (the server) and tunc (the client).");
    let binaries = build::binaries()?;
    let token = token()?;

    println!("\n1. A private service, which only this machine can reach:");
    let service = service::start().await?;
    println!("   http://{service}");

    println!("\n2. A server. On a machine with a public address you would run:");
    // Port 0 lets the system choose a free one. The token is in the environment, where other users do not see it.
    let mut tuns = Program::start(&binaries.tuns, &["--bind-addr", "127.0.0.1", "--bind-port", "0"], &token)?;
    let server = tuns.value_after("listening on ").await?;

    println!("\n3. A client, next to the service. Remote port 0 lets the server choose:");
    let local_port = service.port().to_string();
    let args = ["tcp", "-s", &server, "-l", &local_port, "-r", "0", "-n", PROXY];
    let mut tunc = Program::start(&binaries.tunc, &args, &token)?;
    let public = tunc.value_after(&format!("[{PROXY}] start proxy success, public address ")).await?;
    service::check(&public).await.context("the service does not answer at its public address")?;

    println!("\nThe service is public now, at\n\n    http://{public}\n");
    println!("Try it, in another terminal or a browser:\n\n    curl http://{public}\n");
    println!(
        "What you ask there goes to tuns, through one encrypted connection to tunc, and to the service."
    );
    println!("Ctrl-C ends everything.\n");

    let stopped = tokio::select! {
        asked = asked_to_stop() => asked.context("waiting for Ctrl-C"),
        ended = tuns.ended() => ended,
        ended = tunc.ended() => ended,
    };
    println!("\nStopping: first the client, then the server.");
    tunc.stop().await?;
    tuns.stop().await?;
    stopped
}

/// A secret that lasts as long as the demonstration.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Waits for Ctrl-C, or for the terminal or a service manager to end us.
#[cfg(unix)]
async fn asked_to_stop() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    }
}

/// Waits for Ctrl-C.
#[cfg(not(unix))]
async fn asked_to_stop() -> io::Result<()> {
    tokio::signal::ctrl_c().await
}
