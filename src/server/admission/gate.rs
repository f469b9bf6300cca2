//! What stands between the shards and the hook: equal questions are asked once, answers are kept
//! for the time that they say, questions in progress are bounded, and a hook that fails again and
//! again is left alone for a while. Every question is answered, in time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use enum_map::EnumMap;
use futures_lite::future::{self, FutureExt};
use glommio::sync::Semaphore;

use super::cache::Cache;
use super::{AdmissionHook, AdmitAnswer, AdmitCtx, AdmitError};
use crate::admin::{AdmissionMetrics, AdmissionOutcome as Outcome};
use crate::config;
use crate::limits::IDENTITY_METADATA_BYTES_MAX;
use crate::policy::OnTimeout;

/// A hook and the rules by which it is asked; for the edge's thread.
pub struct GateParts {
    pub hook: Arc<dyn AdmissionHook>,
    pub rules: config::Admission,
}

/// Asks the hook.
pub struct Gate {
    hook: Arc<dyn AdmissionHook>,
    rules: config::Admission,
    cache: RefCell<Cache>,
    /// Questions that are being asked, and where their answers will be.
    open: RefCell<HashMap<Rc<AdmitCtx>, Rc<Pending>>>,
    breaker: Cell<Breaker>,
    /// One for each shard, and one for the edge's own questions.
    permits: Vec<Semaphore>,
    outcomes: RefCell<EnumMap<Outcome, u64>>,
    metrics: AdmissionMetrics,
}

impl Gate {
    /// `askers`: shards and edge together.
    pub fn new(parts: GateParts, askers: usize) -> Rc<Self> {
        let GateParts { hook, rules } = parts;
        let permits = || Semaphore::new(u64::from(rules.in_flight_max));
        Rc::new(Gate {
            hook,
            cache: RefCell::new(Cache::new(rules.cache_entries_max as usize)),
            open: RefCell::default(),
            breaker: Cell::default(),
            permits: (0..askers).map(|_| permits()).collect(),
            outcomes: RefCell::default(),
            metrics: AdmissionMetrics::default(),
            rules,
        })
    }

    /// How long an answer may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.rules.timeout_ms)
    }

    /// Counts since start.
    pub fn metrics(&self) -> AdmissionMetrics {
        AdmissionMetrics {
            outcomes: *self.outcomes.borrow(),
            in_flight: self.open.borrow().len() as u64,
            is_open: self.breaker.get().is_open(Instant::now()),
            ..self.metrics.clone()
        }
    }

    /// The answer to a question of an asker.
    pub async fn decide(self: &Rc<Self>, asker: usize, ctx: AdmitCtx) -> AdmitAnswer {
        if let Some(answer) = self.cache.borrow().get(&ctx, Instant::now()) {
            self.count(Outcome::Cached);
            return answer;
        }
        let asked = self.open.borrow().get(&ctx).cloned();
        let pending = match asked {
            Some(pending) => {
                self.count(Outcome::Coalesced);
                pending
            }
            None => self.begin(asker, Rc::new(ctx)),
        };
        pending.answered().await
    }

    /// Asks in a task of its own: whoever has asked first may stop waiting.
    fn begin(self: &Rc<Self>, asker: usize, ctx: Rc<AdmitCtx>) -> Rc<Pending> {
        let pending = Rc::<Pending>::default();
        self.open.borrow_mut().insert(Rc::clone(&ctx), Rc::clone(&pending));
        let (gate, answered) = (Rc::clone(self), Rc::clone(&pending));
        glommio::spawn_local(async move {
            let answer = gate.ask_in_time(asker, &ctx).await;
            gate.cache.borrow_mut().insert(Rc::clone(&ctx), answer.clone(), Instant::now());
            gate.open.borrow_mut().remove(&ctx);
            answered.complete(answer);
        })
        .detach();
        pending
    }

    async fn ask_in_time(&self, asker: usize, ctx: &AdmitCtx) -> AdmitAnswer {
        let began = Instant::now();
        if !self.breaker_admits(began) {
            self.count(Outcome::BreakerOpen);
            return self.without_answer("the admission hook is not available");
        }
        let late = async {
            glommio::timer::sleep(self.timeout()).await;
            Err(AdmitError::TimedOut)
        };
        let asked = future::or(self.ask(asker, ctx), late).await;
        self.metrics.latency.observe(began.elapsed().as_secs_f64());
        self.note(&asked);
        match asked {
            Ok(answer) => {
                self.count(if answer.is_allowed() { Outcome::Allow } else { Outcome::Deny });
                answer
            }
            Err(AdmitError::TimedOut) => {
                self.count(Outcome::Timeout);
                self.without_answer("the admission hook did not answer in time")
            }
            Err(AdmitError::Failed(_)) => {
                self.count(Outcome::Error);
                self.without_answer("the admission hook failed")
            }
        }
    }

    async fn ask(&self, asker: usize, ctx: &AdmitCtx) -> Result<AdmitAnswer, AdmitError> {
        let panicked = |_| AdmitError::failed("it panicked");
        let permit = self.permits[asker].acquire_permit(1).await;
        let _permit = permit.map_err(|_| AdmitError::failed("the server stops"))?;
        let answer = catch_unwind(AssertUnwindSafe(|| self.hook.admit(ctx))).map_err(panicked)?;
        let answer = AssertUnwindSafe(answer).catch_unwind().await.map_err(panicked)??;
        check_metadata(&answer)?;
        Ok(answer)
    }

    fn without_answer(&self, why: &'static str) -> AdmitAnswer {
        match self.rules.on_timeout {
            OnTimeout::Deny => AdmitAnswer::deny(why),
            OnTimeout::Allow => AdmitAnswer::allow(),
        }
    }

    fn breaker_admits(&self, now: Instant) -> bool {
        let mut breaker = self.breaker.get();
        let admits = breaker.admits(now);
        self.breaker.set(breaker);
        admits
    }

    fn note(&self, asked: &Result<AdmitAnswer, AdmitError>) {
        let mut breaker = self.breaker.get();
        match asked {
            Ok(_) => {
                if breaker.until.is_some() {
                    tracing::info!("the admission hook answers again");
                }
                breaker = Breaker::default();
            }
            Err(error) => {
                let pause = Duration::from_millis(self.rules.breaker_ms);
                let was_open = breaker.until.is_some();
                breaker.fail(Instant::now(), self.rules.breaker_failures, pause);
                if breaker.until.is_some() && !was_open {
                    let failures = breaker.failures;
                    tracing::warn!(%error, failures, ?pause, "the admission hook is left alone");
                }
            }
        }
        self.breaker.set(breaker);
    }

    fn count(&self, outcome: Outcome) {
        self.outcomes.borrow_mut()[outcome] += 1;
    }
}

