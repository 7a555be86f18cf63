//! What is measured, one subject a file.

mod beside;
mod clients;
mod connections;
mod crowd;
mod datagrams;
mod first_byte;
mod requests;
mod start;
mod throughput;
mod wan;

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub(crate) use beside::{ALONE, BESIDE};
pub(crate) use connections::{CLIENT, SERVER};
pub(crate) use crowd::SERVER as ONE_OF_MANY;
pub(crate) use datagrams::RATE;
pub(crate) use first_byte::{MEDIAN as FIRST_BYTE_MEDIAN, TAIL as FIRST_BYTE_TAIL};
pub(crate) use requests::{KEEP_ALIVE, NEW_CONNECTION, rate as request_rate};
pub(crate) use throughput::{cost, rate};
pub(crate) use wan::{GOAL as WAN_GOAL, cell as wan_cell};

use crate::bench::Bench;
use crate::figures::Figures;

/// A subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Measure {
    /// Bulk: MiB/s and the tunnel's processor time for each GiB
    Throughput,
    /// Requests of wrk to nginx: how many, and how long they take
    Requests,
    /// A connection and its first byte
    FirstByte,
    /// A small request beside a bulk transfer
    Beside,
    /// Datagrams: rate, loss, jitter
    Datagrams,
    /// Memory of an idle connection
    Connections,
    /// Memory of an idle client at the server
    Clients,
    /// Memory of each of thousands of idle clients at the server
    Crowd,
    /// From the start of the programs to the first byte
    Start,
    /// Bulk over long lines that lose packets
    Wan,
}

impl Measure {
    /// All, in the order of tables.
    pub(crate) const ALL: [Self; 10] = [
        Self::Throughput,
        Self::Requests,
        Self::FirstByte,
        Self::Beside,
        Self::Datagrams,
        Self::Connections,
        Self::Clients,
        Self::Crowd,
        Self::Start,
        Self::Wan,
    ];

    /// Takes it of all contenders.
    ///
    /// # Errors
    /// It cannot be prepared. A contender that fails is told of, and has no figure.
    pub(crate) async fn take(self, bench: &Bench, figures: &mut Figures) -> Result<()> {
        match self {
            Self::Throughput => throughput::take(bench, figures).await,
            Self::Requests => requests::take(bench, figures).await,
            Self::FirstByte => first_byte::take(bench, figures).await,
            Self::Beside => beside::take(bench, figures).await,
            Self::Datagrams => datagrams::take(bench, figures).await,
            Self::Connections => connections::take(bench, figures).await,
            Self::Clients => clients::take(bench, figures).await,
            Self::Crowd => crowd::take(bench, figures).await,
            Self::Start => start::take(bench, figures).await,
            Self::Wan => wan::take(bench, figures).await,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Throughput => "throughput",
            Self::Requests => "requests",
            Self::FirstByte => "first byte",
            Self::Beside => "beside bulk",
            Self::Datagrams => "datagrams",
            Self::Connections => "idle connections",
            Self::Clients => "idle clients",
            Self::Crowd => "many idle clients",
            Self::Start => "start",
            Self::Wan => "WAN",
        })
    }
}
