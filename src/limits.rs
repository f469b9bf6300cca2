//! Limits of the core. Each states what happens when it is reached and which side bears the cost.
//! Configurable limits are fields of [`Limits`] (section `[limits]` of the configuration, whose
//! text in `docs/configuration.md` their doc comments are), fixed ones are constants.

use serde::{Deserialize, Serialize};

/// Maximum number of shards in one process. Bounds the per-channel interest sets. Additional cores
/// stay unused.
pub const SHARDS_MAX: u16 = 128;

/// Default maximum length of a channel name in bytes. Also the maximum in URLs and patterns.
pub const CHANNEL_NAME_BYTES_MAX: usize = 255;

/// Maximum length of a user or client id in bytes. A token with a longer one is refused.
pub const USER_ID_BYTES_MAX: usize = 255;

/// Maximum length in bytes of what the operator says of a user: a claim of a token, of a key, or of
/// the admission hook.
pub const IDENTITY_METADATA_BYTES_MAX: usize = 4096;

/// Maximum size in bytes of a message from an unauthenticated client. A token takes half of it.
pub const UNAUTHENTICATED_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Maximum length of a message id chosen by the publisher, in bytes. A publish with a longer one is
/// refused.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;

/// Maximum nesting depth of MessagePack and JSON values. Deeper values are refused.
pub const VALUE_DEPTH_MAX: usize = 64;

/// Default maximum size of an HTTP request head in bytes, request line and headers together.
/// Browsers and proxies send up to 16 KiB of cookies and additional headers.
pub const REQUEST_HEAD_BYTES_MAX: usize = 32 * 1024;

/// Maximum number of headers in one request. More are answered with 431.
pub const REQUEST_HEADERS_MAX: usize = 128;

