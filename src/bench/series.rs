//! The same load at several windows: does the server fall off anywhere?

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::error::BenchError;
use super::metric::Metric;
use super::plot::Chart;
use super::report::{Report, show};

const HEAD: &str =
    " window      delivered   per read     p50, us     p99, us   server CPU    per one  faults\n";

/// Where the record of one window goes: `a.json` is `a-w32.json` for window 32.
pub fn path_of(path: &Path, window: u64) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}-w{window}");
    if let Some(extension) = path.extension() {
        name = format!("{name}.{}", extension.to_string_lossy());
    }
    path.with_file_name(name)
}

/// A line of a table, with the head of the table before the first one.
pub fn line(report: &Report, first: bool) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    if first {
        let _ = writeln!(text, "{}", heading(report));
        text.push_str(HEAD);
    }
    let number = |metric: Metric| report.get(metric).unwrap_or_default();
    let delay = report.latencies.first();
    let faults = [Metric::Lost, Metric::Duplicated, Metric::Reordered, Metric::Disconnected];
    let _ = writeln!(
        text,
        "{:>7} {:>14} {:>10.1} {:>11.1} {:>11.1} {:>12} {:>10} {:>7}",
        report.scenario.shape().window,
        show(number(Metric::DeliveredPerS), "/s"),
        number(Metric::DeliveredPerRead),
        delay.map_or(0.0, |delay| delay.p50_us),
        delay.map_or(0.0, |delay| delay.p99_us),
        show(number(Metric::ServerCpuPercent), "%"),
        show(number(Metric::ServerNsPerDelivery), "ns"),
        faults.into_iter().map(number).sum::<f64>(),
    );
    text
}

fn heading(report: &Report) -> String {
    format!("{}: {}", report.scenario.name(), report.scenario.summary())
}

/// Draws deliveries per second against the window, both logarithmic.
pub fn plot(reports: &[Report], path: &Path) -> Result<(), BenchError> {
    let point = |report: &Report| {
        let window = report.scenario.shape().window as f64;
        Some((window.log2(), report.get(Metric::DeliveredPerS)?))
    };
    let points: Vec<(f64, f64)> = reports.iter().filter_map(point).collect();
    let windows = || points.iter().map(|point| point.0);
    let most = windows().fold(1.0, f64::max);
    let chart = Chart {
        caption: reports.first().map(heading).unwrap_or_default(),
        x_range: windows().fold(most - 1.0, f64::min)..most,
        x_name: "publishes in flight per publisher",
        x_label: |window| format!("{:.0}", window.exp2()),
        y_name: "deliveries per second",
        y_label: |rate| show(rate, "/s"),
        curves: vec![("delivered", points.iter().copied().filter(|it| it.1 > 0.0).collect())],
    };
    chart.draw(path)
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
}
