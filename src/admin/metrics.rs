//! The metrics page: counters of all shards and of the process.

use std::collections::BTreeMap;
use std::fmt;

use enum_map::{Enum, EnumMap};
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use strum::IntoStaticStr;

use super::Exposition;
use crate::auth::Refusals;
use crate::counters::{Counters, Durations};

/// Metrics of the process as a whole.
#[derive(Clone, Debug)]
pub struct Process {
    pub ready: bool,
    pub silent_executors: u64,
    pub executor_stalls: u64,
    pub uptime_s: u64,
    /// Open connections of plain HTTP.
    pub http_connections: u64,
    /// Connections of plain HTTP closed at the limit.
    pub http_refused: u64,
    /// Plain HTTP responses by status.
    pub http_responses: BTreeMap<u16, u64>,
    /// Log lines dropped because standard error blocked or failed.
    pub log_lines_lost: u64,
    /// Credentials refused in plain HTTP requests; shards count their own.
    pub refusals: Refusals,
    pub admission: AdmissionMetrics,
    pub webhooks: WebhookCounts,
    /// How long batches took until they were on disk.
    pub store_writes: Durations,
}

/// Counts of the webhooks.
#[derive(Clone, Debug)]
pub struct WebhookCounts {
    /// Events that the receiver has accepted.
    pub accepted: u64,
    /// Requests that it has not.
    pub failures: u64,
    /// Events that are to be posted.
    pub waiting: u64,
    /// Events that were dropped, by reason.
    pub dropped: [(&'static str, u64); 3],
}

/// What became of a question to the admission hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum AdmissionOutcome {
    Allow,
    Deny,
    Timeout,
    /// The hook failed.
    Error,
    /// Answered as an equal one before.
    Cached,
    /// Answered together with an equal one.
    Coalesced,
    /// Not asked after failures in a row.
    BreakerOpen,
}

/// Counts of the admission hook.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    pub outcomes: EnumMap<AdmissionOutcome, u64>,
    /// Seconds until the hook answered, failed, or was given up.
    pub latency: Histogram,
    /// Different questions that wait for an answer.
    pub in_flight: u64,
    /// The hook is not asked after failures in a row.
    pub is_open: bool,
}

/// Upper bounds of the latencies that are counted, seconds.
const LATENCIES_S: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0];

impl Default for AdmissionMetrics {
    fn default() -> Self {
        let latency = Histogram::new(LATENCIES_S);
        AdmissionMetrics { outcomes: EnumMap::default(), latency, in_flight: 0, is_open: false }
    }
}

