//! A node of the graph.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Connection, JsonObject};
use crate::wire::foony::peer::key_text;

/// The address of a peer.
///
/// ```
/// # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/graph.json"));
/// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
/// let address = &graph.local_peer.address;
/// assert_eq!(address.pubkey, graph.local_peer.peer_key);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Bytes of the peer's key.
    pub pubkey: Vec<u8>,
    /// A number that stands for the key; known if the key is.
    #[serde(rename = "siteId", default, skip_serializing_if = "Option::is_none")]
    pub site_id: Option<u64>,
}

/// The operating system of a peer. Systems of newer clients are read as `Unknown`.
///
/// ```
/// use headcount::client::PresenceOs;
///
/// assert_eq!(PresenceOs::MacOs.to_string(), "macOS");
/// assert_eq!(serde_json::from_str::<PresenceOs>("\"BeOS\"")?, PresenceOs::Unknown);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PresenceOs {
    Generic,
    Ios,
    Android,
    Linux,
    Windows,
    MacOs,
    Unknown,
}

impl PresenceOs {
    pub(super) const ALL: [Self; 7] = [
        Self::Generic,
        Self::Ios,
        Self::Android,
        Self::Linux,
        Self::Windows,
        Self::MacOs,
        Self::Unknown,
    ];

    /// That of this program.
    pub(crate) fn local() -> Self {
        match std::env::consts::OS {
            "linux" => Self::Linux,
            "macos" => Self::MacOs,
            "ios" => Self::Ios,
            "android" => Self::Android,
            "windows" => Self::Windows,
            _ => Self::Generic,
        }
    }

    /// The system with this name; a client that says none is of a generic one.
    pub(crate) fn of_name(name: &str) -> Self {
        match name {
            "" => Self::Generic,
            name => Self::ALL.into_iter().find(|os| os.name() == name).unwrap_or(Self::Unknown),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Generic => "Generic",
            Self::Ios => "iOS",
            Self::Android => "Android",
            Self::Linux => "Linux",
            Self::Windows => "Windows",
            Self::MacOs => "macOS",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for PresenceOs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How far the metadata of a peer can be trusted, as this client judges it.
///
/// ```
/// use headcount::client::{MetadataTrust, Peer};
///
/// fn is_forged(peer: &Peer) -> bool {
///     matches!(peer.metadata_trust(), MetadataTrust::Stripped | MetadataTrust::Replayed)
/// }
/// # let _ = is_forged;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetadataTrust {
    /// The peer does not sign.
    Unsigned,
    /// The peer signed this value, and none this client has seen is newer.
    Verified,
    /// The peer signs always, and this value has no valid signature.
    Stripped,
    /// Older than a value that this client has seen.
    Replayed,
}

/// Someone in the graph: all clients with one key.
///
/// ```
/// # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/graph.json"));
/// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
/// let peer = &graph.remote_peers[0];
/// assert_eq!((peer.key(), &*peer.device_name), ("pkCQ", "kitchen"));
/// assert_eq!(peer.peer_metadata["role"], "oven");
/// assert!(!peer.is_connected_to_ditto_server());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Peer {
    pub address: Address,
    /// Bytes of the key; empty for the local peer before the first greeting.
    pub peer_key: Vec<u8>,
    /// Text of the key; see [`key`](Self::key).
    pub peer_key_string: String,
    /// For people; not unique.
    pub device_name: String,
    pub os: Option<PresenceOs>,
    /// Always 0.
    pub query_overlap_group: u8,
    /// Whether the peer is connected to the server. False for a peer that was lost and may return.
    pub is_connected_to_ditto_cloud: bool,
    pub is_compatible: Option<bool>,
    /// Version of the peer's client.
    pub ditto_sdk_version: Option<String>,
    /// Connections of the peer, also with others.
    pub connections: Vec<Connection>,
    /// What the peer says of itself.
    pub peer_metadata: Arc<JsonObject>,
    /// What the server's operator says of the peer.
    pub identity_service_metadata: Arc<JsonObject>,
    pub(super) client_id: Option<String>,
    pub(super) metadata_trust: MetadataTrust,
}

impl Peer {
    /// A peer of which the key alone is known. An empty key is one that is not known yet.
    pub(crate) fn new(key: &[u8]) -> Self {
        Self {
            address: Address { pubkey: key.to_vec(), site_id: site_id(key) },
            peer_key: key.to_vec(),
            peer_key_string: key_text(key),
            device_name: String::new(),
            os: None,
            query_overlap_group: 0,
            is_connected_to_ditto_cloud: false,
            is_compatible: None,
            ditto_sdk_version: None,
            connections: Vec::new(),
            peer_metadata: Arc::default(),
            identity_service_metadata: Arc::default(),
            client_id: None,
            metadata_trust: MetadataTrust::Unsigned,
        }
    }

