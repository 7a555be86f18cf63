//! Frames out of the chunks that a multiplexed stream delivers.
//!
//! A frame is written in one piece and mostly arrives in one, so the common case hands out slices of the chunk that
//! arrived. Only a frame that is split between chunks is put together by copying, and nothing behind it.

use bytes::{Buf, Bytes, BytesMut};
use tun_proto::wire::WireError;
use tun_proto::wire::datagram::Opening;
use tun_proto::wire::relay::take_opening;
use tun_proto::wire::stream::{Attach, Frame};

/// Bytes that arrived and are not decoded yet.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The beginning of what is split between chunks.
    split: BytesMut,
    /// What follows it.
    chunk: Bytes,
}

impl Reader {
    /// Takes in the next chunk.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        self.split.extend_from_slice(&self.chunk);
        self.chunk = chunk;
    }

    /// The next frame, if it is complete.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        while !self.split.is_empty() {
            if let Some(frame) = Frame::decode(&mut self.split)? {
                self.tidy();
                return Ok(Some(frame));
            }
            let missing = Frame::missing(&self.split);
            let here = missing.min(self.chunk.len());
            if here == 0 {
                self.tidy();
                return Ok(None);
            }
            self.split.reserve(missing);
            self.split.extend_from_slice(&self.chunk[..here]);
            self.chunk.advance(here);
        }
        let frame = Frame::decode(&mut self.chunk)?;
        self.tidy();
        Ok(frame)
    }

    /// The header, if it is complete.
    pub(super) fn header(&mut self) -> Result<Option<Attach>, WireError> {
        self.join();
        let header = Attach::decode(&mut self.chunk)?;
        self.tidy();
        Ok(header)
    }

    /// What a relayed stream is for, if its opening is complete.
    pub(super) fn opening(&mut self) -> Result<Option<Bytes>, WireError> {
        self.join();
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
        self.split.first().or(self.chunk.first()).copied()
    }

    /// Everything behind the first byte.
    pub(super) fn into_rest(mut self) -> Bytes {
        self.join();
        self.chunk.advance(1.min(self.chunk.len()));
        self.chunk
    }

    /// What is not decoded yet.
    pub(super) fn into_unread(mut self) -> Bytes {
        self.join();
        self.chunk
    }

    fn join(&mut self) {
        if !self.split.is_empty() {
            self.split.extend_from_slice(&self.chunk);
            self.chunk = std::mem::take(&mut self.split).freeze();
        }
    }

    /// What is empty would still hold the memory of its chunk.
    fn tidy(&mut self) {
        if self.split.is_empty() {
            self.split = BytesMut::new();
        }
        if self.chunk.is_empty() {
            self.chunk = Bytes::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tun_proto::limits::MAX_DATA;

    fn frame() -> impl Strategy<Value = Frame> {
        let len = prop_oneof![9 => 1..300usize, 1 => Just(MAX_DATA)];
        prop_oneof![
            3 => (0..1u64 << 40, len, any::<bool>()).prop_map(|(offset, len, prompt)| Frame::Data {
                offset,
                payload: (0..len).map(|n| n as u8).collect(),
                prompt,
            }),
            1 => any::<u64>().prop_map(|offset| Frame::Ack { offset }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn frames_come_out_whole_however_they_are_cut(
            frames in vec(frame(), 1..20),
            cuts in vec(prop_oneof![1..50usize, 1..40_000usize], 1..50),
        ) {
            let mut wire = BytesMut::new();
            frames.iter().for_each(|frame| frame.encode(&mut wire));
            let mut wire = wire.freeze();
            let (mut reader, mut decoded) = (Reader::default(), Vec::new());
            for cut in cuts.into_iter().cycle() {
                if wire.is_empty() {
                    break;
                }
                reader.feed(wire.split_to(cut.min(wire.len())));
                while let Some(frame) = reader.next_frame().unwrap() {
                    decoded.push(frame);
                }
            }
            prop_assert_eq!(decoded, frames);
            prop_assert!(reader.into_unread().is_empty());
        }
    }
}
