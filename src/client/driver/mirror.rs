//! The presence graph of this client, put together from the members of its channels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use indexmap::IndexMap;

use crate::client::ClientError;
use crate::client::admission::{ConnectionRequest, RequestParts};
use crate::client::direct::DirectMessage;
use crate::client::graph::{
    Connection, ConnectionType, MetadataTrust, Peer, PresenceGraph, PresenceOs,
};
use crate::client::member::{MemberPeer, Present};
use crate::client::presence::{LocalPeer, Presence};
use crate::signature::{PUBLIC_KEY_BYTES, ProvenKey};
use crate::wire::foony::PeerGreeting;
use crate::wire::foony::peer::{self as wire, EdgeRequest, PeerUpdate, Transport, key_text};

/// What the first update says.
const NO_METADATA: &str = "{}";

/// Peers that a graph has at most, unless the server says.
const PEERS_MAX: usize = 10_000;

/// Peers whose newest version is remembered: those that were seen first are forgotten first, and
/// a value of theirs that is replayed later counts as verified.
const VERSIONS_MAX: usize = 20_000;

/// Up to this many peers, connections among others are listed.
const FULL_GRAPH_PEERS_MAX: usize = 64;

/// What the graph is made of besides the members.
pub(super) struct Mirror {
    presence: Arc<Presence>,
    local: Arc<LocalPeer>,
    /// Of this client; empty until the server has said it.
    key: Vec<u8>,
    /// Proves to the server of this connection that this client holds its key; only of a client
    /// that signs.
    proven: Option<ProvenKey>,
    /// What the server of this connection takes.
    metadata_bytes_max: usize,
    /// Peers that a graph has at most.
    peers_max: usize,
    /// The newest version of each peer's metadata that this client has seen.
    newest: IndexMap<Vec<u8>, u64>,
    /// Tells the connections of this client apart.
    connection: u64,
    is_changed: bool,
}

/// One peer, from all its connections in all channels.
struct Node<'m> {
    peer: &'m MemberPeer,
    client_id: &'m str,
    is_connected: bool,
    transport: Transport,
    /// Keys of those whom it has not admitted.
    unadmitted: BTreeSet<&'m [u8]>,
}

impl Mirror {
    pub fn new(presence: Arc<Presence>) -> Self {
        let local = presence.local();
        Mirror {
            presence,
            local,
            key: Vec::new(),
            proven: None,
            metadata_bytes_max: usize::MAX,
            peers_max: PEERS_MAX,
            newest: IndexMap::new(),
            connection: 0,
            is_changed: false,
        }
    }

    pub fn key(&self) -> &[u8] {
        &self.key
    }

    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Lets the program decide whether a peer may connect.
    pub fn decide(&self, request: &EdgeRequest<'_>) {
        let text = |json: &[u8]| String::from_utf8_lossy(json).into_owned();
        let about = ConnectionRequest::new(RequestParts {
            peer_key: request.key.to_vec(),
            peer_metadata: text(request.metadata),
            identity_service_metadata: text(request.identity_metadata),
            connection_type: connection_type(Transport::WebSocket, request.transport),
            channel: request.channel.to_string(),
        });
        self.presence.decide(self.connection, request.request, about);
    }

    /// Hands a direct message to the program; true if somebody takes it.
    pub fn take_direct(&self, message: &wire::DirectMessage<'_>) -> bool {
        self.local.take_direct(&DirectMessage {
            from_peer_key: key_text(message.from),
            name: message.name.to_string(),
            data: serde_json::from_slice(message.data).unwrap_or_default(),
        })
    }

    /// The server has greeted a peer.
    pub fn handle_greeting(&mut self, greeting: &PeerGreeting<'_>) {
        self.proven = self.local.metadata().prove(greeting.nonce);
        let key = self.proven.as_ref().map_or(greeting.key, |proven| &proven.public);
        self.key = key.to_vec();
        self.metadata_bytes_max = greeting.metadata_bytes_max.try_into().unwrap_or(usize::MAX);
        self.peers_max = greeting.peers_max.try_into().unwrap_or(usize::MAX);
        self.is_changed = true;
    }

    pub fn handle_disconnected(&mut self) {
        self.connection += 1;
        self.proven = None;
        self.metadata_bytes_max = usize::MAX;
    }

    /// Whether the server lacks its greeting of a peer, without which a client that signs cannot
    /// say who it is.
    pub fn awaits_greeting(&self) -> bool {
        self.local.metadata().is_signed() && self.proven.is_none()
    }

    /// Whether the first update has not said everything.
    pub fn has_more_to_say(&self) -> bool {
        self.proven.is_some() || *self.local.metadata().text() != *NO_METADATA
    }

