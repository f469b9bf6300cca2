//! The admin API: its routes, authorization, JSON and metrics.
//!
//! Invariant: nothing here blocks or reads a socket. It must never know channel internals, only
//! what owners report.

mod access;
pub mod api;
mod exposition;
mod json;
mod metrics;
mod routes;
mod trace;

pub use access::{Access, Denied, Keys, Reach, Via};
pub use exposition::Exposition;
pub use json::{
    Event, Member, changes_lines, members, members_at, present_lines, reset_line, users,
};
pub use metrics::{
    AdmissionMetrics, AdmissionOutcome, Process, WebhookCounts, encode as encode_metrics,
};
pub use routes::{Api, AppApi, ChannelApi, Route, ServerApi, Surface, route};
pub use trace::{trace_line, trace_lost};
