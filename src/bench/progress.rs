//! What a run is doing, for the person who waits for it.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Instant;

/// A line per stage on standard error.
pub struct Progress {
    began: Option<Instant>,
}

impl Progress {
    pub fn on_standard_error() -> Self {
        Progress { began: Some(Instant::now()) }
    }

    pub fn hidden() -> Self {
        Progress { began: None }
    }

    pub fn stage(&self, what: impl Display) {
        if let Some(began) = self.began {
            // A progress that cannot be shown is not in the way of a measurement.
            let _ = writeln!(io::stderr(), "{:7.2} s {what}", began.elapsed().as_secs_f64());
        }
    }
}
