//! Answers of the hook that hold for a while.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{AdmitAnswer, AdmitCtx};

/// Longest time that an answer holds for.
const TTL_MAX: Duration = Duration::from_secs(86_400);

/// Answers by question. At most as many as configured; the oldest are evicted first.
#[derive(Debug)]
pub struct Cache {
    entries: HashMap<Rc<AdmitCtx>, Entry>,
    /// In the order of their insertion, with the number of it.
    order: VecDeque<(Rc<AdmitCtx>, u64)>,
    entries_max: usize,
    inserted: u64,
}

#[derive(Debug)]
struct Entry {
    answer: AdmitAnswer,
    until: Instant,
    number: u64,
}

impl Cache {
    pub fn new(entries_max: usize) -> Self {
        Cache { entries: HashMap::new(), order: VecDeque::new(), entries_max, inserted: 0 }
    }

    /// The answer to a question, if it still holds.
    pub fn get(&self, ctx: &AdmitCtx, now: Instant) -> Option<AdmitAnswer> {
        let entry = self.entries.get(ctx).filter(|entry| now < entry.until)?;
        Some(entry.answer.clone())
    }

    /// Keeps an answer for its time to live.
    pub fn insert(&mut self, ctx: Rc<AdmitCtx>, answer: AdmitAnswer, now: Instant) {
        if answer.ttl.is_zero() || self.entries_max == 0 {
            return;
        }
        self.inserted += 1;
        let number = self.inserted;
        let until = now + answer.ttl.min(TTL_MAX);
        self.order.push_back((Rc::clone(&ctx), number));
        self.entries.insert(ctx, Entry { answer, until, number });
        while self.order.len() > self.entries_max {
            let Some((ctx, number)) = self.order.pop_front() else { return };
            if self.entries.get(&*ctx).is_some_and(|entry| entry.number == number) {
                self.entries.remove(&*ctx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate::tests::ctx;
    use super::*;

    #[test]
    fn an_answer_holds_for_its_time_and_the_oldest_is_evicted() {
        let now = Instant::now();
        let mut cache = Cache::new(2);
        let second = Duration::from_secs(1);
        for client in ["a", "b", "a", "c"] {
            let answer = AdmitAnswer::deny(client).with_ttl(second);
            cache.insert(Rc::new(ctx(client)), answer, now);
        }
        cache.insert(Rc::new(ctx("d")), AdmitAnswer::allow(), now);
        let held = |client: &str, at| cache.get(&ctx(client), at).is_some();
        assert!(held("a", now) && held("c", now));
        assert!(!held("b", now), "evicted");
        assert!(!held("d", now), "it has no time to live");
        assert!(!held("a", now + second), "over");
    }
}
