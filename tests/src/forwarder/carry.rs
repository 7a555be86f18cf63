//! One connection through the forwarder, in whatever condition it is.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::{Direction, Shared, Silence};
use crate::net::reset;

/// The condition of a connection. It can only get worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Condition {
    /// Bytes pass.
    #[default]
    Pass,
    /// The connection stays open, and bytes of some direction do not pass.
    Silent {
        /// Towards the target.
        up: Option<Silence>,
        /// From the target.
        down: Option<Silence>,
    },
    /// Both ends get a reset.
    Reset,
}

impl Condition {
    pub(super) fn worsen(&mut self, to: Self) {
        *self = match (*self, to) {
            (Self::Reset, _) | (_, Self::Reset) => Self::Reset,
            (Self::Silent { up, down }, Self::Silent { up: new_up, down: new_down }) => {
                Self::Silent { up: up.or(new_up), down: down.or(new_down) }
            }
            (silent @ Self::Silent { .. }, Self::Pass) => silent,
            (Self::Pass, to) => to,
        };
    }

    fn passes(self, direction: Direction) -> bool {
        self != Self::Reset && self.silence(direction).is_none()
    }

    fn silence(self, direction: Direction) -> Option<Silence> {
        match (self, direction) {
            (Self::Silent { up, .. }, Direction::Up) => up,
            (Self::Silent { down, .. }, Direction::Down) => down,
            (Self::Pass | Self::Reset, _) => None,
        }
    }
}

/// Carries one connection until both directions have ended, or one failed, or it is reset on command.
pub(super) async fn carry(mut near: TcpStream, condition: watch::Receiver<Condition>, shared: Arc<Shared>) {
    let mut on_reset = condition.clone();
    if *condition.borrow() != Condition::Pass {
        // Accepted and never answered: the target does not hear of it.
        wait_for(&mut on_reset, |condition| condition == Condition::Reset).await;
        return reset(near);
    }
    // A peer that cannot set this option is gone already.
    let _ = near.set_nodelay(true);
    let Ok(mut far) = shared.dial().await else {
        return reset(near);
    };
    let (near_reader, near_writer) = near.split();
    let (far_reader, far_writer) = far.split();
    let both = async {
        tokio::try_join!(
            pump(near_reader, far_writer, Direction::Up, condition.clone(), &shared),
            pump(far_reader, near_writer, Direction::Down, condition.clone(), &shared),
        )
    };
    let broken = tokio::select! {
        ended = both => ended.is_err(),
        () = wait_for(&mut on_reset, |condition| condition == Condition::Reset) => true,
    };
    if broken {
        reset(near);
        reset(far);
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut condition: watch::Receiver<Condition>,
    shared: &Shared,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let now = condition.clone();
    let moved = async {
        loop {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                // The other end may be gone: then there is nobody to tell.
                let _ = to.shutdown().await;
                return Ok(());
            }
            if !now.borrow().passes(direction) {
                // As long as its sockets are ready, this loop goes on without anybody else's turn.
                std::future::pending::<()>().await;
            }
            to.write_all(&buffer[..n]).await?;
            shared.count(direction, &buffer[..n]);
            if let Some(pause) = shared.pace(n) {
                tokio::time::sleep(pause).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = wait_for(&mut condition, |condition| condition.silence(direction).is_some()) => (),
        ended = moved => return ended,
    }
    if condition.borrow().silence(direction) == Some(Silence::Discard) {
        while from.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    }
    // A network that swallows does not pass on an end either.
    std::future::pending().await
}

async fn wait_for(condition: &mut watch::Receiver<Condition>, wanted: impl Fn(Condition) -> bool) {
    if condition.wait_for(|now| wanted(*now)).await.is_err() {
        // The forwarder is going away, and with it this task.
        std::future::pending::<()>().await;
    }
}
