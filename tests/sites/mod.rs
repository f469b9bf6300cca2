//! Clients behind proxies that break their connections, and what has to hold of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use headcount::client::prelude::*;
use serde_json::{Value, json};

use crate::fault_proxy::Proxy;
use crate::peers::{KEY, Server, WITHIN, collected, until};

/// A client, its proxy, and what it was sent.
pub struct Site {
    pub name: String,
    pub client: Client,
    pub proxy: Proxy,
    pub published: Vec<Pending<Published>>,
    deliveries: Receiver<Delivery>,
    states: Receiver<ClientState>,
    members: Receiver<MemberEvent>,
    diffs: Receiver<GraphDiff>,
    _handles: (Subscription, StateObserver, MemberObserver, PresenceObserver),
}

impl Site {
    pub fn start(server: &Server, name: &str) -> Site {
        let proxy = Proxy::start(address(server));
        let client = Client::connect(config(&proxy, name).join("shop")).expect("connected");
        let ((on_delivery, deliveries), (on_state, states)) = (collected(), collected());
        let ((on_member, members), (on_diff, diffs)) = (collected(), collected());
        let shop = client.channel("shop");
        let handles = (
            shop.subscribe(on_delivery),
            client.on_state(on_state),
            shop.observe_members(on_member),
            client.presence().observe_diff(on_diff),
        );
        handles.0.ready().wait_timeout(WITHIN).expect("subscribed");
        let (name, published) = (name.to_owned(), Vec::new());
        Site {
            name,
            client,
            proxy,
            published,
            deliveries,
            states,
            members,
            diffs,
            _handles: handles,
        }
    }

    /// Says and is something else.
    pub fn change(&mut self, round: usize) {
        let said = json!({"site": self.name, "round": round});
        self.client.presence().set_peer_metadata(&said).expect("metadata");
        drop(self.client.channel("shop").enter(&round));
        for _ in 0..3 {
            let data = json!([self.name, self.published.len()]);
            self.published.push(self.client.channel("shop").publish("n", &data));
        }
    }

    pub fn key(&self) -> String {
        self.client.presence().graph().local_peer.key().to_owned()
    }
}

pub fn address(server: &Server) -> SocketAddr {
    server.url.trim_start_matches("ws://").parse().expect("an address")
}

pub fn config(proxy: &Proxy, name: &str) -> ClientConfig {
    let backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(100) };
    ClientConfig::new(&proxy.url).key(KEY).client_id(name).backoff(backoff)
}

/// What is the same in the graphs of all clients: metadata by key, and edges.
pub fn seen(client: &Client) -> (BTreeMap<String, Value>, BTreeSet<String>) {
    let graph = client.presence().graph();
    let peers = std::iter::once(&graph.local_peer).chain(&graph.remote_peers);
    let edges = peers.clone().flat_map(|peer| &peer.connections);
    let edges = edges.map(|edge| edge.id.clone()).collect();
    let said = peers.map(|peer| (peer.key().to_owned(), json!(*peer.peer_metadata)));
    (said.collect(), edges)
}

pub fn states(client: &Client, channel: &str) -> Vec<(String, Option<Value>)> {
    let members = client.channel(channel).members().wait_timeout(WITHIN).expect("members");
    let mut states: Vec<_> = members.into_iter().map(|m| (m.client_id, m.state)).collect();
    states.sort_by(|a, b| a.0.cmp(&b.0));
    states
}

/// Waits until all see the same: every site once, with what it said last.
pub fn converge(sites: &[Site], round: usize) {
    let said = |site: &Site| (site.key(), json!({"site": site.name, "round": round}));
    let peers: BTreeMap<String, Value> = sites.iter().map(said).collect();
    let keys: Vec<&String> = peers.keys().collect();
    let mut edges = BTreeSet::new();
    for (at, low) in keys.iter().enumerate() {
        edges.extend(keys[at + 1..].iter().map(|high| format!("{low}<->{high}:WebSocket")));
    }
    let mut states_of_all: Vec<_> =
        sites.iter().map(|site| (site.name.clone(), Some(json!(round)))).collect();
    states_of_all.sort_by(|a, b| a.0.cmp(&b.0));
    for site in sites {
        until(&format!("{} is live", site.name), || site.client.state() == ClientState::Live);
        let expected = (peers.clone(), edges.clone());
        let is_online = || {
            let graph = site.client.presence().graph();
            graph.remote_peers.iter().all(|peer| peer.is_connected_to_ditto_cloud)
        };
        if !becomes_true(|| is_online() && seen(&site.client) == expected) {
            let graph = site.client.presence().graph();
            panic!("{} sees {:?}, not {expected:?}:\n{graph}", site.name, seen(&site.client));
        }
        if !becomes_true(|| states(&site.client, "shop") == states_of_all) {
            panic!("{} is shown {:?}", site.name, states(&site.client, "shop"));
        }
    }
}

