//! Headcount: who is here, what are they doing, and telling everybody else at once.
//!
//! ```text
//!  bytes in -> wire -> session -> channel -> shard -> mailbox -> shard -> send queue -> bytes out
//!              \________ pure: no clock, no socket, no thread, no glommio _______/
//!                                      server: sockets, rings, mailboxes, cores
//! ```
//!
//! Invariants:
//! - A channel belongs to exactly one shard; only its owner changes it ([`ids::Router`]).
//! - The core is deterministic: the same inputs give the same effects, byte for byte.
//! - An event is encoded at most once per feed, whatever the number of subscribers and shards.
//! - Every queue is bounded, and nothing is dropped without a counter and a reason.
//!
//! Code map, in reading order:
//! - [`ids`], [`limits`], [`error`], [`counters`]: names, bounds, who is at fault, what is counted.
//! - [`wire`]: bytes <=> messages. [`auth`], [`policy`]: who may do what, how channels behave.
//! - [`session`]: one connection's protocol state. [`channel`]: one channel's truth.
//! - [`shard`]: everything one core owns, as a state machine.
//! - `client` (with the feature of that name): the client's half of the protocols, without I/O.
//!
//! With the feature `server`: `config` (the file), `server` (the glommio shell), `admin` (what
//! operators ask), `rest` (what applications ask over plain HTTP), `cli` (the commands), `terminal`
//! (what terminals take, and how they end).

#![forbid(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "server")]
pub mod admin;
#[cfg(feature = "server")]
pub mod auth;
#[cfg(feature = "server")]
pub mod bench;
#[cfg(feature = "server")]
pub mod channel;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod counters;
pub mod error;
#[cfg(feature = "server")]
pub mod ids;
pub mod limits;
#[cfg(feature = "server")]
pub mod policy;
#[cfg(feature = "server")]
pub mod rest;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod session;
#[cfg(feature = "server")]
pub mod shard;
#[cfg(feature = "server")]
mod terminal;
pub mod wire;
