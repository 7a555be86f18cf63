//! Processor time of processes.

use anyhow::{Context as _, Result};

/// Clock ticks of a second in /proc, the same on every Linux.
const TICKS: f64 = 100.0;

/// Seconds of processor time, in user and kernel mode, that a process has taken so far, to the hundredth.
///
/// # Errors
/// There is no such process.
pub fn seconds(pid: impl std::fmt::Display) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name in parentheses may contain anything; user and system time are the 12th and 13th field behind it.
    let (_, fields) = stat.rsplit_once(") ").with_context(|| format!("{path} has no name"))?;
    let times = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks = times.sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS)
}

/// The same of this process.
///
/// # Errors
/// There is no /proc.
pub fn own_seconds() -> Result<f64> {
    seconds("self")
}
