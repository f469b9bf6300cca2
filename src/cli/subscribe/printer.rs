//! Lines -> standard output, as many as were asked for.

use super::line::Line;
use crate::cli::failure::Failure;
use crate::cli::output;

/// Collects lines until they are flushed, which is after every message from the server.
#[derive(Debug)]
pub(super) struct Printer {
    text: String,
    /// Messages still to be printed; `None` for all.
    left: Option<u64>,
}

impl Printer {
    pub fn new(count: Option<u64>) -> Self {
        Printer { text: String::new(), left: count }
    }

    /// Takes a line, unless there are enough messages.
    pub fn push(&mut self, line: &Line) {
        match (&mut self.left, line) {
            (Some(0), _) => return,
            (Some(left), Line::Message(_)) => *left -= 1,
            (None, _) | (Some(_), Line::Presence(_)) => {}
        }
        self.text.push_str(line.text());
    }

    /// Whether all messages were taken.
    pub fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    /// Writes what was taken.
    pub fn flush(&mut self) -> Result<(), Failure> {
        if !self.text.is_empty() {
            output::print(&self.text)?;
            self.text.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_count_and_nothing_follows_the_last() {
        let mut printer = Printer::new(Some(2));
        for line in [
            Line::Message("a\n".into()),
            Line::Presence("p\n".into()),
            Line::Message("b\n".into()),
            Line::Presence("q\n".into()),
            Line::Message("c\n".into()),
        ] {
            printer.push(&line);
        }
        assert_eq!((&*printer.text, printer.left), ("a\np\nb\n", Some(0)));
    }
}
