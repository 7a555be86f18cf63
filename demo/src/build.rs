//! Builds the two programs and finds them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Where the two programs are.
#[derive(Debug)]
pub(crate) struct Binaries {
    pub(crate) tuns: PathBuf,
    pub(crate) tunc: PathBuf,
}

/// Lets cargo build both, with its progress shown, and takes the paths from its answer.
pub(crate) fn binaries() -> Result<Binaries> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo told this program about itself would have crates whose build scripts look at it compiled once more.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name_text.starts_with(own)) {
            command.env_remove(&name);
        }
    }
    let output = command
        .args(["build", "--release", "--package", "tuns", "--package", "tunc"])
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started: run this with `cargo run --release -p tun-demo`")?;
    ensure!(output.status.success(), "the programs do not build, see above");
    let messages = String::from_utf8_lossy(&output.stdout);
    let find = |name: &str| {
        let mut executables = messages.lines().filter_map(executable);
        let found = executables.find(|(built, _)| built == name);
        found.map(|(_, path)| path).with_context(|| format!("cargo built no {name}"))
    };
    Ok(Binaries { tuns: find("tuns")?, tunc: find("tunc")? })
}

/// The name and path in one of cargo's messages, if it reports a finished executable.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(path)))
}
