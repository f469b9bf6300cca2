//! The graph as a tree in ASCII, for logs and terminals.

use std::collections::BTreeMap;
use std::fmt;

use super::{ConnectionType, Peer, PresenceGraph};

impl fmt::Display for PresenceGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut types: BTreeMap<&str, Vec<ConnectionType>> = BTreeMap::new();
        for connection in &self.local_peer.connections {
            if let Some(key) = connection.other_end(self.local_peer.key()) {
                types.entry(key).or_default().push(connection.connection_type);
            }
        }
        let (direct, others): (Vec<&Peer>, Vec<&Peer>) =
            self.remote_peers.iter().partition(|peer| types.contains_key(peer.key()));
        write_peer(f, &self.local_peer)?;
        writeln!(f)?;
        writeln!(f, "|-- direct peers: {}", direct.len())?;
        write_peers(f, "|   ", &direct, &types)?;
        let truncated = if self.is_truncated { " (more exist)" } else { "" };
        writeln!(f, "`-- other peers: {}{truncated}", others.len())?;
        write_peers(f, "    ", &others, &types)
    }
}

fn write_peers(
    f: &mut fmt::Formatter<'_>,
    indent: &str,
    peers: &[&Peer],
    types: &BTreeMap<&str, Vec<ConnectionType>>,
) -> fmt::Result {
    for (at, peer) in peers.iter().enumerate() {
        let branch = if at + 1 == peers.len() { "`--" } else { "|--" };
        write!(f, "{indent}{branch} ")?;
        write_peer(f, peer)?;
        for (at, kind) in types.get(peer.key()).into_iter().flatten().enumerate() {
            write!(f, "{} {kind}", if at == 0 { ":" } else { "," })?;
        }
        writeln!(f)?;
    }
    Ok(())
}

/// Names are others' words: what is not printable ASCII is escaped.
fn write_peer(f: &mut fmt::Formatter<'_>, peer: &Peer) -> fmt::Result {
    let key = if peer.key().is_empty() { "(no key yet)" } else { peer.key() };
    write!(f, "{}", key.escape_default())?;
    let device = Some(&*peer.device_name).filter(|device| !device.is_empty());
    // The device of a member that has told none has the name of the client.
    let client = peer.client_id().filter(|client| device != Some(client));
    for (at, name) in [client, device].into_iter().flatten().enumerate() {
        write!(f, "{} \"{}\"", if at == 0 { "" } else { " on" }, name.escape_default())?;
    }
    if let Some(os) = peer.os {
        write!(f, " {os}")?;
    }
    f.write_str(if peer.is_connected_to_ditto_cloud { " online" } else { " offline" })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::client::graph::{Connection, PresenceOs};

    #[test]
    fn a_graph_is_a_tree_of_printable_ascii() {
        let edge = |kind| Connection::between(&[7], &[9], kind);
        let mut local = Peer::new(&[7]);
        local.device_name = "till-1".into();
        local.set_client_id(Some("ann".into()));
        local.os = Some(PresenceOs::Linux);
        local.is_connected_to_ditto_cloud = true;
        local.connections =
            vec![edge(ConnectionType::AccessPoint), edge(ConnectionType::WebSocket)];
        let mut evil = Peer::new(&[3]);
        evil.device_name = "\u{1b}[2Jk\u{fc}che\n".into();
        let mut unnamed = Peer::new(&[4]);
        unnamed.set_client_id(Some("bob".into()));
        let mut foreign = Peer::new(&[9]);
        foreign.set_client_id(Some("eve".into()));
        foreign.device_name = "eve".into();
        let remote = vec![evil, foreign, unnamed];
        let mut graph = PresenceGraph::new(local, remote, SystemTime::UNIX_EPOCH);
        graph.set_truncated(true);
        let expected = "\
pkBw \"ann\" on \"till-1\" Linux online
|-- direct peers: 1
|   `-- pkCQ \"eve\" offline: AccessPoint, WebSocket
`-- other peers: 2 (more exist)
    |-- pkAw \"\\u{1b}[2Jk\\u{fc}che\\n\" offline
    `-- pkBA \"bob\" offline
";
        assert_eq!(graph.to_string(), expected);
    }
}
