//! Webhooks: events of channels, posted to a service of the operator in their order, each until it
//! is accepted.
//!
//! ```text
//!  shards -> queue -> collector (thread) -> backlog, in memory or in the store -> poster (thread)
//! ```
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | queue | the event is dropped | the receiver: `previous` of the next event, `dropped` | `webhook_dropped{queue_full}` |
//! | backlog | the event is dropped | the same | `webhook_dropped{backlog_full}` |
//! | the store takes no writes | the event is dropped | the same | `webhook_dropped{store}` |

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ureq::Agent;

use super::signature::{self, SIGNATURE};
use crate::admin::WebhookCounts;
use crate::config;
use crate::rest::{channel_event, webhook_body};
use crate::shard::ChannelEvent;
use crate::store::{Spool, Store, StoreError};

/// Events between the shards and the collector.
const QUEUED_MAX: usize = 16_384;

/// Events that the collector takes at once.
const COLLECTED_MAX: usize = 1_024;

/// Time between two attempts: the first, doubled with each, up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Bytes of events in a request, but for one that is larger by itself.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// How long the end of the process waits for events to be accepted.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// The shards' end.
#[derive(Clone)]
pub struct WebhookSender {
    queue: Sender<Box<ChannelEvent>>,
    tallies: Arc<Tallies>,
}

/// What became of events.
#[derive(Debug, Default)]
pub struct Tallies {
    accepted: AtomicU64,
    failures: AtomicU64,
    waiting: AtomicU64,
    queue_full: AtomicU64,
    backlog_full: AtomicU64,
    store: AtomicU64,
}

/// The threads of a process.
pub struct Webhooks {
    pub sender: WebhookSender,
    ended: Receiver<()>,
}

/// Events that no receiver has accepted, numbered in their order.
struct Backlog {
    numbers: Range<u64>,
    bytes: u64,
    kept: Kept,
    /// No further ones come.
    is_ending: bool,
}

/// Where they are.
enum Kept {
    Memory(VecDeque<Vec<u8>>),
    Disk(Arc<Spool>),
}

/// The first events of the backlog, and the number of the one after them.
struct Batch {
    events: Vec<Vec<u8>>,
    next: u64,
}

/// What both threads use.
struct Shared {
    backlog: Mutex<Backlog>,
    changed: Condvar,
    tallies: Arc<Tallies>,
    config: config::Webhooks,
    /// Tells the processes of a server apart.
    process: String,
}

impl WebhookSender {
    /// Hands an event over; without room it is dropped.
    pub fn send(&self, event: Box<ChannelEvent>) {
        if self.queue.try_send(event).is_err() {
            self.tallies.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tallies {
    /// Events that were dropped.
    fn dropped(&self) -> u64 {
        let tallies = [&self.queue_full, &self.backlog_full, &self.store];
        tallies.into_iter().map(|tally| tally.load(Ordering::Relaxed)).sum()
    }

    pub fn counts(&self) -> WebhookCounts {
        let count = |tally: &AtomicU64| tally.load(Ordering::Relaxed);
        WebhookCounts {
            accepted: count(&self.accepted),
            failures: count(&self.failures),
            waiting: count(&self.waiting),
            dropped: [
                ("queue_full", count(&self.queue_full)),
                ("backlog_full", count(&self.backlog_full)),
                ("store", count(&self.store)),
            ],
        }
    }
}

impl Webhooks {
    /// Starts to post, if there is a receiver; first what an earlier process has left in the store.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        config: &config::Webhooks,
        store: Option<Arc<Store>>,
    ) -> io::Result<Option<Webhooks>> {
        let (Some(url), Some(secret)) = (&config.url, &config.secret) else { return Ok(None) };
        let (queue, events) = bounded(QUEUED_MAX);
        let tallies = Arc::<Tallies>::default();
        let kept = match store {
            Some(store) => Kept::Disk(Arc::new(Spool::new(store))),
            None => Kept::Memory(VecDeque::new()),
        };
        let backlog = Backlog { numbers: 0..0, bytes: 0, kept, is_ending: false };
        let shared = Arc::new(Shared {
            backlog: Mutex::new(backlog),
            changed: Condvar::new(),
            tallies: Arc::clone(&tallies),
            config: config.clone(),
            process: format!("{:016x}", signature::process_id()),
        });
        let poster = Poster {
            url: url.clone(),
            secret: secret.expose().as_bytes().to_vec(),
            agent: signature::agent(Duration::from_millis(config.timeout_ms), 1),
            shared: Arc::clone(&shared),
        };
        let (end, ended) = bounded(0);
        thread::Builder::new()
            .name("webhook-events".into())
            .spawn(move || shared.collect(&events))?;
        thread::Builder::new().name("webhook-posts".into()).spawn(move || {
            poster.run();
            drop(end);
        })?;
        Ok(Some(Webhooks { sender: WebhookSender { queue, tallies }, ended }))
    }

    pub fn tallies(&self) -> Arc<Tallies> {
        Arc::clone(&self.sender.tallies)
    }

    /// Waits a little for the last events to be accepted, once no shard is left. What is in the
    /// store waits for the next process.
    pub fn finish(self) {
        let Webhooks { sender, ended } = self;
        drop(sender);
        if ended.recv_timeout(FINISH_WITHIN) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("events for webhooks are left");
        }
    }
}

impl Shared {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves events from the shards into the backlog, until no shard is left.
    fn collect(&self, events: &Receiver<Box<ChannelEvent>>) {
        self.take_over();
        while let Ok(first) = events.recv() {
            let more = events.try_iter().take(COLLECTED_MAX - 1);
            let all = std::iter::once(first).chain(more);
            self.add(all.map(|event| channel_event(&event, &self.process)).collect());
        }
        self.backlog().is_ending = true;
        self.changed.notify_all();
    }