/// Other members are sent the metadata as they are.
fn check_metadata(answer: &AdmitAnswer) -> Result<(), AdmitError> {
    let Some(text) = answer.identity_metadata.as_deref() else { return Ok(()) };
    let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text);
    match object.is_ok() && text.len() <= IDENTITY_METADATA_BYTES_MAX {
        true => Ok(()),
        false => Err(AdmitError::failed("its identity metadata is no JSON object, or too long")),
    }
}

/// Opens after failures in a row. When its pause is over one question is tried.
#[derive(Clone, Copy, Debug, Default)]
struct Breaker {
    failures: u32,
    /// Set from the failure on that opens it, until an answer arrives.
    until: Option<Instant>,
    is_trying: bool,
}

impl Breaker {
    fn is_open(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn admits(&mut self, now: Instant) -> bool {
        match self.until {
            None => true,
            Some(until) if now < until || self.is_trying => false,
            Some(_) => {
                self.is_trying = true;
                true
            }
        }
    }

    fn fail(&mut self, now: Instant, failures_max: u32, pause: Duration) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= failures_max {
            (self.until, self.is_trying) = (Some(now + pause), false);
        }
    }
}

/// An answer that is not there yet, and who waits for it.
#[derive(Default)]
struct Pending {
    answer: RefCell<Option<AdmitAnswer>>,
    wakers: RefCell<Vec<Waker>>,
}

impl Pending {
    fn complete(&self, answer: AdmitAnswer) {
        *self.answer.borrow_mut() = Some(answer);
        self.wakers.take().into_iter().for_each(Waker::wake);
    }

