//! Bytes for tests that send what no client would.

/// The headers of an upgrade request, for a test that adds to them or breaks off.
pub const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
