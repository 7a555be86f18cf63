//! Between a visitor and the client of a private proxy: two streams coupled, whose bytes the server cannot read.

use bytes::Bytes;
use std::time::Duration;
use tun_common::random;
use tun_common::session::{Local, Session, background, coupling};
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::stream::ResetCode;

/// Bytes that may wait between the two streams, in each direction: two full frames, so that one can be filled while the
/// other is emptied.
const COUPLING: usize = 64 * 1024;

/// Opens the way to `proxy`, which `client` serves, for a visitor of `user`; returns the end that the visitor's stream is
/// connected to.
///
/// # Errors
/// [`ResetCode::Refused`] when the client has as many streams as it may.
pub(crate) fn couple(
    client: &Session,
    visitor: &Session,
    proxy: &str,
    user: &str,
    source: &str,
    patience: Duration,
) -> Result<Box<dyn Local>, ResetCode> {
    let meta =
        StreamMeta::Visitor { proxy: proxy.to_owned(), user: user.to_owned(), source: source.to_owned() };
    let meta = Bytes::from(serde_json::to_vec(&meta).unwrap_or_default());
    let (visitors, clients_end) = coupling(COUPLING);
    let clients_end = background(clients_end, client);
    let pump = client.open(random::id(), meta, clients_end, Some(patience)).ok_or(ResetCode::Refused)?;
    let name = proxy.to_owned();
    let from = source.to_owned();
    tracing::debug!("[{name}] visitor from {from}");
    client.tasks().spawn_to_end(async move {
        let outcome = pump.await;
        tracing::debug!("[{name}] visitor from {from} ended: {outcome:?}");
    });
    Ok(background(visitors, visitor))
}
