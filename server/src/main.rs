//! `tuns`, the server of tun.

mod accept;
mod app;
mod cli;
mod clients;
mod control;
mod ingress;
mod quic;
mod reflect;
mod relay;
mod settings;

use cli::Invocation;
use std::io::Write;
use std::process::ExitCode;
use tun_common::config::{Loaded, ServerConfig};
use tun_common::log;

fn main() -> ExitCode {
    let text = match cli::parse() {
        Invocation::Run { config, verbose } => return run(&config, verbose),
        Invocation::Verify { path, warnings } => {
            for warning in warnings {
                eprintln!("tuns: warning: {warning}");
            }
            format!("tuns: the configuration file {} syntax is ok\n", path.display()).into_bytes()
        }
        Invocation::Completions(shell) => cli::completions(shell),
    };
    // Whoever closes the pipe has read enough.
    std::io::stdout().write_all(&text).ok();
    ExitCode::SUCCESS
}

fn run(loaded: &Loaded<ServerConfig>, verbose: bool) -> ExitCode {
    let result = log::init(&loaded.config.log).map_err(anyhow::Error::from).and_then(|guard| {
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(app::run(&loaded.config));
        runtime.shutdown_background();
        drop(guard);
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tuns: {error:#}");
            if verbose {
                error.chain().skip(1).for_each(|cause| eprintln!("  caused by: {cause:?}"));
            }
            ExitCode::FAILURE
        }
    }
}
