//! The presence graph of this client, put together from the members of its channels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::client::admission::{ConnectionRequest, RequestParts};
use crate::client::direct::DirectMessage;
use crate::client::graph::{Connection, ConnectionType, Peer, PresenceGraph, PresenceOs};
use crate::client::member::{MemberPeer, Present};
use crate::client::presence::{LocalPeer, Presence};
use crate::wire::foony::peer::{self as wire, EdgeRequest, PeerUpdate, Transport, key_text};

/// Peers that a graph has at most.
const PEERS_MAX: usize = 10_000;

/// Up to this many peers, connections among others are listed.
const FULL_GRAPH_PEERS_MAX: usize = 64;

/// What the graph is made of besides the members.
pub(super) struct Mirror {
    presence: Arc<Presence>,
    local: Arc<LocalPeer>,
    /// Of this client; empty until the server has said it.
    key: Vec<u8>,
    is_changed: bool,
}

/// One peer, from all its connections in all channels.
struct Node<'m> {
    peer: &'m MemberPeer,
    client_id: &'m str,
    is_connected: bool,
    transport: Transport,
    channels: BTreeSet<&'m str>,
    /// Keys of those whom it has not admitted.
    unadmitted: BTreeSet<&'m [u8]>,
}

impl Mirror {
    pub fn new(presence: Arc<Presence>) -> Self {
        let local = presence.local();
        Mirror { presence, local, key: Vec::new(), is_changed: false }
    }

    pub fn key(&self) -> &[u8] {
        &self.key
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
        self.presence.decide(request.request, about);
    }

    /// Hands a direct message to the program; true if somebody takes it.
    pub fn take_direct(&self, message: &wire::DirectMessage<'_>) -> bool {
        self.local.take_direct(&DirectMessage {
            from_peer_key: key_text(message.from),
            name: message.name.to_string(),
            data: serde_json::from_slice(message.data).unwrap_or_default(),
        })
    }

    pub fn set_key(&mut self, key: &[u8]) {
        self.key = key.to_vec();
        self.is_changed = true;
    }

    /// The graph may differ from the last one.
    pub fn mark_changed(&mut self) {
        self.is_changed = true;
    }

    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// What the client says of itself.
    pub fn peer_update(&self, id: u64) -> PeerUpdate<'static> {
        let local = &self.local;
        PeerUpdate {
            id,
            device: local.device().to_vec().into(),
            device_name: local.device_name().to_owned().into(),
            os: PresenceOs::local().to_string().into(),
            sdk_version: env!("CARGO_PKG_VERSION").into(),
            asks_ms: local.asks_ms(),
            handler: local.handler(),
            metadata: local.metadata_text().as_bytes().to_vec().into(),
        }
    }

    /// The graph as it is now.
    pub fn graph<'m>(
        &mut self,
        present: impl Iterator<Item = (&'m str, &'m Present)>,
        is_live: bool,
    ) -> PresenceGraph {
        self.is_changed = false;
        let mut nodes = nodes(present);
        let own = nodes.remove(&*self.key);
        let mut local = self.local.peer(&self.key);
        local.is_connected_to_ditto_cloud = is_live;
        if let Some(own) = &own {
            local.identity_service_metadata = Arc::clone(&own.peer.identity_metadata);
            local.set_client_id(Some(own.client_id.to_owned()));
        }
        let is_truncated = nodes.len() > PEERS_MAX;
        let all: Vec<(&[u8], Node<'_>)> = nodes.into_iter().take(PEERS_MAX).collect();
        let mut remote: Vec<Peer> = all.iter().map(|(key, node)| remote_peer(key, node)).collect();
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
            connect_others(&mut remote, &all);
        }
        let mut graph = PresenceGraph::new(local, remote, SystemTime::now());
        graph.set_truncated(is_truncated);
        graph
    }
}

impl Node<'_> {
    /// Whether each has admitted the other.
    fn is_connected_to(&self, other: &Node<'_>) -> bool {
        let admits = |a: &Node<'_>, b: &Node<'_>| !a.unadmitted.contains(&*b.peer.key);
        admits(self, other) && admits(other, self)
    }
}

fn nodes<'m>(
    present: impl Iterator<Item = (&'m str, &'m Present)>,
) -> BTreeMap<&'m [u8], Node<'m>> {
    let mut nodes = BTreeMap::<&[u8], Node<'_>>::new();
    for (channel, present) in present {
        let Some(peer) = &present.peer else { continue };
        let node = nodes.entry(&peer.key).or_insert_with(|| Node {
            peer,
            client_id: &present.member.client_id,
            is_connected: false,
            transport: peer.transport,
            channels: BTreeSet::new(),
            unadmitted: BTreeSet::new(),
        });
        node.unadmitted.extend(peer.unadmitted.iter().map(|unadmitted| &*unadmitted.key));
        node.channels.insert(channel);
        if !peer.is_lost {
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

fn connect_others(remote: &mut [Peer], all: &[(&[u8], Node<'_>)]) {
    for (at, (key, node)) in all.iter().enumerate() {
        for (other_at, (other_key, other)) in all.iter().enumerate().skip(at + 1) {
            if node.channels.is_disjoint(&other.channels) || !node.is_connected_to(other) {
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
