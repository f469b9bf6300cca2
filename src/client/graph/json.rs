//! The graph as JSON: written so that both generations of Ditto clients read it, and read from
//! either (client-api.md, D29).

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Address, Age, Connection, ConnectionType, JsonObject, MetadataTrust, Peer, PresenceGraph,
    PresenceOs,
};
use crate::wire::foony::peer::{key_text, parse_key};

impl Serialize for ConnectionType {
    /// Clients of Ditto 4 and 5.0 fail on names that they do not know.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self {
            Self::Multicast | Self::Unknown => Self::AccessPoint,
            known => *known,
        };
        serializer.serialize_str(written.name())
    }
}

impl<'de> Deserialize<'de> for ConnectionType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(Self::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or(Self::Unknown))
    }
}

impl Serialize for PresenceOs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = if *self == Self::Unknown { Self::Generic } else { *self };
        serializer.serialize_str(written.name())
    }
}

impl<'de> Deserialize<'de> for PresenceOs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(Self::ALL.into_iter().find(|os| os.name() == name).unwrap_or(Self::Unknown))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionOut<'a> {
    id: &'a str,
    peer1: &'a [u8],
    peer2: &'a [u8],
    peer_key_string1: &'a str,
    peer_key_string2: &'a str,
    connection_type: ConnectionType,
    approximate_distance_in_meters: Option<f32>,
}

impl Serialize for Connection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = ConnectionOut {
            id: &self.id,
            peer1: &self.peer1,
            peer2: &self.peer2,
            peer_key_string1: &self.peer_key_string1,
            peer_key_string2: &self.peer_key_string2,
            connection_type: self.connection_type,
            approximate_distance_in_meters: None,
        };
        written.serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PeerOut<'a> {
    address: &'a Address,
    peer_key: &'a [u8],
    peer_key_string: &'a str,
    device_name: &'a str,
    os: Option<PresenceOs>,
    query_overlap_group: u8,
    is_connected_to_ditto_cloud: bool,
    is_compatible: Option<bool>,
    ditto_sdk_version: Option<&'a str>,
    connections: &'a [Connection],
    peer_metadata: &'a JsonObject,
    identity_service_metadata: &'a JsonObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = PeerOut {
            address: &self.address,
            peer_key: &self.peer_key,
            peer_key_string: &self.peer_key_string,
            device_name: &self.device_name,
            os: self.os,
            query_overlap_group: self.query_overlap_group,
            is_connected_to_ditto_cloud: self.is_connected_to_ditto_cloud,
            is_compatible: self.is_compatible,
            ditto_sdk_version: self.ditto_sdk_version.as_deref(),
            connections: &self.connections,
            peer_metadata: &self.peer_metadata,
            identity_service_metadata: &self.identity_service_metadata,
            client_id: self.client_id.as_deref(),
        };
        written.serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GraphOut<'a> {
    local_peer: &'a Peer,
    remote_peers: &'a [Peer],
}

impl Serialize for PresenceGraph {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = GraphOut { local_peer: &self.local_peer, remote_peers: &self.remote_peers };
        written.serialize(serializer)
    }
}

/// A key under its old name, where the older generation has bytes and the newer one may have text.
#[derive(Deserialize)]
#[serde(untagged)]
enum KeyIn {
    Bytes(Vec<u8>),
    Text(String),
}

