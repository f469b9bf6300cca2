//! Bounds of the core, each with who pays when it is hit. What an operator may change is a field
//! of [`Limits`] (config section `[limits]`); what the design fixes is a constant.

/// Most shards in one process. Bounds the per-channel interest sets; more cores than this stay
/// unused.
pub const SHARDS_MAX: u16 = 128;

/// Longest channel name in bytes unless the operator says otherwise, and in URLs and patterns.
pub const CHANNEL_NAME_BYTES_MAX: usize = 255;

/// Longest user or client id in bytes. A longer one in a token refuses the token.
pub const USER_ID_BYTES_MAX: usize = 255;

/// Largest message in bytes of a client that has not greeted. A token takes half of it.
pub const STRANGER_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Longest id that a publisher may give a message, in bytes; the publish is refused.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;

/// Deepest nesting of MessagePack or JSON that is walked. Deeper values refuse their sender.
pub const VALUE_DEPTH_MAX: usize = 64;

/// HTTP request head in bytes, request line and headers together, unless the operator says
/// otherwise. Browsers and proxies send up to 16 KiB of cookies and headers of their own.
pub const REQUEST_HEAD_BYTES_MAX: usize = 32 * 1024;

/// Headers in one request. More are answered 431.
pub const REQUEST_HEADERS_MAX: usize = 128;

/// Header of the PROXY protocol in bytes, extensions included. A longer one closes its connection.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// Limits that an operator may change. Every field is per process unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// HTTP request head in bytes, request line and headers together. A longer one is answered 431.
    /// Its sender has not authenticated, so the server pays: up to twice as many bytes for each
    /// connection whose head is incomplete, for `greeting_ms` at most (10 s at the edge, 75 s
    /// between requests). A head that is complete leaves no buffer behind.
    pub request_head_bytes_max: usize,
    /// Largest message in bytes that a client may send, fragments put together; before it has
    /// greeted, never more than 16 KiB. The sender's connection is closed with 1009 (WebSocket) or
    /// closed (TCP). SDKs put up to 200 publishes into one message without looking at its size, and
    /// repeat one that ends their connection.
    pub message_bytes_max: usize,
    /// Most fragments of one message. The sender's connection is closed with 1009.
    pub fragments_max: u32,
    /// Bytes that may wait for one connection. Past it presence is conflated, and whatever cannot
    /// be conflated closes the connection as slow.
    pub send_queue_bytes_max: usize,
    /// Channels one session on the sync wire may be a member of. Further ones are ignored and
    /// counted.
    pub channels_per_session_max: usize,
    /// Channels one Foony session may subscribe to, watch and be a member of, each. Requests for
    /// further ones are refused.
    pub subscriptions_per_session_max: usize,
    /// Channels that one shard owns. Whoever would open a further one is refused.
    pub channels_per_shard_max: usize,
    /// Memory of one shard for messages that are kept and publishes that may be sent again, in
    /// bytes. Past it a publish makes its own channel forget its oldest messages: whoever resumes
    /// from there pays, and is told.
    pub history_bytes_per_shard_max: u64,
    /// Members of one channel. Further ones are ignored and counted.
    pub members_per_channel_max: usize,
    /// Longest channel name in bytes. An update for a longer one is ignored and counted.
    pub channel_name_bytes_max: usize,
    /// State of one member in bytes. A larger update is ignored and counted.
    pub state_bytes_max: usize,
    /// One published message in bytes: name, payload, encoding. A larger one refuses its publish.
    pub publish_bytes_max: usize,
    /// Encoded presence set of one channel in bytes; keeps a full-set frame below the 16 MiB that
    /// clients accept. An update that would pass it is ignored and counted.
    pub presence_set_bytes_max: usize,
    /// Bytes of presence sets that a shard gives its connections at once, and in one turn: what
    /// other channels have to wait for. A channel whose set times its members is more, which is 130
    /// members of 60 bytes with the default, is told in rounds: its members see changes later, as
    /// long as the round before and a rest of the same length take.
    pub presence_burst_bytes_max: usize,
    /// Presence updates per second that one connection may send to owners. Faster ones are
    /// conflated to the newest state per channel; the sender's watchers see it at the next second.
    pub updates_per_second_max: u32,
    /// Connections per shard. Above it new ones are refused at accept, and those that move to the
    /// shard are answered (HTTP 503, WebSocket close 1013) and closed; all are counted.
    pub connections_per_shard_max: u32,
    /// Local subscribers of one channel above which further connections stay on the shard that
    /// accepted them and are served through the mesh (the hot-channel rule).
    pub home_subscribers_max: u32,
    /// Connections a shard may hold above the mean of all shards, in percent, before hand-offs to
    /// it are refused; they stay where they were accepted.
    pub home_overload_percent: u32,
    /// Time for the first complete request or greeting, milliseconds. Then the connection ends.
    pub greeting_ms: u64,
    /// Time for a WebSocket connection to say which protocol it speaks, and for a Foony client to
    /// authenticate, milliseconds. Then the connection ends.
    pub auth_ms: u64,
    /// How often Foony clients are asked to send a ping, milliseconds; 0 asks for none. One that is
    /// silent for twice as long, WebSocket pings unanswered, is taken for dead.
    pub keep_alive_ms: u64,
    /// Silence after which a peer is pinged, milliseconds: a WebSocket ping, or a PingPong of the
    /// sync wire over TCP. 0 pings none but those whose members live by their transport, which are
    /// pinged after a third of the shortest `presence_ttl_ms` in any case.
    pub ping_after_ms: u64,
    /// Silence after which a connection is taken for dead, milliseconds; 0 never.
    pub idle_ms: u64,
    /// Period of the sweep over connections, milliseconds. Adds to every time-out above.
    pub sweep_ms: u64,
    /// Envelopes in one mailbox between two shards, 88 bytes each. With more than 15 shards there
    /// is room for fewer, so that all mailboxes together take no more than 200 MiB. What happens
    /// when one is full is in the overload table in `shard`.
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
