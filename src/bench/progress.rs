//! What a run is doing, for the person who waits for it.

use std::cell::RefCell;
use std::fmt::Write;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use crate::terminal;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// How often it is replaced where there is one.
const REPLACED_EVERY: Duration = Duration::from_millis(100);
/// Returns to the beginning of the line and erases it (ECMA-48).
const ERASE_LINE: &str = "\r\x1b[K";

/// On standard error: one line that changes on a terminal that takes escape sequences, else a line
/// per stage and second.
pub struct Progress {
    lines: Option<RefCell<Lines>>,
    is_terminal: bool,
}

impl Progress {
    pub fn on_standard_error() -> Self {
        let is_terminal = terminal::takes_escapes(&io::stderr());
        let every = if is_terminal { REPLACED_EVERY } else { LINE_EVERY };
        let lines = Lines::begin(Instant::now(), every);
        Progress { lines: Some(RefCell::new(lines)), is_terminal }
    }

    pub fn hidden() -> Self {
        Progress { lines: None, is_terminal: false }
    }

    /// `length` 0: it is not known how long it takes.
    pub fn stage(&self, name: &'static str, length: u64) {
        self.show(|lines| lines.stage(name, length));
    }

    pub fn at(&self, position: u64) {
        self.show(|lines| lines.position = position);
    }

    /// How fast things go.
    pub fn rate(&self, per: Duration, count: u64) {
        let rate = count as f64 / per.as_secs_f64().max(f64::MIN_POSITIVE);
        self.show(|lines| lines.rate = format!(" {rate:.0} done/s"));
    }

    pub fn done(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "{ERASE_LINE}");
        }
    }

    fn show(&self, change: impl FnOnce(&mut Lines)) {
        let Some(mut lines) = self.lines.as_ref().map(RefCell::borrow_mut) else { return };
        change(&mut lines);
        let Some(line) = lines.next(Instant::now()) else { return };
        // A progress that cannot be shown is not in the way of a measurement.
        let _ = match self.is_terminal {
            true => write!(io::stderr(), "{ERASE_LINE}{line}"),
            false => writeln!(io::stderr(), "{line}"),
        };
    }
}

/// What the next line says, and when it is due.
struct Lines {
    began: Instant,
    every: Duration,
    due: Instant,
    stage: &'static str,
    length: u64,
    position: u64,
    rate: String,
}

impl Lines {
    fn begin(now: Instant, every: Duration) -> Self {
        let (stage, rate) = ("", String::new());
        Lines { began: now, every, due: now, stage, length: 0, position: 0, rate }
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
        self.due = now + self.every;
        let mut line = format!("{:7.2} s {}", (now - self.began).as_secs_f64(), self.stage);
        if self.length > 0 {
            // Writing to a string cannot fail.
            let _ = write!(line, " {}/{}", self.position, self.length);
        }
        Some(line + &self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_line_for_each_stage_and_each_second() {
        let began = Instant::now();
        let mut lines = Lines::begin(began, LINE_EVERY);
        let at = |ms: u64| began + Duration::from_millis(ms);
        lines.stage("connecting", 10);
        assert_eq!(lines.next(at(0)).unwrap(), "   0.00 s connecting 0/10");
        lines.position = 4;
        assert_eq!(lines.next(at(999)), None);
        assert_eq!(lines.next(at(1000)).unwrap(), "   1.00 s connecting 4/10");
        lines.stage("settling", 0);
        assert_eq!(lines.next(at(1001)).unwrap(), "   1.00 s settling");
        lines.rate = " 5 done/s".to_owned();
        assert_eq!(lines.next(at(2500)).unwrap(), "   2.50 s settling 5 done/s");
    }
}
