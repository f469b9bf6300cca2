//! What a shard counts. Every drop, conflation, ignored input and disconnect has a reason here;
//! plain integers that only their shard writes, read by the admin surface through a mailbox.

use std::time::Duration;

use enum_map::{Enum, EnumMap};
use strum::IntoStaticStr;

use crate::auth::Refusals;
use crate::error::{Disconnect, FrameError, Reject};

/// Why input had no effect. The connection stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum Ignored {
    /// A frame or body that does not decode.
    Malformed(FrameError),
    /// A refused request, in a dialect that has no reply for it.
    Refused(Reject),
    /// A message that only servers may send.
    WrongDirection,
    /// A WebSocket text message in a binary dialect.
    Text,
    /// A valid request for something that this server does not implement.
    NothingToDo,
    /// An answer to what the client was not asked, or not any longer.
    NotAsked,
    /// A message to one peer that nobody took; its author is told why.
    NotTaken,
    /// Documents of an app whose log is full; the device tries again.
    DocumentsFull,
}

impl Ignored {
    /// Label of the metric.
    pub fn label(self) -> &'static str {
        match self {
            Ignored::Malformed(error) => error.into(),
            Ignored::Refused(reject) => reject.into(),
            Ignored::WrongDirection => "wrong_direction",
            Ignored::Text => "text_message",
            Ignored::NothingToDo => "nothing_to_do",
            Ignored::NotAsked => "not_asked",
            Ignored::NotTaken => "not_taken",
            Ignored::DocumentsFull => "documents_full",
        }
    }
}

/// Something that was not delivered as it was. The first word says what, the rest where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
pub enum Dropped {
    /// A member's update waits at home, its newest state kept, because the owner's mailbox is full.
    RequestMailboxFull,
    /// A tick to a home shard; it gets the whole set on a later turn.
    EventMailboxFull,
    /// A connection stayed where it was accepted because the owner's mailbox is full.
    HandoffMailboxFull,
    /// A connection refused, as a new one or one that moved there, because its shard is at its
    /// limit or the process has no descriptor left.
    ConnectionLimit,
    /// A new connection to a listener that expects a PROXY header, from an address that may not
    /// send one, or whose address could not be read.
    ConnectionUntrusted,
    /// Messages to one subscriber whose send queue is full; it catches up, or sees the gap.
    MessageSlowConsumer,
    /// Messages to a home shard; it gets them, or sees the gap, on a later turn.
    MessageMailboxFull,
    /// Messages evicted before their age limit, because the shard's memory for them is full.
    MessageHistoryFull,
    /// Documents that were to be sent again to a session whose send queue is full.
    DocumentSlowConsumer,
    /// Events of members that could not be stored.
    PresenceHistory,
    /// Lines of a trace.
    Trace,
}

impl Dropped {
    /// Labels of the metric: what was dropped, and why.
    pub fn labels(self) -> (&'static str, &'static str) {
        match self {
            Dropped::RequestMailboxFull => ("request", "mailbox_full"),
            Dropped::EventMailboxFull => ("event", "mailbox_full"),
            Dropped::HandoffMailboxFull => ("handoff", "mailbox_full"),
            Dropped::ConnectionLimit => ("connection", "limit"),
            Dropped::ConnectionUntrusted => ("connection", "untrusted"),
            Dropped::MessageSlowConsumer => ("message", "slow_consumer"),
            Dropped::MessageMailboxFull => ("message", "mailbox_full"),
            Dropped::MessageHistoryFull => ("message", "history_full"),
            Dropped::DocumentSlowConsumer => ("document", "slow_consumer"),
            Dropped::PresenceHistory => ("presence_event", "not_stored"),
            Dropped::Trace => ("trace", "mailbox_full"),
        }
    }
}

/// Why a newer presence set replaced one that a receiver had not been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Conflated {
    /// The receiver's socket is blocked.
    SlowReceiver,
    /// The receiver requested a lower rate.
    Throttled,
    /// The sender exceeds its update rate; its newest state is kept.
    UpdateRate,
    /// The channel sends presence at most once per interval; changes in between are merged.
    Interval,
    /// The channel is large and updated in sweeps; changes during a sweep are sent with the next.
    LargeSet,
}

/// The parts of a turn, in their order. What an event waits for in a shard is one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum TurnPhase {
    /// What arrived from sockets and the store is parsed, and routed to owners.
    Receive,
    /// What other shards have sent is carried out.
    Mailbox,
    /// Timers, and what has changed: encoded once, and queued to subscribers.
    Deliver,
    /// Queues are written to sockets.
    Write,
}

