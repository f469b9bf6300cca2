//! Charts of reports, as SVG.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::prelude::*;

use super::error::BenchError;
use super::latencies::Latencies;
use super::metric::Metric;
use super::report::{Report, show};

const SIZE: (u32, u32) = (900, 520);
const COLOURS: [RGBColor; 3] = [BLUE, RED, GREEN];
/// Points per tenfold rarer event.
const POINTS_PER_NINE: usize = 20;
/// The curve ends at 99.999 %.
const NINES_MAX: usize = 5;

/// Curves by name. Their vertical axis is logarithmic, between powers of ten.
struct Chart<'a> {
    caption: String,
    x_range: Range<f64>,
    x_name: &'a str,
    x_label: fn(f64) -> String,
    y_name: &'a str,
    y_label: fn(f64) -> String,
    curves: Vec<(&'a str, Vec<(f64, f64)>)>,
}

impl Chart<'_> {
    /// Replaces the file.
    fn draw(&self, path: &Path) -> Result<(), BenchError> {
        self.try_draw(path).map_err(|error| BenchError::file(path, error))
    }

    fn try_draw(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let values = || self.curves.iter().flat_map(|(_, points)| points).map(|&(_, y)| y);
        if values().next().is_none() {
            return Err("nothing was measured that this draws".into());
        }
        let power_of_ten = |value: f64, round: fn(f64) -> f64| 10_f64.powf(round(value.log10()));
        let lowest = power_of_ten(values().fold(f64::INFINITY, f64::min).max(0.1), f64::floor);
        let highest = power_of_ten(values().fold(lowest * 10.0, f64::max), f64::ceil);
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.caption, ("sans-serif", 16))
            .margin(15)
            .x_label_area_size(40)
            .y_label_area_size(90)
            .build_cartesian_2d(self.x_range.clone(), (lowest..highest).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.x_name)
            .y_desc(self.y_name)
            .x_labels((self.x_range.end - self.x_range.start) as usize + 1)
            .max_light_lines(1)
            .x_label_formatter(&|x| (self.x_label)(*x))
            .y_label_formatter(&|y| (self.y_label)(*y))
            .draw()?;
        for ((name, points), colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
        }
        let mut labels = chart.configure_series_labels();
        labels.background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        root.present()?;
        Ok(())
    }
}

/// Draws delay against percentile, both so that a tail is seen: each step to the right is ten
/// times rarer, each step up ten times slower.
///
/// # Errors
/// The file cannot be written.
pub fn plot(report: &Report, path: &Path) -> Result<(), BenchError> {
    let curves = report.latencies.iter();
    let curves = curves.filter_map(|it| Some((it.name.as_str(), curve(&it.latencies()?))));
    let chart = Chart {
        caption: format!("{}: delay by percentile", report.scenario.name()),
        x_range: 0.0..NINES_MAX as f64,
        x_name: "percentile",
        x_label: |nines| format!("{}", percentile(nines)),
        y_name: "microseconds",
        y_label: |us| format!("{us}"),
        curves: curves.collect(),
    };
    chart.draw(path)
}

/// Zero nines is 0 %, one is 90 %, two are 99 %.
fn percentile(nines: f64) -> f64 {
    let percent = 100.0 * (1.0 - 10_f64.powf(-nines));
    (percent * 1e4).round() / 1e4
}

fn curve(latencies: &Latencies) -> Vec<(f64, f64)> {
    if latencies.count() == 0 {
        return Vec::new();
    }
    // Beyond one in `count` every further point would repeat the largest value.
    let nines_known = (latencies.count() as f64).log10().min(NINES_MAX as f64);
    let steps = (nines_known * POINTS_PER_NINE as f64) as usize;
    let nines = (0..=steps).map(|step| step as f64 / POINTS_PER_NINE as f64);
    nines.map(|nines| (nines, latencies.at_us(percentile(nines)))).collect()
}

/// Draws deliveries per second against the window, both logarithmic.
pub fn plot_windows(reports: &[Report], path: &Path) -> Result<(), BenchError> {
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
    fn the_axis_counts_nines() {
        let labels = [0.0, 1.0, 2.0, 3.0, 5.0].map(percentile);
        assert_eq!(labels, [0.0, 90.0, 99.0, 99.9, 99.999]);
    }

    #[test]
    fn a_curve_never_falls_and_ends_where_the_samples_do() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|us| latencies.record(us * 1000));
        let points = curve(&latencies);
        assert!(points.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        assert_eq!(points.last().map(|point| point.0), Some(3.0));
        assert_eq!(curve(&Latencies::default()), []);
    }
}
