//! Which queue joins two shards? Three candidates carry the envelopes of the server between two
//! pinned threads, each with the same sleeping flag and event descriptor:
//!
//! - `crossbeam-channel`, bounded;
//! - `crossbeam-queue::ArrayQueue`;
//! - `rtrb`, a single-producer single-consumer ring.
//!
//! Measured: throughput in bursts as a turn makes them, and the time of a hop to a shard that is
//! awake and to one that sleeps. Run with `cargo bench --bench mailbox`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use crossbeam_queue::ArrayQueue;
use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, poll};

use headcount::ids::ShardId;
use headcount::server::mesh::Endpoint;
use headcount::shard::{Envelope, Inspection};

const CAPACITY: usize = 8192;
const BURST: usize = 64;
const BURSTS: usize = 60_000;
const HOPS: usize = 50_000;
const SLEEPY_HOPS: usize = 5_000;
const RUNS: usize = 5;

/// The two ends of a candidate.
trait Sender: Send + 'static {
    fn push(&mut self, envelope: Envelope) -> Result<(), Envelope>;
}

trait Receiver: Send + 'static {
    fn pop(&mut self) -> Option<Envelope>;
    fn is_empty(&self) -> bool;
}

impl Sender for crossbeam_channel::Sender<Envelope> {
    fn push(&mut self, envelope: Envelope) -> Result<(), Envelope> {
        self.try_send(envelope).map_err(|error| error.into_inner())
    }
}

impl Receiver for crossbeam_channel::Receiver<Envelope> {
    fn pop(&mut self) -> Option<Envelope> {
        self.try_recv().ok()
    }

    fn is_empty(&self) -> bool {
        crossbeam_channel::Receiver::is_empty(self)
    }
}

impl Sender for Arc<ArrayQueue<Envelope>> {
    fn push(&mut self, envelope: Envelope) -> Result<(), Envelope> {
        ArrayQueue::push(self, envelope)
    }
}

impl Receiver for Arc<ArrayQueue<Envelope>> {
    fn pop(&mut self) -> Option<Envelope> {
        ArrayQueue::pop(self)
    }

    fn is_empty(&self) -> bool {
        ArrayQueue::is_empty(self)
    }
}

impl Sender for rtrb::Producer<Envelope> {
    fn push(&mut self, envelope: Envelope) -> Result<(), Envelope> {
        rtrb::Producer::push(self, envelope).map_err(|rtrb::PushError::Full(envelope)| envelope)
    }
}

impl Receiver for rtrb::Consumer<Envelope> {
    fn pop(&mut self) -> Option<Envelope> {
        rtrb::Consumer::pop(self).ok()
    }

    fn is_empty(&self) -> bool {
        rtrb::Consumer::is_empty(self)
    }
}

type Ends = (Box<dyn FnOnce() -> (Side, Side)>, &'static str);

/// One thread's ends: it sends into one queue and receives from the other.
struct Side {
    sender: BoxedSender,
    receiver: BoxedReceiver,
}

/// Static dispatch would be fairer by a nanosecond and three times as long to read; every candidate
/// pays the same.
type BoxedSender = Box<dyn Sender>;
type BoxedReceiver = Box<dyn Receiver>;

fn sides<S: Sender, R: Receiver>(make: impl Fn() -> (S, R)) -> (Side, Side) {
    let ((to_b, from_a), (to_a, from_b)) = (make(), make());
    let a = Side { sender: Box::new(to_b), receiver: Box::new(from_b) };
    let b = Side { sender: Box::new(to_a), receiver: Box::new(from_a) };
    (a, b)
}

fn candidates() -> [Ends; 3] {
    [
        (Box::new(|| sides(|| crossbeam_channel::bounded(CAPACITY))), "crossbeam-channel"),
        (
            Box::new(|| {
                sides(|| {
                    let queue = Arc::new(ArrayQueue::new(CAPACITY));
                    (Arc::clone(&queue), queue)
                })
            }),
            "ArrayQueue",
        ),
        (Box::new(|| sides(|| rtrb::RingBuffer::new(CAPACITY))), "rtrb (SPSC)"),
    ]
}

fn envelope(request: u64) -> Envelope {
    Envelope::Inspect { from: ShardId(0), request, inspection: Inspection::Counters }
}

/// Pins the calling thread. A pinned thread sees only its own core, so the list is read once.
fn pin(core: usize) {
    static CORES: OnceLock<Vec<CoreId>> = OnceLock::new();
    let cores = CORES.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default());
    if let Some(&id) = cores.get(core % cores.len().max(1)) {
        core_affinity::set_for_current(id);
    }
}

