//! Between a visitor and the client of a private proxy: two streams coupled, whose bytes the server cannot read.

use crate::clients::Clients;
use bytes::Bytes;
use tun_common::random;
use tun_common::session::{Local, Session, background, coupling};
use tun_proto::wire::control::StreamMeta;
use tun_proto::wire::stream::ResetCode;

/// Bytes that may wait between the two streams, in each direction: two full frames, so that one can be filled while the
/// other is emptied.
const COUPLING: usize = 64 * 1024;

/// Opens the way to `proxy` for a visitor of `user`; returns the end that the visitor's stream is connected to.
///
/// # Errors
/// [`ResetCode::Refused`], for a proxy that does not exist just as for one that the user may not visit.
pub(crate) fn visit(
    clients: &Clients,
    visitor: &Session,
    proxy: &str,
    user: &str,
    source: &str,
) -> Result<Box<dyn Local>, ResetCode> {
    let Some(session) = clients.find_private(proxy, user) else {
        tracing::info!("[{proxy}] visitor from {source} refused: no such proxy for user {user:?}");
        return Err(ResetCode::Refused);
    };
    let meta =
        StreamMeta::Visitor { proxy: proxy.to_owned(), user: user.to_owned(), source: source.to_owned() };
    let meta = Bytes::from(serde_json::to_vec(&meta).unwrap_or_default());
    let (visitors, clients_end) = coupling(COUPLING);
    let patience = clients.settings.user_conn_timeout;
    let clients_end = background(clients_end, &session);
    let pump = session.open(random::id(), meta, clients_end, Some(patience)).ok_or(ResetCode::Refused)?;
    let name = proxy.to_owned();
    let from = source.to_owned();
    tracing::debug!("[{name}] visitor from {from}");
    session.tasks().spawn_to_end(async move {
        let outcome = pump.await;
        tracing::debug!("[{name}] visitor from {from} ended: {outcome:?}");
    });
    Ok(background(visitors, visitor))
}
