//! Deliveries in a channel with so many subscribers that their list is reordered.

mod one_shard;

use headcount::wire::foony::Request;
use one_shard::{Client, Mode, OneShard};

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
    // Positions are those of the new order: a leave removes only its own subscriber.
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
