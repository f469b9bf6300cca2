//! Is one set of records better than another?

use std::fmt::{self, Write};

use strum::Display;

use super::error::BenchError;
use super::metric::Better;
use super::report::Report;

/// Two medians nearer than this are equal: no run here repeats itself better.
const NOISE: f64 = 0.02;

/// Smallest, middle and largest value of several runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { min, median: (low + high) / 2.0, max })
    }

    fn overlaps(&self, other: &Spread) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            return write!(f, "{:.1}", self.median);
        }
        write!(f, "{:.1} ({:.1}..{:.1})", self.median, self.min, self.max)
    }
}

#[derive(Clone, Copy, Debug, Display, PartialEq, Eq)]
#[strum(serialize_all = "lowercase")]
pub enum Verdict {
    Better,
    Worse,
    /// The spreads overlap, or the medians are within the noise.
    Same,
    /// The number has no good or bad.
    #[strum(serialize = "-")]
    Neutral,
}

/// One number before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub before: Spread,
    pub after: Spread,
    pub verdict: Verdict,
}

/// Every number that both sides have.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub rows: Vec<Row>,
    /// What makes the two sides hard to compare.
    pub warnings: Vec<String>,
}

/// Compares several runs before with several after.
///
/// # Errors
/// [`BenchError::Options`] when a side is empty or the scenarios differ.
pub fn compare(before: &[Report], after: &[Report]) -> Result<Comparison, BenchError> {
    let (Some(first), Some(_)) = (before.first(), after.first()) else {
        return Err(BenchError::Options("compare: each side needs a record".to_owned()));
    };
    let all = || before.iter().chain(after);
    if let Some(other) = all().find(|report| report.scenario.name() != first.scenario.name()) {
        let names = (first.scenario.name(), other.scenario.name());
        return Err(BenchError::Options(format!("compare: {} with {}", names.0, names.1)));
    }
    let mut warnings = Vec::new();
    if all().any(|report| report.scenario != first.scenario) {
        warnings.push("the runs had different options".to_owned());
    }
    if all().any(|report| report.machine != first.machine) {
        warnings.push("the runs were made on different machines".to_owned());
    }
    let numbers = |side: &[Report]| side.iter().map(Report::numbers).collect::<Vec<_>>();
    let sides = [numbers(before), numbers(after)];
    let row = |(name, _, better): &(String, f64, Better)| {
        let of =
            |run: &Vec<(String, f64, Better)>| run.iter().find(|it| it.0 == *name).map(|it| it.1);
        // Not every run of both sides may have the number.
        let spread = |side: &[_]| Spread::of(side.iter().map(of).collect::<Option<_>>()?);
        let (before, after) = (spread(&sides[0])?, spread(&sides[1])?);
        let verdict = judge(*better, before, after);
        Some(Row { name: name.clone(), before, after, verdict })
    };
    Ok(Comparison { rows: sides[0][0].iter().filter_map(row).collect(), warnings })
}

fn judge(better: Better, before: Spread, after: Spread) -> Verdict {
    let near = (after.median - before.median).abs() <= NOISE * before.median.abs();
    if better == Better::Neither {
        return Verdict::Neutral;
    }
    if near || before.overlaps(&after) {
        return Verdict::Same;
    }
    let rose = after.median > before.median;
    if rose == (better == Better::Higher) { Verdict::Better } else { Verdict::Worse }
}

impl Comparison {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {:<32} {:>30} {:>30}   ratio",
            "median (min..max)", "before", "after"
        );
        for Row { name, before, after, verdict } in &self.rows {
            let ratio = after.median / before.median;
            let (before, after) = (before.to_string(), after.to_string());
            let _ = writeln!(text, "  {name:<32} {before:>30} {after:>30} {ratio:>7.3} {verdict}");
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "\nwarning: {warning}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: &[f64]) -> Spread {
        Spread::of(values.to_vec()).unwrap()
    }

    #[test]
    fn a_spread_has_the_middle_of_an_even_count_too() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn verdicts_need_more_than_noise() {
        let table = [
            (Better::Higher, &[100.0][..], &[110.0][..], Verdict::Better),
            (Better::Lower, &[100.0], &[110.0], Verdict::Worse),
            (Better::Lower, &[100.0], &[90.0], Verdict::Better),
            (Better::Higher, &[100.0], &[101.0], Verdict::Same),
            (Better::Neither, &[100.0], &[200.0], Verdict::Neutral),
            (Better::Lower, &[0.0], &[0.0], Verdict::Same),
            (Better::Lower, &[0.0], &[1.0], Verdict::Worse),
            (Better::Higher, &[90.0, 100.0, 120.0], &[115.0, 130.0, 140.0], Verdict::Same),
            (Better::Higher, &[90.0, 100.0, 110.0], &[115.0, 130.0, 140.0], Verdict::Better),
        ];
        for (better, before, after, verdict) in table {
            let judged = judge(better, spread(before), spread(after));
            assert_eq!(judged, verdict, "{better:?} {before:?} {after:?}");
        }
    }
}
