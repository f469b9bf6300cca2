//! What a connection costs in heap memory, the core alone: bytes and blocks of each thing that a
//! client may do and then rest. The sockets of the shell are added in `benches/results/memory.md`.

mod one_shard;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use headcount::wire::foony::{Cursor, Request};
use one_shard::{Mode, OneShard, handshake};

/// Enough connections to average over buffers that grow in steps.
const CONNECTIONS: usize = 19_000;

/// Bytes of a member's state.
const STATE: &[u8] = &[0xc4; 64];

/// The system's allocator, with the memory that the calling thread holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    blocks: isize,
    /// Requested bytes.
    bytes: isize,
    /// As glibc rounds it up: 8 bytes before each block, 32 at least, in steps of 16.
    rounded: isize,
}

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held { blocks: 0, bytes: 0, rounded: 0 }) };
}

fn count(blocks: isize, bytes: usize) {
    let rounded = (bytes + 8).next_multiple_of(16).max(32) as isize;
    // After the end of a thread the counts are not read.
    let _ = HELD.try_with(|held| {
        let Held { blocks: all, bytes: asked, rounded: taken } = held.get();
        let bytes = bytes as isize;
        held.set(Held {
            blocks: all + blocks,
            bytes: asked + blocks * bytes,
            rounded: taken + blocks * rounded,
        });
    });
}

// SAFETY: every call is forwarded to `System`; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-1, layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(-1, layout.size());
        count(1, bytes);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.realloc(ptr, layout, bytes) }
    }
}

/// Heap memory of each of many equal connections.
#[derive(Clone, Copy, Debug)]
struct Cost {
    blocks: f64,
    bytes: f64,
    rounded: f64,
}

/// Brings connections into a state, one after the other, and measures their memory.
fn cost(mut join: impl FnMut(&mut OneShard, usize)) -> Cost {
    let mut shard = OneShard::new();
    let before = HELD.get();
    for number in 0..CONNECTIONS {
        shard.begin_turn();
        join(&mut shard, number);
        shard.end_turn();
        shard.flush();
    }
    let after = HELD.get();
    let each = |before: isize, after: isize| (after - before) as f64 / CONNECTIONS as f64;
    Cost {
        blocks: each(before.blocks, after.blocks),
        bytes: each(before.bytes, after.bytes),
        rounded: each(before.rounded, after.rounded),
    }
}

fn subscribe(shard: &mut OneShard, channel: String) {
    let client = shard.connect("", Mode::Binary);
    let (id, channel) = (shard.next_request(), channel.into());
    shard.ask(client, &Request::Subscribe { id, channel, cursor: Cursor::None });
}

fn watch(shard: &mut OneShard, channel: String) {
    let client = shard.connect("", Mode::Binary);
    let (id, channel) = (shard.next_request(), channel.into());
    shard.ask(client, &Request::PresenceSubscribe { id, channel });
}

/// JSON clients are sent presence with their messages.
fn both(shard: &mut OneShard, channel: String) {
    let client = shard.connect("", Mode::Json);
    let (id, channel) = (shard.next_request(), channel.into());
    shard.ask(client, &Request::Subscribe { id, channel, cursor: Cursor::None });
}

/// A long head in two pieces, and with its end the first byte of a frame.
fn open_with_cookies(shard: &mut OneShard) {
    let head = handshake(&format!("Cookie: {}\r\n", "x".repeat(16 * 1024)));
    let (first, last) = head.split_at(head.len() - 2);
    shard.open_in_pieces(&[first, &[last, &[0x82]].concat()]);
}

fn enter(shard: &mut OneShard, channel: &str) {
    let conn = shard.greet();
    shard.announce(conn, channel, STATE);
}

#[test]
fn a_connection_costs_no_more_than_its_bound() {
    type Join = fn(&mut OneShard, usize);
    let cases: [(&str, f64, Join); 10] = [
        ("upgraded, nothing sent", 200.0, |shard, _| _ = shard.open()),
        ("upgraded, cookies, part of a frame", 464.0, |shard, _| open_with_cookies(shard)),
        ("Foony, authenticated", 360.0, |shard, _| _ = shard.connect("", Mode::Binary)),
        ("Foony, one channel for all", 400.0, |shard, _| subscribe(shard, "room:one".into())),
        ("Foony, a channel of its own", 716.0, |shard, n| subscribe(shard, format!("room:{n}"))),
        ("Foony, watches one of its own", 716.0, |shard, n| watch(shard, format!("room:{n}"))),
        ("Foony JSON, the same and messages", 844.0, |shard, n| both(shard, format!("room:{n}"))),
        ("sync, greeted", 344.0, |shard, _| _ = shard.greet()),
        ("sync, in a channel of ten", 688.0, |shard, n| enter(shard, &format!("doc:{}", n / 10))),
        ("sync, in a channel of its own", 1100.0, |shard, n| enter(shard, &format!("doc:{n}"))),
    ];
    let mut over = Vec::new();
    for (name, most, join) in cases {
        let Cost { blocks, bytes, rounded } = cost(join);
        println!("{name:34} {blocks:6.2} blocks {bytes:7.1} B, {rounded:7.1} B of glibc's");
        if rounded > most {
            over.push(format!("{name}: {rounded:.0} B, at most {most:.0}"));
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}