    /// Continues with the events that an earlier process has left, once that has ended.
    fn take_over(&self) {
        let spool = match &self.backlog().kept {
            Kept::Disk(spool) => Arc::clone(spool),
            Kept::Memory(_) => return,
        };
        let (numbers, bytes) = loop {
            match spool.left() {
                Ok(left) => break left,
                Err(error) => tracing::error!(%error, "events for webhooks wait for the store"),
            }
            thread::sleep(RETRY_LAST);
        };
        let mut backlog = self.backlog();
        (backlog.numbers, backlog.bytes) = (numbers, bytes);
        self.note(&backlog);
    }

    fn add(&self, mut texts: Vec<Vec<u8>>) {
        let mut backlog = self.backlog();
        let (mut count, mut bytes) = (backlog.len(), backlog.bytes);
        let fits = |text: &&Vec<u8>| {
            (count, bytes) = (count + 1, bytes + text.len() as u64);
            count <= u64::from(self.config.spool_events_max) && bytes <= self.config.spool_bytes_max
        };
        let fitting = texts.iter().take_while(fits).count();
        let excess = (texts.len() - fitting) as u64;
        texts.truncate(fitting);
        if excess > 0 && self.tallies.backlog_full.fetch_add(excess, Ordering::Relaxed) == 0 {
            tracing::warn!("too many events wait for webhooks: further ones are dropped");
        }
        let count = texts.len() as u64;
        if let Err(error) = backlog.append(texts) {
            self.tallies.store.fetch_add(count, Ordering::Relaxed);
            tracing::debug!(%error, "events for webhooks are dropped");
        }
        self.note(&backlog);
    }

    /// The backlog has changed.
    fn note(&self, backlog: &Backlog) {
        self.tallies.waiting.store(backlog.len(), Ordering::Relaxed);
        self.changed.notify_all();
    }

    fn wait<'b>(
        &self,
        backlog: MutexGuard<'b, Backlog>,
        most: Duration,
    ) -> MutexGuard<'b, Backlog> {
        let waited = self.changed.wait_timeout(backlog, most.min(RETRY_LAST));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits for a request's worth of events, at most as long as the first of them may wait. `None`
    /// at the end.
    fn next_batch(&self) -> Option<Batch> {
        let most = u64::from(self.config.batch_events_max);
        let patience = Duration::from_millis(self.config.batch_ms);
        let mut backlog = self.backlog();
        let mut due = None;
        loop {
            let now = Instant::now();
            let wait = match backlog.len() {
                0 if backlog.is_ending => return None,
                0 => Duration::MAX,
                len if len >= most || backlog.is_ending => Duration::ZERO,
                _ => due.get_or_insert(now + patience).saturating_duration_since(now),
            };
            if !wait.is_zero() {
                backlog = self.wait(backlog, wait);
                continue;
            }
            match backlog.first(most) {
                Ok(batch) if batch.events.is_empty() => backlog.remove(&batch),
                Ok(batch) => return Some(batch),
                Err(error) => {
                    tracing::error!(%error, "cannot read events for webhooks");
                    if backlog.is_ending {
                        return None;
                    }
                    drop(backlog);
                    self.pause(RETRY_LAST);
                    backlog = self.backlog();
                }
            }
        }
    }