    pub(crate) fn set_client_id(&mut self, client_id: Option<String>) {
        self.client_id = client_id;
    }

    pub(crate) fn set_metadata_trust(&mut self, metadata_trust: MetadataTrust) {
        self.metadata_trust = metadata_trust;
    }

    /// The text of the key: `pk` and the base64 of its bytes. Empty for the local peer before the
    /// first greeting; it does not change after.
    ///
    /// ```
    /// # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/graph.json"));
    /// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
    /// let peer = graph.peer("pkCQ").expect("it is there");
    /// assert_eq!((peer.key(), &*peer.peer_key), ("pkCQ", &[9][..]));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn key(&self) -> &str {
        &self.peer_key_string
    }

    /// Whether the peer is connected to the server; the newer name of the field.
    pub fn is_connected_to_ditto_server(&self) -> bool {
        self.is_connected_to_ditto_cloud
    }

    /// The id under which the peer is a member of channels, if it is known.
    ///
    /// ```
    /// # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/graph.json"));
    /// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
    /// let peer = &graph.remote_peers[0];
    /// println!("{}", peer.client_id().unwrap_or(&peer.device_name));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    /// Whether the metadata is signed, and by whom.
    pub fn metadata_trust(&self) -> MetadataTrust {
        self.metadata_trust
    }

    /// Whether all fields but `connections` are equal.
    pub(super) fn is_same_node(&self, other: &Self) -> bool {
        // No `..`: a new field has to be decided about.
        let Self {
            address,
            peer_key,
            peer_key_string,
            device_name,
            os,
            query_overlap_group,
            is_connected_to_ditto_cloud,
            is_compatible,
            ditto_sdk_version,
            connections: _,
            peer_metadata,
            identity_service_metadata,
            client_id,
            metadata_trust,
        } = self;
        *address == other.address
            && *peer_key == other.peer_key
            && *peer_key_string == other.peer_key_string
            && *device_name == other.device_name
            && *os == other.os
            && *query_overlap_group == other.query_overlap_group
            && *is_connected_to_ditto_cloud == other.is_connected_to_ditto_cloud
            && *is_compatible == other.is_compatible
            && *ditto_sdk_version == other.ditto_sdk_version
            && *peer_metadata == other.peer_metadata
            && *identity_service_metadata == other.identity_service_metadata
            && *client_id == other.client_id
            && *metadata_trust == other.metadata_trust
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo), of the key. `None` for a key that is not known.
fn site_id(key: &[u8]) -> Option<u64> {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    (!key.is_empty()).then(|| key.iter().fold(OFFSET, add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_of_an_unknown_key_has_neither_text_nor_number() {
        let peer = Peer::new(&[]);
        assert_eq!((peer.key(), peer.address.site_id), ("", None));
        // The published test vector of FNV-1a for "a".
        assert_eq!(Peer::new(b"a").address.site_id, Some(0xaf63_dc4c_8601_ec8c));
    }

    #[test]
    fn connections_do_not_make_another_node_and_everything_else_does() {
        let peer = Peer::new(&[1]);
        let mut connected = peer.clone();
        connected.connections =
            vec![Connection::between(&[1], &[2], super::super::ConnectionType::WebSocket)];
        assert!(peer.is_same_node(&connected));
        assert_ne!(peer, connected);
        let changes: [fn(&mut Peer); 6] = [
            |peer| peer.device_name.push('x'),
            |peer| peer.is_connected_to_ditto_cloud = true,
            |peer| peer.os = Some(PresenceOs::Linux),
            |peer| drop(Arc::make_mut(&mut peer.peer_metadata).insert("a".into(), 1.into())),
            |peer| peer.set_client_id(Some("bob".into())),
            |peer| peer.set_metadata_trust(MetadataTrust::Verified),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut other = peer.clone();
            change(&mut other);
            assert!(!peer.is_same_node(&other), "change {at}");
        }
    }
}
