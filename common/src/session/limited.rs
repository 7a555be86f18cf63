//! A local end whose bytes count against a limit.

use super::local::Local;
use crate::limit::{Bandwidth, Turn};
use bytes::BytesMut;
use bytes::buf::Limit;
use std::io;
use std::task::{Context, Poll, ready};
use tun_proto::wire::stream::ResetCode;

/// Puts `local` under a limit, with both its directions. It is kept by moving bytes later: nothing is held here, so that
/// both ends of the connection feel it as they feel a slow line.
pub fn limited(local: Box<dyn Local>, bandwidth: &Bandwidth) -> Box<dyn Local> {
    Box::new(Limited { local, reading: bandwidth.turn(), writing: bandwidth.turn() })
}

struct Limited {
    local: Box<dyn Local>,
    reading: Turn,
    writing: Turn,
}

impl Local for Limited {
    /// Nobody has to wait for a turn who has nothing to read.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.local.poll_readable(cx));
        self.reading.poll(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut Limit<&mut BytesMut>) -> Poll<io::Result<usize>> {
        ready!(self.reading.poll(cx));
        buf.set_limit(buf.limit().min(self.reading.room()));
        let read = self.local.poll_read(cx, buf);
        self.reading.end(moved(&read));
        read
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.writing.poll(cx));
        let written = self.local.poll_write(cx, &bytes[..bytes.len().min(self.writing.room())]);
        self.writing.end(moved(&written));
        written
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.local.poll_shutdown(cx)
    }

    fn reset(&mut self) {
        self.local.reset();
    }

    fn is_connection(&self) -> bool {
        self.local.is_connection()
    }

    fn failure(&self) -> ResetCode {
        self.local.failure()
    }
}

fn moved(outcome: &Poll<io::Result<usize>>) -> usize {
    match outcome {
        Poll::Ready(Ok(bytes)) => *bytes,
        _ => 0,
    }
}
