//! The graph extension: what peers of the presence graph say and are sent besides the protocol of
//! Foony (`docs/protocol.md`). Binary only.

use std::borrow::Cow;

use serde_json::Value;
use thiserror::Error;

use super::Member;

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
    /// As in [`PeerMember`].
    pub transport: u8,
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
    /// How it reached the server: 0 not known, 1 over WebSocket or HTTP, 2 over TCP.
    pub transport: u8,
    pub device_name: Cow<'a, str>,
    pub os: Cow<'a, str>,
    pub sdk_version: Cow<'a, str>,
    /// A JSON object, or nothing.
    pub metadata: &'a [u8],
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

/// Most arrays and objects within each other in metadata, the outermost one included.
pub const METADATA_DEPTH_MAX: usize = 64;

/// Why text is not the metadata of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MetadataError {
    #[error("{got} bytes of metadata, more than {limit}")]
    TooLarge { limit: usize, got: usize },
    #[error("metadata nested deeper than {METADATA_DEPTH_MAX}")]
    TooDeep,
    #[error("metadata is not JSON: {0}")]
    InvalidJson(String),
    #[error("metadata is not a JSON object")]
    NotAnObject,
}

/// Checks the metadata of a peer, in the order of the errors.
///
/// # Errors
/// The first reason for which it is refused.
pub fn check_metadata(text: &[u8], bytes_max: usize) -> Result<(), MetadataError> {
    if text.len() > bytes_max {
        return Err(MetadataError::TooLarge { limit: bytes_max, got: text.len() });
    }
    if depth(text) > METADATA_DEPTH_MAX {
        return Err(MetadataError::TooDeep);
    }
    match serde_json::from_slice::<Value>(text) {
        Ok(Value::Object(_)) => Ok(()),
        Ok(_) => Err(MetadataError::NotAnObject),
        Err(error) => Err(MetadataError::InvalidJson(error.to_string())),
    }
}

/// Most arrays and objects within each other, whether or not the text is JSON.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
