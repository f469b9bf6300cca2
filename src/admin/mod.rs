//! What operators ask over HTTP: which request means what, and how answers look.
//!
//! Owns routes, JSON shapes and metric names. Invariant: nothing here waits or reads a socket. Must
//! never know channel internals, only what owners report.

mod access;
mod exposition;
mod json;
mod metrics;
mod routes;

pub use access::{Access, Denied, MetricsAccess, Reach};
pub use exposition::Exposition;
pub use json::{changes_lines, members, present_lines, reset_line};
pub use metrics::{Process, encode as encode_metrics};
pub use routes::{Route, Surface, route};
