//! Frames out of the chunks that a multiplexed stream delivers.
//!
//! A frame is written in one piece and mostly arrives in one, so the common case hands out slices of the chunk that
//! arrived. Only what is split between two chunks is put together by copying.

use bytes::{Buf, Bytes, BytesMut};
use tun_proto::wire::WireError;
use tun_proto::wire::datagram::Opening;
use tun_proto::wire::relay::take_opening;
use tun_proto::wire::stream::{Attach, Frame};

/// Bytes that arrived and are not decoded yet.
#[derive(Debug, Default)]
pub(super) struct Reader {
    chunk: Bytes,
}

impl Reader {
    /// Takes in the next chunk.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.chunk.len() + chunk.len());
        joined.extend_from_slice(&self.chunk);
        joined.extend_from_slice(&chunk);
        self.chunk = joined.freeze();
    }

    /// The next frame, if it is complete.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let frame = Frame::decode(&mut self.chunk)?;
        self.tidy();
        Ok(frame)
    }

    /// The header, if it is complete.
    pub(super) fn header(&mut self) -> Result<Option<Attach>, WireError> {
        let header = Attach::decode(&mut self.chunk)?;
        self.tidy();
        Ok(header)
    }

    /// What a relayed stream is for, if its opening is complete.
    pub(super) fn opening(&mut self) -> Result<Option<Bytes>, WireError> {
        let meta = take_opening(&mut self.chunk)?;
        self.tidy();
        Ok(meta)
    }

    /// How a channel of datagrams is attached, if its opening is complete.
    pub(super) fn channel(&mut self) -> Result<Option<Opening>, WireError> {
        let opening = Opening::take(&mut self.chunk)?;
        self.tidy();
        Ok(opening)
    }

    /// The first byte, without taking it.
    pub(super) fn peek(&self) -> Option<u8> {
        self.chunk.first().copied()
    }

    /// Everything behind the first byte.
    pub(super) fn into_rest(mut self) -> Bytes {
        self.chunk.advance(1.min(self.chunk.len()));
        self.chunk
    }

    /// What is not decoded yet.
    pub(super) fn into_unread(self) -> Bytes {
        self.chunk
    }

    /// An empty slice would still hold the memory of its chunk.
    fn tidy(&mut self) {
        if self.chunk.is_empty() {
            self.chunk = Bytes::new();
        }
    }
}