/// Durations, counted by powers of two of microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Durations {
    /// Of bucket n: at least 2^(n-1) and less than 2^n microseconds.
    buckets: [u64; DURATION_BUCKETS],
    total_ns: u64,
}

/// The last bucket has everything from half a second on.
const DURATION_BUCKETS: usize = 21;

impl Durations {
    /// Counts a duration.
    pub fn record(&mut self, duration: Duration) {
        let (us, ns) = (duration.as_micros() as u64, duration.as_nanos() as u64);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(DURATION_BUCKETS - 1)] += 1;
        self.total_ns += ns;
    }

    /// Upper bounds in seconds, the last one infinite, and how many were below each and not below
    /// the one before.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets.iter().enumerate().map(|(n, count)| match n {
            _ if n == DURATION_BUCKETS - 1 => (f64::INFINITY, *count),
            n => ((1u64 << n) as f64 / 1e6, *count),
        })
    }

    /// The duration in seconds that `part` of the counted ones do not exceed, taken to be spread
    /// evenly within a bucket; in the last one, which has no end, its beginning. 0 when there is
    /// none.
    pub fn quantile_s(buckets: &[u64], part: f64) -> f64 {
        let wanted = buckets.iter().sum::<u64>() as f64 * part;
        let mut below = 0.0;
        for (n, &count) in buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            if below + count as f64 >= wanted {
                let low = if n == 0 { 0.0 } else { (1u64 << (n - 1)) as f64 };
                let is_last = n + 1 == DURATION_BUCKETS;
                let within = if is_last { 0.0 } else { (wanted - below) / count as f64 };
                return (low + within * ((1u64 << n) as f64 - low)) / 1e6;
            }
            below += count as f64;
        }
        0.0
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum, seconds.
    pub fn total_s(&self) -> f64 {
        self.total_ns as f64 / 1e9
    }
}

/// One shard's counts since start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub connections: u64,
    pub accepted: u64,
    pub adopted: u64,
    pub handed_off: u64,
    pub messages_in: u64,
    pub bytes_in: u64,
    pub presence_updates: u64,
    pub presence_ticks: u64,
    pub deliveries: u64,
    pub messages_published: u64,
    pub messages_resent: u64,
    pub messages_delivered: u64,
    pub documents_pushed: u64,
    pub documents_resent: u64,
    pub documents_delivered: u64,
    pub bytes_out: u64,
    pub members: u64,
    pub channels: u64,
    pub subscriptions: u64,
    pub expired_members: u64,
    pub resumed_members: u64,
    pub peer_checks: u64,
    pub receive_buffers_exhausted: u64,
    pub turns: u64,
    /// Of all turns: a shard that has nothing to do takes none.
    pub turn_durations: Durations,
    pub turn_phases: EnumMap<TurnPhase, Durations>,
    /// Envelopes that waited in the mailboxes of the shard at the beginning of the last turn.
    pub mailbox_depth: u64,
    /// Connections whose sockets take no more.
    pub blocked: u64,
    /// Bytes of messages that are being stored.
    pub storing_bytes: u64,
    pub refusals: Refusals,
    ignored: EnumMap<Ignored, u64>,
    dropped: EnumMap<Dropped, u64>,
    conflated: EnumMap<Conflated, u64>,
    disconnects: EnumMap<Disconnect, u64>,
}

impl Counters {
    /// Counts an input without effect.
    pub fn ignore(&mut self, reason: Ignored) {
        self.ignored[reason] += 1;
    }

    /// Counts one that was not delivered as it was.
    pub fn drop(&mut self, reason: Dropped) {
        self.drop_many(reason, 1);
    }

    /// Counts several of them.
    pub fn drop_many(&mut self, reason: Dropped, count: u32) {
        self.dropped[reason] += u64::from(count);
    }

    /// Counts a set that a newer one replaced.
    pub fn conflate(&mut self, reason: Conflated) {
        self.conflate_many(reason, 1);
    }

    /// Counts several of them.
    pub fn conflate_many(&mut self, reason: Conflated, count: u32) {
        self.conflated[reason] += u64::from(count);
    }

    /// Counts a connection that was ended.
    pub fn disconnect(&mut self, reason: Disconnect) {
        self.disconnects[reason] += 1;
    }

