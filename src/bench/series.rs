//! The same load at several windows: does the server fall off anywhere?

use std::path::{Path, PathBuf};

use super::error::BenchError;
use super::metric::Metric;
use super::plot::Chart;
use super::report::{Report, show};

/// Where the record of one window goes: `a.json` is `a-w32.json` for window 32.
pub fn path_of(path: &Path, window: u64) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}-w{window}");
    if let Some(extension) = path.extension() {
        name = format!("{name}.{}", extension.to_string_lossy());
    }
    path.with_file_name(name)
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
        caption: "deliveries by window".to_owned(),
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
