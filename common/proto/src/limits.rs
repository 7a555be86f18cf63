//! Every number of the protocol, with its reason.

use std::time::Duration;

/// Version of the wire protocol, the fourth byte of every connection.
pub const PROTOCOL_VERSION: u8 = 1;

/// Longest message an unauthenticated peer may send, in bytes. A hello with all its fields is below 1 KiB.
pub const MAX_HANDSHAKE_MESSAGE: usize = 4 * 1024;

/// Longest control message of an authenticated peer, in bytes: a few hundred proxies in one registration.
pub const MAX_CONTROL_MESSAGE: usize = 256 * 1024;

/// Longest description attached to the opening of a stream, in bytes.
pub const MAX_STREAM_META: usize = 4 * 1024;

/// Most payload bytes of one data frame on the wire.
///
/// Together with its header it fills one multiplexer frame of nearly 32 KiB, which costs a fifth less processor time
/// per byte than 16 KiB; larger frames gain nothing and make other streams wait longer. Sizes are such that nothing is
/// left over on any layer: frame and multiplexer header fill two TLS records of [`PEER_RECORD`] bytes, those fill a
/// multiplexer frame of [`MAX_FRAME`] bytes when they are relayed, and that with its header two TLS records.
pub const MAX_DATA: usize = 2 * PEER_RECORD - FRAME_HEADER - DATA_HEADROOM;

/// Most bytes in a multiplexer frame: with its header they fill two TLS records.
pub const MAX_FRAME: usize = 2 * MAX_RECORD - FRAME_HEADER;

/// Most bytes in a TLS record between two peers: two records fill a multiplexer frame.
pub const PEER_RECORD: usize = MAX_FRAME / 2 - RECORD_OVERHEAD;

/// Most bytes in a TLS record (RFC 8446, section 5.1).
const MAX_RECORD: usize = 16 * 1024;

/// What TLS 1.3 adds to a record: header, content type and tag.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;

/// Header of a multiplexer frame (yamux).
const FRAME_HEADER: usize = 12;

/// Bytes kept free in front of a payload for its frame header: type, offset and length at their longest.
pub const DATA_HEADROOM: usize = 16;

/// Unacknowledged bytes a stream may hold to begin with: what fills 20 Mbit/s at 100 ms.
pub const INITIAL_WINDOW: u64 = 256 * 1024;

/// Unacknowledged bytes a stream may grow to: 1 Gbit/s at 100 ms needs 12.5 MB.
pub const MAX_WINDOW: u64 = 16 * 1024 * 1024;

/// Unacknowledged bytes a stream may hold however full its session is, so that a few streams with stuck readers
/// cannot starve the others. The memory of a session is bounded by its cap plus this much for each stream.
pub const WINDOW_FLOOR: u64 = 16 * 1024;

/// Unacknowledged bytes that all streams of a session together may hold, beyond the floor of each.
pub const SESSION_BUDGET: u64 = 64 * 1024 * 1024;

/// What a queued chunk costs beside its bytes; charged so that one-byte writes cannot hold a hundred times
/// their size.
pub const CHUNK_OVERHEAD: u64 = 128;

/// Bytes after which a sender asks for an acknowledgement at the latest; it asks after a quarter of what it may have
/// unacknowledged if that is less. Larger steps save no processor time that can be measured, since a busy receiver
/// delivers more than this at once anyhow, and cost a fifth of the throughput of a short 1 Gbit/s line.
pub const ACK_EVERY: u64 = 64 * 1024;

/// How long an acknowledgement may wait for data to ride along with.
pub const ACK_DELAY: Duration = Duration::from_millis(25);

/// Acknowledgement latency below which queueing is not worth worrying about; see the growth rule of
/// `session::send`.
pub const QUEUEING_SLACK: Duration = Duration::from_millis(10);

/// How long a reset waits for a reader that does not take the bytes before it.
pub const RESET_LINGER: Duration = Duration::from_secs(5);

