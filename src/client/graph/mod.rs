//! The presence graph: who is there, and who is connected to whom.
//!
//! A graph is a value: the mirror makes a new one for each change, readers keep what they have.
//! Nothing here knows where the values come from.

mod age;
mod connection;
mod diff;
mod display;
mod json;
mod peer;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime};

pub(crate) use age::Age;
pub use connection::{Connection, ConnectionType};
pub use diff::GraphDiff;
pub use peer::{Address, MetadataTrust, Peer, PresenceOs};

/// A JSON object, such as peer metadata.
///
/// ```
/// use headcount::client::JsonObject;
///
/// let metadata: JsonObject = serde_json::from_str(r#"{"role": "till"}"#)?;
/// assert_eq!(metadata["role"], "till");
/// # Ok::<(), serde_json::Error>(())
/// ```
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// Everyone the client knows of, at one time.
///
/// `remote_peers` are all peers in the client's channels, connected to it or not; use
/// [`direct_peers`](Self::direct_peers) for the connected ones. Graphs are equal when their peers
/// are; their ages do not count. The `Display` form is a tree in ASCII.
///
/// ```
/// use headcount::client::PresenceGraph;
///
/// let graph: PresenceGraph = serde_json::from_str(
///     r#"{"localPeer": {"peerKeyString": "pkBw", "deviceName": "till", "connections": []},
///         "remotePeers": []}"#,
/// )?;
/// assert_eq!(graph.peer("pkBw").map(|peer| peer.device_name.as_str()), Some("till"));
/// assert_eq!(graph.direct_peers().count(), 0);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PresenceGraph {
    /// This client, with other clients of the same key.
    pub local_peer: Peer,
    /// All others, in the order of the mirror.
    pub remote_peers: Vec<Peer>,
    age: Age,
    is_truncated: bool,
}

/// How many direct peers there are, as `expect_peers` reports it.
///
/// ```
/// use headcount::client::PeerCount;
///
/// fn show(count: &PeerCount) -> String {
///     let met = if count.met { "enough" } else { "too few" };
///     format!("{} of {} peers, {met}", count.direct, count.min)
/// }
/// # let _ = show;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCount {
    /// Peers that were expected.
    pub min: usize,
    /// Peers that are connected to this client.
    pub direct: usize,
    /// Whether `direct` is at least `min`.
    pub met: bool,
}

impl PeerCount {
    pub(crate) fn of(graph: &PresenceGraph, min: usize) -> Self {
        let direct = graph.direct_peers().count();
        Self { min, direct, met: direct >= min }
    }
}

impl PresenceGraph {
    pub(crate) fn new(local_peer: Peer, remote_peers: Vec<Peer>, as_of: SystemTime) -> Self {
        Self { local_peer, remote_peers, age: Age::Since(as_of), is_truncated: false }
    }

    pub(crate) fn set_age(&mut self, age: Age) {
        self.age = age;
    }

    pub(crate) fn set_truncated(&mut self, is_truncated: bool) {
        self.is_truncated = is_truncated;
    }

    /// A copy whose age is settled: a live graph is in step until now.
    pub(crate) fn read(&self) -> Self {
        Self { age: Age::Since(self.as_of()), ..self.clone() }
    }

    /// The peer with this key, the local one included. Looks at each peer.
    ///
    /// ```
    /// # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/graph.json"));
    /// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
    /// assert_eq!(graph.peer("pkCQ").map(|peer| &*peer.device_name), Some("kitchen"));
    /// assert!(graph.peer("pkAA").is_none());
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn peer(&self, key: &str) -> Option<&Peer> {
        self.peers().find(|peer| peer.key() == key)
    }

