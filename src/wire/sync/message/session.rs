//! Handshake, tokens, clocks, keep-alive (`protocols/nodedb.md` section 3.2).

use super::codec::prelude::*;

structs! {
    /// 0x01. The same encoding in every generation.
    #[derive(Default)]
    pub struct Handshake<'a> {
        /// Empty: an anonymous client.
        jwt_token: &'a str,
        vector_clock: Map<&'a str, Map<&'a str, u64>>,
        subscribed_shapes: Vec<&'a str>,
        client_version: &'a str,
        /// Empty: not a Lite client, and `epoch` has no meaning.
        lite_id: &'a str,
        epoch: u64,
        wire_version: u16,
    }

    /// 0x02.
    #[derive(Default)]
    pub struct HandshakeAck<'a> {
        success: bool,
        session_id: &'a str,
        server_clock: Map<&'a str, u64>,
        error: Option<&'a str>,
        fork_detected: bool,
        server_wire_version: u16,
        producer_id: u64 [since V0_4],
        accepted_epoch: u64 [since V0_4],
        /// All zeros: deltas are not signed.
        delta_signing_key: [u8; 32] [since V0_6],
    }

    /// 0x60.
    pub struct TokenRefresh<'a> {
        new_token: &'a str,
    }

    /// 0x61.
    pub struct TokenRefreshAck<'a> {
        success: bool,
        error: Option<&'a str>,
        expires_in_secs: u64,
    }

    /// 0xFF. A pong echoes the timestamp of its ping exactly.
    pub struct PingPong {
        timestamp_ms: u64,
        is_pong: bool,
    }

    /// 0x30.
    pub struct VectorClockSync<'a> {
        clocks: Map<&'a str, u64>,
        sender_id: u64,
    }

    /// 0x52. `suggested_rate`: mutations per second.
    pub struct Throttle {
        throttle: bool,
        queue_depth: u64,
        suggested_rate: u64,
    }
}
