//! Webhooks: events of channels, posted to a service of the operator in their order, each until it
//! is accepted.
//!
//! ```text
//!  shards -> queue -> collector (thread) -> backlog, in memory or in the store -> poster (thread)
//! ```
//!
//! | full | policy | reported to | counter |
//! |---|---|---|---|
//! | queue | the event is dropped | the receiver: `previous` of the next event | `webhook_dropped{queue_full}` |
//! | backlog | the event is dropped | the same | `webhook_dropped{backlog_full}` |
//! | the store takes no writes | the event is dropped | the same | `webhook_dropped{store}` |

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
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

/// Events that no receiver has accepted.
enum Backlog {
    Memory(VecDeque<Vec<u8>>),
    Disk { spool: Spool, numbers: Range<u64> },
}

/// What both threads use.
struct Shared {
    backlog: Mutex<Backlog>,
    changed: Condvar,
    is_ending: AtomicBool,
    tallies: Arc<Tallies>,
    config: config::Webhooks,
}

impl WebhookSender {
    /// Hands an event over; without room it is dropped.
    pub fn send(&self, event: Box<ChannelEvent>) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(event) {
            self.tallies.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tallies {
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
        let backlog = match store {
            Some(store) => Backlog::Disk { spool: Spool::new(store), numbers: 0..0 },
            None => Backlog::Memory(VecDeque::new()),
        };
        let shared = Arc::new(Shared {
            backlog: Mutex::new(backlog),
            changed: Condvar::new(),
            is_ending: AtomicBool::new(false),
            tallies: Arc::clone(&tallies),
            config: config.clone(),
        });
        let poster = Poster {
            url: url.clone(),
            secret: secret.expose().as_bytes().to_vec(),
            agent: signature::agent(Duration::from_millis(config.timeout_ms), 1),
            process: format!("{:016x}", signature::process_id()),
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
            let texts: Vec<_> =
                std::iter::once(first).chain(more).map(|event| channel_event(&event)).collect();
            self.add(texts);
        }
        self.is_ending.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Continues with the events that an earlier process has left.
    fn take_over(&self) {
        let mut backlog = self.backlog();
        let Backlog::Disk { spool, numbers } = &mut *backlog else { return };
        match spool.left() {
            Ok(left) => *numbers = left,
            Err(error) => tracing::error!(%error, "cannot read events for webhooks that were left"),
        }
        self.note(&backlog);
    }

    fn add(&self, mut texts: Vec<Vec<u8>>) {
        let mut backlog = self.backlog();
        let room = (self.config.spool_events_max as usize).saturating_sub(backlog.len());
        let excess = texts.len().saturating_sub(room);
        texts.truncate(room);
        if excess > 0 {
            let before = self.tallies.backlog_full.fetch_add(excess as u64, Ordering::Relaxed);
            if before == 0 {
                tracing::warn!("too many events wait for webhooks: further ones are dropped");
            }
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
        self.tallies.waiting.store(backlog.len() as u64, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Waits for a request's worth of events, at most as long as the first of them may wait. `None`
    /// at the end.
    fn next_batch(&self) -> Option<Vec<Vec<u8>>> {
        let most = self.config.batch_events_max as usize;
        let mut backlog = self.backlog();
        let mut due = None;
        loop {
            let is_ending = self.is_ending.load(Ordering::Relaxed);
            let (len, now) = (backlog.len(), Instant::now());
            let patience = Duration::from_millis(self.config.batch_ms);
            let wait = match len {
                0 if is_ending => return None,
                0 => Duration::MAX,
                _ => due.get_or_insert(now + patience).saturating_duration_since(now),
            };
            if len > 0 && (len >= most || wait.is_zero() || is_ending) {
                match backlog.first(most) {
                    Ok(events) if !events.is_empty() => return Some(events),
                    Ok(_) => backlog.remove(len.min(most)),
                    Err(error) => {
                        tracing::error!(%error, "cannot read events for webhooks");
                        due = Some(now + RETRY_LAST);
                    }
                }
                continue;
            }
            let wait = wait.min(RETRY_LAST);
            let waited = self.changed.wait_timeout(backlog, wait);
            backlog = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Backlog {
    fn len(&self) -> usize {
        match self {
            Backlog::Memory(events) => events.len(),
            Backlog::Disk { numbers, .. } => (numbers.end - numbers.start) as usize,
        }
    }

    fn append(&mut self, texts: Vec<Vec<u8>>) -> Result<(), StoreError> {
        match self {
            Backlog::Memory(events) => events.extend(texts),
            Backlog::Disk { spool, numbers } => {
                spool.append(numbers.end, &texts)?;
                numbers.end += texts.len() as u64;
            }
        }
        Ok(())
    }

    fn first(&self, most: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        match self {
            Backlog::Memory(events) => Ok(events.iter().take(most).cloned().collect()),
            Backlog::Disk { spool, numbers } => {
                spool.read(&(numbers.start..numbers.end.min(numbers.start + most as u64)))
            }
        }
    }

    /// The first `count` events are done with.
    fn remove(&mut self, count: usize) {
        match self {
            Backlog::Memory(events) => drop(events.drain(..count.min(events.len()))),
            Backlog::Disk { spool, numbers } => {
                let next = numbers.end.min(numbers.start + count as u64);
                if let Err(error) = spool.remove(numbers.start..next) {
                    // After a restart they are posted once more.
                    tracing::debug!(%error, "events that were accepted stay in the store");
                }
                numbers.start = next;
            }
        }
    }
}

/// Posts the backlog.
struct Poster {
    url: String,
    secret: Vec<u8>,
    agent: Agent,
    process: String,
    shared: Arc<Shared>,
}

impl Poster {
    fn run(&self) {
        let mut retry = RETRY_FIRST;
        while let Some(events) = self.shared.next_batch() {
            match self.post(&events) {
                Ok(()) => {
                    let mut backlog = self.shared.backlog();
                    backlog.remove(events.len());
                    self.shared.note(&backlog);
                    let accepted = &self.shared.tallies.accepted;
                    accepted.fetch_add(events.len() as u64, Ordering::Relaxed);
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
                    if self.shared.is_ending.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::sleep(retry);
                    retry = (2 * retry).min(RETRY_LAST);
                }
            }
        }
    }

    fn post(&self, events: &[Vec<u8>]) -> Result<(), String> {
        let body = webhook_body(&self.process, events);
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
