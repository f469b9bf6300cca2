//! The log of a server: what is logged, and how lines look.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::time::SystemTime;
use std::{env, panic, thread};

use clap::ValueEnum;
use serde_json::json;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::server::LineQueue;

/// How the lines of the log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object per line, with `timestamp`, `level`, `target`, `message` and further fields.
    Json,
}

/// Sends events and panics to the log. `HEADCOUNT_LOG` selects events, in the syntax of `RUST_LOG`.
pub(super) fn start(log: &LineQueue, format: LogFormat) {
    let directives = env::var("HEADCOUNT_LOG").unwrap_or_default();
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    // Not its `parse_lossy`, which prints what it ignores and panics when that fails.
    let (filter, flaw) = match filter.parse(&directives) {
        Ok(filter) => (filter, None),
        Err(flaw) => (EnvFilter::default().add_directive(LevelFilter::INFO.into()), Some(flaw)),
    };
    let filter = without_engine(filter, &directives);
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone());
    let events = events.with_ansi(false).log_internal_errors(false);
    // Fails only when a log exists already, which then serves as well.
    let _ = match format {
        LogFormat::Human => events.try_init(),
        LogFormat::Json => events.json().flatten_event(true).try_init(),
    };
    if let Some(flaw) = flaw {
        tracing::warn!(%flaw, "HEADCOUNT_LOG is not understood: the level is info");
    }
    let log = log.clone();
    // The default hook would wait for a standard error that is stuck.
    panic::set_hook(Box::new(move |panic| {
        let backtrace = Backtrace::capture();
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => format!("{backtrace}\n"),
            _ => String::new(),
        };
        match format {
            LogFormat::Human => log.push(format!("thread '{thread}' {panic}\n{backtrace}")),
            LogFormat::Json => {
                log.push(error_line(&format!("thread '{thread}' {panic}\n{backtrace}")));
            }
        }
    }));
}

/// The line of an error that is written whatever `HEADCOUNT_LOG` selects, as JSON.
pub(super) fn error_line(message: &str) -> String {
    let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let line = json!({ "timestamp": timestamp, "level": "ERROR", "message": message });
    format!("{line}\n")
}

/// What the store's engine does is of no interest as long as it works, unless it is asked for.
fn without_engine(filter: EnvFilter, directives: &str) -> EnvFilter {
    let quiet = ["fjall=warn", "lsm_tree=warn"].into_iter().filter_map(|text| text.parse().ok());
    match directives.contains("fjall") || directives.contains("lsm_tree") {
        true => filter,
        false => quiet.fold(filter, EnvFilter::add_directive),
    }
}
