//! How the session talks to the pump of a stream.
//!
//! Ten thousand idle streams each have one of these, so it is a short list behind a lock and not a channel, whose
//! first block alone would weigh more than everything else a stream holds.

use super::reader::Reader;
use crate::link::{Link, LinkStream};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};
use tun_proto::wire::stream::{Attach, ResetCode};

/// What a pump may be told.
pub(super) enum Command {
    /// The peer attached the stream to a link.
    Attached {
        /// What it said.
        attach: Attach,
        /// The link.
        link: Link,
        /// The multiplexed stream.
        stream: LinkStream,
        /// What was read beyond the header.
        reader: Reader,
    },
    /// A link came or went, or another one is the best now.
    LinksChanged,
    /// The session is over.
    Fail(ResetCode),
}

/// Commands that the pump has not taken yet.
#[derive(Default)]
pub(super) struct Mailbox(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    commands: Vec<Command>,
    waker: Option<Waker>,
}

impl Mailbox {
    /// Leaves a command and wakes the pump.
    pub(super) fn send(&self, command: Command) {
        let waker = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let repeated = matches!(command, Command::LinksChanged)
                && inner.commands.iter().any(|waiting| matches!(waiting, Command::LinksChanged));
            if !repeated {
                inner.commands.push(command);
            }
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes all commands, and is woken for the next.
    pub(super) fn take(&self, cx: &Context<'_>) -> Vec<Command> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
        std::mem::take(&mut inner.commands)
    }
}
