//! The client's program.

mod cli;

use std::{io::Write, process::ExitCode};

use cli::Invocation;

fn main() -> ExitCode {
    let text = match cli::parse() {
        Invocation::Run { config, verbose } => {
            eprintln!("tunc: not wired ({} warnings, verbose: {verbose})", config.warnings.len());
            return ExitCode::FAILURE;
        }
        Invocation::Verify { path, warnings } => {
            for warning in warnings {
                eprintln!("tunc: warning: {warning}");
            }
            format!("tunc: the configuration file {} syntax is ok\n", path.display()).into_bytes()
        }
        Invocation::Completions(shell) => cli::completions(shell),
    };
    // Whoever closes the pipe has read enough.
    std::io::stdout().write_all(&text).ok();
    ExitCode::SUCCESS
}
