//! The same load at several windows: does the server fall off anywhere?

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use plotters::prelude::*;

use super::error::BenchError;
use super::metric::{Metric, Unit};
use super::options::Scenario;
use super::plot::{SIZE, power_of_ten};
use super::report::{Report, show};

/// Share of the time that either end waited for a CPU, from which a window tells little.
const DISTURBED_PERCENT: f64 = 15.0;

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
pub fn line(report: &Report, window: u64, first: bool) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    if first {
        let _ = writeln!(text, "fanout: {}", load(report));
        let _ = writeln!(
            text,
            "{:>7} {:>14} {:>10} {:>11} {:>11} {:>12} {:>10} {:>7}",
            "window",
            "delivered",
            "per read",
            "p50, us",
            "p99, us",
            "server CPU",
            "per one",
            "faults"
        );
    }
    let number = |metric: Metric| report.metrics.get(&metric).copied().unwrap_or_default();
    let delay = report.latencies.first();
    let faults = [Metric::Lost, Metric::Duplicated, Metric::Reordered, Metric::Disconnected];
    let waited = [Metric::ServerWaitedPercent, Metric::GeneratorWaitedPercent].map(number);
    let disturbed = waited.into_iter().fold(0.0, f64::max) > DISTURBED_PERCENT;
    let _ = writeln!(
        text,
        "{window:>7} {:>14} {:>10.1} {:>11.1} {:>11.1} {:>12} {:>10} {:>7}{}",
        show(number(Metric::DeliveredPerS), Unit::PerSecond),
        number(Metric::DeliveredPerRead),
        delay.map_or(0.0, |delay| delay.p50_us),
        delay.map_or(0.0, |delay| delay.p99_us),
        show(number(Metric::ServerCpuPercent), Unit::Percent),
        show(number(Metric::ServerNsPerDelivery), Unit::Nanoseconds),
        faults.into_iter().map(number).sum::<f64>(),
        if disturbed { "  disturbed" } else { "" },
    );
    text
}

/// The deepest fall of deliveries from one window to the next: a cliff shows here.
pub fn fall(reports: &[(u64, Report)]) -> String {
    let rates: Vec<f64> = reports.iter().filter_map(|(_, report)| delivered(report)).collect();
    let fall = |pair: &[f64]| 100.0 * (1.0 - pair[1] / pair[0].max(f64::MIN_POSITIVE));
    let deepest = rates.windows(2).map(fall).fold(0.0, f64::max);
    format!("deepest fall from one window to the next: {deepest:.0} %\n")
}

fn delivered(report: &Report) -> Option<f64> {
    report.metrics.get(&Metric::DeliveredPerS).copied()
}

/// The load in a few words, without the window.
fn load(report: &Report) -> String {
    match &report.scenario {
        Scenario::Fanout(o) => format!("{} publishers, {}", o.publishers, o.size()),
        other => other.summary(),
    }
}

/// Draws deliveries per second against the window, both logarithmic.
///
/// # Errors
/// The file cannot be written, or nothing was delivered.
pub fn plot(reports: &[(u64, Report)], path: &Path) -> Result<(), BenchError> {
    draw(reports, path)
        .map_err(|error| BenchError::Plot { path: path.to_owned(), why: error.to_string() })
}

fn draw(reports: &[(u64, Report)], path: &Path) -> Result<(), Box<dyn Error>> {
    let point = |(window, report): &(u64, Report)| Some((*window as f64, delivered(report)?));
    let points: Vec<(f64, f64)> =
        reports.iter().filter_map(point).filter(|point| point.1 > 0.0).collect();
    let Some((_, first)) = reports.first() else { return Err("no window was measured".into()) };
    let rates = || points.iter().map(|point| point.1);
    if points.is_empty() {
        return Err("nothing was delivered".into());
    }
    let lowest = power_of_ten(rates().fold(f64::INFINITY, f64::min), f64::floor);
    let highest = power_of_ten(rates().fold(lowest * 10.0, f64::max), f64::ceil);
    let windows = || points.iter().map(|point| point.0);
    let (least, most) = (windows().fold(f64::INFINITY, f64::min), windows().fold(1.0, f64::max));

    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let caption = format!("fanout: {}", load(first));
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 16))
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(90)
        .build_cartesian_2d(
            (least..most * 1.01).log_scale().base(2.0),
            (lowest..highest).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("publishes under way per publisher")
        .y_desc("deliveries per second")
        .x_label_formatter(&|window| format!("{window:.0}"))
        .y_label_formatter(&|rate| show(*rate, Unit::PerSecond))
        .draw()?;
    chart.draw_series(LineSeries::new(points.clone(), BLUE.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, BLUE.filled())))?;
    root.present()?;
    Ok(())
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