    /// Why the server refused an update, as precisely as it is known here.
    pub fn refusal(&self, error: &ClientError) -> ClientError {
        let (limit, got) = (self.metadata_bytes_max, self.local.metadata().text().len());
        match error {
            ClientError::Refused { .. } if got > limit => {
                ClientError::SizeLimitExceeded { limit, got }
            }
            error => error.clone(),
        }
    }

    /// The graph may differ from the last one.
    pub fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// What the client says of itself before the server has said what it takes.
    pub fn first_update(&self, id: u64) -> PeerUpdate<'static> {
        let metadata = NO_METADATA.as_bytes().into();
        PeerUpdate { metadata, key: None, signature: None, ..self.peer_update(id) }
    }

    /// What the client says of itself.
    pub fn peer_update(&self, id: u64) -> PeerUpdate<'static> {
        let local = &self.local;
        let (metadata, signature) = local.metadata().signed_text();
        PeerUpdate {
            id,
            device: local.device().to_vec().into(),
            device_name: local.device_name().to_owned().into(),
            os: PresenceOs::local().to_string().into(),
            sdk_version: env!("CARGO_PKG_VERSION").into(),
            asks_ms: local.asks_ms(),
            handler: local.handler(),
            metadata: metadata.as_bytes().to_vec().into(),
            key: self.proven.map(Box::new),
            signature: signature.map(Box::new),
        }
    }

    /// The graph as it is now.
    pub fn graph<'m>(
        &mut self,
        present: impl Iterator<Item = (&'m str, &'m Present)> + Clone,
        is_live: bool,
    ) -> PresenceGraph {
        self.is_changed = false;
        let mut nodes = nodes(present.clone().map(|(_, present)| present));
        let own = nodes.remove(&*self.key);
        let mut local = self.local.peer(&self.key);
        local.is_connected_to_ditto_cloud = is_live;
        if let Some(own) = &own {
            local.identity_service_metadata = Arc::clone(&own.peer.identity_metadata);
            local.set_client_id(Some(own.client_id.to_owned()));
        }
        let is_truncated = nodes.len() > self.peers_max;
        let all: Vec<(&[u8], Node<'_>)> = nodes.into_iter().take(self.peers_max).collect();
        let mut remote = Vec::with_capacity(all.len());
        for (key, node) in &all {
            let mut peer = remote_peer(key, node);
            peer.set_metadata_trust(self.trust(node.peer));
            remote.push(peer);
        }
        for (peer, (key, node)) in remote.iter_mut().zip(&all) {
            let Some(own) = &own else { break };
            if !own.is_connected_to(node) {
                continue;
            }
            let edge =
                Connection::between(&self.key, key, connection_type(own.transport, node.transport));
            local.connections.push(edge.clone());
            peer.connections.push(edge);
        }
        if all.len() < FULL_GRAPH_PEERS_MAX {
            connect_others(&mut remote, &all, &channels(present));
        }
        let mut graph = PresenceGraph::new(local, remote, SystemTime::now());
        graph.set_truncated(is_truncated);
        graph
    }

    /// How far the metadata of a peer can be trusted. Remembers its version.
    fn trust(&mut self, peer: &MemberPeer) -> MetadataTrust {
        if peer.key.len() != PUBLIC_KEY_BYTES {
            return MetadataTrust::Unsigned;
        }
        let Some(version) = peer.signed_version else { return MetadataTrust::Stripped };
        match self.newest.get_mut(&peer.key) {
            Some(newest) if version < *newest => return MetadataTrust::Replayed,
            Some(newest) => *newest = version,
            None => {
                if self.newest.len() == VERSIONS_MAX {
                    self.newest.shift_remove_index(0);
                }
                self.newest.insert(peer.key.clone(), version);
            }
        }
        MetadataTrust::Verified
    }
}

impl Node<'_> {
    /// Whether each has admitted the other.
    fn is_connected_to(&self, other: &Node<'_>) -> bool {
        let admits = |a: &Node<'_>, b: &Node<'_>| !a.unadmitted.contains(&*b.peer.key);
        admits(self, other) && admits(other, self)
    }
}

fn nodes<'m>(present: impl Iterator<Item = &'m Present>) -> BTreeMap<&'m [u8], Node<'m>> {
    let mut nodes = BTreeMap::<&[u8], Node<'_>>::new();
    for present in present {
        let Some(peer) = &present.peer else { continue };
        let node = nodes.entry(&peer.key).or_insert_with(|| Node {
            peer,
            client_id: &present.member.client_id,
            is_connected: false,
            transport: peer.transport,
            unadmitted: BTreeSet::new(),
        });
        node.unadmitted.extend(peer.unadmitted.iter().map(|unadmitted| &*unadmitted.key));
        // Of several connections that sign, the one with the newest version speaks.
        let is_newest = peer.signed_version >= node.peer.signed_version;
        if !peer.is_lost && (is_newest || !node.is_connected) {
            node.is_connected = true;
            node.peer = peer;
        }
    }
    nodes
}

