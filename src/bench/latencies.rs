//! Distributions of delays.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use enum_map::{Enum, EnumMap};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// Longest delay that is distinguished: one hour. Longer ones count as one hour.
const DELAY_NS_MAX: u64 = 3_600_000_000_000;
/// Decimal digits that are kept of a delay.
const DIGITS: u8 = 3;

/// Percentiles that reports show.
pub const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// A kind of delay, by its name in records.
#[derive(Clone, Copy, Debug, Enum, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Delay {
    /// From when a state was due until a member saw it.
    Update,
    Ping,
    /// From when a publish was due until a subscriber received it.
    Delivery,
    /// From the same time until the server accepted it.
    Acknowledgement,
    /// From `connect`, or when that was due, to the accepted credentials.
    #[strum(serialize = "connect + greet")]
    Greeting,
    /// From the same time to the end of the connection.
    #[strum(serialize = "whole cycle")]
    Cycle,
    /// From when a join was due to a watcher's first set with that many members.
    #[strum(serialize = "join to watcher")]
    Join,
}

/// What one thread records.
pub type Delays = EnumMap<Delay, Latencies>;

/// Delays in nanoseconds, to three digits. Those of several threads are merged, never averaged.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, DELAY_NS_MAX, DIGITS);
        Latencies(histogram.unwrap_or_else(|error| unreachable!("constant bounds: {error}")))
    }
}

impl Latencies {
    pub fn record(&mut self, delay_ns: u64) {
        self.0.saturating_record(delay_ns);
    }

    pub fn merge(&mut self, other: &Latencies) {
        let added = self.0.add(&other.0);
        added.unwrap_or_else(|error| unreachable!("all have the same bounds: {error}"));
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Delay in microseconds that `percentile` percent do not exceed.
    pub fn at_us(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1e3
    }

    pub fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// What a report keeps of it.
    pub fn summary(&self, name: &str) -> LatencySummary {
        let [p50_us, p90_us, p99_us, p99_9_us, p99_99_us] = PERCENTILES.map(|p| self.at_us(p));
        let mut bytes = Vec::new();
        let written = V2Serializer::new().serialize(&self.0, &mut bytes);
        assert!(written.is_ok(), "memory takes any length: {written:?}");
        LatencySummary {
            name: name.to_owned(),
            count: self.count(),
            p50_us,
            p90_us,
            p99_us,
            p99_9_us,
            p99_99_us,
            max_us: self.max_us(),
            hdr_v2_base64: BASE64.encode(bytes),
        }
    }
}

/// The distribution of one kind of delay, in microseconds, as recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    pub name: String,
    pub count: u64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub p99_99_us: f64,
    pub max_us: f64,
    /// The whole histogram in nanoseconds, HdrHistogram's V2 encoding.
    pub hdr_v2_base64: String,
}

impl LatencySummary {
    /// The whole distribution; `None` when the record was damaged.
    pub fn latencies(&self) -> Option<Latencies> {
        let bytes = BASE64.decode(&self.hdr_v2_base64).ok()?;
        Deserializer::new().deserialize(&mut bytes.as_slice()).ok().map(Latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::time::Pace;

    #[test]
    fn threads_are_merged_not_averaged() {
        let (mut all, mut other) = (Latencies::default(), Latencies::default());
        (0..99).for_each(|_| all.record(1_000));
        other.record(5_000_000);
        all.merge(&other);
        assert_eq!((all.count(), all.at_us(50.0)), (100, 1.0));
        assert!((4_990.0..5_010.0).contains(&all.at_us(100.0)), "{}", all.at_us(100.0));
    }

    #[test]
    fn a_summary_keeps_the_whole_distribution() {
        let mut latencies = Latencies::default();
        (1..=10_000).for_each(|us| latencies.record(us * 1_000));
        let json = serde_json::to_string(&latencies.summary("update")).unwrap();
        let summary: LatencySummary = serde_json::from_str(&json).unwrap();
        let back = summary.latencies().unwrap();
        for percentile in [0.0, 12.5, 50.0, 99.0, 99.99, 100.0] {
            assert_eq!(back.at_us(percentile), latencies.at_us(percentile));
        }
        assert_eq!(summary.p99_us, latencies.at_us(99.0));
    }

    #[test]
    fn a_delay_above_the_bound_is_not_lost() {
        let mut latencies = Latencies::default();
        latencies.record(u64::MAX);
        assert_eq!(latencies.count(), 1);
    }

    /// One stall of 100 ms at 1,000/s must show in a tenth of the delays of a second. A loop that
    /// measures from the real send time would show it once.
    #[test]
    fn a_stalled_receiver_shows_in_every_delay_that_it_caused() {
        let ms = 1_000_000;
        let mut pace = Pace::new(0, 1_000.0, 0.0);
        let mut latencies = Latencies::default();
        for now_ms in (0..400).chain(500..1_000) {
            while let Some(intended_ns) = pace.take_due(now_ms * ms) {
                latencies.record(now_ms * ms - intended_ns + 1);
            }
        }
        assert_eq!(latencies.count(), 1_000);
        let slow = 100.0 * 1_000.0;
        assert!(latencies.at_us(89.0) < 1.0, "{}", latencies.at_us(89.0));
        assert!(latencies.at_us(95.0) > slow * 0.45, "{}", latencies.at_us(95.0));
        assert!(latencies.max_us() >= slow, "{}", latencies.max_us());
    }
}