/// How long a session without any link is kept for its peer to come back, streams and all.
///
/// Longer than a reboot of a home router takes to bring the line back in most cases, and short enough that
/// applications have mostly not given up.
pub const RESUME_WINDOW: Duration = Duration::from_secs(60);

/// How long public ports stay open without a link. A process that died is noticed by its visitors within this
/// time; a link that is merely replaced is back sooner.
pub const LISTEN_WITHOUT_LINK: Duration = Duration::from_secs(4);

/// How long a session must be without a link before another instance of its identity, standing by, may have
/// its place.
pub const VACANT_AFTER: Duration = Duration::from_secs(3);

/// How often a client that stands by asks whether its place is free.
pub const STANDBY_RETRY: Duration = Duration::from_secs(3);

/// One deadline for everything between accepting a connection and its login.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(8);

/// Connections that may be in their handshake at once.
pub const MAX_PENDING_HANDSHAKES: usize = 512;

/// Connections of one address (IPv6: one /64) that may be in their handshake at once.
pub const MAX_PENDING_PER_ADDRESS: usize = 128;

/// Connections in their handshake, of one address (IPv6: one /64) and in all, from which on a newcomer has to show that it
/// is where it says, if the transport leaves that open. An honest client has a few, for some round trips.
pub const UNPROVEN_HANDSHAKES: (usize, usize) = (8, 64);

/// Failed logins an address may make at once before it is refused.
pub const LOGIN_FAILURE_BURST: u32 = 5;

/// Time in which an address earns one more failed login.
pub const LOGIN_FAILURE_REFILL: Duration = Duration::from_secs(6);

/// Finished streams whose outcome is remembered, for a peer that lost the last acknowledgement with its link.
pub const MAX_TOMBSTONES: usize = 1024;

/// Streams one link may carry. The multiplexer counts streams until both sides have forgotten them and opens none
/// beyond its own limit, so ours lies well below [`LINK_STREAM_LIMIT`].
pub const MAX_STREAMS_PER_LINK: usize = 6 * 1024;

/// Relayed streams one session may have. Nobody but their own readers makes room for more bytes of one, so each may
/// hold what the multiplexer grants a stream: 256 KiB, and more only while it is read quickly.
pub const MAX_RELAYED_STREAMS: usize = 1024;

/// Stream limit configured in the multiplexer, equal on both sides.
pub const LINK_STREAM_LIMIT: usize = 8 * 1024;

/// STUN requests that one address may send at once. A whole site may be behind it, whose peers gather their addresses
/// at the same time; with the refill it keeps what a forged source address can make us send to a victim negligible.
pub const STUN_BURST: u32 = 200;

/// Time in which an address earns one more STUN request.
pub const STUN_REFILL: Duration = Duration::from_millis(20);

/// Longest datagram, in bytes: what UDP over IPv4 can carry.
pub const MAX_DATAGRAM: usize = 65_507;

/// What a waiting datagram costs beside its bytes, as with [`CHUNK_OVERHEAD`].
pub const DATAGRAM_OVERHEAD: usize = 128;

/// Bytes of datagrams that wait for a link, for one service and direction: 40 ms at 400 Mbit/s, and 30 of the longest.
pub const DATAGRAM_QUEUE: usize = 2 * 1024 * 1024;

/// After this long nobody waits for a datagram any more: resolvers ask again after 2 to 5 s, and who speaks in real time
/// has lost interest long before.
pub const DATAGRAM_AGE: Duration = Duration::from_secs(2);

/// Flows of one UDP service.
pub const MAX_FLOWS: usize = 4 * 1024;

/// Flows of all UDP services of a session. Each is a socket at the client.
pub const MAX_SESSION_FLOWS: usize = 8 * 1024;

/// How long a flow may be idle: a little less than routers keep a UDP mapping in use, twice what frp has.
pub const FLOW_IDLE: Duration = Duration::from_secs(60);

/// Channels of datagrams that a peer may open in a session.
pub const MAX_DATAGRAM_CHANNELS: usize = 1024;
