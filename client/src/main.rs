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
use tun_common::log::{self, StatusLine};

/// The server refused the client: a wrong token, another version.
const EXIT_REFUSED: u8 = 3;

fn main() -> ExitCode {
    let text = match cli::parse() {
        Invocation::Run { config, verbose } => {
            return run(&config, verbose, false, |_| app::run(&config.config));
        }
        Invocation::Visit { config, stdio, verbose } => {
            return run(&config, verbose, !stdio, |line| app::visit(&config.config, stdio, line));
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

/// Runs a program to its end; it gets a status line if there may be one and the terminal has room for it.
fn run<P: Future<Output = Result<(), Exit>>>(
    loaded: &Loaded<ClientConfig>,
    verbose: bool,
    status: bool,
    program: impl FnOnce(Option<StatusLine>) -> P,
) -> ExitCode {
    let result = serve(loaded, status, program);
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

fn serve<P: Future<Output = Result<(), Exit>>>(
    loaded: &Loaded<ClientConfig>,
    status: bool,
    program: impl FnOnce(Option<StatusLine>) -> P,
) -> Result<(), Exit> {
    let config = &loaded.config.log;
    let log =
        if status { log::init_with_status(config) } else { log::init(config).map(|guard| (guard, None)) };
    let (guard, line) = log.map_err(anyhow::Error::from)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let result = runtime.block_on(program(line));
    runtime.shutdown_background();
    drop(guard);
    result
}