/// Names and values.
type Labels = Vec<(&'static str, String)>;

/// A metric of each shard: name, help, and its value in the counters.
type Column = (&'static str, &'static str, fn(&Counters) -> u64);

const GAUGES: [Column; 7] = [
    ("connections", "Open connections", |c| c.connections),
    ("channels", "Owned channels with members or subscribers", |c| c.channels),
    ("members", "Members of owned channels", |c| c.members),
    ("subscriptions", "Subscriptions of local connections", |c| c.subscriptions),
    ("mailbox_depth", "Envelopes that waited for the shard at its last turn", |c| c.mailbox_depth),
    ("blocked_connections", "Connections whose sockets take no more", |c| c.blocked),
    ("storing_bytes", "Bytes of messages that are being stored", |c| c.storing_bytes),
];

const COUNTERS: [Column; 20] = [
    ("accepted", "Connections accepted", |c| c.accepted),
    ("adopted", "Connections taken over from other shards", |c| c.adopted),
    ("handed_off", "Connections handed to other shards or the edge", |c| c.handed_off),
    ("messages_in", "Messages received", |c| c.messages_in),
    ("bytes_in", "Bytes received", |c| c.bytes_in),
    ("bytes_out", "Bytes sent", |c| c.bytes_out),
    ("presence_updates", "Presence announcements received", |c| c.presence_updates),
    ("presence_ticks", "Presence events sent by owners", |c| c.presence_ticks),
    ("messages_published", "Messages accepted", |c| c.messages_published),
    ("messages_resent", "Duplicate publishes, acknowledged and not delivered", |c| {
        c.messages_resent
    }),
    ("messages_delivered", "Message deliveries queued to connections", |c| c.messages_delivered),
    ("documents_pushed", "Documents applied: deltas, rows, schemas, array ops", |c| {
        c.documents_pushed
    }),
    ("documents_resent", "Documents that were applied before, acknowledged again", |c| {
        c.documents_resent
    }),
    ("documents_delivered", "Document deliveries queued to connections, repeats included", |c| {
        c.documents_delivered
    }),
    ("deliveries", "Presence deliveries queued to connections", |c| c.deliveries),
    ("expired_members", "Members removed by timeout", |c| c.expired_members),
    ("resumed_members", "Members resumed within their grace", |c| c.resumed_members),
    ("peer_checks", "Copies of members that peers had compared, because a digest differed", |c| {
        c.peer_checks
    }),
    ("receive_buffers_exhausted", "Receives that found no free buffer", |c| {
        c.receive_buffers_exhausted
    }),
    ("turns", "Turns taken", |c| c.turns),
];

/// Encodes the counters of every shard, in shard order.
pub fn encode(shards: &[Counters], process: &Process, exposition: Exposition) -> String {
    let mut registry = Registry::with_prefix("headcount");
    register_process(&mut registry, process);
    for (name, help, value) in GAUGES {
        let family = Family::<Labels, Gauge>::default();
        for (labels, count) in by_shard(shards, |c| vec![(Labels::new(), value(c))]) {
            family.get_or_create(&labels).set(count as i64);
        }
        registry.register(name, help, family);
    }
    for (name, help, value) in COUNTERS {
        let counts = by_shard(shards, |c| vec![(Labels::new(), value(c))]);
        register(&mut registry, name, help, counts);
    }
    register_durations(&mut registry, shards, process);
    register_admission(&mut registry, &process.admission);
    register_webhooks(&mut registry, &process.webhooks);
    register_reasons(&mut registry, shards);
    let of_shards = shards.iter().map(|counters| &counters.refusals);
    let refusals = of_shards.chain([&process.refusals]).flat_map(Refusals::by_cause);
    let refusals = refusals.map(|(cause, count)| labelled("cause", cause.label(), count));
    register(&mut registry, "token_refusals", "Tokens and keys refused, by cause", refusals);
    let mut text = String::new();
    // Writing plain numbers to a string does not fail.
    let _ = encode_text(&mut text, &registry);
    exposition.convert(text)
}

/// The counts of one shard as JSON: numbers by name, and by name and reason.
pub fn counts(counters: &Counters) -> Value {
    let columns = GAUGES.iter().chain(&COUNTERS);
    let mut counts: Map<String, Value> =
        columns.map(|(name, _, value)| ((*name).to_owned(), value(counters).into())).collect();
    let by_reason = |counts: &mut dyn Iterator<Item = (String, u64)>| -> Value {
        let counts = counts.filter(|(_, count)| *count > 0);
        counts.map(|(reason, count)| (reason, count.into())).collect::<Map<_, Value>>().into()
    };
    let owned = |(reason, count): (&str, u64)| (reason.to_owned(), count);
    let dropped = |((what, why), count): ((&str, &str), u64)| (format!("{what}.{why}"), count);
    let reasons = [
        ("ignored", by_reason(&mut counters.ignored().map(owned))),
        ("conflated", by_reason(&mut counters.conflated().map(owned))),
        ("disconnects", by_reason(&mut counters.disconnects().map(owned))),
        ("dropped", by_reason(&mut counters.dropped().map(dropped))),
    ];
    counts.extend(reasons.map(|(name, counts)| (name.to_owned(), counts)));
    let durations = &counters.turn_durations;
    let buckets = durations.buckets().map(|(_, count)| Value::from(count));
    let busy = json!({ "busy_s": durations.total_s(), "buckets": buckets.collect::<Value>() });
    counts.insert("turn_durations".to_owned(), busy);
    counts.into()
}

fn register_durations(registry: &mut Registry, shards: &[Counters], process: &Process) {
    let shard = |n: usize| ("shard", n.to_string());
    let turns = shards.iter().enumerate().map(|(n, c)| (vec![shard(n)], c.turn_durations));
    let help = "Duration of turns: what an event waits in a shard, and the time that it is busy";
    registry.register("turn_duration_seconds", help, DurationFamily(turns.collect()));
    let phases = shards.iter().enumerate().flat_map(|(n, counters)| {
        counters.turn_phases.into_iter().map(move |(phase, durations)| {
            (vec![shard(n), ("phase", <&str>::from(phase).to_owned())], durations)
        })
    });
    let help = "Duration of the parts of turns: receive (parse and route), mailbox (what other \
                shards sent), deliver (encode and queue), write (to sockets)";
    registry.register("turn_phase_seconds", help, DurationFamily(phases.collect()));
    let writes = DurationFamily(vec![(Labels::new(), process.store_writes)]);
    let help = "Time until a batch of messages or documents was on disk";
    registry.register("store_write_duration_seconds", help, writes);
}

/// Durations by labels.
#[derive(Debug)]
struct DurationFamily(Vec<(Labels, Durations)>);

impl EncodeMetric for DurationFamily {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, durations) in &self.0 {
            let buckets: Vec<(f64, u64)> = durations.buckets().collect();
            let (sum, count) = (durations.total_s(), durations.count());
            match labels.is_empty() {
                true => encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
                false => encoder
                    .encode_family(labels)?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

fn labelled(name: &'static str, value: impl ToString, count: u64) -> (Labels, u64) {
    (vec![(name, value.to_string())], count)
}

/// The counts of every shard, labelled with its number.
fn by_shard(
    shards: &[Counters],
    counts: impl Fn(&Counters) -> Vec<(Labels, u64)>,
) -> impl Iterator<Item = (Labels, u64)> {
    shards.iter().enumerate().flat_map(move |(shard, counters)| {
        let shard = ("shard", shard.to_string());
        let with_shard = move |(labels, count): (Labels, u64)| {
            ([shard.clone()].into_iter().chain(labels).collect(), count)
        };
        counts(counters).into_iter().map(with_shard)
    })
}

/// Registers a counter. Counts with the same labels are added.
fn register(
    registry: &mut Registry,
    name: &str,
    help: &str,
    counts: impl Iterator<Item = (Labels, u64)>,
) {
    let family = Family::<Labels, Counter>::default();
    for (labels, count) in counts {
        family.get_or_create(&labels).inc_by(count);
    }
    registry.register(name, help, family);
}

/// Registers gauges of the process: name, help and value.
fn register_gauges(registry: &mut Registry, gauges: &[(&str, &str, u64)]) {
    for (name, help, value) in gauges {
        let gauge: Gauge = Gauge::default();
        gauge.set(*value as i64);
        registry.register(*name, *help, gauge);
    }
}

/// The same for counters.
fn register_counters(registry: &mut Registry, counters: &[(&str, &str, u64)]) {
    for (name, help, value) in counters {
        let counter: Counter = Counter::default();
        counter.inc_by(*value);
        registry.register(*name, *help, counter);
    }
}

fn register_process(registry: &mut Registry, process: &Process) {
    let gauges = [
        ("http_connections", "Open HTTP connections", process.http_connections),
        ("ready", "1 while the server is ready", u64::from(process.ready)),
        ("silent_executors", "Stalled executors", process.silent_executors),
        ("uptime_seconds", "Time since start", process.uptime_s),
    ];
    register_gauges(registry, &gauges);
    let counters = [
        ("executor_stalls", "Stalls of executors", process.executor_stalls),
        ("http_refused", "HTTP connections closed at the limit", process.http_refused),
        (
            "log_lines_lost",
            "Log lines dropped because standard error blocked or failed",
            process.log_lines_lost,
        ),
    ];
    register_counters(registry, &counters);
    let responses = process.http_responses.iter();
    let responses = responses.map(|(status, count)| labelled("status", status, *count));
    register(registry, "http_responses", "HTTP responses, by status", responses);
}

fn register_admission(registry: &mut Registry, admission: &AdmissionMetrics) {
    let outcomes = admission.outcomes.into_iter();
    let outcomes =
        outcomes.map(|(outcome, count)| labelled("outcome", <&'static str>::from(outcome), count));
    let help = "Questions to the admission hook, by outcome";
    register(registry, "admission_requests", help, outcomes);
    let gauges = [
        ("admission_in_flight", "Questions that wait for the admission hook", admission.in_flight),
        (
            "admission_breaker_open",
            "1 while the admission hook is not asked after failures",
            u64::from(admission.is_open),
        ),
    ];
    register_gauges(registry, &gauges);
    let help = "Time until the admission hook answered";
    registry.register("admission_latency_seconds", help, admission.latency.clone());
}

fn register_webhooks(registry: &mut Registry, webhooks: &WebhookCounts) {
    let counters = [
        ("webhook_events", "Events that webhooks were told of", webhooks.accepted),
        ("webhook_failures", "Requests to webhooks that were not accepted", webhooks.failures),
    ];
    register_counters(registry, &counters);
    let help = "Events that wait to be posted to webhooks";
    register_gauges(registry, &[("webhook_waiting", help, webhooks.waiting)]);
    let dropped = webhooks.dropped.iter();
    let dropped = dropped.map(|(reason, count)| labelled("reason", reason, *count));
    let help = "Events that webhooks were not told of, by reason";
    register(registry, "webhook_dropped", help, dropped);
}

fn register_reasons(registry: &mut Registry, shards: &[Counters]) {
    let reason = |(reason, count)| labelled("reason", reason, count);
    let ignored = by_shard(shards, |c| c.ignored().map(reason).collect());
    register(registry, "ignored", "Ignored input, by reason", ignored);
    let conflated = by_shard(shards, |c| c.conflated().map(reason).collect());
    let help = "Presence states superseded before they were sent, by reason";
    register(registry, "conflated", help, conflated);
    let disconnects = by_shard(shards, |c| c.disconnects().map(reason).collect());
    register(registry, "disconnects", "Connections ended, by reason", disconnects);
    let kind = |((what, reason), count): ((&str, &str), u64)| {
        (vec![("what", what.to_owned()), ("reason", reason.to_owned())], count)
    };
    let dropped = by_shard(shards, |c| c.dropped().map(kind).collect());
    register(registry, "dropped", "Dropped or deferred, by kind and reason", dropped);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::CredentialError;
    use crate::error::Disconnect;

    fn encoded(exposition: Exposition) -> String {
        let mut counters = Counters::default();
        counters.connections = 3;
        counters.disconnect(Disconnect::Slow);
        counters.refusals.count(CredentialError::MissingKeyId);
        let refusals = counters.refusals.clone();
        let process = Process {
            ready: true,
            silent_executors: 0,
            executor_stalls: 0,
            uptime_s: 1,
            http_connections: 2,
            http_refused: 5,
            http_responses: BTreeMap::from([(200, 7), (503, 1)]),
            log_lines_lost: 3,
            refusals,
            admission: AdmissionMetrics::default(),
            store_writes: Durations::default(),
            webhooks: WebhookCounts {
                accepted: 0,
                failures: 0,
                waiting: 0,
                dropped: [("a", 0), ("b", 1), ("c", 2)],
            },
        };
        encode(&[Counters::default(), counters], &process, exposition)
    }

    #[test]
    fn the_text_format_describes_exactly_what_it_samples() {
        let text = encoded(Exposition::Text);
        let (mut helped, mut typed, mut sampled) = (Vec::new(), Vec::new(), Vec::new());
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["#", "HELP", name, _, ..] => helped.push(name),
                ["#", "TYPE", name, kind] => {
                    assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                    typed.push(name);
                }
                _ => {
                    assert!(!line.is_empty() && !line.starts_with('#'), "{line}");
                    let name = line.split(['{', ' ']).next().unwrap();
                    let parts = ["_bucket", "_sum", "_count"];
                    let part = parts.iter().find_map(|part| name.strip_suffix(part));
                    let name = part.unwrap_or(name);
                    if sampled.last() != Some(&name) {
                        sampled.push(name);
                    }
                }
            }
        }
        assert_eq!(helped, typed);
        assert_eq!(typed, sampled, "each once, its samples together");
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn open_metrics_ends_with_its_mark() {
        let text = encoded(Exposition::OpenMetrics);
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        assert!(text.contains("\n# TYPE headcount_accepted counter\n"), "{text}");
    }

    #[test]
    fn counts_are_labelled_by_shard_and_reason() {
        let text = encoded(Exposition::Text);
        for line in [
            "headcount_token_refusals_total{cause=\"missing_kid\"} 2",
            "headcount_token_refusals_total{cause=\"bad_signature\"} 0",
            "headcount_ready 1",
            "headcount_http_refused_total 5",
            "headcount_log_lines_lost_total 3",
            "headcount_http_responses_total{status=\"503\"} 1",
            "headcount_connections{shard=\"1\"} 3",
            "headcount_disconnects_total{shard=\"1\",reason=\"slow\"} 1",
            "headcount_turn_phase_seconds_count{shard=\"1\",phase=\"write\"} 0",
            "headcount_store_write_duration_seconds_count 0",
            "headcount_disconnects_total{shard=\"0\",reason=\"slow\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}
