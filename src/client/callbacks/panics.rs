//! Panics of callbacks: one line on standard error, once a second at most.

use std::any::Any;
use std::io::Write as _;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct PanicLog {
    written_at: Option<Instant>,
    unwritten: u64,
}

impl PanicLog {
    /// The line to write for a panic, unless one was written less than a second before.
    pub(super) fn line(&mut self, now: Instant, client: &str, message: &str) -> Option<String> {
        if self.written_at.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL) {
            self.unwritten += 1;
            return None;
        }
        self.written_at = Some(now);
        let others = match std::mem::take(&mut self.unwritten) {
            0 => String::new(),
            unwritten => format!(" ({unwritten} more since the last such line)"),
        };
        let message = message.escape_debug();
        Some(format!("{client}: a callback panicked: {message}{others}\n"))
    }
}

/// Writes, or gives up when standard error is gone.
pub(super) fn write_line(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The words of a panic, if it has any.
pub(super) fn message(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => text.to_string(),
            Err(other) => {
                // Its destructor is the application's, and may panic again.
                std::mem::forget(other);
                "(no message)".to_string()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_tells_of_those_between() {
        let (mut log, start) = (PanicLog::default(), Instant::now());
        let mut line = |ms| log.line(start + Duration::from_millis(ms), "till", "a\nb");
        assert_eq!(line(0).as_deref(), Some("till: a callback panicked: a\\nb\n"));
        assert_eq!(line(500), None);
        assert_eq!(line(999), None);
        let expected = "till: a callback panicked: a\\nb (2 more since the last such line)\n";
        assert_eq!(line(1000).as_deref(), Some(expected));
    }

    #[test]
    fn texts_of_panics_are_found() {
        assert_eq!(message(Box::new("static")), "static");
        assert_eq!(message(Box::new("owned".to_string())), "owned");
        assert_eq!(message(Box::new(7)), "(no message)");
    }
}
