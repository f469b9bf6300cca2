//! One message to every subscriber of a channel, up to and from the send queues. No sockets: what
//! the kernel takes for a send comes on top, and is more.

use std::hint::black_box;

use criterion::{BenchmarkId, Throughput};

use super::one_shard::{FIRST_HOME, Mode, OneShard, Taken, batch};
use super::{Criterion, json_text};

const SUBSCRIBERS: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
const CHANNEL: &str = "room:1";
const PAYLOAD_BYTES: usize = 64;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan_out");
    for count in SUBSCRIBERS {
        let mut shard = OneShard::new();
        shard.subscribers(count, Mode::Binary, &[CHANNEL]);
        let publisher = shard.connect("ann", Mode::Binary);
        let data = json_text(PAYLOAD_BYTES);
        let batch = batch(Mode::Binary, CHANNEL, &data);
        shard.flush();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("deliver", count), |bencher| {
            bencher.iter(|| {
                shard.deliver(FIRST_HOME, &batch);
                check(shard.flush(), count)
            });
        });
        group.bench_function(BenchmarkId::new("turn", count), |bencher| {
            bencher.iter(|| {
                let mut bytes = shard.publish_bytes(Mode::Binary, CHANNEL, &data);
                shard.begin_turn();
                shard.receive(publisher, &mut bytes);
                shard.end_turn();
                // The publisher is sent its acknowledgement.
                check(shard.flush(), count + 1)
            });
        });
    }
}

/// A benchmark of nothing would be fast.
fn check(taken: Taken, sends: usize) -> Taken {
    assert_eq!(taken.sends, sends, "{taken:?}");
    black_box(taken)
}