/// Both forms of a key; each is made from the other where it is missing. A text that is no key
/// stays as it is and has no bytes, so that one odd peer does not cost the reader the graph.
fn both_forms<E: de::Error>(
    old: Option<KeyIn>,
    text: Option<String>,
    name: &'static str,
) -> Result<(Vec<u8>, String), E> {
    let (bytes, old_text) = match old {
        Some(KeyIn::Bytes(bytes)) => (Some(bytes), None),
        Some(KeyIn::Text(text)) => (None, Some(text)),
        None => (None, None),
    };
    match (bytes, text.or(old_text)) {
        (Some(bytes), Some(text)) if !text.is_empty() => Ok((bytes, text)),
        (Some(bytes), _) => {
            let text = key_text(&bytes);
            Ok((bytes, text))
        }
        (None, Some(text)) => Ok((parse_key(&text).unwrap_or_default(), text)),
        (None, None) => Err(E::missing_field(name)),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionIn {
    id: String,
    peer1: Option<KeyIn>,
    peer2: Option<KeyIn>,
    peer_key_string1: Option<String>,
    peer_key_string2: Option<String>,
    connection_type: ConnectionType,
    approximate_distance_in_meters: Option<f32>,
}

impl<'de> Deserialize<'de> for Connection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = ConnectionIn::deserialize(deserializer)?;
        let (peer1, peer_key_string1) =
            both_forms(read.peer1, read.peer_key_string1, "peerKeyString1")?;
        let (peer2, peer_key_string2) =
            both_forms(read.peer2, read.peer_key_string2, "peerKeyString2")?;
        Ok(Self {
            id: read.id,
            peer1,
            peer2,
            peer_key_string1,
            peer_key_string2,
            connection_type: read.connection_type,
            approximate_distance_in_meters: read.approximate_distance_in_meters,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerIn {
    address: Option<Address>,
    peer_key: Option<KeyIn>,
    peer_key_string: Option<String>,
    device_name: String,
    os: Option<PresenceOs>,
    #[serde(default)]
    query_overlap_group: u8,
    is_connected_to_ditto_cloud: Option<bool>,
    is_connected_to_ditto_server: Option<bool>,
    is_compatible: Option<bool>,
    ditto_sdk_version: Option<String>,
    connections: Vec<Connection>,
    peer_metadata: Option<JsonObject>,
    identity_service_metadata: Option<JsonObject>,
    client_id: Option<String>,
}

impl<'de> Deserialize<'de> for Peer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = PeerIn::deserialize(deserializer)?;
        let (peer_key, peer_key_string) =
            both_forms(read.peer_key, read.peer_key_string, "peerKeyString")?;
        let is_connected = [read.is_connected_to_ditto_cloud, read.is_connected_to_ditto_server];
        let address = read.address.unwrap_or_else(|| Peer::new(&peer_key).address);
        Ok(Self {
            address,
            peer_key,
            peer_key_string,
            device_name: read.device_name,
            os: read.os,
            query_overlap_group: read.query_overlap_group,
            is_connected_to_ditto_cloud: is_connected.contains(&Some(true)),
            is_compatible: read.is_compatible,
            ditto_sdk_version: read.ditto_sdk_version,
            connections: read.connections,
            peer_metadata: Arc::new(read.peer_metadata.unwrap_or_default()),
            identity_service_metadata: Arc::new(read.identity_service_metadata.unwrap_or_default()),
            client_id: read.client_id,
            metadata_trust: MetadataTrust::Unsigned,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GraphIn {
    local_peer: Peer,
    remote_peers: Vec<Peer>,
}

impl<'de> Deserialize<'de> for PresenceGraph {
    /// The age is that of the reading: ages are not in JSON.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let GraphIn { local_peer, remote_peers } = GraphIn::deserialize(deserializer)?;
        Ok(Self { local_peer, remote_peers, age: Age::now(), is_truncated: false })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;

    fn connection_v4(kind: &str) -> Value {
        json!({"id": format!("pkEQ<->pkFg:{kind}"), "peer1": [17], "peer2": [22],
            "peerKeyString1": "pkEQ", "peerKeyString2": "pkFg",
            "connectionType": kind, "approximateDistanceInMeters": null})
    }

    fn peer_v4(key: u8, os: &str, kind: &str) -> Value {
        json!({"address": {"siteId": 40 + u64::from(key), "pubkey": [key]},
            "peerKey": [key], "peerKeyString": key_text(&[key]), "deviceName": "oven",
            "os": os, "queryOverlapGroup": 0, "isConnectedToDittoCloud": key == 17,
            "isCompatible": true, "dittoSdkVersion": "4.9.4",
            "connections": [connection_v4(kind)],
            "peerMetadata": {"zone": {"floor": 2}}, "identityServiceMetadata": {}})
    }

    fn graph_v4(os: &str, kind: &str) -> Value {
        json!({"localPeer": peer_v4(17, os, kind), "remotePeers": [peer_v4(22, os, kind)]})
    }

    /// The newer generation has no bytes of keys, and other names.
    fn graph_v5() -> Value {
        let peer = |key: u8, is_connected: bool| {
            json!({"address": {"pubkey": [key]}, "peerKeyString": key_text(&[key]),
                "deviceName": "oven", "os": "Linux", "isConnectedToDittoServer": is_connected,
                "isCompatible": null, "meshRole": "relay",
                "connections": [{"id": "pkEQ<->pkFg:WebSocket", "connectionType": "WebSocket",
                    "peerKeyString1": "pkEQ", "peerKeyString2": "pkFg"}],
                "peerMetadata": {"zone": {"floor": 2}}, "identityServiceMetadata": {}})
        };
        json!({"localPeer": peer(17, true), "remotePeers": [peer(22, false)]})
    }

    fn read(value: Value) -> PresenceGraph {
        serde_json::from_value(value).expect("a graph")
    }

    #[test]
    fn the_older_form_is_written_as_it_was_read() {
        let written = serde_json::to_value(read(graph_v4("Linux", "WebSocket"))).expect("JSON");
        assert_eq!(written, graph_v4("Linux", "WebSocket"));
    }

    #[test]
    fn the_newer_form_gives_the_same_graph_as_the_older() {
        let (mut old, mut new) = (read(graph_v4("Linux", "WebSocket")), read(graph_v5()));
        for peer in [&mut old.local_peer, &mut old.remote_peers[0]] {
            assert_eq!(peer.address.site_id.take(), Some(40 + u64::from(peer.peer_key[0])));
            peer.is_compatible = None;
            peer.ditto_sdk_version = None;
        }
        assert_eq!(old, new);
        let (old, new) = (&old.remote_peers[0].connections[0], &mut new.local_peer.connections[0]);
        assert_eq!((&old.peer1, &old.peer2), (&new.peer1, &new.peer2));
    }

    #[test]
    fn a_graph_of_ours_comes_back_from_its_json() {
        let mut local = Peer::new(&[0xaa; 16]);
        local.set_client_id(Some("alice".into()));
        local.os = Some(PresenceOs::MacOs);
        local.connections =
            vec![Connection::between(&[0xaa; 16], &[0xbb; 32], ConnectionType::WebSocket)];
        let remote = vec![Peer::new(&[0xbb; 32])];
        let graph = PresenceGraph::new(local, remote, SystemTime::UNIX_EPOCH);
        let text = serde_json::to_string(&graph).expect("JSON");
        let back: PresenceGraph = serde_json::from_str(&text).expect("a graph");
        assert_eq!(back, graph);
        assert!(text.contains(r#""clientId":"alice""#), "{text}");
        assert!(text.contains(r#""approximateDistanceInMeters":null"#), "{text}");
        assert!(!text.contains("Server"), "{text}");
    }

    #[test]
    fn names_of_the_future_are_unknown_and_written_as_names_of_the_past() {
        let table = [
            ("Linux", PresenceOs::Linux, "Linux"),
            ("BeOS", PresenceOs::Unknown, "Generic"),
            ("Unknown", PresenceOs::Unknown, "Generic"),
        ];
        for (name, os, written) in table {
            let graph = read(graph_v4(name, "WebSocket"));
            assert_eq!(graph.local_peer.os, Some(os));
            let json = serde_json::to_value(&graph).expect("JSON");
            assert_eq!(json["localPeer"]["os"], written);
        }
        let table = [
            ("P2PWiFi", ConnectionType::P2PWiFi, "P2PWiFi"),
            ("Multicast", ConnectionType::Multicast, "AccessPoint"),
            ("Laser", ConnectionType::Unknown, "AccessPoint"),
        ];
        for (name, kind, written) in table {
            let connection: Connection = serde_json::from_value(connection_v4(name)).expect("one");
            assert_eq!(connection.connection_type, kind);
            let json = serde_json::to_value(&connection).expect("JSON");
            assert_eq!(json["connectionType"], written);
            assert_eq!(json["id"], format!("pkEQ<->pkFg:{name}"));
        }
    }

    #[test]
    fn either_flag_connects_a_peer() {
        let table = [
            (None, None, false),
            (Some(false), Some(true), true),
            (Some(true), Some(false), true),
            (Some(false), None, false),
            (None, Some(true), true),
        ];
        for (cloud, server, is_connected) in table {
            let mut peer = peer_v4(22, "iOS", "Bluetooth");
            peer["isConnectedToDittoCloud"] = json!(cloud);
            peer["isConnectedToDittoServer"] = json!(server);
            let peer: Peer = serde_json::from_value(peer).expect("a peer");
            assert_eq!(peer.is_connected_to_ditto_server(), is_connected, "{cloud:?} {server:?}");
        }
    }

    #[test]
    fn either_form_of_a_key_gives_the_other() {
        let table = [
            (json!({"peerKey": [17]}), &[17_u8][..], "pkEQ"),
            (json!({"peerKey": [17], "peerKeyString": ""}), &[17], "pkEQ"),
            (json!({"peerKeyString": "pkEQ"}), &[17], "pkEQ"),
            (json!({"peerKey": "pkEQ"}), &[17], "pkEQ"),
            (json!({"peerKey": [], "peerKeyString": ""}), &[], ""),
            (json!({"peerKeyString": "no key"}), &[], "no key"),
        ];
        for (mut peer, bytes, text) in table {
            peer["deviceName"] = json!("");
            peer["connections"] = json!([]);
            let peer: Peer = serde_json::from_value(peer).expect("a peer");
            assert_eq!((&peer.peer_key[..], peer.key()), (bytes, text));
            assert_eq!(peer.address.pubkey, bytes);
        }
    }

    #[test]
    fn other_json_is_no_graph() {
        let keyless = json!({"deviceName": "", "connections": []});
        assert!(serde_json::from_value::<Peer>(keyless).is_err());
        let mut array = peer_v4(17, "iOS", "Bluetooth");
        array["peerMetadata"] = json!([1]);
        assert!(serde_json::from_value::<Peer>(array).is_err());
        assert!(serde_json::from_value::<PresenceGraph>(json!({})).is_err());
    }
}
