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
//! | [`wire`] | bytes <=> messages: HTTP upgrade, WebSocket, and two protocols: the sync protocol of NodeDB and Foony Realtime |
//! | [`auth`], [`policy`] | who may do what; how the channels of a namespace behave |
//! | [`session`] | one connection's protocol state, and all that differs between protocols: greeting, requests, keep-alive |
//! | [`channel`] | one channel: its members, changes, messages |
//! | `shard::owner` | the channels of one shard: presence, publish, history, snapshots, graces |
//! | `shard::home` | the connections of one shard: requests, subscriptions, send queues, resume |
//! | [`shard`] | owner and home together: the order of a turn, envelopes between shards, timers, effects |
//! | [`server`] | the shell on glommio and io_uring: sockets, mailboxes, start, drain; plain HTTP in `edge` |
//! | `admin`, `rest` | HTTP for operators and applications |
//! | [`config`], [`cli`], `terminal`, [`bench`] | the configuration file, the commands, what terminals take, the load generator |
//! | [`client`] | the client's half of the protocols, without I/O |
//!
//! Where to look first:
//!
//! | symptom | files |
//! |---|---|
//! | a wrong leave event, a ghost | `shard/owner/presence.rs` (graces, ticks), `shard/home/liveness.rs` (expiry), `shard/home/membership.rs` |
//! | a new wire protocol | the docs of [`session`], `session/dialect.rs` |
//! | a slow consumer closed too early, or too late | `shard/home/deliver.rs` (events), `shard/home/requests.rs` (answers), `shard/home/admission.rs` (requests that wait) |
//! | a lost publish | `shard/owner/publish.rs`, `shard/home/deliver.rs`, then `shard/home/missed.rs` and `shard/owner/repair.rs` |
//! | a session that does not resume | `shard/home/resume.rs`, `shard/session_registry.rs`, `shard/owner/lost_members.rs` |
//! | a turn that takes too long | `shard/turn.rs` (the order), `server/turn` (the sockets) |
//!
//! Terms:
//!
//! | term | meaning |
//! |---|---|
//! | shard | state of one core: an owner and a home, run by one thread |
//! | owner | the part of a shard that decides about its channels: members, their graces, serials |
//! | home | the part of a shard that serves its connections |
//! | channel | named stream of events with a set of members, in one app |
//! | member | session announced as present in a channel, with a state |
//! | connection | a socket, by `ConnId` (slot and generation) |
//! | session | the protocol state and identity of a connection |
//! | subscription | registration of a connection for a feed of a channel |
//! | dialect | one wire protocol as the server behaves in it |
//! | feed | what the subscribers of a channel receive, in one encoding: presence or messages |
//! | request, event | value that a client sends; value that the server sends without a request |
//! | serial | position of a message in its channel, dense from 1 |
//! | cursor, gap | the serial from which a client resumes; serials that it missed |
//! | snapshot | everyone who is present in a channel |
//! | sweep | one pass over all subscribers of a channel that delivers a large snapshot |
//! | fan-out | delivery of one event to many: routed across shards, delivered within one |
//! | mailbox, envelope | bounded queue from one shard to another, and its item |
//! | effect | what the core asks of the shell |
//! | send queue | bounded output of a connection |
//! | conflation | replacing a value by a newer one; presence is conflated, messages are not |
//! | slow consumer | a connection whose send queue is full: presence is conflated, messages leave a gap or close it |
//! | grace | time between the loss of a connection and the leave of its members; begun and ended by the owner |
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