    /// Inputs without effect, by label.
    pub fn ignored(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.ignored.into_iter().map(|(reason, count)| (reason.label(), count))
    }

    /// What was not delivered as it was, by the labels of what and why.
    pub fn dropped(&self) -> impl Iterator<Item = ((&'static str, &'static str), u64)> {
        self.dropped.into_iter().map(|(reason, count)| (reason.labels(), count))
    }

    /// Sets that a newer one replaced, by label.
    pub fn conflated(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.conflated.into_iter().map(|(reason, count)| (reason.into(), count))
    }

    /// Connections that were ended, by label.
    pub fn disconnects(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.disconnects.into_iter().map(|(reason, count)| (reason.label(), count))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_duration_is_below_the_bound_of_its_bucket() {
        for (us, bound) in [
            (0, 1e-6),
            (1, 2e-6),
            (2, 4e-6),
            (3, 4e-6),
            (1_000, 1.024e-3),
            (500_000, 0.524288),
            (524_288, f64::INFINITY),
            (u64::from(u32::MAX), f64::INFINITY),
        ] {
            let mut durations = Durations::default();
            durations.record(Duration::from_micros(us));
            let counted: Vec<_> = durations.buckets().filter(|(_, count)| *count > 0).collect();
            assert_eq!(counted, [(bound, 1)], "{us}");
            assert_eq!((durations.count(), durations.total_s()), (1, us as f64 / 1e6));
        }
    }

    #[test]
    fn a_quantile_is_within_its_bucket() {
        let mut buckets = [0; DURATION_BUCKETS];
        assert_eq!(Durations::quantile_s(&buckets, 0.99), 0.0);
        (buckets[3], buckets[10]) = (90, 10);
        assert_eq!(Durations::quantile_s(&buckets, 0.9), 8e-6);
        assert_eq!(Durations::quantile_s(&buckets, 0.45), 6e-6);
        assert_eq!(Durations::quantile_s(&buckets, 0.95), 768e-6);
        assert_eq!(Durations::quantile_s(&buckets, 1.0), 1024e-6);
        buckets[DURATION_BUCKETS - 1] = 1000;
        assert_eq!(Durations::quantile_s(&buckets, 0.99), 0.524288);
    }

    #[test]
    fn every_reason_has_its_own_label() {
        let mut counters = Counters::default();
        counters.ignore(Ignored::Refused(Reject::Unsupported));
        counters.ignore(Ignored::Malformed(FrameError::UnknownProtocol));
        let counted: Vec<_> = counters.ignored().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("malformed_protocol", 1), ("unsupported", 1)]);
        let different = |labels: &mut dyn Iterator<Item = String>| {
            let labels: Vec<String> = labels.collect();
            assert_eq!(labels.iter().collect::<HashSet<_>>().len(), labels.len(), "{labels:?}");
            labels.len()
        };
        assert_eq!(different(&mut counters.ignored().map(|(label, _)| label.to_string())), 33);
        assert_eq!(different(&mut counters.conflated().map(|(label, _)| label.to_string())), 5);
        assert_eq!(different(&mut counters.disconnects().map(|(label, _)| label.to_string())), 19);
        assert_eq!(different(&mut counters.dropped().map(|(label, _)| format!("{label:?}"))), 11);
    }

    /// Dashboards and alerts name them.
    #[test]
    fn labels_do_not_change() {
        let counters = Counters::default();
        let labels: Vec<_> = counters.ignored().map(|(label, _)| label).collect();
        assert_eq!(
            labels.join(" "),
            "malformed_truncated malformed_too_long malformed_header malformed_type \
             malformed_checksum malformed_body malformed_utf8 malformed_websocket \
             malformed_fragments malformed_protocol unauthenticated bad_token token_expired \
             forbidden channel_name state_too_large message_too_large too_many_channels \
             channel_full server_full busy unsupported bad_signature replayed denied \
             disk_full store_failed wrong_direction text_message nothing_to_do not_asked not_taken \
             documents_full"
        );
        let labels: Vec<_> = counters.conflated().map(|(label, _)| label).collect();
        assert_eq!(labels.join(" "), "slow_receiver throttled update_rate interval large_set");
        let labels: Vec<_> = counters.disconnects().map(|(label, _)| label).collect();
        assert_eq!(
            labels.join(" "),
            "clean lost protocol utf8 too_large unknown_protocol greeting_timeout idle_timeout \
             wire_version old_client token_expired revoked bad_credentials replaced slow \
             connection_limit shutdown operator internal"
        );
    }
}
