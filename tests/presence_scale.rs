//! The cost of a channel with thousands of members on the sync wire, all of them subscribers.

mod fake_sockets;
mod multi_shard;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use headcount::limits::Limits;
use headcount::policy::Policy;
use multi_shard::{Member, MultiShard};

/// The system's allocator, with the allocations of the calling thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static BYTES: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static LIVE_MAX: Cell<i64> = const { Cell::new(0) };
}

fn count(freed: usize, taken: usize) {
    BYTES.with(|bytes| bytes.set(bytes.get() + taken as u64));
    let live = LIVE.get() + taken as i64 - freed as i64;
    LIVE.set(live);
    LIVE_MAX.set(LIVE_MAX.get().max(live));
}

// SAFETY: every call is forwarded to `System`; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(layout.size(), bytes);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.realloc(ptr, layout, bytes) }
    }
}

/// No connection moves to another shard.
fn limits() -> Limits {
    Limits { home_subscribers_max: 0, home_overload_percent: 0, ..Limits::default() }
}

fn server(shards: u16) -> MultiShard {
    MultiShard::new(shards, limits(), Policy::default())
}

/// A channel with so many members, all of whom have received the current set.
fn crowd(shards: u16, count: usize) -> MultiShard {
    let mut server = server(shards);
    server.connect_many(count);
    (0..count).for_each(|who| server.announce(who, 0));
    server.wait_for_all(count as u32, 10_000);
    server.wait(5_000);
    server
}

/// Measured cost.
#[derive(Debug)]
struct Cost {
    allocated_bytes: u64,
    /// Peak above the beginning.
    live_bytes_max: i64,
    sent_bytes: u64,
    frames_max: u32,
}

fn cost(server: &mut MultiShard, act: impl FnOnce(&mut MultiShard)) -> Cost {
    let sent = |server: &MultiShard| server.members.iter().map(|member| member.bytes).sum::<u64>();
    let frames: Vec<u32> = server.members.iter().map(|member| member.frames).collect();
    let (bytes, live, sent_before) = (BYTES.get(), LIVE.get(), sent(server));
    LIVE_MAX.set(live);
    act(server);
    let allocated_bytes = BYTES.get() - bytes;
    let more = |(member, before): (&Member, &u32)| member.frames - before;
    Cost {
        allocated_bytes,
        live_bytes_max: LIVE_MAX.get() - live,
        sent_bytes: sent(server) - sent_before,
        frames_max: server.members.iter().zip(&frames).map(more).max().unwrap_or(0),
    }
}

/// All members join within a second, each in its own turn, and receive the complete set.
fn storm(shards: u16, count: usize) -> (MultiShard, Cost) {
    let mut server = server(shards);
    server.connect_many(count);
    let cost = cost(&mut server, |server| {
        for who in 0..count {
            server.announce(who, 0);
            server.turn();
            if who % (count / 1_000) == 0 {
                server.advance(1);
            }
        }
        let waited_ms = server.wait_for_all(count as u32, 500);
        println!("{shards} shards: {count} members know each other {waited_ms} ms after the last");
    });
    println!("{cost:?}");
    let on = |shard| server.members.iter().filter(|member| member.shard == shard).count();
    assert!((0..shards.into()).all(|shard| on(shard) > count / 4), "all shards have members");
    (server, cost)
}

#[test]
fn ten_thousand_who_join_within_a_second_are_told_in_few_frames() {
    for shards in [1, 2] {
        let (server, cost) = storm(shards, 10_000);
        // One per turn while the channel is not large, then one per sweep; more shards have
        // shorter sweeps.
        assert!(cost.frames_max <= 400, "{shards} shards: {cost:?}");
        let set_bytes = server.members[0].set_bytes;
        let sets_each = cost.sent_bytes / 10_000 / set_bytes;
        assert!(sets_each <= 5, "{shards} shards: {sets_each} sets of {set_bytes} bytes: {cost:?}");
        assert!(cost.live_bytes_max as u64 <= 40 * set_bytes, "{shards} shards: {cost:?}");
    }
}

#[test]
fn what_a_join_allocates_does_not_grow_with_the_channel() {
    let [small, large] = [1_000, 10_000].map(|count| storm(1, count).1.allocated_bytes);
    assert!(large <= 12 * small, "{small} bytes for 1,000, {large} for 10,000");
}

