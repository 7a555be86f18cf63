//! One of the two programs: started with its command shown, its log shown and waited for, ended gently.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Longest wait for a program to get ready.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Longest wait for a program to end; a little more than it gives its open connections.
const ENDED_WITHIN: Duration = Duration::from_secs(15);

/// A running program. It is killed when this value goes before [`Program::stop`].
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    log: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Prints the command, and starts it.
    pub(crate) fn start(path: &Path, args: &[&str], token: &str) -> Result<Self> {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        println!("   TUN_TOKEN=... {name} {}", args.join(" "));
        let mut command = Command::new(path);
        command
            .args(args)
            .env("TUN_TOKEN", token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C is for this program alone, which then ends the others in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", path.display()))?;
        let log = child.stdout.take().context("its output is a pipe")?;
        Ok(Self { name, child, log: BufReader::new(log).lines() })
    }

    /// Waits for a line of its log with `marker`, and returns the word behind that.
    pub(crate) async fn value_after(&mut self, marker: &str) -> Result<String> {
        let waiting = async {
            while let Some(line) = self.next_line().await? {
                let value = line.split_once(marker).and_then(|(_, rest)| rest.split_whitespace().next());
                if let Some(value) = value {
                    return Ok(value.to_owned());
                }
            }
            let status = self.child.wait().await?;
            bail!("{} ended before it was ready ({status})", self.name)
        };
        let waited = timeout(READY_WITHIN, waiting).await;
        waited.with_context(|| format!("no {marker:?} within {READY_WITHIN:?}"))?
    }

    /// Shows its log until it ends, which it should not do by itself.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        let status = self.exit().await?;
        bail!("{} ended by itself ({status})", self.name)
    }

    /// Asks it to stop, and waits until it has. It may have ended already.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.ask_to_stop()?;
        if timeout(ENDED_WITHIN, self.exit()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }

    async fn exit(&mut self) -> Result<ExitStatus> {
        while self.next_line().await?.is_some() {}
        Ok(self.child.wait().await?)
    }

    async fn next_line(&mut self) -> Result<Option<String>> {
        let line = self.log.next_line().await?;
        if let Some(line) = &line {
            println!("   {} | {line}", self.name);
        }
        Ok(line)
    }

    #[cfg(unix)]
    fn ask_to_stop(&mut self) -> Result<()> {
        use rustix::process::{Pid, Signal, kill_process};
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        match id.and_then(Pid::from_raw) {
            Some(id) => Ok(kill_process(id, Signal::TERM)?),
            None => Ok(()),
        }
    }

    #[cfg(not(unix))]
    fn ask_to_stop(&mut self) -> Result<()> {
        Ok(self.child.start_kill()?)
    }
}
