//! Headcount: a self-hosted presence and realtime-channel server.
//!
//! ```text
//!  bytes in -> wire -> session -> home -> envelope -> owner -> envelope -> home -> bytes out
//!              \______ pure: no clock, no socket, no thread, no glommio ______/
//!                                server: sockets, rings, mailboxes, cores
//! ```
//!
//! Invariants:
//! - A channel belongs to exactly one shard; only its owner changes it ([`ids::Router`]).
//! - The core is deterministic: the same inputs give the same effects, byte for byte.
//! - An event is encoded at most once per feed, whatever the number of subscribers and shards.
//! - Every queue is bounded, and nothing is dropped without a counter and a reason.
//!
//! Code map, in reading order:
//!
//! | module | content |
//! |---|---|
//! | [`ids`], [`limits`], [`error`], [`counters`] | names, limits, errors by who is at fault, counters |
//! | [`wire`] | bytes <=> messages: HTTP upgrade, WebSocket, sync and Foony protocol |
//! | [`auth`], [`policy`] | who may do what; how the channels of a namespace behave |
//! | [`session`] | everything that differs between protocols: greeting, requests, encodings, keep-alive |
//! | [`channel`] | one channel: its members, changes, messages |
//! | `shard::owner` | the channels of one shard: presence, publish, history, snapshots, graces |
//! | `shard::home` | the connections of one shard: requests, subscriptions, send queues, resume |
//! | [`shard`] | the pair: turns, envelopes between shards, timers, effects |
//! | [`server`] | the shell on glommio and io_uring: sockets, mailboxes, start, drain; plain HTTP in `edge` |
//! | `admin`, `rest` | HTTP for operators and applications |
//! | [`config`], [`cli`], [`bench`] | the configuration file, the commands, the load generator |
//! | [`client`] | the client's half of the protocols, without I/O |
//!
//! Terms:
//!
//! | term | meaning |
//! |---|---|
//! | shard | state of one core: an owner and a home, run by one thread |
//! | owner, home | the part of a shard that decides about its channels; the part that serves its connections |
//! | channel | named stream of events with a set of members, in one app |
//! | member | session announced as present in a channel, with a state |
//! | connection, session | a socket, by `ConnId` (slot and generation); its protocol state and identity |
//! | subscription | registration of a connection for a feed of a channel |
//! | dialect, feed | one wire protocol; one encoding of the presence or the messages of a channel |
//! | request, event | value that a client sends; value that the server sends without a request |
//! | serial, cursor, gap | position of a message in its channel; where a client resumes; serials it missed |
//! | snapshot, sweep | everyone who is present; one pass that delivers a large snapshot to all subscribers |
//! | fan-out | delivery of one event to many: routed across shards, delivered within one |
//! | mailbox, envelope, effect | bounded queue between two shards; its item; what the core asks of the shell |
//! | send queue, conflation | bounded output of a connection; replacing a queued value by a newer one |
//! | grace | time between the loss of a connection and the leave of its members |
//! | handoff | a connection in transit to another shard |

#![forbid(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "server")]
mod admin;
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
mod rest;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod session;
#[cfg(feature = "server")]
pub mod shard;
#[cfg(feature = "server")]
mod terminal;
pub mod wire;