/// Maximum size of a PROXY protocol header in bytes, including extensions. A longer one closes the
/// connection.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// `[limits]`: bounds of queues, tables, messages and waiting times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Maximum size of an HTTP request head in bytes, request line and headers together. A longer
    /// one is answered with 431. The client is unauthenticated, so the server bears the cost: up to
    /// twice as many bytes for each connection with an incomplete head, for at most `greeting_ms`
    /// (10 s at the edge, 75 s between requests). A complete head leaves no buffer behind.
    pub request_head_bytes_max: usize,
    /// Maximum size of a client message in bytes, with all its fragments; never more than 16 KiB
    /// before authentication. A larger one closes the connection (with code 1009 on WebSocket).
    /// SDKs put up to 200 publishes into one message regardless of its size, and repeat a message
    /// that closed their connection.
    pub message_bytes_max: usize,
    /// Maximum number of fragments of one message. More close the connection with code 1009.
    pub fragments_max: u32,
    /// Maximum size of the send queue of one connection in bytes. Above it presence is conflated,
    /// messages are dropped or the connection is closed (`slow_consumer`), and replies that do not
    /// fit close the connection.
    pub send_queue_bytes_max: usize,
    /// Maximum number of channels in which one sync session is a member. Further ones are ignored
    /// and counted.
    pub channels_per_session_max: usize,
    /// Maximum number of channels to which one Foony session subscribes, separately for messages,
    /// presence and membership, and of shapes of documents of one sync session. Requests for more
    /// are refused; further shapes are empty.
    pub subscriptions_per_session_max: usize,
    /// Maximum number of channels that one shard owns. Requests that would open another one are
    /// refused.
    pub channels_per_shard_max: usize,
    /// Maximum memory of one shard for stored messages and remembered publishes, in bytes. Above it
    /// a publish evicts the oldest messages of its own channel. Clients that resume from an evicted
    /// position are notified of the gap.
    pub history_bytes_per_shard_max: u64,
    /// Maximum number of members of one channel. Further ones are refused, or on the sync protocol
    /// ignored, and counted.
    pub members_per_channel_max: usize,
    /// Maximum length of a channel name in bytes; on the Foony protocol never above 255. Requests
    /// with a longer one are refused, or on the sync protocol ignored, and counted.
    pub channel_name_bytes_max: usize,
    /// Maximum size of the state of one member in bytes, at most `presence_set_bytes_max`. A larger
    /// update is refused, or on the sync protocol ignored, and counted.
    pub state_bytes_max: usize,
    /// Maximum size of one published message in bytes: name, payload, encoding. A larger publish is
    /// refused.
    pub publish_bytes_max: usize,
    /// Maximum size of the encoded member set of one channel in bytes. Keeps a full-set frame below
    /// the 16 MiB that clients accept. An update that would exceed it is refused, or on the sync
    /// protocol ignored, and counted.
    pub presence_set_bytes_max: usize,
    /// Maximum bytes of presence snapshots that a shard enqueues at once, and in one turn; bounds
    /// the delay for other channels. A channel whose set size times member count is larger (130
    /// members of 60 bytes by default) is updated in sweeps: its members see changes later, by up
    /// to the duration of the previous sweep and a pause of the same length.
    pub presence_burst_bytes_max: usize,
    /// Maximum presence updates per second that one connection sends to owners. Faster updates are
    /// conflated to the latest state per channel, which is delivered in the next second.
    pub updates_per_second_max: u32,
    /// How long after a change the members of a channel are compared with the copies that peers of
    /// the presence graph have, milliseconds.
    pub peer_digest_ms: u64,
    /// Maximum connections per shard. Above it new ones are refused on accept. Connections that
    /// move to the shard are answered (HTTP 503, WebSocket close 1013) and closed. All are counted.
    pub connections_per_shard_max: u32,
    /// Maximum local subscribers of one channel. Further connections stay on the shard that
    /// accepted them and are served through the mesh (hot channel).
    pub home_subscribers_max: u32,
    /// Connections that a shard may have above the mean of all shards, in percent. Above it
    /// handoffs to the shard are refused, and the connections stay where they were accepted.
    pub home_overload_percent: u32,
    /// Time for the first complete request or protocol message, milliseconds. Then the connection
    /// is closed.
    pub greeting_ms: u64,
    /// Time for the first WebSocket message, which selects the protocol, and for a Foony client to
    /// authenticate, milliseconds. Then the connection is closed.
    pub auth_ms: u64,
    /// Interval at which Foony clients are asked to send a ping, milliseconds; 0 disables it. A
    /// client that is silent for twice as long and does not answer WebSocket pings is considered
    /// dead.
    pub keep_alive_ms: u64,
    /// Silence after which the server pings a client, milliseconds: a WebSocket ping, or a
    /// `PingPong` of the sync protocol over TCP. 0 disables it, except for members whose heartbeat
    /// is their transport: these are pinged after a third of the shortest `presence_ttl_ms` in any
    /// case.
    pub ping_after_ms: u64,
    /// Silence after which a connection is considered dead, milliseconds, above `ping_after_ms`; 0
    /// disables it.
    pub idle_ms: u64,
    /// Interval between timeout checks of connections, milliseconds. Adds to every timeout above.
    pub sweep_ms: u64,
    /// Capacity of one mailbox between two shards, in envelopes of 88 bytes. With more than 15
    /// shards the capacity is lower, so that all mailboxes together take at most 200 MiB.
    /// `docs/refusals.md` has what happens when one is full.
    pub mailbox_envelopes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_head_bytes_max: REQUEST_HEAD_BYTES_MAX,
            message_bytes_max: 4 * 1024 * 1024,
            fragments_max: 1024,
            send_queue_bytes_max: 1024 * 1024,
            channels_per_session_max: 64,
            subscriptions_per_session_max: 1024,
            channels_per_shard_max: 250_000,
            history_bytes_per_shard_max: 1024 * 1024 * 1024,
            members_per_channel_max: 16 * 1024,
            channel_name_bytes_max: CHANNEL_NAME_BYTES_MAX,
            state_bytes_max: 64 * 1024,
            publish_bytes_max: 256 * 1024,
            presence_set_bytes_max: 8 * 1024 * 1024,
            presence_burst_bytes_max: 1024 * 1024,
            updates_per_second_max: 10_000,
            peer_digest_ms: 10_000,
            connections_per_shard_max: 1_000_000,
            home_subscribers_max: 5_000,
            home_overload_percent: 30,
            greeting_ms: 10_000,
            auth_ms: 5_000,
            keep_alive_ms: 15_000,
            ping_after_ms: 40_000,
            idle_ms: 90_000,
            sweep_ms: 500,
            mailbox_envelopes_max: 8_192,
        }
    }
}
