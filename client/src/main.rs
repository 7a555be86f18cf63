//! `tunc`, the client of tun.

mod app;
mod backend;
mod cli;
mod control;
mod dial;
mod identity;
mod nat;
mod p2p;
mod peers;
mod settings;
mod visit;

use app::Exit;
use cli::Invocation;
use std::io::Write;
use std::process::ExitCode;
use tun_common::config::{ClientConfig, Loaded};
use tun_common::log;

/// The server refused the client: a wrong token, another version.
const EXIT_REFUSED: u8 = 3;

fn main() -> ExitCode {
    let text = match cli::parse() {
        Invocation::Run { config, verbose } => return run(&config, verbose, app::run(&config.config)),
        Invocation::Visit { config, stdio, verbose } => {
            return run(&config, verbose, app::visit(&config.config, stdio));
        }
        Invocation::Verify { path, warnings } => {
            for warning in warnings {
                eprintln!("tunc: warning: {warning}");
            }
            format!("tunc: the configuration file {} syntax is ok\n", path.display()).into_bytes()
        }
        Invocation::Nat(question) => return nat::run(&question),
        Invocation::Completions(shell) => cli::completions(shell),
    };
    // Whoever closes the pipe has read enough.
    std::io::stdout().write_all(&text).ok();
    ExitCode::SUCCESS
}

fn run(
    loaded: &Loaded<ClientConfig>,
    verbose: bool,
    program: impl Future<Output = Result<(), Exit>>,
) -> ExitCode {
    let result = serve(loaded, program);
    let Err(exit) = result else { return ExitCode::SUCCESS };
    eprintln!("tunc: {exit:#}");
    if verbose {
        let mut cause = std::error::Error::source(&exit);
        while let Some(error) = cause {
            eprintln!("  caused by: {error:?}");
            cause = error.source();
        }
    }
    match exit {
        Exit::Refused(_) | Exit::NotVisited(_) => ExitCode::from(EXIT_REFUSED),
        Exit::Unreachable(_) | Exit::Failed(_) => ExitCode::FAILURE,
    }
}

fn serve(loaded: &Loaded<ClientConfig>, program: impl Future<Output = Result<(), Exit>>) -> Result<(), Exit> {
    let guard = log::init(&loaded.config.log).map_err(anyhow::Error::from)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let result = runtime.block_on(program);
    runtime.shutdown_background();
    drop(guard);
    result
}
