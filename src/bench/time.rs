//! The clock of a run, and what happens when.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

const NS_PER_S: f64 = 1e9;

/// Nanoseconds since the run began, monotonic. One for all threads, so that a stamp written by one
/// is read by another.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Clock { began: Instant::now() }
    }

    pub fn now_ns(&self) -> u64 {
        nanos(self.began.elapsed())
    }
}

/// A duration in nanoseconds; 584 years are enough.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A length of time: `10s`, `500ms`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit_s = match &text[digits.len()..] {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            _ => return Err("expected a number and ms, s or m, as in 10s".to_owned()),
        };
        let number: f64 = digits.parse().map_err(|_| format!("{digits:?} is not a number"))?;
        Duration::try_from_secs_f64(number * unit_s).map(Span).map_err(|error| error.to_string())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

/// The phases of a run, by its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Publishing begins.
    pub start_ns: u64,
    /// Measuring begins.
    pub from_ns: u64,
    /// Publishing and measuring end.
    pub until_ns: u64,
}

impl Timeline {
    pub fn measures(&self, at_ns: u64) -> bool {
        (self.from_ns..self.until_ns).contains(&at_ns)
    }
}

/// The schedule of an open loop: equally spaced times.
#[derive(Clone, Debug)]
pub struct Pace {
    start_ns: u64,
    interval_ns: f64,
    taken: u64,
}

impl Pace {
    /// `per_second` times from `start_ns` on. `phase` in 0..1 moves all of them by a part of the
    /// interval, so that many senders do not send at once.
    pub fn new(start_ns: u64, per_second: f64, phase: f64) -> Self {
        let interval_ns = NS_PER_S / per_second;
        Pace { start_ns: start_ns + (interval_ns * phase) as u64, interval_ns, taken: 0 }
    }

    /// The earliest time not yet taken.
    pub fn next_ns(&self) -> u64 {
        self.start_ns + (self.taken as f64 * self.interval_ns) as u64
    }

    /// How many times were taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes the earliest time if it has come. A late caller gets all it missed, one by one.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let intended_ns = self.next_ns();
        if intended_ns > now_ns {
            return None;
        }
        self.taken += 1;
        Some(intended_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        let table = [
            ("10s", Some(10_000)),
            ("1.5s", Some(1_500)),
            ("250ms", Some(250)),
            ("2m", Some(120_000)),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("1h", None),
        ];
        for (text, ms) in table {
            let expected = ms.map(|ms| Span(Duration::from_millis(ms)));
            assert_eq!(text.parse::<Span>().ok(), expected, "{text}");
        }
    }

    #[test]
    fn times_are_equally_spaced() {
        let mut pace = Pace::new(1_000, 1e6, 0.5);
        let times: Vec<u64> = (0..4).map_while(|_| pace.take_due(u64::MAX)).collect();
        assert_eq!(times, [1_500, 2_500, 3_500, 4_500]);
    }

    #[test]
    fn a_late_sender_gets_every_time_it_missed() {
        let mut pace = Pace::new(0, 1e9 / 10.0, 0.0);
        assert_eq!(pace.take_due(0), Some(0));
        assert_eq!(pace.take_due(9), None);
        let missed: Vec<u64> = std::iter::from_fn(|| pace.take_due(35)).collect();
        assert_eq!(missed, [10, 20, 30]);
        assert_eq!(pace.next_ns(), 40);
    }
}
