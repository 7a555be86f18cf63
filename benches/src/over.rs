//! What lies between the ends of what is measured.

use clap::ValueEnum;
use tun_tests::lab::Internet;

/// Bytes a second that each end of the lab's internet sends: 1 Gbit/s, as users have it.
const RATE: u64 = 125_000_000;

/// What lies between the ends of what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Over {
    /// The loopback device
    Loopback,
    /// The network lab: 1 Gbit/s without delay
    Near,
    /// The network lab: 1 Gbit/s, 25 ms between the middle, where a server is, and each site
    Far,
}

impl Over {
    /// The internet of the lab that this is; `None` where there is none.
    pub fn internet(self) -> Option<Internet> {
        let kind = match self {
            Over::Loopback => return None,
            Over::Near => Internet::NEAR,
            Over::Far => Internet::FAR,
        };
        Some(Internet { rate: Some(RATE), ..kind })
    }
}
