//! Many Rust clients: graphs converge under churn, and after the server was killed.
#![cfg(feature = "server")]

use std::thread;

use headcount::client::prelude::*;
use peers::{Server, WITHIN, until};

mod command;
mod peers;
mod served;
mod tempdir;

/// Everyone in the graph, this client included, as others see them.
fn everyone(client: &Client) -> Vec<(String, String)> {
    let graph = client.presence().graph();
    let peers = graph.remote_peers.iter().chain([&graph.local_peer]);
    let metadata = |peer: &Peer| serde_json::to_string(&*peer.peer_metadata).unwrap();
    let mut everyone: Vec<_> = peers.map(|peer| (peer.key().to_owned(), metadata(peer))).collect();
    everyone.sort();
    everyone
}

fn is_settled(clients: &[Client], count: usize) -> bool {
    let first = everyone(&clients[0]);
    first.len() == count && clients.iter().all(|client| everyone(client) == first)
}

#[test]
fn graphs_converge_while_five_hundred_peers_come_and_go() {
    const THREADS: usize = 4;
    const EACH: usize = 125;
    const WATCHING: usize = 5;
    let server = Server::start("");
    let watching: Vec<Client> =
        (0..WATCHING).map(|n| server.joined(&format!("watch-{n}"), "shop")).collect();
    let stay: Vec<Client> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let server = &server;
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    for n in 0..EACH {
                        let client = server.joined(&format!("peer-{thread}-{n}"), "shop");
                        let metadata = serde_json::json!({ "n": n });
                        client.presence().set_peer_metadata(&metadata).unwrap();
                        if n % 25 == 0 {
                            client.presence().peer_metadata_synced().wait_timeout(WITHIN).unwrap();
                            kept.push(client);
                        }
                    }
                    kept
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let expected = WATCHING + stay.len();
    until("all graphs are equal", || {
        is_settled(&watching, expected) && is_settled(&stay, expected)
    });
    assert_eq!(everyone(&watching[0]), everyone(&stay[0]));
}

#[test]
fn a_hundred_clients_find_each_other_again() {
    const CLIENTS: usize = 100;
    let mut server = Server::start("");
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|n| {
            let client = server.joined(&format!("peer-{n}"), "shop");
            client.presence().set_peer_metadata(&serde_json::json!({ "n": n })).unwrap();
            client
        })
        .collect();
    until("all graphs are equal", || is_settled(&clients, CLIENTS));
    let before = everyone(&clients[0]);
    server.kill();
    until("everyone noticed", || {
        clients.iter().all(|client| matches!(client.state(), ClientState::Stale { .. }))
    });
    server.run();
    until("everyone is live", || clients.iter().all(|c| c.state() == ClientState::Live));
    until("all graphs are equal again", || is_settled(&clients, CLIENTS));
    assert_eq!(everyone(&clients[0]), before, "keys and metadata are kept");
}
