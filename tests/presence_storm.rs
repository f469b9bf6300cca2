//! All members of a channel on the Foony protocol ask who is present in the same turn.

mod one_shard;

use headcount::limits::Limits;
use headcount::wire::foony::{Action, Event, Presence, Request, binary};
use headcount::wire::websocket::{Decoder, Incoming};
use headcount::wire::websocket::{MessageLimits, Role};
use one_shard::{Client, Mode, OneShard};

const CHANNEL: &str = "room:1";
const MEMBERS: usize = 500;

fn enter(shard: &mut OneShard, client: Client) {
    let id = shard.next_request();
    let (channel, action) = (CHANNEL.into(), Action::Enter);
    let presence = Presence { id, channel, action, data: b"{\"x\":1}", encoding: "".into() };
    shard.ask(client, &Request::Presence(presence));
}

/// What a client receives: who enters, and the requests that are acknowledged.
fn received(mut bytes: Vec<u8>) -> (usize, Vec<u64>) {
    let limits = MessageLimits { message_bytes_max: 1 << 24, fragments_max: 1 };
    let (mut decoder, mut at) = (Decoder::new(Role::Client), 0);
    let (mut entered, mut acks) = (0, Vec::new());
    while at < bytes.len() {
        let decoded = decoder.decode(&mut bytes[at..], &limits).expect("whole frames");
        at += decoded.consumed;
        let Some(Incoming::Message { payload, .. }) = decoded.incoming else { continue };
        for record in binary::records(&payload) {
            match record.and_then(|record| record.event()).expect("an event") {
                Event::Member(member) if member.action == Action::Enter => entered += 1,
                Event::Ack { id, .. } => acks.push(id),
                other => panic!("{other:?}"),
            }
        }
    }
    (entered, acks)
}

#[test]
fn a_turn_queues_no_more_snapshots_than_its_budget_and_all_arrive_in_the_end() {
    let burst_bytes = Limits::default().presence_burst_bytes_max;
    let mut shard = OneShard::new();
    let clients: Vec<Client> = (0..MEMBERS)
        .map(|at| {
            let client = shard.connect(&format!("user{at}"), Mode::Binary);
            enter(&mut shard, client);
            client
        })
        .collect();
    shard.begin_turn();
    shard.end_turn();
    shard.flush();
    shard.begin_turn();
    let mut asked = Vec::new();
    for &client in &clients {
        let id = shard.next_request();
        shard.ask(client, &Request::PresenceSubscribe { id, channel: CHANNEL.into() });
        asked.push(id);
    }
    let mut got: Vec<Vec<u8>> = vec![Vec::new(); MEMBERS];
    for turn in 0..100 {
        shard.end_turn();
        for (bytes, client) in got.iter_mut().zip(&clients) {
            bytes.extend(shard.unsent(client.conn));
        }
        let taken = shard.flush().bytes;
        // What is delivered at once, and in sweeps, and one snapshot that is too many in each.
        assert!(taken < 2 * burst_bytes + 200_000, "turn {turn}: {taken} bytes");
        shard.begin_turn();
    }
    for (bytes, id) in got.into_iter().zip(asked) {
        assert_eq!(received(bytes), (MEMBERS, vec![id]));
    }
}
