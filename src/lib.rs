//! Headcount: a self-hosted presence and realtime-channel server.
//!
#![cfg_attr(
    not(feature = "server"),
    doc = "This documentation is that of the feature `client`: begin with [`client`].\n\n\
           <details><summary>The architecture of the server</summary>"
)]
//!
//! ```text
//!  bytes in -> wire -> session -> home -> envelope -> owner -> envelope -> home -> bytes out
//!              \______ pure: no clock, no socket, no thread, no glommio ______/
//!                                server: sockets, rings, mailboxes, cores
//! ```
//!
//! A *shard* is what one CPU runs: the *owner* of some channels and the *home* of some connections.
//! The core, everything but `server`, has no I/O; `server` is the shell that drives it. All terms
//! are in the last table.
//!
//! Invariants:
//! - A channel belongs to exactly one shard; only its owner changes it ([`ids::Router`]).
//! - The core is deterministic: the same inputs give the same effects, byte for byte.
//! - An event is encoded at most once per feed, whatever the number of subscribers and shards.
//! - Every queue is bounded; what is dropped is counted, by reason.
//!
//! Code map, in reading order:
//!
//! | module | content |
//! |---|---|
//! | [`ids`], [`limits`], [`error`], [`counters`], [`signature`] | names, limits, errors (of a frame, of a request, of a connection), counters, signatures of peers |
//! | [`wire`] | bytes <=> messages: HTTP upgrade, WebSocket, and two application protocols: `sync` (NodeDB) and `foony` (Foony Realtime) |
//! | [`auth`], [`policy`] | who may do what; how the channels of a namespace behave |
//! | [`session`] | one connection's protocol state, and all that differs between protocols: greeting, requests, keep-alive |
//! | [`channel`] | one channel: its members, changes, messages |
//! | [`relay`] | the documents of one app: a compacted log, and the gates that recognize repeated pushes |
//! | `shard::owner` | the channels of one shard: presence, publish, history, snapshots, graces |
//! | `shard::home` | the connections of one shard: requests, subscriptions, send queues, resume |
//! | [`shard`] | owner and home together: the order of a turn, envelopes between shards, timers, effects |
//! | [`server`] | the shell on glommio and io_uring: sockets, mailboxes, start, drain; `edge` parses plain HTTP |
//! | `store` | the log on disk of documents, and of channels whose messages survive a restart: rows, fsyncs, retention, repair |
//! | `admin`, `rest` | what plain HTTP requests of operators and of applications do |
//! | [`doctor`] | whether a host can run the server with so many connections, and what is to be changed |
//! | [`config`], [`cli`], `terminal`, [`bench`] | the configuration file, the commands, colours and widths of terminals, the load generator |
//! | [`client`] | the Rust client: channels, members and the presence graph on one connection that is made again when it is lost; [`client::protocol`] is the client's half of the protocols, without I/O |
//! | `docs/protocol.md` | what `foony` has besides the records of its SDKs: the graph extension, for peers of the presence graph |
//!
//! Where to look first:
//!
//! | symptom | files |
//! |---|---|
//! | a wrong leave event; a member that stays after its connection has gone | `shard/owner/presence.rs` (graces, ticks), `shard/home/liveness.rs` (expiry), `shard/home/membership.rs`; for one slow watcher only: `shard/departures.rs` |
//! | a new wire protocol | the docs of [`session`], `session/dialect.rs`; one with a TCP port of its own also needs a listener in `server/listen.rs` |
//! | a peer that is missing in a graph, or is shown wrongly | `client/driver/mirror.rs` (how the graph is made), `client/driver/roster.rs` (the members of a channel), then `session/peer` (what peers are sent) and `docs/protocol.md`; for one client only: `client/driver/digest.rs` and `shard/owner/digest.rs` (how copies are compared) |
//! | two peers that should be connected and are not, or the other way round; a direct message that does not arrive | `shard/owner/edges.rs` (who has admitted whom), `shard/home/edges.rs` (what a client is asked), `client/driver/direct.rs` |
//! | a request that the operator's program should have allowed or denied | `shard/home/hook.rs` (what waits), `server/admission` (who is asked, caches, time-outs) |
//! | a slow consumer closed too early, or too late | the overload table of [`shard`]; `shard/home/deliver.rs` (events), `shard/home/requests.rs` (answers), `shard/home/admission.rs` (requests that wait) |
//! | a lost publish | `shard/owner/publish.rs`, `shard/home/deliver.rs`, then `shard/home/missed.rs` and `shard/owner/repair.rs` |
//! | a publish that is acknowledged late, or is missing after a restart | `shard/owner/durable.rs` (what waits for the disk), `store/worker.rs` (what is written together), `store/engine.rs` (how the log is opened) |
//! | a document that is missing on a device | `session/sync/documents.rs` (what is refused), `shard/home/documents.rs` (what a device has been sent, and is sent again), then `relay/documents.rs` |
//! | a session that does not resume | `shard/home/resume.rs` (the search), `shard/owner/presence.rs` (what is given back), `shard/session_registry.rs` (which owners are asked) |
//! | a request that the admission hook holds up, or denies | `shard/home/hook.rs` (what waits), `server/admission/gate.rs` (how it is asked), `server/edge/ask.rs` |
//! | the dashboard or the admin API shows something wrong | `shard/inspection.rs` (what shards are asked), `server/edge/api.rs` (how they are asked), `admin/api.rs` (the JSON), `admin/access.rs` (who may ask) |
//! | a flooding client that is read too much, or starves others | `server/turn/receive.rs`, `shard/home/admission.rs` (the budget of a pass) |
//! | a reload that is refused, or does not reach a session or a channel | `config/reload.rs` (what is compared), `server/reload.rs` (what is made of it), `shard/home/reload.rs` (sessions and channels) |
//! | an event that webhooks are not told of, or twice | `shard/owner/events.rs` (what is told), `rest/event.rs` (the JSON), `server/webhooks.rs` (how it is posted), `store/spool.rs` (where it waits) |
//! | a turn that takes too long | `shard/turn.rs` (the order), `server/turn` (the sockets) |
//!
//! Terms:
//!
//! | term | meaning |
//! |---|---|
//! | shard | state of one CPU: an owner and a home, run by one thread |
//! | turn | one round of a shard: what has arrived, timers, writes |
//! | pass | turns until every connection with bytes to write at its beginning has been written to |
//! | owner | the part of a shard that decides about its channels: members, their graces, serials. The only one that changes them |
//! | home | the part of a shard that serves its connections |
//! | channel | named stream of events with a set of members, in one app |
//! | member | session announced as present in a channel, with a state: data of the application |
//! | connection | a socket, by `ConnId`: its index in the table of its home, and a generation, since indexes are used again |
//! | session | the protocol state and identity of a connection |
//! | subscription | registration of a connection for a feed of a channel |
//! | dialect | one wire protocol as the server behaves in it |
//! | feed | what the subscribers of a channel receive, in one encoding: presence or messages |
//! | request | message of a client that the server answers |
//! | event | what happened in a channel, sent to its subscribers |
//! | tick | changes of members of a channel that are sent as one event |
//! | serial | position of a stored message in its channel, without holes while the server runs; 0 for ephemeral messages |
//! | cursor, gap | the serial from which a client resumes; serials that it missed |
//! | session registry | on the shard that a session's name hashes to: its connections, and the owners that keep members it lost |
//! | snapshot | everyone who is present in a channel |
//! | record, position | an entry of the log of documents of an app, and its place in it, with holes where a newer record replaced one |
//! | replica | a device that keeps copies of documents |
//! | gate | which numbers of a device's pushes were applied |
//! | sweep | one pass over all subscribers of a channel that delivers a large snapshot |
//! | fan-out | delivery of one event to many: from the owner to each home with subscribers, and there to each connection |
//! | mailbox, envelope | bounded queue from one shard to another, and its item |
//! | effect | what the core asks of the shell: send, close, detach, attach |
//! | send queue | bounded output of a connection |
//! | question, verdict | what a home asks the admission hook of the server about a request that it holds, and the answer |
//! | conflation | replacing a value by a newer one; presence is conflated, messages are not |
//! | slow consumer | a connection whose send queue is full: presence is conflated; messages are sent again later as far as they are kept, else there is a gap, or the connection is closed |
//! | grace | time between the loss of a connection and the leave of its members, in which the session can resume; begun and ended by the owner |
//! | handoff | the move of a connection to another shard, and the connection in transit |
#![cfg_attr(not(feature = "server"), doc = "\n</details>")]
#![forbid(unsafe_op_in_unsafe_fn)]
// The code map links to modules of the server; `client` checks its own links.
#![cfg_attr(not(feature = "server"), allow(rustdoc::broken_intra_doc_links))]

// What unit tests share with those in `tests` names the crate.
#[cfg(test)]
extern crate self as headcount;

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
#[cfg(feature = "server")]
pub mod doctor;
pub mod error;
#[cfg(feature = "server")]
pub mod ids;
pub mod limits;
#[cfg(feature = "server")]
pub mod policy;
#[cfg(feature = "server")]
pub mod relay;
#[cfg(feature = "server")]
mod rest;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod session;
#[cfg(feature = "server")]
pub mod shard;
pub mod signature;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
mod terminal;
pub mod wire;