#[test]
fn a_change_in_a_large_channel_allocates_one_set_for_all_who_are_told() {
    for count in [1_000, 10_000, 16_000] {
        let mut server = crowd(1, count);
        let update = cost(&mut server, |server| {
            server.announce(1, 1);
            server.wait(100);
        });
        let set_bytes = server.members[0].set_bytes;
        println!("{count} members: an update of one: {update:?}, a set has {set_bytes} bytes");
        assert_eq!(
            (update.frames_max, server.members[1].frames),
            (1, server.members[2].frames - 1)
        );
        assert!(update.sent_bytes >= set_bytes * (count as u64 - 1), "{update:?}");
        // The set, what the next one is made of, and lists that grow.
        assert!(update.live_bytes_max as u64 <= 3 * set_bytes, "{update:?}");
    }
}

#[test]
fn whoever_joins_a_large_channel_is_shown_the_set_in_the_same_turn() {
    let mut server = crowd(1, 5_000);
    let newcomer = server.connect(0);
    server.turn();
    server.announce(newcomer, 0);
    server.turn();
    assert_eq!(server.members[newcomer].sees, 5_001);
    server.wait_for_all(5_001, 1_000);
    assert_eq!(server.members[newcomer].frames, 1, "and not once more");
}

#[test]
fn whoever_enters_again_and_again_before_the_next_set_costs_no_more_memory_for_it() {
    let limits = Limits { presence_burst_bytes_max: 10_000, ..limits() };
    let mut server = MultiShard::new(1, limits, Policy::default());
    server.connect_many(400);
    (0..400).for_each(|who| server.announce(who, 0));
    server.wait_for_all(400, 60_000);
    server.wait(5_000);
    // A set takes 40 ms from now on.
    let cost = cost(&mut server, |server| {
        for step in 1..=9_000 {
            server.leave(7);
            server.announce(7, step);
            server.turn();
        }
    });
    assert!(cost.live_bytes_max < 200_000, "{cost:?}");
    server.wait_for_all(400, 60_000);
}

#[test]
fn whoever_leaves_during_a_round_is_shown_to_nobody_afterwards() {
    for shards in [1, 2] {
        let mut server = crowd(shards, 1_000);
        for step in 0..10 {
            server.announce(step, 1);
            (0..2 + step).for_each(|_| server.turn());
            let gone = 500 + step;
            server.leave(gone);
            server.wait(200);
            let left = 999 - step as u32;
            (500..=gone).for_each(|gone| server.members[gone].sees = left);
            server.wait_for_all(left, 0);
        }
    }
}

#[test]
fn members_who_do_not_read_pin_few_sets_and_are_shown_the_newest_later() {
    const COUNT: usize = 2_000;
    let mut server = crowd(2, COUNT);
    let set_bytes = server.members[0].set_bytes;
    let stalled = cost(&mut server, |server| {
        (0..COUNT).for_each(|who| server.members[who].room = 10_000);
        for step in 0..50 {
            server.announce(step, 1 + step as u32);
            server.wait(100);
        }
    });
    println!("{stalled:?}, a set has {set_bytes} bytes");
    assert!(stalled.live_bytes_max as u64 <= 20 * set_bytes, "{stalled:?}");
    assert!(stalled.sent_bytes <= 10_000 * COUNT as u64, "{stalled:?}");
    let newcomer = server.connect(0);
    server.announce(newcomer, 0);
    server.wait(100);
    let reading = cost(&mut server, |server| {
        (0..COUNT).for_each(|who| server.make_room(who, usize::MAX / 2));
        server.wait_for_all(COUNT as u32 + 1, 1_000);
    });
    assert!(reading.frames_max <= 2, "one that was under way, and the newest: {reading:?}");
}

#[test]
fn a_channel_that_is_not_large_is_told_every_change_in_its_turn() {
    let mut server = crowd(1, 100);
    for step in 1..50 {
        server.announce(7, step);
        server.turn();
    }
    assert!(server.members.iter().enumerate().all(|(who, m)| who == 7 || m.frames >= 50));
}

#[test]
fn a_large_channel_with_an_interval_is_told_once_in_it() {
    let policy = Policy { presence_interval_ms: 200, ..Policy::default() };
    let mut server = MultiShard::new(1, limits(), policy);
    server.connect_many(1_000);
    (0..1_000).for_each(|who| server.announce(who, 0));
    server.wait(1_000);
    let second = cost(&mut server, |server| {
        for step in 0..1_000 {
            server.announce(step % 10, 1 + step as u32);
            if step % 10 == 9 {
                server.leave(500 + step / 10);
            }
            server.wait(1);
        }
    });
    let leaves = server.members[0].leaves;
    assert!(second.frames_max + leaves <= 6, "{leaves} leaves and {second:?}");
    server.wait(400);
    assert_eq!(server.members[0].sees, 900);
}
