//! The first bytes of a multiplexed stream that the peer opened: what it is, and to whom it goes.

use super::Session;
use super::datagram;
use super::reader::Reader;
use super::relayed::{self, RelayedStream};
use crate::link::{Link, LinkStream};
use bytes::{Bytes, BytesMut};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tun_proto::session::stream::put_epitaph;
use tun_proto::wire::beat;
use tun_proto::wire::datagram::{self as channel, Opening};
use tun_proto::wire::relay::{self, Refusal};
use tun_proto::wire::stream::Attach;

/// How long a peer may take to say what a stream is for. Its header leaves together with the opening.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// What the peer opened a multiplexed stream for.
enum Purpose {
    /// The link's own channel, with what followed its first byte.
    Beats(Bytes),
    /// A session stream.
    Attach(Attach),
    /// A relayed stream: what it is for, and its first bytes.
    Relayed(Bytes, Bytes),
    /// A channel of datagrams, and its first bytes.
    Datagrams(Opening, Bytes),
}

/// Takes the peer's streams from a link until it is gone.
pub(super) async fn serve(
    session: &Session,
    link: &Link,
    mut inbound: mpsc::Receiver<LinkStream>,
    beats: impl FnOnce(LinkStream, Bytes) + Send + 'static,
) {
    // Not a channel, whose first block would weigh more than all that comes through it.
    let beats = Arc::new(Mutex::new(Some(beats)));
    while let Some(stream) = inbound.recv().await {
        session.tasks().spawn_to_end(receive(session.clone(), link.clone(), stream, beats.clone()));
    }
}

/// Reads a stream's header, sends it where it belongs, and stays with it if it is a new one.
async fn receive(
    session: Session,
    link: Link,
    mut stream: LinkStream,
    beats: Arc<Mutex<Option<impl FnOnce(LinkStream, Bytes) + Send>>>,
) {
    let mut reader = Reader::default();
    let purpose = tokio::time::timeout(HEADER_DEADLINE, read_purpose(&mut stream, &mut reader)).await;
    match purpose {
        Ok(Ok(Purpose::Beats(rest))) => {
            let beats = beats.lock().unwrap_or_else(PoisonError::into_inner).take();
            match beats {
                Some(beats) => beats(stream, rest),
                None => link.close("the peer opened a second channel for the link"),
            }
        }
        Ok(Ok(Purpose::Relayed(meta, first))) => match RelayedStream::new(&session, &link, stream, first) {
            Ok(stream) => session.inner.handler.relayed(&session, &meta, stream),
            Err(stream) => relayed::refuse(stream, Refusal::Busy).await,
        },
        Ok(Ok(Purpose::Datagrams(opening, first))) => {
            Box::pin(datagram::accept(&session, opening, link, stream, first)).await;
        }
        Ok(Ok(Purpose::Attach(attach))) => Box::pin(session.accept(attach, link, stream, reader)).await,
        Ok(Err(error)) => {
            tracing::debug!(link = link.number(), %error, "a stream without a header");
        }
        Err(_) => tracing::debug!(link = link.number(), "a stream whose header did not arrive"),
    }
}

async fn read_purpose(stream: &mut LinkStream, reader: &mut Reader) -> io::Result<Purpose> {
    loop {
        match reader.peek() {
            Some(beat::OPEN) => return Ok(Purpose::Beats(std::mem::take(reader).into_rest())),
            Some(relay::OPEN) => {
                if let Some(meta) = reader.opening().map_err(io::Error::other)? {
                    return Ok(Purpose::Relayed(meta, std::mem::take(reader).into_unread()));
                }
            }
            Some(channel::OPEN) => {
                if let Some(opening) = reader.channel().map_err(io::Error::other)? {
                    return Ok(Purpose::Datagrams(opening, std::mem::take(reader).into_unread()));
                }
            }
            Some(_) => {
                if let Some(attach) = reader.header().map_err(io::Error::other)? {
                    return Ok(Purpose::Attach(attach));
                }
            }
            None => {}
        }
        let chunk = stream.read_chunk().await?;
        reader.feed(chunk.ok_or(io::ErrorKind::UnexpectedEof)?);
    }
}

/// Answers the opener of a stream that has ended here, or was never known.
pub(super) async fn answer_absent(mut stream: LinkStream, epitaph: Option<u64>) {
    let mut out = BytesMut::new();
    put_epitaph(epitaph, &mut out);
    if stream.write_all(&out).await.is_ok() {
        let _ = std::future::poll_fn(|cx| stream.poll_close(cx)).await;
    }
}
