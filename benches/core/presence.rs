//! Sets of members for the sync wire: encoded from scratch, and put together
//! from what was encoded before, the changes in between included.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BenchmarkId, Throughput};
use headcount::channel::{Channel, Identity, Resume, State};
use headcount::ids::{Clocks, ConnAddr, ConnId, ShardId};
use headcount::limits::Limits;
use headcount::session::Feed;
use headcount::session::sync::presence;
use headcount::session::sync::roster::Roster;

use super::Criterion;

const MEMBERS: [u32; 3] = [10, 1_000, 100_000];

/// A prime, so that its multiples come to every place of a table of another length.
const SCATTER: u32 = 7919;

const FEED: Feed = Feed::SyncTenWebSocket;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("presence_set");
    for count in MEMBERS {
        let mut crowd = Crowd::of(count);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_function(BenchmarkId::new("encoded_anew", count), |bencher| {
            bencher.iter(|| {
                let members = crowd.channel.members();
                black_box(presence::set(FEED, crowd.now, "room:1", members))
            });
        });
        for (name, changes) in [("after_one_change", 1), ("after_a_tenth", count.div_ceil(10))] {
            let mut roster = Roster::default();
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    (0..changes).for_each(|_| crowd.update());
                    roster.refresh(crowd.now, "room:1", crowd.channel.members());
                    black_box(roster.frame(FEED))
                });
            });
        }
    }
}

/// A channel whose members entered in another order than their memory lies.
struct Crowd {
    channel: Channel,
    limits: Limits,
    people: Vec<Arc<Identity>>,
    now: Clocks,
    next: u32,
}

impl Crowd {
    fn of(count: u32) -> Self {
        let who = |i| Identity::new(format!("anonymous-{i:08x}").into(), "".into(), Resume::Never);
        let mut crowd = Crowd {
            channel: Channel::default(),
            limits: Limits {
                members_per_channel_max: usize::MAX,
                presence_set_bytes_max: usize::MAX,
                ..Limits::default()
            },
            people: (0..count).map(|i| Arc::new(who(i))).collect(),
            now: Clocks { mono_ms: 10_000, wall_ms: 1_700_000_000_000 },
            next: 0,
        };
        (0..count).for_each(|_| crowd.update());
        crowd.channel.take_changes();
        crowd.now.mono_ms += 2_000;
        crowd
    }

    /// A member far from the last one enters, or changes its state.
    fn update(&mut self) {
        self.next = (self.next + SCATTER) % self.people.len() as u32;
        let identity = &self.people[self.next as usize];
        let state = Bytes::copy_from_slice(format!("{:032}", self.next).as_bytes());
        let addr = ConnAddr { shard: ShardId(0), conn: ConnId { slot: self.next, generation: 1 } };
        let state = State::from_message_pack(state);
        let done = self.channel.announce(self.now, addr, identity, state, &self.limits);
        black_box(done.expect("room"));
        self.channel.take_changes();
    }
}
