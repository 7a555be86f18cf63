//! The server and the client to measure.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// `tuns` and `tunc`: release binaries, which are built first, or what lies in the directory `TUN_TEST_BINARIES`.
///
/// # Errors
/// Cargo built no such program.
///
/// # Panics
/// When the build fails.
pub fn executables() -> Result<(PathBuf, PathBuf)> {
    if let Some(dir) = std::env::var_os("TUN_TEST_BINARIES") {
        let dir = Path::new(&dir);
        return Ok((dir.join("tuns"), dir.join("tunc")));
    }
    let mut built = tun_tests::binaries::build(true);
    let mut program = |name: &str| built.remove(name).with_context(|| format!("cargo built no {name}"));
    Ok((program("tuns")?, program("tunc")?))
}
