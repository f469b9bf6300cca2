//! A channel of thousands on the sync wire, where every member is shown all others: what it costs.

mod fake_sockets;
mod multi_shard;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use headcount::limits::Limits;
use headcount::policy::Policy;
use multi_shard::{Member, MultiShard};

/// The system's allocator, and what this thread has asked it for.
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

// SAFETY: everything is passed on to `System`; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: what the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: what the caller has promised.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: what the caller has promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(layout.size(), bytes);
        // SAFETY: what the caller has promised.
        unsafe { System.realloc(ptr, layout, bytes) }
    }
}

/// Nobody is moved to another shard.
fn limits() -> Limits {
    Limits { home_subscribers_max: 0, home_overload_percent: 0, ..Limits::default() }
}

fn shards(shards: u16) -> MultiShard {
    MultiShard::new(shards, limits(), Policy::default())
}

/// A channel with so many members, all of whom have been told of each other a while ago.
fn crowd(shards: u16, count: usize) -> MultiShard {
    let mut shards = shards(shards);
    shards.connect_many(count);
    (0..count).for_each(|who| shards.announce(who, 0));
    shards.wait_for_all(count as u32, 10_000);
    shards.wait(5_000);
    shards
}

/// What something cost.
#[derive(Debug)]
struct Cost {
    allocated_bytes: u64,
    /// More than at the beginning, at the worst moment.
    live_bytes_max: i64,
    sent_bytes: u64,
    frames_max: u32,
}

fn cost(shards: &mut MultiShard, act: impl FnOnce(&mut MultiShard)) -> Cost {
    let sent = |shards: &MultiShard| shards.members.iter().map(|member| member.bytes).sum::<u64>();
    let frames: Vec<u32> = shards.members.iter().map(|member| member.frames).collect();
    let (bytes, live, sent_before) = (BYTES.get(), LIVE.get(), sent(shards));
    LIVE_MAX.set(live);
    act(shards);
    let allocated_bytes = BYTES.get() - bytes;
    let more = |(member, before): (&Member, &u32)| member.frames - before;
    Cost {
        allocated_bytes,
        live_bytes_max: LIVE_MAX.get() - live,
        sent_bytes: sent(shards) - sent_before,
        frames_max: shards.members.iter().zip(&frames).map(more).max().unwrap_or(0),
    }
}

/// Everybody joins within a second, each in a turn of its own, and is told of all others.
fn storm(shards: u16, count: usize) -> (MultiShard, Cost) {
    let mut shards = shards(shards);
    shards.connect_many(count);
    let cost = cost(&mut shards, |shards| {
        for who in 0..count {
            shards.announce(who, 0);
            shards.turn();
            if who % (count / 1_000) == 0 {
                shards.advance(1);
            }
        }
        let waited_ms = shards.wait_for_all(count as u32, 500);
        println!("{shards} shards: {count} members know each other {waited_ms} ms after the last");
    });
    println!("{cost:?}");
    let on = |shard| shards.members.iter().filter(|member| member.shard == shard).count();
    assert!((0..shards.into()).all(|shard| on(shard) > count / 4), "all shards have members");
    (shards, cost)
}

#[test]
fn ten_thousand_who_join_within_a_second_are_told_in_few_frames() {
    for shards in [1, 2] {
        let (shards, cost) = storm(shards, 10_000);
        // One per turn while the channel is not large, then one per round; more shards have
        // shorter rounds.
        assert!(cost.frames_max <= 400, "{shards} shards: {cost:?}");
        let set_bytes = shards.members[0].set_bytes;
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
        let mut shards = crowd(1, count);
        let update = cost(&mut shards, |shards| {
            shards.announce(1, 1);
            shards.wait(100);
        });
        let set_bytes = shards.members[0].set_bytes;
        println!("{count} members: an update of one: {update:?}, a set has {set_bytes} bytes");
        assert_eq!(
            (update.frames_max, shards.members[1].frames),
            (1, shards.members[2].frames - 1)
        );
        assert!(update.sent_bytes >= set_bytes * (count as u64 - 1), "{update:?}");
        // The set, what the next one is made of, and lists that grow.
        assert!(update.live_bytes_max as u64 <= 3 * set_bytes, "{update:?}");
    }
}