    async fn answered(&self) -> AdmitAnswer {
        poll_fn(|cx| {
            if let Some(answer) = &*self.answer.borrow() {
                return Poll::Ready(answer.clone());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;
    use glommio::LocalExecutorBuilder;

    use super::super::{AdmitFuture, AdmitKind};
    use super::*;

    pub fn ctx(client: &str) -> AdmitCtx {
        AdmitCtx {
            kind: AdmitKind::Publish,
            app: "demo".into(),
            key_name: None,
            client_id: client.into(),
            channel: Some("room:1".into()),
            peer_key: None,
            metadata: Bytes::new(),
            identity_metadata: None,
            ip: None,
            connection_type: "WebSocket",
            protocol: "foony",
        }
    }

    /// Does what the name of the client says, and counts.
    #[derive(Default)]
    struct Named {
        asked: AtomicU32,
        at_once: AtomicU32,
        at_once_most: AtomicU32,
    }

    struct Forward(Arc<Named>);

    impl AdmissionHook for Forward {
        fn admit(&self, ctx: &AdmitCtx) -> AdmitFuture {
            let (named, client) = (Arc::clone(&self.0), ctx.client_id.clone());
            named.asked.fetch_add(1, Ordering::Relaxed);
            assert!(&*client != "panic at once", "as asked");
            Box::pin(async move {
                let at_once = named.at_once.fetch_add(1, Ordering::Relaxed) + 1;
                named.at_once_most.fetch_max(at_once, Ordering::Relaxed);
                glommio::timer::sleep(Duration::from_millis(20)).await;
                named.at_once.fetch_sub(1, Ordering::Relaxed);
                match &*client {
                    "panic" => panic!("as asked"),
                    "fail" => Err(AdmitError::failed("as asked")),
                    "hang" => future::pending().await,
                    "kept" => Ok(AdmitAnswer::deny("no").with_ttl(Duration::from_secs(60))),
                    _ => Ok(AdmitAnswer::allow()),
                }
            })
        }
    }

    fn gate(rules: config::Admission) -> (Rc<Gate>, Arc<Named>) {
        let named = Arc::<Named>::default();
        let hook: Arc<dyn AdmissionHook> = Arc::new(Forward(Arc::clone(&named)));
        (Gate::new(GateParts { hook, rules }, 2), named)
    }

    fn run(test: impl Future<Output = ()>) {
        LocalExecutorBuilder::default().make().unwrap().run(test);
    }

    fn rules() -> config::Admission {
        config::Admission { timeout_ms: 100, in_flight_max: 2, ..config::Admission::default() }
    }

    fn counts(gate: &Gate, outcome: Outcome) -> u64 {
        gate.metrics().outcomes[outcome]
    }

    #[test]
    fn equal_questions_are_asked_once_and_answers_are_kept_as_they_say() {
        run(async {
            let (gate, named) = gate(rules());
            let both = future::zip(gate.decide(0, ctx("a")), gate.decide(1, ctx("a"))).await;
            assert!(both.0.is_allowed() && both.1.is_allowed());
            assert_eq!(named.asked.load(Ordering::Relaxed), 1);
            assert_eq!(counts(&gate, Outcome::Coalesced), 1);
            gate.decide(0, ctx("a")).await;
            assert_eq!(named.asked.load(Ordering::Relaxed), 2, "it has no time to live");
            for _ in 0..2 {
                assert!(!gate.decide(0, ctx("kept")).await.is_allowed());
            }
            assert_eq!(named.asked.load(Ordering::Relaxed), 3);
            assert_eq!(counts(&gate, Outcome::Cached), 1);
        });
    }

    #[test]
    fn questions_of_one_asker_wait_for_each_other() {
        run(async {
            let (gate, named) = gate(rules());
            let tasks: Vec<_> = (0..6)
                .map(|number| {
                    let (gate, ctx) = (Rc::clone(&gate), ctx(&number.to_string()));
                    glommio::spawn_local(async move { gate.decide(0, ctx).await })
                })
                .collect();
            for task in tasks {
                assert!(task.await.is_allowed());
            }
            assert_eq!(named.at_once_most.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn a_hook_without_an_answer_denies_unless_configured_otherwise() {
        run(async {
            for on_timeout in [OnTimeout::Deny, OnTimeout::Allow] {
                let (gate, _) = gate(config::Admission { on_timeout, ..rules() });
                for client in ["hang", "fail", "panic", "panic at once"] {
                    let answer = gate.decide(0, ctx(client)).await;
                    assert_eq!(answer.is_allowed(), on_timeout == OnTimeout::Allow, "{client}");
                }
                assert_eq!(counts(&gate, Outcome::Timeout), 1);
                assert_eq!(counts(&gate, Outcome::Error), 3);
            }
        });
    }

    #[test]
    fn the_breaker_opens_after_failures_in_a_row_and_closes_with_an_answer() {
        run(async {
            let (gate, named) =
                gate(config::Admission { breaker_failures: 2, breaker_ms: 50, ..rules() });
            for client in ["fail", "a", "fail", "fail"] {
                gate.decide(0, ctx(client)).await;
            }
            assert!(gate.metrics().is_open);
            assert!(!gate.decide(0, ctx("a")).await.is_allowed());
            assert_eq!(named.asked.load(Ordering::Relaxed), 4, "it is left alone");
            assert_eq!(counts(&gate, Outcome::BreakerOpen), 1);
            glommio::timer::sleep(Duration::from_millis(60)).await;
            gate.decide(0, ctx("fail")).await;
            assert!(!gate.decide(0, ctx("a")).await.is_allowed(), "one failure opens it again");
            glommio::timer::sleep(Duration::from_millis(60)).await;
            for client in ["a", "b"] {
                assert!(gate.decide(0, ctx(client)).await.is_allowed());
            }
        });
    }
}
