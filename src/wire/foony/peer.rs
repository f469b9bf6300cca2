//! The graph extension: what peers of the presence graph say and are sent besides the protocol of
//! Foony (`docs/protocol.md`). Binary only.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use strum::FromRepr;

use super::Member;
use crate::signature::{MetadataSignature, ProvenKey};

/// What a client says of itself. Behind the greeting, in the same message, it makes the client a
/// peer; later it replaces what was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerUpdate<'a> {
    /// 0 behind the greeting.
    pub id: u64,
    /// Tells the devices of a user apart; at most [`DEVICE_BYTES_MAX`] bytes.
    pub device: Cow<'a, [u8]>,
    pub device_name: Cow<'a, str>,
    pub os: Cow<'a, str>,
    pub sdk_version: Cow<'a, str>,
    /// How long the client may take to decide who may connect to it, milliseconds; 0 when it does
    /// not decide.
    pub asks_ms: u64,
    /// Tells the deciders of one client apart.
    pub handler: u64,
    /// A JSON object.
    pub metadata: Cow<'a, [u8]>,
    /// Of a client that signs; its key as a peer from here on.
    pub key: Option<Box<ProvenKey>>,
    /// Of `metadata`, by `key`.
    pub signature: Option<Box<MetadataSignature>>,
}

/// What peers ask of the server besides the requests of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest<'a> {
    Update(PeerUpdate<'a>),
    /// The decision about an [`EdgeRequest`].
    Decide {
        request: u64,
        decision: Decision<'a>,
    },
    Direct(Direct<'a>),
    /// Whether the client took a [`DirectMessage`].
    Took {
        number: u64,
        is_taken: bool,
    },
    Check(Check<'a>),
}

/// Asks for what differs from the client's copy of the members of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check<'a> {
    pub id: u64,
    pub channel: Cow<'a, str>,
    /// Of the copy, as many as in the [`MembersDigest`]; none to ask for one with all of them.
    pub buckets: Vec<u128>,
}

/// What the members of a channel are after the records before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersDigest<'a> {
    /// Everyone who is present was sent before it.
    pub has_all: bool,
    /// It answers a [`Check`].
    pub is_answer: bool,
    pub channel: Cow<'a, str>,
    /// Of several histories of one channel.
    pub epoch: u64,
    /// Grows by one with all that is sent at once.
    pub version: u64,
    /// Members.
    pub count: u64,
    /// Their digests; not with every one.
    pub buckets: Vec<u128>,
    /// Of an answer: numbers of the buckets whose members follow.
    pub repaired: Vec<u64>,
}

/// Whether a peer may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    Allow,
    Deny {
        reason: Cow<'a, str>,
        /// 0: as long as the server says.
        retry_after_ms: u64,
    },
}

/// A message to one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct<'a> {
    pub id: u64,
    /// Shared by both.
    pub channel: Cow<'a, str>,
    pub to: &'a [u8],
    pub name: Cow<'a, str>,
    pub data: &'a [u8],
}

/// Asks a client whether a peer may connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeRequest<'a> {
    pub request: u64,
    /// The first that both share.
    pub channel: Cow<'a, str>,
    pub key: &'a [u8],
    pub transport: Transport,
    pub metadata: &'a [u8],
    pub identity_metadata: &'a [u8],
}

/// A message of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectMessage<'a> {
    pub number: u64,
    pub from: &'a [u8],
    pub name: Cow<'a, str>,
    pub data: &'a [u8],
}

/// A direct message was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectRefused<'a> {
    pub id: u64,
    /// True when the two are not connected; false when nobody takes it.
    pub is_denied: bool,
    pub retry_after_ms: u64,
    pub reason: Cow<'a, str>,
}

/// Longest device id, device name, name of an operating system and version in bytes.
pub const DEVICE_BYTES_MAX: usize = 64;
pub const DEVICE_NAME_BYTES_MAX: usize = 255;
pub const OS_BYTES_MAX: usize = 32;
pub const SDK_VERSION_BYTES_MAX: usize = 64;

/// The answer to the first [`PeerUpdate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerGreeting<'a> {
    /// Of the client itself.
    pub key: &'a [u8],
    pub metadata_bytes_max: u64,
    /// Peers that a graph has at most.
    pub peers_max: u64,
    /// What a client that signs has to sign.
    pub nonce: &'a [u8],
}

/// What happened to a member of a channel, as peers are sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerMember<'a> {
    /// As any client is sent it.
    pub member: Member<'a>,
    /// True while its connection is lost.
    pub is_lost: bool,
    /// Why it left: 0 otherwise, and when that is not known; 1 it left, 2 its connection was lost,
    /// 3 it gave no sign of life, 4 it was removed.
    pub reason: u8,
    pub key: &'a [u8],
    pub transport: Transport,
    pub device_name: Cow<'a, str>,
    pub os: Cow<'a, str>,
    pub sdk_version: Cow<'a, str>,
    /// A JSON object, or nothing.
    pub metadata: &'a [u8],
    /// Of `metadata`, by the peer.
    pub signature: Option<MetadataSignature>,
    /// A JSON object, or nothing.
    pub identity_metadata: &'a [u8],
    /// Peers in the channel that it has not admitted.
    pub unadmitted: Vec<UnadmittedPeer<'a>>,
}

/// A peer that another one has not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnadmittedPeer<'a> {
    pub key: &'a [u8],
    /// False while it has not been decided.
    pub is_denied: bool,
    pub retry_after_ms: u64,
    pub reason: Cow<'a, str>,
}

/// How a member reached the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRepr)]
#[repr(u8)]
pub enum Transport {
    /// Also what a newer server says.
    #[default]
    Unknown,
    /// Over WebSocket or requests of HTTP.
    WebSocket,
    Tcp,
}

const KEY_PREFIX: &str = "pk";

/// The text of a peer's key: `pk` and its bytes in unpadded base64. A key that is not known yet has
/// no bytes and no text.
pub fn key_text(key: &[u8]) -> String {
    if key.is_empty() {
        return String::new();
    }
    let mut text = String::from(KEY_PREFIX);
    STANDARD_NO_PAD.encode_string(key, &mut text);
    text
}

/// The bytes of a peer's key; `None` for what is not the text of any.
pub fn parse_key(text: &str) -> Option<Vec<u8>> {
    let key = STANDARD_NO_PAD.decode(text.strip_prefix(KEY_PREFIX)?).ok()?;
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_texts_are_one_to_one() {
        let table: [(&[u8], &str); 4] = [
            (&[7], "pkBw"),
            (&[9], "pkCQ"),
            (&[0xff, 0xfe, 0xfb], "pk//77"),
            (&[0; 16], "pkAAAAAAAAAAAAAAAAAAAAAA"),
        ];
        for (key, text) in table {
            assert_eq!(key_text(key), text);
            assert_eq!(parse_key(text).as_deref(), Some(key));
        }
        assert_eq!(key_text(&[]), "");
    }

    #[test]
    fn other_texts_are_no_keys() {
        for text in ["", "pk", "Bw", "PKBw", "pkBw==", "pkBx", "pk_-77", "pkB", "pk B"] {
            assert_eq!(parse_key(text), None, "{text}");
        }
    }
}
