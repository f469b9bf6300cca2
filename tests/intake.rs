//! Requests that are executed in a pass when the send queues of subscribers are full.

mod one_shard;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use headcount::wire::foony::{Auth, Request, binary};
use headcount::wire::websocket::Opcode;
use one_shard::{Client, Mode, OneShard, Taken, framed};

const CHANNEL: &str = "room:1";
const PUBLISHERS: usize = 20;
const PUBLISHES: usize = 20;
const PAYLOAD_BYTES: usize = 5_000;

/// More than the limit of a send queue.
const ALL_BYTES: usize = PUBLISHERS * PUBLISHES * PAYLOAD_BYTES;

/// A record that every version of the protocol ignores.
const NOISE: [u8; 2] = [1, 0x10];

/// A subscriber, and publishers that have each sent many requests by the end of the turn.
fn overloaded() -> (OneShard, Vec<Client>) {
    let mut shard = OneShard::new();
    let connect = |at| shard.connect(&format!("publisher{at}"), Mode::Binary);
    let publishers: Vec<Client> = (0..PUBLISHERS).map(connect).collect();
    shard.subscribers(1, Mode::Binary, &[CHANNEL]);
    shard.begin_turn();
    for &publisher in &publishers {
        let mut bytes = publishes(&mut shard, PUBLISHES);
        shard.receive(publisher, &mut bytes);
    }
    shard.end_turn();
    (shard, publishers)
}

fn publishes(shard: &mut OneShard, count: usize) -> Vec<u8> {
    let data = format!("\"{}\"", "x".repeat(PAYLOAD_BYTES));
    (0..count).flat_map(|_| shard.publish_bytes(Mode::Binary, CHANNEL, &data)).collect()
}

/// Turns until so many bytes have been sent, and how many turns that took.
fn turns_until(shard: &mut OneShard, bytes: usize) -> usize {
    let (mut sent, mut turns) = (shard.flush().bytes, 1);
    while sent < bytes {
        shard.begin_turn();
        shard.end_turn();
        let taken = shard.flush();
        assert_ne!(taken, Taken::default(), "{sent} of {bytes} after {turns} turns");
        (sent, turns) = (sent + taken.bytes, turns + 1);
    }
    turns
}

#[test]
fn more_than_a_send_queue_takes_is_delivered_in_several_turns() {
    let (mut shard, _) = overloaded();
    let turns = turns_until(&mut shard, ALL_BYTES);
    assert!(turns > 4, "{turns} turns");
}

/// Number of connections that are sent bytes before the next turn because of new input.
fn sends_at_once(shard: &mut OneShard, client: Client, bytes: &mut [u8]) -> usize {
    shard.flush();
    shard.receive(client, bytes);
    shard.end_turn();
    shard.flush().sends
}

#[test]
fn who_says_little_does_not_wait() {
    let (mut shard, _) = overloaded();
    let polite = shard.subscribers(1, Mode::Binary, &["room:2"])[0];
    let mut small = shard.publish_bytes(Mode::Binary, "room:2", "1");
    assert_eq!(sends_at_once(&mut shard, polite, &mut small), 1);
    let mut large = publishes(&mut shard, 1);
    assert_eq!(sends_at_once(&mut shard, polite, &mut large), 0, "the pass is full");
}

#[test]
fn strangers_need_not_wait_to_say_who_they_are() {
    let (mut shard, _) = overloaded();
    let key = "alpha.k:sk_alpha_0123456789abcdef".into();
    let mut message = Vec::new();
    append(&Request::Auth(Auth { key, client_id: "bob".into(), ..Auth::default() }), &mut message);
    message.extend(NOISE.repeat(3_000));
    let stranger = shard.stranger();
    let mut bytes = framed(Opcode::Binary, &message);
    assert_eq!(sends_at_once(&mut shard, stranger, &mut bytes), 1, "who it is");
}

#[test]
fn those_who_wait_take_turns() {
    let (mut shard, _) = overloaded();
    let last = shard.subscribers(1, Mode::Binary, &["room:2"])[0];
    shard.flush();
    let data = format!("\"{}\"", "y".repeat(PAYLOAD_BYTES));
    let mut bytes = shard.publish_bytes(Mode::Binary, "room:2", &data);
    shard.receive(last, &mut bytes);
    shard.end_turn();
    shard.flush();
    // One pass over all waiting connections, not all of their requests.
    for _ in 0..3 {
        shard.begin_turn();
        shard.end_turn();
        shard.flush();
    }
    let mut another = shard.publish_bytes(Mode::Binary, "room:2", "2");
    assert_eq!(sends_at_once(&mut shard, last, &mut another), 1, "its turn has come");
}

#[test]
fn the_last_words_of_clients_that_are_gone_are_carried_out_and_count() {
    let (mut shard, publishers) = overloaded();
    turns_until(&mut shard, ALL_BYTES);
    let other = shard.subscribers(1, Mode::Binary, &["room:2"])[0];
    shard.begin_turn();
    for publisher in publishers {
        let mut bytes = publishes(&mut shard, PUBLISHES);
        shard.receive(publisher, &mut bytes);
        shard.end(publisher.conn);
    }
    shard.end_turn();
    let mut large = publishes(&mut shard, 1);
    assert_eq!(sends_at_once(&mut shard, other, &mut large), 0, "the pass is full");
}

/// The session ends among the first 512 requests of a backlog, which are executed together.
#[test]
fn requests_behind_the_one_that_ended_the_session_are_dropped() {
    for auth_at in [510, 511, 512] {
        let mut message = Vec::new();
        append(&Request::Ping, &mut message);
        message.extend(NOISE.repeat(511 + auth_at));
        append(
            &Request::Auth(Auth { key: "alpha.k:wrong".into(), ..Auth::default() }),
            &mut message,
        );
        message.extend(NOISE.repeat(700));
        let (told, done) = mpsc::channel();
        thread::spawn(move || {
            let mut shard = OneShard::new();
            let stranger = shard.stranger();
            shard.flush();
            shard.receive(stranger, &mut framed(Opcode::Binary, &message));
            assert_eq!(shard.flush().sends, 1, "the pong");
            shard.end(stranger.conn);
            assert_eq!(shard.flush().sends, 1, "the refusal");
            told.send(()).expect("a receiver");
        });
        done.recv_timeout(Duration::from_secs(20)).expect("an end");
    }
}

fn append(request: &Request<'_>, out: &mut Vec<u8>) {
    binary::append_request(request, out).expect("expressible");
}
