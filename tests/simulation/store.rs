//! A store in memory, in place of the one on disk: it answers late, many at once, and fails.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use headcount::channel::{Message, Page, PageLimit, Position, StoredLog, StoredPublish};
use headcount::error::Reject;
use headcount::ids::Clocks;
use headcount::policy::Policy;
use headcount::shard::{StoreOperation, StoreOutcome, StoreRange, StoreReply, StoreRequest};

use super::rng::Rng;

/// How long a publish is recognized when it is repeated.
const RECOGNIZED_MS: u64 = 10 * 60 * 1000;

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    /// An fsync takes a while, and more waits meanwhile.
    pub is_slow: bool,
    /// A write fails in so many of a thousand cases; what it wrote is there or not.
    pub fails_per_mille: u64,
}

/// The logs of all channels, and what the shards have asked.
#[derive(Debug, Default)]
pub struct Store {
    /// By app and channel: every message that was ever stored.
    logs: BTreeMap<(String, String), Vec<Arc<Message>>>,
    requests: Vec<VecDeque<StoreRequest>>,
}

impl Store {
    pub fn new(shards: usize) -> Self {
        let requests = (0..shards).map(|_| VecDeque::new()).collect();
        Store { logs: BTreeMap::new(), requests }
    }

    pub fn ask(&mut self, shard: usize, request: StoreRequest) {
        self.requests[shard].push_back(request);
    }

    pub fn is_idle(&self) -> bool {
        self.requests.iter().all(VecDeque::is_empty)
    }

    /// Serves some of what a shard has asked, in order.
    pub fn work(
        &mut self,
        shard: usize,
        now: Clocks,
        rng: &mut Rng,
        trouble: Trouble,
    ) -> Vec<StoreReply> {
        let waiting = self.requests[shard].len();
        let served = match (waiting, trouble.is_slow) {
            (0, _) => 0,
            (_, true) if rng.percent(60) => 0,
            (_, true) => rng.between(1, waiting),
            (_, false) => waiting,
        };
        let requests: Vec<StoreRequest> = self.requests[shard].drain(..served).collect();
        requests.into_iter().map(|request| self.serve(request, now, rng, trouble)).collect()
    }

    fn serve(
        &mut self,
        request: StoreRequest,
        now: Clocks,
        rng: &mut Rng,
        trouble: Trouble,
    ) -> StoreReply {
        let StoreRequest { log, channel, policy, operation } = request;
        let name = (channel.app.to_string(), channel.name.to_string());
        let messages = self.logs.entry(name).or_default();
        let fails =
            trouble.fails_per_mille > 0 && (rng.below(1000) as u64) < trouble.fails_per_mille;
        let outcome = match operation {
            StoreOperation::Open if fails => StoreOutcome::Failed(Reject::StoreFailed),
            StoreOperation::Open => {
                let most = *rng.pick(&[0, 1, 3, 1000]);
                StoreOutcome::Opened(Box::new(open(messages, &policy, now, most)))
            }
            StoreOperation::ReadRows | StoreOperation::WriteRows(_) | StoreOperation::Fold(_) => {
                panic!("there is no relay of documents here")
            }
            StoreOperation::Append(added) => append(messages, added, fails, rng),
            StoreOperation::Read { read, .. } if fails => {
                StoreOutcome::Unreadable { read, reject: Reject::StoreFailed }
            }
            StoreOperation::Read { read, range, limit, head } => {
                let head = head.min(messages.len() as u64);
                let page = page(&messages[..head as usize], &policy, now, &range, limit);
                StoreOutcome::Page { read, page, head }
            }
        };
        StoreReply { log, outcome }
    }
}

fn append(
    messages: &mut Vec<Arc<Message>>,
    added: Vec<Arc<Message>>,
    fails: bool,
    rng: &mut Rng,
) -> StoreOutcome {
    let next = messages.len() as u64 + 1;
    if added.first().is_none_or(|first| first.serial != next) {
        return StoreOutcome::Failed(Reject::StoreFailed);
    }
    assert!(added.iter().zip(next..).all(|(m, serial)| m.serial == serial), "serials are dense");
    if !fails || rng.percent(50) {
        messages.extend(added);
    }
    match fails {
        true => StoreOutcome::Failed(Reject::StoreFailed),
        false => StoreOutcome::Appended { head: messages.len() as u64 },
    }
}

fn is_readable(message: &Message, head: u64, policy: &Policy, now: Clocks) -> bool {
    let age_ms = now.wall_ms - message.timestamp_ms;
    message.serial + u64::from(policy.history_messages) > head
        && age_ms <= policy.history_age_s * 1000
}

fn open(messages: &[Arc<Message>], policy: &Policy, now: Clocks, most: usize) -> StoredLog {
    let head = messages.len() as u64;
    let readable = |m: &&Arc<Message>| is_readable(m, head, policy, now);
    let mut tail: Vec<_> =
        messages.iter().rev().take_while(readable).take(most).map(Arc::clone).collect();
    tail.reverse();
    let recent = messages.iter().filter(|m| now.wall_ms - m.timestamp_ms < RECOGNIZED_MS);
    let publishes = recent.map(|message| StoredPublish {
        serial: message.serial,
        timestamp_ms: message.timestamp_ms,
        client_id: Arc::clone(&message.client_id),
        message_id: message.id.clone(),
    });
    StoredLog { head, messages: tail, publishes: publishes.collect() }
}

fn page(
    messages: &[Arc<Message>],
    policy: &Policy,
    now: Clocks,
    range: &StoreRange,
    limit: PageLimit,
) -> Option<Page> {
    let head = messages.len() as u64;
    let readable: Vec<Arc<Message>> =
        messages.iter().filter(|m| is_readable(m, head, policy, now)).map(Arc::clone).collect();
    let serial_of = |position: &Position| match position {
        Position::Serial(serial) => Some(*serial),
        Position::MessageId(id) => messages.iter().rfind(|m| m.id == *id).map(|m| m.serial),
    };
    let take = |from: Vec<Arc<Message>>| {
        let count = limit.count(from.iter().map(Arc::as_ref));
        let more = count < from.len();
        Page { messages: from.into_iter().take(count).collect(), more }
    };
    let following = |serial: u64| readable.iter().filter(|m| m.serial > serial).cloned().collect();
    match range {
        StoreRange::Before(position) => {
            let end = match position {
                None => Some(head + 1),
                Some(position) => serial_of(position),
            };
            let Some(end) = end else { return Some(Page::default()) };
            let before = readable.iter().rev().filter(|m| m.serial < end);
            let mut page = take(before.cloned().collect());
            page.messages.reverse();
            Some(page)
        }
        StoreRange::After(position) => {
            let serial = serial_of(position)?;
            let first = readable.first().map_or(head + 1, |message| message.serial);
            (serial <= head && serial + 1 >= first).then(|| take(following(serial)))
        }
        StoreRange::Following(serial) => Some(take(following(*serial))),
    }
}
