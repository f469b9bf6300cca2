//! Black-box tests of the `headcount` binary as clients of the NodeDB sync wire see it: a real
//! process on port 0, real sockets, and the client types of `nodedb-types` 0.6.2, 0.4.0 and 0.3.0.
//!
//! Nested and outside the workspace because `nodedb-types` declares a newer Rust than the project
//! needs. To run:
//!
//! ```text
//! cargo build --release
//! cargo test --manifest-path tests/nodedb/Cargo.toml --ignore-rust-version -- --test-threads 4
//! ```
//!
//! | environment | meaning | default |
//! |---|---|---|
//! | `HEADCOUNT_BIN` | the binary under test | `target/release/headcount` of the repository |
//! | `HEADCOUNT_TEST_SHARDS` | shards of every server | 2 |
//!
//! Every test starts its own server in its own directory, every wait is bounded, and a failing
//! test prints what its server wrote to standard error. Section numbers in the tests are those of
//! the protocol notes on the NodeDB sync wire.
//!
//! Reading order: `server` (the process), `generation` (frames of each client generation),
//! `client` (one connection and what it expects), `room` (several members at once), `token`,
//! `pushes` (what devices push), `raw` (bytes that no proper client sends), `cli`.

pub mod cli;
pub mod client;
pub mod generation;
pub mod pushes;
pub mod raw;
pub mod room;
pub mod server;
pub mod token;

pub use client::{Received, SyncClient, Transport, Who, anonymous, user};
pub use generation::{Generation, Message, Peer};
pub use room::{join_room, states, users};
pub use server::{Config, Server};

use std::time::Duration;

/// How long a test waits for something that must happen. Generous: the machine may be building.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// A presence state as a real client would send it: the MessagePack map `{"cursor": value}`.
/// `value` is at most 127, the largest positive fixint.
pub fn cursor(value: u8) -> Vec<u8> {
    assert!(value < 128, "{value} is not a positive fixint");
    [b"\x81\xa6cursor".as_slice(), &[value]].concat()
}

/// Milliseconds as a duration.
pub fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
