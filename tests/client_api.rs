//! The public client, signature by signature: programs written against it compile.
#![cfg(feature = "client")]

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_core::Stream;
use headcount::client::prelude::*;
use serde::{Deserialize, Serialize};

fn is<T>(_: &T) {}
fn thread_safe<T: Send + Sync>() {}
fn error<T: Clone + PartialEq + std::error::Error + Send + Sync>() {}
fn future<T, F: Future<Output = Result<T>> + Send + Unpin + 'static>(_: F) {}
fn stream<S: Stream<Item = T> + Send + Unpin + 'static, T>(_: S) {}

#[derive(Serialize, Deserialize)]
struct Role {
    role: String,
}

/// Compiled, not run: nothing here needs a server.
fn program() -> Result<(), Box<dyn std::error::Error>> {
    let config = ClientConfig::new("ws://localhost")
        .key("a.b:c")
        .token(String::new())
        .token_provider(|| Ok("token".to_owned()))
        .anonymous()
        .client_id("ann")
        .device_name("till")
        .state_dir("/tmp/x")
        .connect_timeout(Duration::from_secs(1))
        .backoff(Backoff { first: Duration::from_millis(1), max: Duration::from_secs(1) })
        .graph_interval(Duration::ZERO)
        .connection_request_timeout(Duration::from_secs(1))
        .join("shop")
        .sign_metadata();
    let lazy: Client = Client::connect_lazy(config.clone())?;
    let client: Client = Client::connect(config)?;
    future(lazy.ready());
    match client.state() {
        ClientState::Connecting | ClientState::Live => {}
        ClientState::Stale { since } => is::<SystemTime>(&since),
        ClientState::Closed { reason } => is::<ClientError>(&reason),
        _ => {}
    }
    let states: StateObserver = client.on_state(|state: &ClientState| drop(state.clone()));
    states.cancel();
    is::<bool>(&states.is_cancelled());
    is::<Option<String>>(&client.client_id());
    client.send_to("pkAQ", "name", &1).wait()?;
    let direct: DirectObserver = client.on_direct_message(|message: &DirectMessage| {
        let DirectMessage { from_peer_key, name, data, .. } = message;
        is::<(&String, &String, &serde_json::Value)>(&(from_peer_key, name, data));
    });
    drop(direct);
    channel(&client)?;
    presence(&client)?;
    future(client.close());
    Ok(())
}

fn channel(client: &Client) -> Result<()> {
    let channel: Channel = client.channel("shop").clone();
    is::<&str>(&channel.name());
    let Published { serial, message_id, .. } =
        channel.publish("n", &Role { role: "x".into() }).wait()?;
    is::<(u64, String)>(&(serial, message_id));
    future(channel.publish_batch([("a", 1), ("b", 2)]));
    let subscription: Subscription = channel.subscribe(|delivery: &Delivery| match delivery {
        Delivery::Message(Message {
            channel,
            name,
            data,
            message_id,
            serial,
            client_id,
            encoding,
            timestamp,
            ..
        }) => {
            is::<(&String, &String, &serde_json::Value, &String)>(&(
                channel, name, data, message_id,
            ));
            is::<(&Option<u64>, &String, &String, &SystemTime)>(&(
                serial, client_id, encoding, timestamp,
            ));
        }
        Delivery::Gap { from, to } => is::<(&u64, &u64)>(&(from, to)),
        _ => {}
    });
    subscription.ready().wait_timeout(Duration::from_secs(1))?;
    subscription.cancel();
    let _ = channel.subscribe_from(7, |_| ()).is_cancelled();
    let messages: MessageStream = channel.messages();
    future(messages.ready());
    stream::<_, Delivery>(messages);
    let HistoryPage { messages, next, .. } =
        channel.history(HistoryQuery::default().limit(5).before(9)).wait()?;
    is::<(Vec<Message>, Option<HistoryQuery>)>(&(messages, next));
    future::<(), _>(channel.join());
    future::<(), _>(channel.enter(&1));
    future::<(), _>(channel.update(&"x"));
    future::<(), _>(channel.leave());
    for Member { client_id, connection_id, state, peer_key_string, .. } in
        channel.members().wait()?
    {
        is::<(String, String, Option<serde_json::Value>, Option<String>)>(&(
            client_id,
            connection_id,
            state,
            peer_key_string,
        ));
    }
    let observer: MemberObserver = channel.observe_members(|event: &MemberEvent| match event {
        MemberEvent::Present(members) => is::<&Vec<Member>>(&members),
        MemberEvent::Enter(member) | MemberEvent::Update(member) => is::<&Member>(&member),
        MemberEvent::Leave { member, reason } => match reason {
            LeaveReason::Left | LeaveReason::Lost | LeaveReason::TimedOut => is::<&Member>(&member),
            LeaveReason::Removed | LeaveReason::Unknown => {}
            _ => {}
        },
        _ => {}
    });
    future(observer.ready());
    Ok(())
}

