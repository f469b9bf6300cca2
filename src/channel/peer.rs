//! What a member says of itself in all channels: the device that it runs on, and its metadata.

use bytes::Bytes;

/// Bytes of a peer key that is derived.
pub const PEER_KEY_BYTES: usize = 16;

/// A node of the presence graph. Connections with one key are one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub key: [u8; PEER_KEY_BYTES],
    pub device_name: Box<str>,
    /// In the words of the client.
    pub os: Box<str>,
    pub sdk_version: Box<str>,
    /// A JSON object as the client wrote it; checked.
    pub metadata: Bytes,
}

impl Peer {
    /// What it adds to the size of its member in an encoded set, in bytes.
    pub fn encoded_bytes(&self) -> usize {
        const LENGTHS_BYTES: usize = 5 * 5;
        LENGTHS_BYTES
            + PEER_KEY_BYTES
            + self.device_name.len()
            + self.os.len()
            + self.sdk_version.len()
            + self.metadata.len()
    }
}
