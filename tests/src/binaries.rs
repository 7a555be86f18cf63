//! Where the two programs under test are.
//!
//! Cargo does not tell a package the paths of another one's binaries, and builds them before these tests only in
//! some of the ways to start them. So the first test of a process asks cargo to build both, which is a matter of
//! milliseconds when they are up to date, and takes the paths from its answer.
//!
//! `TUN_TEST_PROFILE=release` tests release binaries; `TUN_TEST_BINARIES=DIR` tests what lies in DIR as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The server, `tuns`.
pub fn tuns() -> PathBuf {
    binary("tuns")
}

/// The client, `tunc`.
pub fn tunc() -> PathBuf {
    binary("tunc")
}

fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    if let Some(dir) = std::env::var_os("TUN_TEST_BINARIES") {
        return Path::new(&dir).join(name);
    }
    let built = BUILT.get_or_init(|| build(std::env::var("TUN_TEST_PROFILE").as_deref() == Ok("release")));
    built.get(name).unwrap_or_else(|| panic!("cargo built no {name}")).clone()
}

/// Builds both programs and returns the path of each by its name.
pub fn build(release: bool) -> BTreeMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // With a test among the targets and all packages selected, features are resolved as for `cargo test --workspace`,
    // and nothing is built a second time. What is released has no tests to be built for.
    let rest: &[&str] = if release { &["--release"] } else { &["--test", "harness"] };
    command
        .args(["build", "--quiet", "--workspace", "--bin", "tuns", "--bin", "tunc"])
        .args(rest)
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit());
    // What cargo told this test about itself is no concern of the build; build scripts that look at such variables would
    // have their crates, and all above them, compiled once more.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.starts_with(own)))
        {
            command.env_remove(name);
        }
    }
    let output = command.output().expect("cargo can be started");
    assert!(output.status.success(), "tuns and tunc do not build");
    String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect()
}

/// The name and path in one of cargo's messages, if it reports a finished executable.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(path)))
}