/// Whether something becomes true within the time of a test.
pub fn becomes_true(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + WITHIN;
    loop {
        match condition() {
            true => return true,
            false if Instant::now() > deadline => return false,
            false => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Every message was accepted once, in the order of its publisher, and every subscriber was sent
/// each message after its first one, or a gap in its place. Returns the number of gaps.
pub fn check_messages(mut sites: Vec<Site>) -> usize {
    let mut accepted = BTreeMap::<u64, (String, Value)>::new();
    for site in &mut sites {
        let mut last = 0;
        for (n, published) in std::mem::take(&mut site.published).into_iter().enumerate() {
            let published = published.wait_timeout(WITHIN).expect("published");
            assert!(published.serial > last, "{}: {n} came before {last}", site.name);
            last = published.serial;
            let message = (published.message_id, json!([site.name, n]));
            let earlier = accepted.insert(last, message);
            assert_eq!(earlier, None, "two messages have serial {last}");
        }
    }
    let first = *accepted.first_key_value().expect("a message").0;
    let end = *accepted.last_key_value().expect("a message").0;
    assert_eq!(end - first + 1, accepted.len() as u64, "some message was accepted twice");
    let mut gaps = 0;
    for site in &sites {
        let mut next = first;
        while next <= end {
            match site.deliveries.recv_timeout(WITHIN) {
                Ok(Delivery::Message(message)) => {
                    assert_eq!(message.serial, Some(next), "{}", site.name);
                    let received = (message.message_id, message.data);
                    assert_eq!(Some(&received), accepted.get(&next), "{}", site.name);
                    next += 1;
                }
                Ok(Delivery::Gap { from, to }) => {
                    assert!(from == next && to >= from, "{}: {from} to {to}", site.name);
                    next = to + 1;
                    gaps += 1;
                }
                other => panic!("{} has no {next} of {end}: {other:?}", site.name),
            }
        }
        thread::sleep(Duration::from_millis(20));
        assert_eq!(site.deliveries.try_iter().next(), None, "{}: once more", site.name);
    }
    gaps
}

/// What observers were called with, applied in order, gives what the getters give.
pub fn check_observers(sites: &[Site]) {
    for site in sites {
        let states: Vec<ClientState> = site.states.try_iter().collect();
        for (at, state) in states.iter().enumerate() {
            let is_right = match state {
                ClientState::Live => at % 2 == 0,
                ClientState::Stale { .. } => at % 2 == 1,
                _ => false,
            };
            assert!(is_right, "{}: {states:?}", site.name);
        }
        let mut members = BTreeMap::new();
        let shown = || states_by_member(site);
        let applied = || {
            for event in site.members.try_iter() {
                apply_event(&mut members, event);
            }
            members == shown()
        };
        assert!(becomes_true(applied), "{}: {members:?}, not {:?}", site.name, shown());
        let (mut peers, mut edges) = (BTreeMap::new(), BTreeSet::new());
        let applied = || {
            for diff in site.diffs.try_iter() {
                apply_diff(&mut peers, &mut edges, &diff);
            }
            (&peers, &edges) == (&seen(&site.client).0, &seen(&site.client).1)
        };
        assert!(becomes_true(applied), "{}: {peers:?} {edges:?}", site.name);
    }
}

type Members = BTreeMap<(String, String), Option<Value>>;

fn states_by_member(site: &Site) -> Members {
    let members = site.client.channel("shop").members().wait_timeout(WITHIN).expect("members");
    members.into_iter().map(|m| ((m.client_id, m.connection_id), m.state)).collect()
}

fn apply_event(members: &mut Members, event: MemberEvent) {
    let entry = |member: Member| ((member.client_id, member.connection_id), member.state);
    match event {
        MemberEvent::Present(present) => *members = present.into_iter().map(entry).collect(),
        MemberEvent::Enter(member) => {
            let (key, state) = entry(member);
            assert_eq!(members.insert(key, state), None, "entered twice");
        }
        MemberEvent::Update(member) => {
            let (key, state) = entry(member);
            assert!(members.insert(key, state).is_some(), "updated without having entered");
        }
        MemberEvent::Leave { member, .. } => {
            assert!(members.remove(&entry(member).0).is_some(), "left without having entered");
        }
        event => panic!("{event:?}"),
    }
}

fn apply_diff(peers: &mut BTreeMap<String, Value>, edges: &mut BTreeSet<String>, diff: &GraphDiff) {
    for peer in &diff.joined {
        let earlier = peers.insert(peer.key().to_owned(), json!(*peer.peer_metadata));
        assert_eq!(earlier, None, "joined twice");
    }
    for peer in &diff.left {
        assert!(peers.remove(peer.key()).is_some(), "left without having joined");
    }
    for peer in &diff.updated {
        let earlier = peers.insert(peer.key().to_owned(), json!(*peer.peer_metadata));
        assert!(earlier.is_some(), "updated without having joined");
    }
    diff.edges_added.iter().for_each(|edge| assert!(edges.insert(edge.id.clone()), "added twice"));
    diff.edges_removed.iter().for_each(|edge| assert!(edges.remove(&edge.id), "removed twice"));
}
