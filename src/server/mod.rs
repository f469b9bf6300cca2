//! The shell: sockets, rings, mailboxes, cores, clock. The only place with `unsafe`, and the only
//! one that knows glommio.
//!
//! Invariant: it decides nothing about channels or protocols; it moves bytes and envelopes between
//! the kernel and pure shards. Must never know protocol bytes.
//!
//! Each shard is a pinned glommio executor that hosts one turn loop ([`turn`]) over a ring of its
//! own ([`ring`]); plain HTTP lives on one more executor ([`edge`]).

mod banner;
mod clock;
mod data_dir;
mod edge;
mod lifecycle;
mod line_queue;
mod listen;
pub mod mesh;
mod probe;
mod proxies;
mod refusals;
mod ring;
mod sockets;
mod start;
mod turn;
mod watchdog;

pub use banner::Banner;
pub use line_queue::LineQueue;
pub use listen::Takeover;
pub use start::{Options, StartError, run};
