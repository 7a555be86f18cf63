//! Requests of wrk to an nginx behind the tunnel.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;
use tun_tests::net::{Loopback, Place, REMOTE_PORT, SERVICE_PORT};
use tun_tests::service::nginx::Nginx;

use super::Measure;
use crate::bench::Bench;
use crate::figures::{Figures, Sample};
use crate::recipe::Running;
use crate::stage::{Kind, Service, Stage};

/// Bytes of an answer's body: nginx's welcome page, which others measure with.
const BODY: usize = 612;

/// Visitors at a time.
const VISITORS: &str = "32";

/// How visitors use connections, and how wrk is told.
const WAYS: [(&str, &[&str]); 2] =
    [("keep-alive", &[]), ("new connection each", &["--header", "Connection: close"])];

pub(super) async fn take(bench: &Bench, figures: &mut Figures) -> Result<()> {
    let (Some(wrk), Some(_)) = (&bench.tools.wrk, &bench.tools.nginx) else {
        eprintln!("{} is left out: wrk or nginx is not found", Measure::Requests);
        return Ok(());
    };
    let net = Loopback::claim();
    let nginx = Nginx::start(net.at(SERVICE_PORT)).await;
    std::fs::write(nginx.files().join("page"), vec![b'.'; BODY])?;
    let local = nginx.addr();
    let service = Service { name: "web".to_owned(), kind: Kind::Tcp, local, public_port: REMOTE_PORT };
    let all = bench.start_all(&service).await?;
    for (way, arguments) in WAYS {
        let one = async |(running, stage): &(Running, Stage<'_>)| {
            let public = running.public(*stage, &service);
            run(wrk, arguments, bench.extent.seconds, &public, way).await
        };
        bench.rounds(Measure::Requests, figures, &all, |(running, _)| running.contender, one).await;
    }
    Ok(())
}

/// The figure of the rate.
pub(crate) fn rate(way: &str) -> String {
    format!("{way}, requests/s")
}

/// How visitors use connections: one for all their requests.
pub(crate) const KEEP_ALIVE: &str = WAYS[0].0;

/// How visitors use connections: one for each request.
pub(crate) const NEW_CONNECTION: &str = WAYS[1].0;

async fn run(wrk: &Path, arguments: &[&str], seconds: f64, public: &Place, way: &str) -> Result<Vec<Sample>> {
    // It knows whole seconds only.
    let seconds = format!("{}s", seconds.ceil().max(1.0));
    let output = Command::new(wrk)
        .args(["--threads", "1", "--connections", VISITORS, "--duration", &seconds, "--latency"])
        .args(arguments)
        .arg(format!("http://{public}/page"))
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {said}{}", String::from_utf8_lossy(&output.stderr));
    for trouble in ["Non-2xx", "Socket errors"] {
        // Both lines are there only when there is something to count.
        if let Some(line) = said.lines().find(|line| line.contains(trouble)) {
            anyhow::bail!("{way}: {}", line.trim());
        }
    }
    let after = |title: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(title));
        line.map(str::trim).with_context(|| format!("no {title:?} in what wrk said: {said}"))
    };
    Ok(vec![
        Sample::new(rate(way), after("Requests/sec:")?.parse()?),
        Sample::new(format!("{way}, p50 ms"), milliseconds(after("50%")?)?),
        Sample::new(format!("{way}, p99 ms"), milliseconds(after("99%")?)?),
    ])
}

/// A time as wrk writes it.
fn milliseconds(text: &str) -> Result<f64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text.strip_suffix(unit).unwrap_or(text).parse()?;
    Ok(number
        * match unit {
            "us" => 0.001,
            "ms" => 1.0,
            "s" => 1000.0,
            "m" => 60_000.0,
            _ => anyhow::bail!("not a time of wrk: {text}"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_wrk_are_read() {
        let read = ["635.00us", "1.29ms", "2.00s", "1.05m"].map(|text| milliseconds(text).unwrap());
        assert_eq!(read, [0.635, 1.29, 2000.0, 63_000.0]);
        assert!(milliseconds("3 weeks").is_err());
    }
}