#[test]
fn whoever_joins_a_large_channel_is_shown_the_set_in_the_same_turn() {
    let mut shards = crowd(1, 5_000);
    let newcomer = shards.connect(0);
    shards.turn();
    shards.announce(newcomer, 0);
    shards.turn();
    assert_eq!(shards.members[newcomer].sees, 5_001);
    shards.wait_for_all(5_001, 1_000);
    assert_eq!(shards.members[newcomer].frames, 1, "and not once more");
}

#[test]
fn whoever_enters_again_and_again_before_the_next_set_costs_no_more_memory_for_it() {
    let limits = Limits { presence_burst_bytes_max: 10_000, ..limits() };
    let mut shards = MultiShard::new(1, limits, Policy::default());
    shards.connect_many(400);
    (0..400).for_each(|who| shards.announce(who, 0));
    shards.wait_for_all(400, 60_000);
    shards.wait(5_000);
    // A set takes 40 ms from now on.
    let cost = cost(&mut shards, |shards| {
        for step in 1..=9_000 {
            shards.leave(7);
            shards.announce(7, step);
            shards.turn();
        }
    });
    assert!(cost.live_bytes_max < 200_000, "{cost:?}");
    shards.wait_for_all(400, 60_000);
}

#[test]
fn whoever_leaves_during_a_round_is_shown_to_nobody_afterwards() {
    for shards in [1, 2] {
        let mut shards = crowd(shards, 1_000);
        for step in 0..10 {
            shards.announce(step, 1);
            (0..2 + step).for_each(|_| shards.turn());
            let gone = 500 + step;
            shards.leave(gone);
            shards.wait(200);
            let left = 999 - step as u32;
            (500..=gone).for_each(|gone| shards.members[gone].sees = left);
            shards.wait_for_all(left, 0);
        }
    }
}

#[test]
fn members_who_do_not_read_pin_few_sets_and_are_shown_the_newest_later() {
    const COUNT: usize = 2_000;
    let mut shards = crowd(2, COUNT);
    let set_bytes = shards.members[0].set_bytes;
    let stalled = cost(&mut shards, |shards| {
        (0..COUNT).for_each(|who| shards.members[who].room = 10_000);
        for step in 0..50 {
            shards.announce(step, 1 + step as u32);
            shards.wait(100);
        }
    });
    println!("{stalled:?}, a set has {set_bytes} bytes");
    assert!(stalled.live_bytes_max as u64 <= 20 * set_bytes, "{stalled:?}");
    assert!(stalled.sent_bytes <= 10_000 * COUNT as u64, "{stalled:?}");
    let newcomer = shards.connect(0);
    shards.announce(newcomer, 0);
    shards.wait(100);
    let reading = cost(&mut shards, |shards| {
        (0..COUNT).for_each(|who| shards.make_room(who, usize::MAX / 2));
        shards.wait_for_all(COUNT as u32 + 1, 1_000);
    });
    assert!(reading.frames_max <= 2, "one that was under way, and the newest: {reading:?}");
}

#[test]
fn a_channel_that_is_not_large_is_told_every_change_in_its_turn() {
    let mut shards = crowd(1, 100);
    for step in 1..50 {
        shards.announce(7, step);
        shards.turn();
    }
    assert!(shards.members.iter().enumerate().all(|(who, m)| who == 7 || m.frames >= 50));
}

#[test]
fn a_large_channel_with_an_interval_is_told_once_in_it() {
    let policy = Policy { presence_interval_ms: 200, ..Policy::default() };
    let mut shards = MultiShard::new(1, limits(), policy);
    shards.connect_many(1_000);
    (0..1_000).for_each(|who| shards.announce(who, 0));
    shards.wait(1_000);
    let second = cost(&mut shards, |shards| {
        for step in 0..1_000 {
            shards.announce(step % 10, 1 + step as u32);
            if step % 10 == 9 {
                shards.leave(500 + step / 10);
            }
            shards.wait(1);
        }
    });
    let leaves = shards.members[0].leaves;
    assert!(second.frames_max + leaves <= 6, "{leaves} leaves and {second:?}");
    shards.wait(400);
    assert_eq!(shards.members[0].sees, 900);
}