/// Takes the next envelope, sleeping on the endpoint's event descriptor when there is none.
fn receive(side: &mut Side, endpoint: &Endpoint, sleep: bool) -> Option<u64> {
    for _ in 0..200 {
        if let Some(Envelope::Inspect { request, .. }) = side.receiver.pop() {
            return Some(request);
        }
        std::hint::spin_loop();
    }
    if sleep {
        endpoint.set_sleeping();
        if side.receiver.is_empty() {
            let event = endpoint.event();
            let mut fds = [PollFd::new(&event, PollFlags::IN)];
            let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = poll(&mut fds, Some(&timeout));
            endpoint.clear_event();
        }
        endpoint.set_awake();
    }
    None
}

fn send(side: &mut Side, mut request: Envelope) {
    while let Err(full) = side.sender.push(request) {
        request = full;
        std::hint::spin_loop();
    }
}

/// Envelopes per second, sent in bursts with one wake-up check each.
fn throughput(make: impl FnOnce() -> (Side, Side)) -> f64 {
    let (mut a, mut b) = make();
    let endpoint = Arc::new(Endpoint::new().expect("an event descriptor"));
    let theirs = Arc::clone(&endpoint);
    let consumer = thread::spawn(move || {
        pin(1);
        let mut next = 0;
        while next < (BURST * BURSTS) as u64 {
            if let Some(request) = receive(&mut b, &theirs, true) {
                assert_eq!(request, next, "order is kept");
                next += 1;
            }
        }
    });
    pin(0);
    let start = Instant::now();
    for burst in 0..BURSTS {
        for i in 0..BURST {
            send(&mut a, envelope((burst * BURST + i) as u64));
        }
        endpoint.wake_if_sleeping();
    }
    consumer.join().expect("the consumer");
    (BURST * BURSTS) as f64 / start.elapsed().as_secs_f64()
}

/// Half a round trip in nanoseconds; with `pause` the other side has gone to sleep before each.
fn hop(make: impl FnOnce() -> (Side, Side), hops: usize, pause: Duration) -> Histogram<u64> {
    let (mut a, mut b) = make();
    let endpoints = [Endpoint::new(), Endpoint::new()].map(|s| s.expect("an event descriptor"));
    let endpoints = Arc::new(endpoints);
    let stop = Arc::new(AtomicBool::new(false));
    let (theirs, stopped) = (Arc::clone(&endpoints), Arc::clone(&stop));
    let echo = thread::spawn(move || {
        pin(1);
        while !stopped.load(Ordering::Relaxed) {
            if let Some(request) = receive(&mut b, &theirs[1], !pause.is_zero()) {
                send(&mut b, envelope(request));
                theirs[0].wake_if_sleeping();
            }
        }
    });
    pin(0);
    let mut histogram = Histogram::new(3).expect("a histogram");
    for request in 0..hops as u64 {
        thread::sleep(pause);
        let start = Instant::now();
        send(&mut a, envelope(request));
        endpoints[1].wake_if_sleeping();
        while receive(&mut a, &endpoints[0], false).is_none() {}
        histogram.record(start.elapsed().as_nanos() as u64 / 2).expect("a hop under an hour");
    }
    stop.store(true, Ordering::Relaxed);
    echo.join().expect("the echo");
    histogram
}

fn main() {
    println!("envelope: {} bytes, capacity {CAPACITY}, bursts of {BURST}", size_of::<Envelope>());
    println!("{:<18} {:>12} {:>22} {:>22}", "", "M/s", "hop awake p50/p99 ns", "asleep p50/p99 ns");
    for run in 0..RUNS {
        for (index, (_, name)) in candidates().into_iter().enumerate() {
            let make = || candidates().into_iter().nth(index).map(|(make, _)| make());
            let make = || make().expect("the candidate");
            let rate = throughput(make);
            let awake = hop(make, HOPS, Duration::ZERO);
            let asleep = hop(make, SLEEPY_HOPS, Duration::from_micros(100));
            println!(
                "{run} {name:<16} {:>12.1} {:>14}/{:<7} {:>14}/{:<7}",
                rate / 1e6,
                awake.value_at_quantile(0.5),
                awake.value_at_quantile(0.99),
                asleep.value_at_quantile(0.5),
                asleep.value_at_quantile(0.99),
            );
        }
    }
}