    /// Waits for a while, or until the end.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut backlog = self.backlog();
        while !backlog.is_ending {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            backlog = self.wait(backlog, left);
        }
    }
}

impl Backlog {
    fn len(&self) -> u64 {
        self.numbers.end - self.numbers.start
    }

    fn append(&mut self, texts: Vec<Vec<u8>>) -> Result<(), StoreError> {
        let (count, bytes) = (texts.len() as u64, texts.iter().map(Vec::len).sum::<usize>());
        match &mut self.kept {
            Kept::Memory(events) => events.extend(texts),
            Kept::Disk(spool) => spool.append(self.numbers.end, &texts)?,
        }
        self.numbers.end += count;
        self.bytes += bytes as u64;
        Ok(())
    }

    fn first(&self, most: u64) -> Result<Batch, StoreError> {
        let Range { start, end } = self.numbers;
        let wanted = start..end.min(start + most);
        let (events, next) = match &self.kept {
            Kept::Disk(spool) => spool.read(&wanted, REQUEST_BYTES_MAX)?,
            Kept::Memory(events) => {
                let mut bytes = 0;
                let fits = |event: &&Vec<u8>| {
                    bytes += event.len();
                    bytes <= REQUEST_BYTES_MAX || bytes == event.len()
                };
                let events = events.iter().take((wanted.end - start) as usize).take_while(fits);
                let events: Vec<_> = events.cloned().collect();
                let next = start + events.len() as u64;
                (events, next)
            }
        };
        Ok(Batch { events, next })
    }

    /// These events are done with.
    fn remove(&mut self, batch: &Batch) {
        let done = self.numbers.start..batch.next;
        match &mut self.kept {
            Kept::Memory(events) => drop(events.drain(..batch.events.len())),
            Kept::Disk(spool) => {
                if let Err(error) = spool.remove(done) {
                    // After a restart they are posted once more.
                    tracing::debug!(%error, "events that were accepted stay in the store");
                }
            }
        }
        self.numbers.start = batch.next;
        let bytes: usize = batch.events.iter().map(Vec::len).sum();
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }
}

/// Posts the backlog.
struct Poster {
    url: String,
    secret: Vec<u8>,
    agent: Agent,
    shared: Arc<Shared>,
}

impl Poster {
    fn run(&self) {
        let mut retry = RETRY_FIRST;
        while let Some(batch) = self.shared.next_batch() {
            match self.post(&batch.events) {
                Ok(()) => {
                    let mut backlog = self.shared.backlog();
                    backlog.remove(&batch);
                    self.shared.note(&backlog);
                    let accepted = &self.shared.tallies.accepted;
                    accepted.fetch_add(batch.events.len() as u64, Ordering::Relaxed);
                    if retry > RETRY_FIRST {
                        tracing::info!("webhooks are accepted again");
                    }
                    retry = RETRY_FIRST;
                }
                Err(why) => {
                    self.shared.tallies.failures.fetch_add(1, Ordering::Relaxed);
                    if retry == RETRY_FIRST {
                        tracing::warn!("webhooks are not accepted, and are tried again: {why}");
                    }
                    if self.shared.backlog().is_ending {
                        return;
                    }
                    self.shared.pause(retry);
                    retry = (2 * retry).min(RETRY_LAST);
                }
            }
        }
    }

    fn post(&self, events: &[Vec<u8>]) -> Result<(), String> {
        let body = webhook_body(self.shared.tallies.dropped(), events);
        let signature = signature::signature(&self.secret, &body).map_err(|e| e.to_string())?;
        let request = self.agent.post(&self.url).content_type("application/json");
        let response = request.header(SIGNATURE, signature).send(&body[..]);
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status();
        // Read, so that the connection can be used again.
        let _ = response.into_body().read_to_vec();
        if status.is_success() { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
    }
}