fn remote_peer(key: &[u8], node: &Node<'_>) -> Peer {
    let mut peer = Peer::new(key);
    peer.device_name.clone_from(&node.peer.device_name);
    peer.os = Some(PresenceOs::of_name(&node.peer.os));
    peer.is_connected_to_ditto_cloud = node.is_connected;
    peer.is_compatible = Some(true);
    peer.ditto_sdk_version = Some(&node.peer.sdk_version).filter(|v| !v.is_empty()).cloned();
    peer.peer_metadata = Arc::clone(&node.peer.metadata);
    peer.identity_service_metadata = Arc::clone(&node.peer.identity_metadata);
    peer.set_client_id(Some(node.client_id.to_owned()));
    peer
}

/// The channels of each peer.
fn channels<'m>(
    present: impl Iterator<Item = (&'m str, &'m Present)>,
) -> BTreeMap<&'m [u8], BTreeSet<&'m str>> {
    let mut channels = BTreeMap::<&[u8], BTreeSet<&str>>::new();
    for (channel, present) in present {
        if let Some(peer) = &present.peer {
            channels.entry(&peer.key).or_default().insert(channel);
        }
    }
    channels
}

fn connect_others(
    remote: &mut [Peer],
    all: &[(&[u8], Node<'_>)],
    channels: &BTreeMap<&[u8], BTreeSet<&str>>,
) {
    let are_apart = |a, b| match (channels.get(a), channels.get(b)) {
        (Some(a), Some(b)) => a.is_disjoint(b),
        _ => true,
    };
    for (at, (key, node)) in all.iter().enumerate() {
        for (other_at, (other_key, other)) in all.iter().enumerate().skip(at + 1) {
            if are_apart(key, other_key) || !node.is_connected_to(other) {
                continue;
            }
            let edge = Connection::between(
                key,
                other_key,
                connection_type(node.transport, other.transport),
            );
            remote[at].connections.push(edge.clone());
            remote[other_at].connections.push(edge);
        }
    }
}

/// The type of a connection, the same from both ends.
fn connection_type(a: Transport, b: Transport) -> ConnectionType {
    match (a, b) {
        (Transport::WebSocket, Transport::WebSocket) => ConnectionType::WebSocket,
        (Transport::Tcp, _) | (_, Transport::Tcp) => ConnectionType::AccessPoint,
        _ => ConnectionType::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::client::callbacks::CallbackThread;
    use crate::client::driver::CommandQueue;
    use crate::client::metadata::MetadataStore;
    use crate::signature::MetadataSignature;
    use crate::wire::foony::{Action, Member, PeerMember};

    fn mirror() -> Mirror {
        let metadata = MetadataStore::open(None, None).expect("a store");
        let local = LocalPeer::new([0; 16], String::new(), metadata, Duration::ZERO);
        let callbacks = CallbackThread::start("test").expect("a thread");
        let queue = CommandQueue::new().expect("descriptors");
        let presence = Presence::new(local, Duration::ZERO, callbacks, Arc::new(queue));
        Mirror::new(Arc::new(presence))
    }

    /// The trust in a peer that is shown with this key and signature.
    fn trust(mirror: &mut Mirror, key: &[u8], signature: Option<MetadataSignature>) -> String {
        let member = Member {
            action: Action::Enter,
            timestamp_ms: 0,
            channel: "shop".into(),
            client_id: "ann".into(),
            connection_id: "1".into(),
            data: b"",
            encoding: "".into(),
        };
        let peer = PeerMember {
            member,
            is_lost: false,
            reason: 0,
            key,
            transport: Transport::WebSocket,
            device_name: "".into(),
            os: "".into(),
            sdk_version: "".into(),
            metadata: b"{}",
            signature,
            identity_metadata: b"",
            unadmitted: Vec::new(),
        };
        let present = Present::of_peer(&peer, None);
        let graph = mirror.graph([("shop", &present)].into_iter(), true);
        format!("{:?}", graph.remote_peers[0].metadata_trust())
    }

    #[test]
    fn metadata_is_trusted_if_its_signature_is_valid_and_none_newer_was_seen() {
        let mut mirror = mirror();
        let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let public = key.verifying_key().to_bytes();
        let signed = |version| Some(MetadataSignature::new(&key, version, 1, b"{}"));
        let forged = Some(MetadataSignature::new(&other, 9, 1, b"{}"));
        for (key, signature, expected) in [
            (&public[..], signed(5), "Verified"),
            (&public, signed(7), "Verified"),
            (&public, signed(7), "Verified"),
            (&public, signed(6), "Replayed"),
            (&public, None, "Stripped"),
            (&public, forged, "Stripped"),
            (&public, signed(8), "Verified"),
            (&public[..16], None, "Unsigned"),
            (&public[..16], signed(9), "Unsigned"),
        ] {
            assert_eq!(trust(&mut mirror, key, signature), expected, "{signature:?}");
        }
    }
}
