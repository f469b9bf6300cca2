//! Who is delivered to: when a channel has so many subscribers that their order is put right, and
//! when so much is published at once that a send queue does not take it.

mod one_shard;

use headcount::wire::foony::Request;
use one_shard::{Client, Mode, OneShard, Taken};

const CHANNEL: &str = "room:1";
const SUBSCRIBERS: usize = 20_000;

/// Publishes one message; returns how many were sent something besides its publisher.
fn publish(shard: &mut OneShard, publisher: Client) -> usize {
    let mut bytes = shard.publish_bytes(Mode::Binary, CHANNEL, "1");
    shard.begin_turn();
    shard.receive(publisher, &mut bytes);
    shard.end_turn();
    shard.flush().sends - 1
}

fn unsubscribe(shard: &mut OneShard, client: Client) {
    let (id, channel) = (shard.next_request(), CHANNEL.into());
    shard.ask(client, &Request::Unsubscribe { id, channel });
}

#[test]
fn everybody_is_delivered_to_once_until_they_leave_whatever_their_order() {
    let mut shard = OneShard::new();
    let publisher = shard.connect("ann", Mode::Binary);
    let clients = shard.subscribers(SUBSCRIBERS, Mode::Binary, &[CHANNEL]);
    assert_eq!(publish(&mut shard, publisher), SUBSCRIBERS);
    // Their places are those of the new order: whoever leaves takes nobody else along.
    let mut left = SUBSCRIBERS;
    for leaving in clients.chunks(SUBSCRIBERS / 8) {
        for &client in leaving.iter().rev().step_by(3) {
            unsubscribe(&mut shard, client);
            left -= 1;
        }
        shard.flush();
        assert_eq!(publish(&mut shard, publisher), left);
    }
    for client in clients {
        unsubscribe(&mut shard, client);
    }
    shard.flush();
    assert_eq!(publish(&mut shard, publisher), 0);
}

/// More than a send queue takes: publishers who have all sent their last byte in the same turn.
#[test]
fn what_is_published_at_once_reaches_a_subscriber_that_reads_in_several_turns() {
    const PUBLISHERS: usize = 20;
    const PUBLISHES: usize = 20;
    const PAYLOAD_BYTES: usize = 5_000;
    const ALL_BYTES: usize = PUBLISHERS * PUBLISHES * PAYLOAD_BYTES;
    let mut shard = OneShard::new();
    let publishers: Vec<Client> =
        (0..PUBLISHERS).map(|at| shard.connect(&format!("publisher{at}"), Mode::Binary)).collect();
    shard.subscribers(1, Mode::Binary, &[CHANNEL]);
    let data = format!("\"{}\"", "x".repeat(PAYLOAD_BYTES));
    shard.begin_turn();
    for &publisher in &publishers {
        let each = (0..PUBLISHES).flat_map(|_| shard.publish_bytes(Mode::Binary, CHANNEL, &data));
        let mut bytes: Vec<u8> = each.collect();
        shard.receive(publisher, &mut bytes);
    }
    shard.end_turn();
    let (mut received, mut turns) = (shard.flush().bytes, 1);
    while received < ALL_BYTES {
        shard.begin_turn();
        shard.end_turn();
        let taken = shard.flush();
        assert_ne!(taken, Taken::default(), "{received} of {ALL_BYTES} after {turns} turns");
        (received, turns) = (received + taken.bytes, turns + 1);
    }
    assert!(turns > 4, "{turns} turns");
    // Somebody with little to say does not wait behind them.
    let polite = shard.connect("polite", Mode::Binary);
    let mut bytes = shard.publish_bytes(Mode::Binary, CHANNEL, &data).repeat(100);
    shard.begin_turn();
    shard.receive(publishers[0], &mut bytes);
    let mut small = shard.publish_bytes(Mode::Binary, CHANNEL, "1");
    shard.receive(polite, &mut small);
    shard.end_turn();
    assert_eq!(shard.flush().sends, 3, "the subscriber, and the acknowledgements of two");
}
