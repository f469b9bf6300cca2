//! Several members of one channel, and what their presence sets say.

use crate::client::{SyncClient, Who};
use crate::cursor;
use crate::generation::Peer;
use crate::server::Server;

/// Logs everybody in, in order, with the state `cursor(index)`, and waits after each until all
/// have seen it. Afterwards nothing is on its way to anybody.
pub async fn join_room(server: &Server, channel: &str, members: &[Who]) -> Vec<SyncClient> {
    let mut joined: Vec<SyncClient> = Vec::new();
    for (index, who) in members.iter().enumerate() {
        let mut client = server.login(who).await;
        let state = cursor(u8::try_from(index).expect("a small room"));
        client.update(channel, &state).await;
        joined.push(client);
        if index == 0 {
            joined[0].expect_alive().await;
            continue;
        }
        for member in &mut joined {
            member.until_broadcast(channel, |peers| peers.len() == index + 1).await;
        }
    }
    joined
}

/// The users of a presence set, in its order.
pub fn users(peers: &[Peer]) -> Vec<&str> {
    peers.iter().map(|peer| peer.user.as_str()).collect()
}

/// Users and states of a presence set, in its order.
pub fn states(peers: &[Peer]) -> Vec<(&str, &[u8])> {
    peers.iter().map(|peer| (peer.user.as_str(), peer.state.as_slice())).collect()
}

/// The state of one user; panics unless exactly one entry is that user's.
pub fn state_of<'a>(peers: &'a [Peer], user: &str) -> &'a [u8] {
    let mut entries = peers.iter().filter(|peer| peer.user == user);
    let entry = entries.next().unwrap_or_else(|| panic!("{user} is not in {peers:?}"));
    assert!(entries.next().is_none(), "{user} is more than once in {peers:?}");
    &entry.state
}