fn presence(client: &Client) -> Result<()> {
    let presence: Arc<Presence> = client.presence();
    let graph: PresenceGraph = presence.graph();
    is::<Arc<PresenceGraph>>(&presence.graph_arc());
    let observer: PresenceObserver = presence.observe(|graph| drop(graph.clone()));
    observer.cancel();
    let _: Result<PresenceObserver> =
        presence.register_observer(|graph: &PresenceGraph| drop(graph.clone()));
    let _diff = presence.observe_diff(|diff: &GraphDiff| {
        is::<(&Vec<Peer>, &Vec<Peer>, &Vec<Peer>)>(&(&diff.joined, &diff.left, &diff.updated));
        is::<(&Vec<Connection>, &Vec<Connection>)>(&(&diff.edges_added, &diff.edges_removed));
        is::<Arc<PresenceGraph>>(&diff.graph);
    });
    stream::<_, Arc<PresenceGraph>>(presence.graph_stream());
    let _alarm = presence.expect_peers(3, |count: &PeerCount| {
        is::<(usize, usize, bool)>(&(count.min, count.direct, count.met));
    });
    presence.set_peer_metadata(&Role { role: "till".into() })?;
    presence.set_peer_metadata_json_str("{}")?;
    future::<(), _>(presence.peer_metadata_synced());
    is::<Arc<JsonObject>>(&presence.peer_metadata());
    is::<String>(&presence.peer_metadata_json_str());
    is::<Role>(&presence.peer_metadata_serde::<Role>()?);
    handlers(&presence);
    inspect(&graph);
    Ok(())
}

fn handlers(presence: &Presence) {
    presence.set_connection_request_handler(|request: ConnectionRequest| {
        is::<&[u8]>(&request.peer_key());
        is::<(&str, &str, &str)>(&(
            request.peer_key_string(),
            request.peer_metadata_json_str(),
            request.identity_service_metadata_json_str(),
        ));
        is::<Arc<JsonObject>>(&request.peer_metadata());
        is::<Arc<JsonObject>>(&request.identity_service_metadata());
        is::<(ConnectionType, &str)>(&(request.connection_type(), request.channel()));
        match request.peer_metadata_serde::<Role>() {
            Ok(_) => ConnectionRequestAuthorization::Allow,
            Err(_) => ConnectionRequestAuthorization::deny_with("no role", Duration::from_secs(5)),
        }
    });
    let kept = ConnectionRequestHandler::new(|_| ConnectionRequestAuthorization::Deny);
    presence.set_connection_request_handler(Some(kept));
    presence.set_connection_request_handler(None);
    presence.set_connection_request_handler_async(|_request| async {
        ConnectionRequestAuthorization::Allow
    });
}

fn inspect(graph: &PresenceGraph) {
    is::<Option<&Peer>>(&graph.peer("pkAQ"));
    let direct: Vec<&Peer> = graph.direct_peers().collect();
    is::<(bool, usize)>(&(graph.is_direct("pkAQ"), direct.len()));
    is::<BTreeMap<ConnectionType, Vec<&Connection>>>(&graph.connections_by_type());
    is::<(SystemTime, Duration, bool)>(&(graph.as_of(), graph.staleness(), graph.is_truncated()));
    let peer: &Peer = &graph.local_peer;
    is::<(&Vec<u8>, Option<u64>)>(&(&peer.address.pubkey, peer.address.site_id));
    is::<(&Vec<u8>, &String, &String)>(&(&peer.peer_key, &peer.peer_key_string, &peer.device_name));
    is::<(Option<PresenceOs>, u8, bool)>(&(
        peer.os,
        peer.query_overlap_group,
        peer.is_connected_to_ditto_cloud,
    ));
    is::<(Option<bool>, &Option<String>)>(&(peer.is_compatible, &peer.ditto_sdk_version));
    is::<(&Arc<JsonObject>, &Arc<JsonObject>)>(&(
        &peer.peer_metadata,
        &peer.identity_service_metadata,
    ));
    is::<(&str, bool, Option<&str>)>(&(
        peer.key(),
        peer.is_connected_to_ditto_server(),
        peer.client_id(),
    ));
    match peer.metadata_trust() {
        MetadataTrust::Unsigned | MetadataTrust::Verified => {}
        MetadataTrust::Stripped | MetadataTrust::Replayed => {}
    }
    for connection in &peer.connections {
        is::<(&String, &Vec<u8>, &Vec<u8>)>(&(
            &connection.id,
            &connection.peer1,
            &connection.peer2,
        ));
        is::<(&String, &String)>(&(&connection.peer_key_string1, &connection.peer_key_string2));
        is::<(ConnectionType, Option<f32>)>(&(
            connection.connection_type,
            connection.approximate_distance_in_meters,
        ));
        is::<(&str, &str)>(&(connection.peer1(), connection.peer2()));
    }
}

#[test]
fn types_have_the_traits_that_programs_rely_on() {
    thread_safe::<ClientConfig>();
    thread_safe::<Client>();
    thread_safe::<Presence>();
    thread_safe::<Channel>();
    thread_safe::<ConnectionRequest>();
    error::<ClientError>();
    fn graph<T: Clone + PartialEq + Debug + Display + Serialize + for<'de> Deserialize<'de>>() {}
    graph::<PresenceGraph>();
    fn edge<T: Eq + Ord + Hash>() {}
    edge::<Connection>();
    fn kind<T: Copy + Ord>() {}
    kind::<ConnectionType>();
    let compiled: fn() -> Result<(), Box<dyn std::error::Error>> = program;
    assert!(size_of_val(&compiled) > 0);
}
