//! What a run found, as a record and as a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::BenchError;
use super::latencies::LatencySummary;
use super::machine::Machine;
use super::metric::{Better, Metric};
use super::options::Scenario;

/// Layout of a record; raised when a reader of the old one would go wrong.
pub const RECORD_FORMAT: u32 = 1;

const DELAYS_HEAD: &str = "
  delay, us              p50       p90       p99     p99.9    p99.99       max      count\n";

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: u32,
    /// Name and options.
    #[serde(flatten)]
    pub scenario: Scenario,
    /// Seconds since 1970 when the run began.
    pub taken_at_unix_s: u64,
    /// Length of the measurement.
    pub measured_s: f64,
    pub metrics: BTreeMap<Metric, f64>,
    pub latencies: Vec<LatencySummary>,
    pub machine: Machine,
    /// Version and, in a checkout, commit of this program; the server's own when it started one.
    pub version: String,
    pub commit: Option<String>,
    /// Configuration of the server, in TOML and without keys, when this program started it.
    pub config: Option<String>,
    /// The command line.
    pub command: Vec<String>,
    /// What a reader should know before trusting the numbers.
    pub notes: Vec<String>,
}

impl Report {
    /// The record in a file.
    ///
    /// # Errors
    /// The file cannot be read or is not a record.
    pub fn load(path: &Path) -> Result<Report, BenchError> {
        let text = fs::read_to_string(path).map_err(|error| BenchError::file(path, error))?;
        let failed = |why: String| BenchError::file(path, format!("not a benchmark record: {why}"));
        let report: Report =
            serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        match report.format {
            RECORD_FORMAT => Ok(report),
            other => Err(failed(format!("format {other}, expected {RECORD_FORMAT}"))),
        }
    }

    /// Replaces a file by the record.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&self, path: &Path) -> Result<(), BenchError> {
        let json = serde_json::to_string_pretty(self).map_err(io::Error::from);
        json.and_then(|json| fs::write(path, json + "\n"))
            .map_err(|error| BenchError::file(path, error))
    }

    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.metrics.get(&metric).copied()
    }

    /// What a comparison shows: names of numbers, and which way is better.
    pub fn numbers(&self) -> Vec<(String, f64, Better)> {
        let mut numbers = Vec::new();
        for l in &self.latencies {
            let delays =
                [("p50", l.p50_us), ("p99", l.p99_us), ("p99.9", l.p99_9_us), ("max", l.max_us)];
            let named = |(of, us)| (format!("{} {of}, us", l.name), us, Better::Lower);
            numbers.extend(delays.map(named));
        }
        for (metric, value) in &self.metrics {
            let (label, _, better) = metric.facts();
            numbers.push((label.to_owned(), *value, better));
        }
        numbers
    }

    /// For people, about 80 columns wide.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let scenario = self.scenario.name();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{scenario}: {}", self.scenario.summary());
        let _ = writeln!(text, "measured {:.1} s", self.measured_s);
        self.append_latencies(&mut text);
        text.push('\n');
        for (metric, value) in &self.metrics {
            let (label, unit, _) = metric.facts();
            let _ = writeln!(text, "  {label:<34} {:>14}", show(*value, unit));
        }
        for note in &self.notes {
            let _ = writeln!(text, "\nnote: {note}");
        }
        text
    }

    fn append_latencies(&self, text: &mut String) {
        if self.latencies.is_empty() {
            return;
        }
        text.push_str(DELAYS_HEAD);
        for l in &self.latencies {
            let delays = [l.p50_us, l.p90_us, l.p99_us, l.p99_9_us, l.p99_99_us, l.max_us];
            let _ = write!(text, "  {:<16}", l.name);
            delays.iter().for_each(|delay| {
                let _ = write!(text, " {delay:>9.1}");
            });
            let _ = writeln!(text, " {:>10}", l.count);
        }
    }
}

/// Where the record of one window goes: `a.json` is `a-w32.json` for window 32.
pub fn path_of(path: &Path, window: u64) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}-w{window}");
    if let Some(extension) = path.extension() {
        name = format!("{name}.{}", extension.to_string_lossy());
    }
    path.with_file_name(name)
}

/// A number with its unit, short.
pub fn show(value: f64, unit: &str) -> String {
    match unit {
        "/s" | "B" | "B/s" => format!("{}{unit}", scaled(value)),
        "" if value.fract() == 0.0 => format!("{value}"),
        "" => format!("{value:.1}"),
        "ns" => format!("{value:.0} ns"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// Three digits or more and a decimal prefix.
fn scaled(value: f64) -> String {
    match value.abs() {
        size if size >= 1e9 => format!("{:.2} G", value / 1e9),
        size if size >= 1e6 => format!("{:.2} M", value / 1e6),
        size if size >= 1e4 => format!("{:.1} k", value / 1e3),
        size if size >= 1e2 => format!("{value:.0} "),
        _ => format!("{value:.1} "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_has_a_record_of_its_own() {
        let of = |path: &str| path_of(Path::new(path), 32).to_string_lossy().into_owned();
        assert_eq!(of("out/a.json"), "out/a-w32.json");
        assert_eq!(of("a"), "a-w32");
    }

    #[test]
    fn numbers_are_short_and_have_units() {
        let table = [
            (show(12_345_678.0, "/s"), "12.35 M/s"),
            (show(999.6, "/s"), "1000 /s"),
            (show(72_400.0, "B"), "72.4 kB"),
            (show(0.0, ""), "0"),
            (show(99.96, "%"), "100.0 %"),
            (show(2_270.4, "ns"), "2270 ns"),
        ];
        for (shown, expected) in table {
            assert_eq!(shown, expected);
        }
    }
}
