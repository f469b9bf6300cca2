//! What a run is doing, for whoever waits for it.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One line on standard error, and only on a terminal.
pub struct Progress(ProgressBar);

impl Progress {
    pub fn on_terminal() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::hidden();
        }
        let template = "{elapsed_precise} {prefix:<12} {bar:30} {pos}/{len} {msg}";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|error| unreachable!("a constant template: {error}"));
        Progress(
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style),
        )
    }

    pub fn hidden() -> Self {
        Progress(ProgressBar::hidden())
    }

    pub fn stage(&self, name: &'static str, length: u64) {
        self.0.set_prefix(name);
        self.0.set_message("");
        self.0.set_length(length);
        self.0.set_position(0);
    }

    pub fn at(&self, position: u64) {
        self.0.set_position(position);
    }

    /// How fast things go.
    pub fn rate(&self, per: Duration, count: u64, unit: &str) {
        let rate = count as f64 / per.as_secs_f64().max(f64::MIN_POSITIVE);
        self.0.set_message(format!("{rate:.0} {unit}/s"));
    }

    pub fn done(&self) {
        self.0.finish_and_clear();
    }
}
