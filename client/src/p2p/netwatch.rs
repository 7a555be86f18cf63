//! Whether this machine's addresses have changed.

use super::interfaces::host_addresses;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tun_common::lifecycle::Tasks;

/// How long the kernel must be silent before its tables are read: what a person calls one change is a dozen messages.
const QUIET: Duration = Duration::from_millis(250);

/// How long at most is waited for that silence.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// Pause before the kernel is listened to again after that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Tells when this machine's addresses, or the way to the internet, are others than before. Clones look at the same
/// machine, and each is told by itself.
#[derive(Debug, Clone)]
pub(crate) struct NetWatch {
    addresses: watch::Receiver<Arc<[IpAddr]>>,
}

impl NetWatch {
    /// Starts watching, until the group of tasks is stopped.
    pub(crate) fn start(tasks: &Tasks) -> Self {
        let (sender, addresses) = watch::channel(host_addresses().into());
        tasks.spawn(observe(sender));
        NetWatch { addresses }
    }

    /// Waits until [`host_addresses`] are others, or in another order, than at the last return, or at the start.
    /// Cancellation safe.
    pub(crate) async fn changed(&mut self) {
        if self.addresses.changed().await.is_err() {
            // The program is about to end.
            std::future::pending::<()>().await;
        }
    }
}

async fn observe(addresses: watch::Sender<Arc<[IpAddr]>>) {
    loop {
        match kernel::Messages::open() {
            Ok(mut messages) => {
                // Something may have happened before this began.
                look(&addresses);
                while messages.next().await.is_ok() {
                    settle(&mut messages).await;
                    look(&addresses);
                }
            }
            Err(error) => tracing::debug!("changes of the network cannot be watched: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Waits for silence.
async fn settle(messages: &mut kernel::Messages) {
    let latest = Instant::now() + IMPATIENCE;
    loop {
        let quiet = (Instant::now() + QUIET).min(latest);
        tokio::select! {
            biased;
            () = sleep_until(quiet) => return,
            // Whoever listens next learns of an error as well.
            result = messages.next() => if result.is_err() { return },
        }
    }
}

fn look(addresses: &watch::Sender<Arc<[IpAddr]>>) {
    let now = host_addresses();
    addresses.send_if_modified(|known| {
        let changed = known[..] != now[..];
        if changed {
            tracing::debug!("this machine's addresses are now {now:?}");
            *known = now.into();
        }
        changed
    });
}

/// The routing socket of Linux (rtnetlink(7)).
#[cfg(target_os = "linux")]
mod kernel {
    use bytes::BytesMut;
    use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
    use std::io;

    /// Groups of messages (linux/rtnetlink.h): links, and addresses and routes of both families.
    const GROUPS: u32 = LINK | IPV4_ADDRESS | IPV4_ROUTE | IPV6_ADDRESS | IPV6_ROUTE;
    const LINK: u32 = 0x1;
    const IPV4_ADDRESS: u32 = 0x10;
    const IPV4_ROUTE: u32 = 0x40;
    const IPV6_ADDRESS: u32 = 0x100;
    const IPV6_ROUTE: u32 = 0x400;

    /// What a message says is not looked at: the tables say it better.
    const BUFFER: usize = 4096;

    /// More was said than the socket could keep: something has happened all the same.
    const ENOBUFS: i32 = 105;

    pub(super) struct Messages {
        socket: TokioSocket,
        buffer: BytesMut,
    }

    impl Messages {
        pub(super) fn open() -> io::Result<Self> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
            Ok(Messages { socket, buffer: BytesMut::with_capacity(BUFFER) })
        }

        /// Waits until something happens. Cancellation safe.
        pub(super) async fn next(&mut self) -> io::Result<()> {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => Ok(()),
                result => result,
            }
        }
    }
}

/// Where the system is not asked to tell, the tables are looked at now and then.
#[cfg(not(target_os = "linux"))]
mod kernel {
    use std::io;
    use std::time::Duration;

    /// Between two looks.
    const INTERVAL: Duration = Duration::from_secs(5);

    pub(super) struct Messages;

    impl Messages {
        pub(super) fn open() -> io::Result<Self> {
            Ok(Messages)
        }

        /// Waits until it is time to look. Cancellation safe.
        pub(super) async fn next(&mut self) -> io::Result<()> {
            tokio::time::sleep(INTERVAL).await;
            Ok(())
        }
    }
}
