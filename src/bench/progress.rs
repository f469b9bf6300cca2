//! What a run is doing, for the person who waits for it.

use std::cell::RefCell;
use std::fmt::Write;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// On standard error: one line that changes on a terminal that has a cursor, else a line per stage
/// and second.
pub struct Progress {
    bar: Option<ProgressBar>,
    lines: Option<RefCell<Lines>>,
}

impl Progress {
    pub fn on_standard_error() -> Self {
        if !terminal::takes_escapes(&io::stderr()) {
            return Progress { bar: None, lines: Some(RefCell::new(Lines::begin(Instant::now()))) };
        }
        let template = "{elapsed_precise} {prefix:<12} {bar:30} {pos}/{len} {msg}";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|error| unreachable!("a constant template: {error}"));
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Progress { bar: Some(bar.with_style(style)), lines: None }
    }

    pub fn hidden() -> Self {
        Progress { bar: None, lines: None }
    }

    /// `length` 0: it is not known how long it takes.
    pub fn stage(&self, name: &'static str, length: u64) {
        self.show(
            |bar| {
                bar.set_prefix(name);
                bar.set_message("");
                bar.set_length(length);
                bar.set_position(0);
            },
            |lines| lines.stage(name, length),
        );
    }

    pub fn at(&self, position: u64) {
        self.show(|bar| bar.set_position(position), |lines| lines.position = position);
    }

    /// How fast things go.
    pub fn rate(&self, per: Duration, count: u64, unit: &str) {
        let rate = count as f64 / per.as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = format!("{rate:.0} {unit}/s");
        self.show(|bar| bar.set_message(rate.clone()), |lines| lines.rate.clone_from(&rate));
    }

    pub fn done(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }

    fn show(&self, bar: impl FnOnce(&ProgressBar), change: impl FnOnce(&mut Lines)) {
        self.bar.as_ref().map(bar);
        let Some(lines) = &self.lines else { return };
        change(&mut lines.borrow_mut());
        if let Some(line) = lines.borrow_mut().next(Instant::now()) {
            // A progress that cannot be shown is not in the way of a measurement.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
}

/// What the next line says, and when it is due.
struct Lines {
    began: Instant,
    due: Instant,
    stage: &'static str,
    length: u64,
    position: u64,
    rate: String,
}

impl Lines {
    fn begin(now: Instant) -> Self {
        let rate = String::new();
        Lines { began: now, due: now, stage: "", length: 0, position: 0, rate }
    }

    fn stage(&mut self, name: &'static str, length: u64) {
        (self.stage, self.length, self.position) = (name, length, 0);
        self.rate.clear();
        self.due = self.began;
    }

    /// `None`: it is not due.
    fn next(&mut self, now: Instant) -> Option<String> {
        if now < self.due {
            return None;
        }
        self.due = now + LINE_EVERY;
        let mut line = format!("{:7.2} s {}", (now - self.began).as_secs_f64(), self.stage);
        // Writing to a string cannot fail.
        let _ = match self.length {
            0 => Ok(()),
            length => write!(line, " {}/{length}", self.position),
        };
        let _ = match self.rate.as_str() {
            "" => Ok(()),
            rate => write!(line, " {rate}"),
        };
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_line_for_each_stage_and_each_second() {
        let began = Instant::now();
        let mut lines = Lines::begin(began);
        let at = |ms: u64| began + Duration::from_millis(ms);
        lines.stage("connecting", 10);
        assert_eq!(lines.next(at(0)).unwrap(), "   0.00 s connecting 0/10");
        lines.position = 4;
        assert_eq!(lines.next(at(999)), None);
        assert_eq!(lines.next(at(1000)).unwrap(), "   1.00 s connecting 4/10");
        lines.stage("settling", 0);
        assert_eq!(lines.next(at(1001)).unwrap(), "   1.00 s settling");
        lines.rate = "5 done/s".to_owned();
        assert_eq!(lines.next(at(2500)).unwrap(), "   2.50 s settling 5 done/s");
    }
}
