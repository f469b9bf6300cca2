//! The shell: sockets, rings, mailboxes, cores, clock. The only place with `unsafe`, and the only
//! one that knows glommio.
//!
//! Invariant: it makes no decision about channels or protocols; it moves bytes and envelopes
//! between the kernel and the pure shards. It must never know protocol bytes.
//!
//! Each shard is a pinned glommio executor that runs one turn loop ([`turn`]) over its own io_uring
//! ([`ring`]); another executor serves plain HTTP ([`edge`]) and asks the hook that decides who may
//! do what ([`AdmissionHook`]). [`run`] is the server inside another program.

mod admission;
mod banner;
mod clock;
mod data_dir;
mod edge;
mod embed;
mod lifecycle;
mod line_queue;
mod listen;
pub mod mesh;
mod probe;
mod proxies;
mod refusals;
mod reload;
mod ring;
mod signals;
mod signature;
mod sockets;
mod start;
mod storage;
mod turn;
mod watchdog;
mod webhooks;

pub use admission::{
    AdmissionHook, AdmitAnswer, AdmitCtx, AdmitError, AdmitFuture, AdmitKind, Blocking,
};
pub use banner::Banner;
pub(crate) use data_dir::DataDir;
pub use embed::{Handle, Hooks, ReloadError, run};
pub use line_queue::LineQueue;
pub use listen::Takeover;
pub(crate) use mesh::mailbox_bytes;
pub(crate) use probe::{MEMLOCK_BYTES_MIN, descriptors_reserved, try_io_uring};
pub use signals::watch_signals;
pub use start::{Addresses, Options, StartError, serve};
pub(crate) use start::{STORE, shard_count};
