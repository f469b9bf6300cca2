//! What a member says of itself in all channels: the device that it runs on, and its metadata.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Reject;
use crate::signature::{MetadataSignature, PUBLIC_KEY_BYTES};

/// The name of a peer in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKey {
    /// Of its app, user and device.
    Derived([u8; DERIVED_KEY_BYTES]),
    /// The public key of a client that signs, which holds the secret one.
    Public([u8; PUBLIC_KEY_BYTES]),
}

pub const DERIVED_KEY_BYTES: usize = 16;

impl Deref for PeerKey {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            PeerKey::Derived(key) => key,
            PeerKey::Public(key) => key,
        }
    }
}

impl TryFrom<&[u8]> for PeerKey {
    type Error = Reject;

    fn try_from(bytes: &[u8]) -> Result<Self, Reject> {
        let derived = bytes.try_into().map(PeerKey::Derived);
        derived.or_else(|_| bytes.try_into().map(PeerKey::Public)).map_err(|_| Reject::Unsupported)
    }
}

/// A node of the presence graph. Connections with one key are one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub key: PeerKey,
    pub device_name: Box<str>,
    /// In the words of the client.
    pub os: Box<str>,
    pub sdk_version: Box<str>,
    /// A JSON object as the client wrote it; checked.
    pub metadata: Bytes,
    /// Of `metadata`, by a peer whose key is public; checked.
    pub signature: Option<Box<MetadataSignature>>,
    /// Its client decides who may connect to it.
    pub asks: Option<Asks>,
}

/// How a peer decides who may connect to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asks {
    /// How long a decision may take.
    pub timeout_ms: u32,
    /// Another one decides anew about those it has denied.
    pub handler: u64,
}

/// Why a peer may not connect; without one, it has not been decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeDenial {
    pub reason: Arc<str>,
    /// When it is asked again, on the clock that all shards share.
    pub until_ms: u64,
}

/// Whether a peer may connect to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeVerdict {
    Allowed,
    Denied(EdgeDenial),
}

/// Peers in a channel that another one has not admitted, with its denial once it has decided.
pub type Unadmitted = BTreeMap<PeerKey, Option<EdgeDenial>>;

/// By the key of each peer that asks: those that it has not admitted. A peer that does not ask
/// admits everyone.
pub type Admissions = BTreeMap<PeerKey, Unadmitted>;

/// What a channel knows of the presence graph besides its members, once a peer looks at it or
/// decides about others, until it is empty.
#[derive(Debug, Default)]
pub struct Graph {
    /// Tells the histories of a channel apart: it knows nothing of members before the last time
    /// that it was empty.
    pub epoch: u64,
    /// Grows by one with each tick.
    pub version: u64,
    /// The next tick has the digests of all members, or a tick without changes if none comes.
    pub is_digest_due: bool,
    /// Those digests, until the members change.
    pub digests: Option<Vec<u128>>,
    pub admissions: Admissions,
}

impl Peer {
    /// The same with the metadata of another value.
    pub fn with_metadata_of(&self, other: &Peer) -> Peer {
        let (metadata, signature) = (other.metadata.clone(), other.signature.clone());
        Peer { metadata, signature, ..self.clone() }
    }

    /// What it adds to the size of its member in an encoded set, in bytes.
    pub fn encoded_bytes(&self) -> usize {
        const LENGTHS_BYTES: usize = 5 * 5;
        LENGTHS_BYTES
            + self.key.len()
            + self.device_name.len()
            + self.os.len()
            + self.sdk_version.len()
            + self.metadata.len()
    }
}