    /// The remote peers that are connected to this client.
    ///
    /// ```
    /// # let text = r#"{"localPeer": {"peerKeyString": "pkBw", "deviceName": "", "connections": [
    /// #     {"id": "pkBw<->pkCQ:WebSocket", "peerKeyString1": "pkBw", "peerKeyString2": "pkCQ",
    /// #      "connectionType": "WebSocket"}]}, "remotePeers": [
    /// #     {"peerKeyString": "pkCQ", "deviceName": "kitchen", "connections": []},
    /// #     {"peerKeyString": "pkCg", "deviceName": "office", "connections": []}]}"#;
    /// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
    /// assert_eq!(graph.remote_peers.len(), 2);
    /// let names: Vec<&str> = graph.direct_peers().map(|peer| peer.device_name.as_str()).collect();
    /// assert_eq!(names, ["kitchen"]);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn direct_peers(&self) -> impl Iterator<Item = &Peer> {
        let direct: HashSet<&str> = self.neighbours().collect();
        self.remote_peers.iter().filter(move |peer| direct.contains(peer.key()))
    }

    /// Whether the peer with this key is connected to this client.
    ///
    /// ```
    /// # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/graph.json"));
    /// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
    /// assert!(graph.is_direct("pkCQ"));
    /// assert!(!graph.is_direct(graph.local_peer.key()));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn is_direct(&self, key: &str) -> bool {
        self.neighbours().any(|neighbour| neighbour == key)
    }

    /// The connections of the local peer, by type.
    ///
    /// ```
    /// # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/graph.json"));
    /// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
    /// for (connection_type, connections) in graph.connections_by_type() {
    ///     println!("{connection_type}: {}", connections.len());
    /// }
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn connections_by_type(&self) -> BTreeMap<ConnectionType, Vec<&Connection>> {
        let mut by_type: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for connection in &self.local_peer.connections {
            by_type.entry(connection.connection_type).or_default().push(connection);
        }
        by_type
    }

    /// Until when this graph is known to be in step with the server: while connected the time of
    /// this call, else the time at which the connection was lost; before the first connection the
    /// time at which the client was made.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// # use std::time::SystemTime;
    /// // Never connected: as old as the client.
    /// assert!(client.presence().graph().as_of() <= SystemTime::now());
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn as_of(&self) -> SystemTime {
        self.age.as_of()
    }

    /// The time since [`as_of`](Self::as_of); zero when the clock was set back.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// use std::time::Duration;
    ///
    /// let graph = client.presence().graph();
    /// if graph.staleness() > Duration::from_secs(60) {
    ///     println!("the graph may be out of date");
    /// }
    /// # Ok::<(), ClientError>(())
    /// ```
    pub fn staleness(&self) -> Duration {
        self.age.staleness()
    }

    /// Whether the server left peers out, because there are more than it lists.
    ///
    /// ```
    /// # let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/graph.json"));
    /// # let graph: headcount::client::PresenceGraph = serde_json::from_str(text)?;
    /// let more = if graph.is_truncated() { " or more" } else { "" };
    /// println!("{}{more} peers", graph.remote_peers.len());
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    fn peers(&self) -> impl Iterator<Item = &Peer> {
        std::iter::once(&self.local_peer).chain(&self.remote_peers)
    }

    /// Keys of the other ends of the local peer's connections.
    fn neighbours(&self) -> impl Iterator<Item = &str> {
        let local = self.local_peer.key();
        self.local_peer.connections.iter().filter_map(|connection| connection.other_end(local))
    }
}

impl PartialEq for PresenceGraph {
    fn eq(&self, other: &Self) -> bool {
        self.local_peer == other.local_peer
            && self.remote_peers == other.remote_peers
            && self.is_truncated == other.is_truncated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::foony::peer::key_text;

    fn peer(key: u8, neighbours: &[(u8, ConnectionType)]) -> Peer {
        let mut peer = Peer::new(&[key]);
        peer.connections = neighbours
            .iter()
            .map(|(to, kind)| Connection::between(&[key], &[*to], *kind))
            .collect();
        peer
    }

    fn star() -> PresenceGraph {
        use ConnectionType::{AccessPoint, WebSocket};
        let local = peer(7, &[(9, WebSocket), (9, AccessPoint), (3, WebSocket)]);
        let remote = vec![peer(9, &[(7, WebSocket)]), peer(3, &[(7, WebSocket)]), peer(4, &[])];
        PresenceGraph::new(local, remote, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn direct_peers_are_those_with_a_connection_to_us_each_once() {
        let graph = star();
        let direct: Vec<&str> = graph.direct_peers().map(Peer::key).collect();
        assert_eq!(direct, ["pkCQ", "pkAw"]);
        for (key, is_direct) in [(9, true), (3, true), (4, false), (7, false), (99, false)] {
            assert_eq!(graph.is_direct(&key_text(&[key])), is_direct, "{key}");
        }
        assert!(!graph.is_direct(""));
    }

    #[test]
    fn peers_are_found_by_key_the_local_one_too() {
        let graph = star();
        assert_eq!(graph.peer("pkBw"), Some(&graph.local_peer));
        assert_eq!(graph.peer("pkBA"), Some(&graph.remote_peers[2]));
        assert_eq!(graph.peer("pkBB"), None);
    }

    #[test]
    fn connections_are_grouped_by_type() {
        let graph = star();
        let counts: Vec<_> = graph.connections_by_type().into_iter().collect();
        let counts: Vec<_> = counts.iter().map(|(kind, all)| (*kind, all.len())).collect();
        assert_eq!(counts, [(ConnectionType::AccessPoint, 1), (ConnectionType::WebSocket, 2)]);
    }

    #[test]
    fn expected_peers_are_met_from_the_minimum_on() {
        for (min, met) in [(0, true), (2, true), (3, false)] {
            assert_eq!(PeerCount::of(&star(), min), PeerCount { min, direct: 2, met });
        }
    }

    #[test]
    fn a_graph_ages_from_the_loss_of_its_connection_on() {
        let mut graph = star();
        assert_eq!(graph.as_of(), SystemTime::UNIX_EPOCH);
        assert!(graph.staleness() > Duration::from_secs(1_000_000_000));
        graph.set_age(Age::Live);
        assert_eq!(graph.staleness(), Duration::ZERO);
        let read = graph.read();
        let as_of = read.as_of();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(read.as_of(), as_of);
        assert!(read.staleness() >= Duration::from_millis(2));
    }

    #[test]
    fn equality_ignores_the_age_and_nothing_else() {
        let mut other = star();
        other.set_age(Age::Live);
        assert_eq!(other, star());
        other.set_truncated(true);
        assert_ne!(other, star());
        let mut other = star();
        other.remote_peers[1].set_metadata_trust(MetadataTrust::Stripped);
        assert_ne!(other, star());
    }
}
