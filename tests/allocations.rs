//! Allocations of a delivery: none for each subscriber.

mod one_shard;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use headcount::client::protocol;
use headcount::wire::foony::{
    Action, Content, Delivery, Event, Message, Presence, Request, binary,
};
use headcount::wire::http::{AcceptKey, switching_protocols};
use headcount::wire::websocket::{Opcode, append_frame};
use one_shard::{Client, Mode, OneShard};

const CHANNEL: &str = "room:1";

/// Turns after which no list grows further, the log of messages included.
const WARM_UP_TURNS: usize = 300;

const TURNS: u64 = 50;

/// The system's allocator, with the number of allocations of the calling thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATED.with(|allocated| allocated.set(allocated.get() + 1));
}

// SAFETY: every call is forwarded to `System`; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.realloc(ptr, layout, bytes) }
    }
}

/// Subscribers of some channels, and an author of messages.
struct Scene {
    shard: OneShard,
    author: Client,
    mode: Mode,
    subscribers: usize,
}

impl Scene {
    fn new(subscribers: usize, mode: Mode, channels: &[&str]) -> Self {
        let mut shard = OneShard::new();
        let clients = shard.subscribers(subscribers, mode, channels);
        for client in clients.into_iter().filter(|_| mode == Mode::Binary) {
            // JSON clients are sent presence with their messages.
            let (id, channel) = (shard.next_request(), CHANNEL.into());
            shard.ask(client, &Request::PresenceSubscribe { id, channel });
        }
        let author = shard.connect("ann", mode);
        Scene { shard, author, mode, subscribers }
    }

    /// Allocations of turns in which the author's requests are carried out, and what they make is
    /// written to everybody.
    fn allocations(&mut self, requests: impl Fn(&mut OneShard, Mode) -> Vec<Vec<u8>>) -> u64 {
        for _ in 0..WARM_UP_TURNS {
            self.turn(&requests);
        }
        (0..TURNS).map(|_| self.turn(&requests)).sum()
    }

    fn turn(&mut self, requests: impl Fn(&mut OneShard, Mode) -> Vec<Vec<u8>>) -> u64 {
        let mut requests = requests(&mut self.shard, self.mode);
        let before = ALLOCATED.get();
        self.shard.begin_turn();
        for request in &mut requests {
            self.shard.receive(self.author, request);
        }
        self.shard.end_turn();
        let taken = self.shard.flush();
        let allocated = ALLOCATED.get() - before;
        assert_eq!(taken.sends, self.subscribers + 1, "everybody is sent something: {taken:?}");
        allocated
    }
}

fn publish(shard: &mut OneShard, mode: Mode) -> Vec<Vec<u8>> {
    vec![shard.publish_bytes(mode, CHANNEL, "{\"text\":\"hello\"}")]
}

/// The author enters, or updates its state.
fn announce(shard: &mut OneShard, mode: Mode) -> Vec<Vec<u8>> {
    let id = shard.next_request();
    let (action, channel) = (Action::Update, CHANNEL.into());
    let data = id.to_string();
    let presence = Presence { id, channel, action, data: data.as_bytes(), encoding: "".into() };
    vec![one_shard::request_bytes(mode, &Request::Presence(presence))]
}

#[test]
fn a_delivery_allocates_nothing() {
    type Requests = fn(&mut OneShard, Mode) -> Vec<Vec<u8>>;
    let cases: [(&str, Requests); 2] = [("messages", publish), ("changes of members", announce)];
    for mode in [Mode::Binary, Mode::Json] {
        for (name, requests) in cases {
            let few = Scene::new(10, mode, &[CHANNEL]).allocations(requests);
            let many = Scene::new(1_000, mode, &[CHANNEL]).allocations(requests);
            println!(
                "{name}, {mode:?}: per turn {} for 10 subscribers, {} for 1,000",
                few as f64 / TURNS as f64,
                many as f64 / TURNS as f64
            );
            assert_eq!(few, many, "{name}, {mode:?}: allocations grow with the subscribers");
        }
    }
}

/// Several runs wait in a list, which is reused.
#[test]
fn a_subscriber_of_several_channels_allocates_nothing_either() {
    const CHANNELS: [&str; 4] = [CHANNEL, "room:2", "room:3", "room:4"];
    let requests = |shard: &mut OneShard, mode: Mode| {
        let publish = |channel: &&str| shard.publish_bytes(mode, channel, "1");
        CHANNELS.iter().map(publish).collect()
    };
    let few = Scene::new(10, Mode::Binary, &CHANNELS).allocations(requests);
    let many = Scene::new(1_000, Mode::Binary, &CHANNELS).allocations(requests);
    assert_eq!(few, many, "allocations grow with the subscribers");
}

/// A message of many deliveries, as every subscriber of a busy channel receives it.
fn busy_message() -> Vec<u8> {
    let (mut records, mut frame) = (Vec::new(), Vec::new());
    for serial in 1..=1_000 {
        let message = Message { name: "n".into(), data: b"\"0123456789\"", encoding: "".into() };
        let delivery = Delivery {
            channel: CHANNEL.into(),
            message_id: "m".into(),
            client_id: "ann".into(),
            timestamp_ms: 1,
            serial,
            ephemeral: false,
            content: Content::One(message),
        };
        binary::append_event(&Event::Delivery(delivery), &mut records);
        binary::append_event(&Event::Ack { id: serial, serial, resumed: None }, &mut records);
    }
    append_frame(&mut frame, Opcode::Binary, &records);
    frame
}

#[test]
fn a_client_that_receives_allocates_nothing() {
    let upgrade = protocol::Upgrade::new("test", "/", *b"the sample nonce");
    let dialect = protocol::Dialect::Foony;
    let mut connection = protocol::Connection::websocket(0, dialect, &upgrade, 7);
    let accept = AcceptKey::answering(b"dGhlIHNhbXBsZSBub25jZQ==").expect("a key");
    let mut greeting = switching_protocols(&accept, None);
    let (connection_id, client_id) = ("c".into(), "ann".into());
    let mut connected = Vec::new();
    let event = Event::Connected { connection_id, keep_alive_ms: 0, client_id };
    binary::append_event(&event, &mut connected);
    append_frame(&mut greeting, Opcode::Binary, &connected);
    let ignore =
        |_: &mut protocol::Outbound, _: protocol::Event<'_>| Ok::<(), protocol::Closed>(());
    connection.handle_bytes(0, &mut greeting, ignore).expect("a greeting");

    let mut message = busy_message();
    let (mut serials, mut acks) = (0, 0);
    let before = ALLOCATED.get();
    let used = connection.handle_bytes(0, &mut message, |_, event| {
        match event {
            protocol::Event::Messages(deliveries) => {
                for delivered in deliveries {
                    let delivered = delivered.map_err(protocol::Closed::Broken)?;
                    serials += delivered.serial().map_err(protocol::Closed::Broken)?;
                }
            }
            _ => acks += 1,
        }
        Ok::<(), protocol::Closed>(())
    });
    let allocated = ALLOCATED.get() - before;
    assert_eq!((used, serials, acks), (Ok(message.len()), 500_500, 1_000));
    assert_eq!(allocated, 0);
}

#[test]
fn the_allocator_counts() {
    let before = ALLOCATED.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATED.get() - before, 1);
}
