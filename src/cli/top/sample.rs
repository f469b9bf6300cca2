//! The counts of shards, and what happened between two looks at them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::counters::Durations;

/// The answer of the server.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    shards: Vec<Counts>,
}

/// One shard since its start. A newer server may say more.
#[derive(Debug, Deserialize)]
struct Counts {
    shard: u16,
    connections: u64,
    channels: u64,
    members: u64,
    messages_in: u64,
    messages_published: u64,
    messages_delivered: u64,
    deliveries: u64,
    bytes_in: u64,
    bytes_out: u64,
    dropped: BTreeMap<String, u64>,
    disconnects: BTreeMap<String, u64>,
    turn_durations: Turns,
}

#[derive(Debug, Deserialize)]
struct Turns {
    busy_s: f64,
    buckets: Vec<u64>,
}

/// One shard between two looks. Rates are per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Shard {
    pub shard: u16,
    /// Share of its time that it was busy.
    pub load: f64,
    pub turn_p50_s: f64,
    pub turn_p999_s: f64,
    pub connections: u64,
    pub channels: u64,
    pub members: u64,
    pub messages_in: f64,
    pub published: f64,
    /// Messages and presence.
    pub delivered: f64,
    pub bytes_in: f64,
    pub bytes_out: f64,
    pub dropped: f64,
    pub disconnected: f64,
}

/// What happened in each shard from one look to the next, which was so much later. A server that
/// was started anew in between has done nothing yet.
pub(super) fn rates(before: &Answer, after: &Answer, elapsed: Duration) -> Vec<Shard> {
    let seconds = elapsed.as_secs_f64().max(f64::EPSILON);
    let of = |counts: &Counts| {
        let last = before.shards.iter().find(|other| other.shard == counts.shard);
        last.map(|last| shard(last, counts, seconds))
    };
    after.shards.iter().filter_map(of).collect()
}

fn shard(last: &Counts, counts: &Counts, seconds: f64) -> Shard {
    let rate = |of: fn(&Counts) -> u64| of(counts).saturating_sub(of(last)) as f64 / seconds;
    let turns: Vec<u64> = counts
        .turn_durations
        .buckets
        .iter()
        .zip(&last.turn_durations.buckets)
        .map(|(now, then)| now.saturating_sub(*then))
        .collect();
    let busy_s = counts.turn_durations.busy_s - last.turn_durations.busy_s;
    Shard {
        shard: counts.shard,
        load: (busy_s / seconds).clamp(0.0, 1.0),
        turn_p50_s: Durations::quantile_s(&turns, 0.5),
        turn_p999_s: Durations::quantile_s(&turns, 0.999),
        connections: counts.connections,
        channels: counts.channels,
        members: counts.members,
        messages_in: rate(|counts| counts.messages_in),
        published: rate(|counts| counts.messages_published),
        delivered: rate(|counts| counts.messages_delivered + counts.deliveries),
        bytes_in: rate(|counts| counts.bytes_in),
        bytes_out: rate(|counts| counts.bytes_out),
        dropped: rate(|counts| counts.dropped.values().sum()),
        disconnected: rate(|counts| counts.disconnects.values().sum()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    fn answer(count: u64, busy_s: f64) -> Answer {
        let reasons = json!({ "slow": count });
        serde_json::from_value(json!({ "shards": [{
            "shard": 1, "connections": 3, "channels": 4, "members": 5, "messages_in": count,
            "messages_published": count, "messages_delivered": 2 * count, "deliveries": count,
            "bytes_in": count, "bytes_out": count, "dropped": reasons, "disconnects": reasons,
            "turn_durations": { "busy_s": busy_s, "buckets": [0, count, 0] }, "newer": true,
        }] }))
        .unwrap()
    }

    pub fn example() -> Vec<Shard> {
        rates(&answer(100, 1.0), &answer(300, 2.0), Duration::from_secs(2))
    }

    #[test]
    fn rates_are_per_second() {
        let shards = example();
        let [shard] = &shards[..] else { panic!("{shards:?}") };
        assert_eq!((shard.shard, shard.load, shard.connections), (1, 0.5, 3));
        assert_eq!((shard.published, shard.delivered, shard.dropped), (100.0, 300.0, 100.0));
        assert_eq!(shard.turn_p50_s, 1.5e-6);
    }

    #[test]
    fn a_server_that_was_started_anew_has_done_nothing() {
        let shards = rates(&answer(300, 2.0), &answer(1, 0.0), Duration::from_secs(1));
        assert_eq!((shards[0].load, shards[0].published), (0.0, 0.0));
        assert!(rates(&Answer { shards: vec![] }, &answer(1, 0.0), Duration::ZERO).is_empty());
    }
}
