//! The load generator: how fast is this server, on your machine?
//!
//! Owns threads, sockets and a clock of its own; it shares no thread and no glommio with a server
//! and sees one only from outside, over sockets and `/proc`.
//!
//! ```text
//!  command -> launch (or a running server) -> scenarios -> workers: a conductor, pinned threads
//!                                                 |          thread = engine(client...) + stage
//!                                                 |          stage = steps + script
//!                                                 |          script = traffic, joins, idle, churn
//!                                              report -> table, record, compare, plot
//! ```
//!
//! What threads count is in `signals`, summed when it is read; only delays, and what one channel or
//! one connection saw, are merged at the end.
//!
//! Invariant: a delay runs from when a message *should* have been sent to when its receiver read
//! it, so that waiting anywhere counts. What is lost, shown twice or out of order is counted, and
//! so is what the generator itself needed.
//!
//! Must never know: how a server is built.

pub mod client;
pub mod command;
pub mod compare;
mod connect;
mod engine;
mod error;
mod interrupt;
mod latencies;
mod launch;
mod machine;
mod metric;
pub mod options;
pub mod peer;
mod plot;
mod process;
mod progress;
mod report;
pub mod scenarios;
mod signals;
mod stage;
mod stamp;
mod time;
mod traffic;
mod workers;

pub use command::{BenchArgs, run};
pub use engine::Wait;
pub use error::BenchError;
pub use latencies::{Latencies, LatencySummary};
pub use machine::Machine;
pub use metric::{Better, Metric};
pub use options::{Addresses, FloodKind};
pub use peer::Peer;
pub use plot::plot;
pub use progress::Progress;
pub use report::Report;
pub use stamp::Stamp;
