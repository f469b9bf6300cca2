//! One message to every subscriber of a channel, up to and from the send queues. No sockets: what
//! the kernel takes for a send comes on top, and is more.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{BenchmarkId, Throughput};
use headcount::shard::MessageBatch;

use super::one_shard::{FIRST_HOME, Mode, OneShard, Taken, batch};
use super::{Criterion, json_text};

const SUBSCRIBERS: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
const CHANNEL: &str = "room:1";
const PAYLOAD_BYTES: usize = 64;

/// Subscribers on each of two shards.
const BESIDE: usize = 1_000;

pub fn bench(criterion: &mut Criterion) {
    of_one_shard(criterion);
    beside_another_shard(criterion);
}

fn of_one_shard(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan_out");
    for count in SUBSCRIBERS {
        let mut shard = home_of(count);
        let publisher = shard.connect("ann", Mode::Binary);
        let data = json_text(PAYLOAD_BYTES);
        let batch = batch(Mode::Binary, CHANNEL, &data);
        shard.flush();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("deliver", count), |bencher| {
            bencher.iter(|| deliver(&mut shard, &batch, count));
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

/// What another core costs that delivers at the same time: the same message, or another one.
fn beside_another_shard(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan_out_beside_another_shard");
    let data = json_text(PAYLOAD_BYTES);
    let mine = batch(Mode::Binary, CHANNEL, &data);
    let another = batch(Mode::Binary, CHANNEL, &data);
    let mut shard = home_of(BESIDE);
    group.throughput(Throughput::Elements(BESIDE as u64));
    for (name, theirs) in [("another_message", another), ("same_message", Arc::clone(&mine))] {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut shard = home_of(BESIDE);
                while !is_over.load(Ordering::Relaxed) {
                    deliver(&mut shard, &theirs, BESIDE);
                }
            });
            group.bench_function(name, |bencher| {
                bencher.iter(|| deliver(&mut shard, &mine, BESIDE));
            });
            is_over.store(true, Ordering::Relaxed);
        });
    }
}

fn home_of(subscribers: usize) -> OneShard {
    let mut shard = OneShard::new();
    shard.subscribers(subscribers, Mode::Binary, &[CHANNEL]);
    shard
}

fn deliver(shard: &mut OneShard, batch: &Arc<MessageBatch>, subscribers: usize) -> Taken {
    shard.deliver(FIRST_HOME, batch);
    check(shard.flush(), subscribers)
}

/// A benchmark of nothing would be fast.
fn check(taken: Taken, sends: usize) -> Taken {
    assert_eq!(taken.sends, sends, "{taken:?}");
    black_box(taken)
}
