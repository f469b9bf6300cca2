//! What changed between two graphs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Connection, Peer, PresenceGraph};

/// What changed since the graph before. Applied in order, the differences give [`graph`].
///
/// The first one has everybody in `joined`, the local peer included, and every connection in
/// `edges_added`. Each connection is listed once, though it is in two peers. Peers and connections
/// are in the order of their graph.
///
/// ```
/// use headcount::client::GraphDiff;
///
/// fn print(diff: &GraphDiff) {
///     diff.joined.iter().for_each(|peer| println!("+ {}", peer.device_name));
///     diff.left.iter().for_each(|peer| println!("- {}", peer.device_name));
///     diff.edges_added.iter().for_each(|edge| println!("+ {}", edge.id));
///     println!("{} peers", diff.graph.remote_peers.len());
/// }
/// # let _ = print;
/// ```
///
/// [`graph`]: Self::graph
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GraphDiff {
    pub joined: Vec<Peer>,
    /// The last values of peers that are gone.
    pub left: Vec<Peer>,
    /// New values of peers of which more than `connections` changed.
    pub updated: Vec<Peer>,
    pub edges_added: Vec<Connection>,
    pub edges_removed: Vec<Connection>,
    /// The graph after this change.
    pub graph: Arc<PresenceGraph>,
}

impl GraphDiff {
    /// `None` when nothing changed since `old`. Without `old` it is the first, which may be empty.
    pub(crate) fn between(
        old: Option<&Arc<PresenceGraph>>,
        new: Arc<PresenceGraph>,
    ) -> Option<Self> {
        let before = peers_by_key(old.map(Arc::as_ref));
        let after = peers_by_key(Some(new.as_ref()));
        let old_peers = || old.into_iter().flat_map(|graph| graph.peers());
        let (edges_before, edges_after) = (edges(old.map(Arc::as_ref)), edges(Some(&new)));
        let difference = Self {
            joined: new.peers().filter(|peer| !before.contains_key(peer.key())).cloned().collect(),
            left: old_peers().filter(|peer| !after.contains_key(peer.key())).cloned().collect(),
            updated: new.peers().filter(|peer| is_updated(peer, &before)).cloned().collect(),
            edges_added: edges_after.difference(&edges_before).copied().cloned().collect(),
            edges_removed: edges_before.difference(&edges_after).copied().cloned().collect(),
            graph: Arc::clone(&new),
        };
        (old.is_none() || !difference.is_empty()).then_some(difference)
    }

    fn is_empty(&self) -> bool {
        self.joined.is_empty()
            && self.left.is_empty()
            && self.updated.is_empty()
            && self.edges_added.is_empty()
            && self.edges_removed.is_empty()
    }
}

fn peers_by_key(graph: Option<&PresenceGraph>) -> HashMap<&str, &Peer> {
    graph.into_iter().flat_map(PresenceGraph::peers).map(|peer| (peer.key(), peer)).collect()
}

fn edges(graph: Option<&PresenceGraph>) -> BTreeSet<&Connection> {
    graph.into_iter().flat_map(PresenceGraph::peers).flat_map(|peer| &peer.connections).collect()
}

fn is_updated(peer: &Peer, before: &HashMap<&str, &Peer>) -> bool {
    before.get(peer.key()).is_some_and(|old| !old.is_same_node(peer))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    use super::*;
    use crate::client::graph::ConnectionType;

    /// Xorshift, 64 bits (Marsaglia 2003).
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % end
        }
    }

    fn graph(peers: Vec<Peer>) -> Arc<PresenceGraph> {
        let mut peers = peers.into_iter();
        let local = peers.next().expect("a local peer");
        Arc::new(PresenceGraph::new(local, peers.collect(), SystemTime::UNIX_EPOCH))
    }

    fn random_graph(random: &mut Random) -> Arc<PresenceGraph> {
        let mut keys = vec![0];
        keys.extend((1..8).filter(|_| random.below(3) > 0));
        let mut peers: Vec<Peer> = keys.iter().map(|key| Peer::new(&[*key])).collect();
        for peer in &mut peers {
            peer.device_name = format!("name {}", random.below(2));
        }
        for a in 0..peers.len() {
            for b in a + 1..peers.len() {
                let types = [ConnectionType::WebSocket, ConnectionType::AccessPoint];
                for kind in types.into_iter().filter(|_| random.below(3) == 0) {
                    let edge = Connection::between(&[keys[a]], &[keys[b]], kind);
                    peers[a].connections.push(edge.clone());
                    peers[b].connections.push(edge);
                }
            }
        }
        graph(peers)
    }

    /// What an application keeps that reads differences alone.
    #[derive(Default)]
    struct Model {
        peers: BTreeMap<String, Peer>,
        edges: BTreeSet<Connection>,
    }

    impl Model {
        fn apply(&mut self, diff: &GraphDiff) {
            for peer in &diff.left {
                assert!(self.peers.remove(peer.key()).is_some(), "left, and was not there");
            }
            for peer in &diff.joined {
                assert!(self.peers.insert(peer.key().into(), peer.clone()).is_none());
            }
            for peer in &diff.updated {
                assert!(self.peers.insert(peer.key().into(), peer.clone()).is_some());
            }
            for edge in &diff.edges_removed {
                assert!(self.edges.remove(edge), "removed, and was not there");
            }
            for edge in &diff.edges_added {
                assert!(self.edges.insert(edge.clone()), "added twice");
            }
        }

        fn assert_is(&self, graph: &PresenceGraph) {
            assert_eq!(self.peers.len(), graph.remote_peers.len() + 1);
            for peer in graph.peers() {
                assert!(self.peers[peer.key()].is_same_node(peer), "{}", peer.key());
                let edges: BTreeSet<&Connection> =
                    self.edges.iter().filter(|e| e.other_end(peer.key()).is_some()).collect();
                assert_eq!(edges, peer.connections.iter().collect(), "{}", peer.key());
            }
        }
    }

    #[test]
    fn differences_applied_in_order_give_the_graph() {
        for seed in 1..50 {
            let mut random = Random(seed << 32 | 0x9e37_79b9);
            let (mut model, mut old) = (Model::default(), None);
            for _ in 0..20 {
                let new = random_graph(&mut random);
                if let Some(diff) = GraphDiff::between(old.as_ref(), new.clone()) {
                    model.apply(&diff);
                    assert!(Arc::ptr_eq(&diff.graph, &new));
                }
                model.assert_is(&new);
                old = Some(new);
            }
        }
    }

    #[test]
    fn the_first_difference_is_everybody_and_an_unchanged_graph_has_none() {
        let alone = graph(vec![Peer::new(&[])]);
        let first = GraphDiff::between(None, alone.clone()).expect("the first");
        assert_eq!(first.joined, [Peer::new(&[])]);
        assert_eq!(GraphDiff::between(Some(&alone), Arc::new(alone.read())), None);
    }

    #[test]
    fn a_new_connection_updates_no_peer() {
        let edge = Connection::between(&[1], &[2], ConnectionType::WebSocket);
        let apart = [Peer::new(&[1]), Peer::new(&[2])];
        let mut together = apart.clone();
        together.iter_mut().for_each(|peer| peer.connections.push(edge.clone()));
        let diff = GraphDiff::between(Some(&graph(apart.into())), graph(together.into()));
        let diff = diff.expect("a difference");
        assert_eq!((diff.updated, diff.edges_added), (vec![], vec![edge]));
    }
}
