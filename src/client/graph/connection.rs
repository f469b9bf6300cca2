//! An edge of the graph.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::wire::foony::peer::key_text;

/// How two peers are connected. Types of newer servers are read as `Unknown`.
///
/// ```
/// use headcount::client::ConnectionType;
///
/// assert_eq!(ConnectionType::WebSocket.to_string(), "WebSocket");
/// assert_eq!(serde_json::from_str::<ConnectionType>("\"Laser\"")?, ConnectionType::Unknown);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ConnectionType {
    Bluetooth,
    /// Through the local network; here: at least one side came over raw TCP or a Unix socket.
    AccessPoint,
    P2PWiFi,
    /// Both sides reached the server by WebSocket or long-polling.
    WebSocket,
    Multicast,
    Unknown,
}

impl ConnectionType {
    pub(super) const ALL: [Self; 6] = [
        Self::Bluetooth,
        Self::AccessPoint,
        Self::P2PWiFi,
        Self::WebSocket,
        Self::Multicast,
        Self::Unknown,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bluetooth => "Bluetooth",
            Self::AccessPoint => "AccessPoint",
            Self::P2PWiFi => "P2PWiFi",
            Self::WebSocket => "WebSocket",
            Self::Multicast => "Multicast",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for ConnectionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A connection of two peers, the same value at both ends. Compared by `id` alone.
///
/// ```
/// # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/graph.json"));
/// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
/// let connection = &graph.local_peer.connections[0];
/// assert_eq!(connection.id, "pkBw<->pkCQ:WebSocket");
/// assert_eq!((connection.peer1(), connection.peer2()), ("pkBw", "pkCQ"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connection {
    /// `lower<->higher:Type`, of the texts of both keys.
    pub id: String,
    /// Bytes of the lower key.
    pub peer1: Vec<u8>,
    /// Bytes of the higher key.
    pub peer2: Vec<u8>,
    /// Text of the lower key.
    pub peer_key_string1: String,
    /// Text of the higher key.
    pub peer_key_string2: String,
    pub connection_type: ConnectionType,
    /// Never known of a server's connections.
    pub approximate_distance_in_meters: Option<f32>,
}

impl Connection {
    /// The keys in any order; the lower text comes first.
    pub(crate) fn between(key_a: &[u8], key_b: &[u8], connection_type: ConnectionType) -> Self {
        let mut ends = [key_a, key_b].map(|key| (key_text(key), key.to_vec()));
        ends.sort();
        let [(peer_key_string1, peer1), (peer_key_string2, peer2)] = ends;
        Self {
            id: format!("{peer_key_string1}<->{peer_key_string2}:{connection_type}"),
            peer1,
            peer2,
            peer_key_string1,
            peer_key_string2,
            connection_type,
            approximate_distance_in_meters: None,
        }
    }

    /// The text of the lower key.
    pub fn peer1(&self) -> &str {
        &self.peer_key_string1
    }

    /// The text of the higher key.
    pub fn peer2(&self) -> &str {
        &self.peer_key_string2
    }

    /// The key at the other end, if `key` is at one.
    pub(crate) fn other_end(&self, key: &str) -> Option<&str> {
        match key {
            _ if key == self.peer1() => Some(self.peer2()),
            _ if key == self.peer2() => Some(self.peer1()),
            _ => None,
        }
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Connection {}

impl PartialOrd for Connection {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Connection {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

impl Hash for Connection {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn both_ends_make_the_same_connection_with_the_lower_text_first() {
        // Byte 0xF8 is above 0x00, and its text "+A" below "AA".
        let one = Connection::between(&[0xf8], &[0x00], ConnectionType::WebSocket);
        let other = Connection::between(&[0x00], &[0xf8], ConnectionType::WebSocket);
        assert_eq!(one.id, "pk+A<->pkAA:WebSocket");
        assert_eq!(one.id, other.id);
        assert_eq!((one.peer1(), one.peer2()), ("pk+A", "pkAA"));
        assert_eq!((&one.peer1[..], &one.peer2[..]), (&[0xf8][..], &[0x00][..]));
        assert_eq!(one.other_end("pkAA"), Some("pk+A"));
        assert_eq!(one.other_end("pkAQ"), None);
    }

    #[test]
    fn connections_are_compared_by_id_alone() {
        let near = Connection::between(&[1], &[2], ConnectionType::Bluetooth);
        let mut far = near.clone();
        far.approximate_distance_in_meters = Some(12.0);
        far.connection_type = ConnectionType::Unknown;
        assert_eq!(near, far);
        assert_eq!(near.cmp(&far), Ordering::Equal);
        let other = Connection::between(&[1], &[2], ConnectionType::P2PWiFi);
        assert!(near < other);
        assert_eq!(HashSet::from([near, far, other]).len(), 2);
    }
}
