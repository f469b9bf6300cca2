//! What one channel's owner does: members announce, come and go; messages are numbered and kept.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Throughput};
use headcount::channel::{
    Channel, Content, Draft, Identity, LeaveReason, Messages, Part, Resume, State, Storage,
};
use headcount::ids::{Clocks, ConnAddr, ConnId, ShardId};
use headcount::limits::Limits;
use headcount::policy::Policy;

use super::Criterion;

const MEMBERS: [u32; 3] = [10, 1_000, 100_000];

/// Announcements between two ticks.
const TURN: u32 = 64;

const NOW: Clocks = Clocks { mono_ms: 10_000, wall_ms: 1_700_000_000_000 };

pub fn bench(criterion: &mut Criterion) {
    members(criterion);
    publish(criterion);
}

/// Each as many times as in a busy turn, at the end of which the changes are taken.
fn members(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("channel");
    for count in MEMBERS {
        let mut room = PageLimit::of(count);
        group.throughput(Throughput::Elements(TURN.into()));
        group.bench_function(BenchmarkId::new("update", count), |bencher| {
            bencher.iter(|| room.update());
        });
        group.throughput(Throughput::Elements(2 * u64::from(TURN)));
        group.bench_function(BenchmarkId::new("enter_and_leave", count), |bencher| {
            bencher.iter(|| room.enter_and_leave());
        });
    }
}

/// A full log, and a fresh message with an id of its own.
fn publish(criterion: &mut Criterion) {
    let (mut messages, policy) = (Messages::default(), Policy::default());
    let mut published = 0u64;
    let mut group = criterion.benchmark_group("channel");
    group.throughput(Throughput::Elements(1));
    group.bench_function("publish", |bencher| {
        bencher.iter_batched(
            || {
                published += 1;
                draft(published)
            },
            |draft| black_box(messages.publish(NOW, draft, &policy)),
            BatchSize::SmallInput,
        );
    });
}

/// A channel with members, and people who are not.
struct PageLimit {
    channel: Channel,
    limits: Limits,
    inside: Vec<Arc<Identity>>,
    outside: Vec<Arc<Identity>>,
    next: u32,
    state: State,
}

impl PageLimit {
    fn of(count: u32) -> Self {
        let people = |name: &str, count| (0..count).map(|i| who(&format!("{name}{i}"))).collect();
        let limits = Limits {
            members_per_channel_max: usize::MAX,
            presence_set_bytes_max: usize::MAX,
            ..Limits::default()
        };
        let mut room = PageLimit {
            channel: Channel::default(),
            limits,
            inside: people("in", count),
            outside: people("out", TURN),
            next: 0,
            state: State::from_message_pack(Bytes::from_static(&[7; 64])),
        };
        for slot in 0..count {
            let identity = Arc::clone(&room.inside[slot as usize]);
            room.announce(slot, &identity);
        }
        room.channel.take_changes();
        room
    }

    fn announce(&mut self, slot: u32, identity: &Arc<Identity>) {
        let done =
            self.channel.announce(NOW, addr(slot), identity, self.state.clone(), &self.limits);
        black_box(done.expect("room"));
    }

    /// Members far apart in the table.
    fn update(&mut self) {
        let count = self.inside.len() as u32;
        for _ in 0..TURN {
            self.next = (self.next + 7919) % count;
            let identity = Arc::clone(&self.inside[self.next as usize]);
            self.announce(self.next, &identity);
        }
        black_box(self.channel.take_changes());
    }

    fn enter_and_leave(&mut self) {
        let first = self.inside.len() as u32;
        for i in 0..TURN {
            let identity = Arc::clone(&self.outside[i as usize]);
            self.announce(first + i, &identity);
        }
        for i in 0..TURN {
            black_box(self.channel.leave(addr(first + i), LeaveReason::Left));
        }
        black_box(self.channel.take_changes());
    }
}

fn addr(slot: u32) -> ConnAddr {
    ConnAddr { shard: ShardId(0), conn: ConnId { slot, generation: 1 } }
}

fn who(user: &str) -> Arc<Identity> {
    Arc::new(Identity::new(user.into(), "".into(), Resume::Never))
}

fn draft(number: u64) -> Draft {
    let data =
        Bytes::from_static(br#"{"text":"a message of a chat, about sixty-four bytes long"}"#);
    Draft {
        id: format!("0123456789abcdef:{number}").into(),
        client_id: "ann".into(),
        content: Content::One(Part { name: "n".into(), data, encoding: "".into() }),
        storage: Storage::Stored,
    }
}
