//! Limits on what proxies carry, and how they are decoded.

use super::{problem::Report, schema::Section};
use std::num::NonZeroU64;

/// A limit on what a proxy carries, in both directions and all connections together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BandwidthLimit {
    /// Bytes a second.
    pub rate: NonZeroU64,
    /// Who keeps it; for private services always the client.
    pub mode: LimitMode,
}

/// Who keeps a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitMode {
    /// The client, towards the local service.
    #[default]
    Client,
    /// The server, towards the users.
    Server,
}

/// A rate as files and command lines write it: a number with `KB` or `MB`, of 1024 and 1024² bytes, a second. `None` is
/// no limit, which frp's files may write as 0.
///
/// # Errors
/// What is allowed instead.
pub fn bandwidth_rate(text: &str) -> Result<Option<NonZeroU64>, String> {
    let wrong =
        || format!("must be a number with KB or MB (a second), such as \"512KB\" or \"1.5MB\", not {text:?}");
    let text = text.trim();
    let (number, unit) = match (text.strip_suffix("KB"), text.strip_suffix("MB")) {
        (Some(number), _) => (number, 1024.0),
        (_, Some(number)) => (number, 1024.0 * 1024.0),
        _ => return Err(wrong()),
    };
    // Not what else counts as a number: signs, exponents, infinity.
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(wrong());
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    match NonZeroU64::new((number * unit) as u64) {
        None if number > 0.0 => Err(format!("must be at least one byte a second, not {text:?}")),
        rate => Ok(rate),
    }
}

/// The limit of a proxy. What visitors of a `private` one carry is sealed from the server, or goes past it, so that only
/// the client can keep it.
pub(super) fn limit(
    section: Section<'_>,
    path: &str,
    private: bool,
    report: &mut Report,
) -> Option<BandwidthLimit> {
    let [rate_key, mode_key] = ["transport.bandwidthLimit", "transport.bandwidthLimitMode"];
    let mode = match section.text(mode_key) {
        Some("server") => LimitMode::Server,
        _ => LimitMode::Client,
    };
    let rate = match bandwidth_rate(section.text(rate_key)?) {
        Ok(rate) => rate?,
        Err(why) => {
            report.problem(section.line(rate_key), format!("`{path}.{rate_key}` {why}"));
            return None;
        }
    };
    if private && mode == LimitMode::Server {
        report.warning(section.line(mode_key), format!("`{path}.{mode_key}` = \"server\": {KEPT_BY_CLIENT}"));
        return Some(BandwidthLimit { rate, mode: LimitMode::Client });
    }
    Some(BandwidthLimit { rate, mode })
}

/// What becomes of a private service's limit that the server was to keep.
pub const KEPT_BY_CLIENT: &str =
    "the server cannot tell what visitors of a private service carry, so the client keeps the limit";
