//! A whole server in one thread under one seed: shards, mailboxes between them, sockets, clients
//! that speak the real bytes, and a naive model of who must be where.
//!
//! Invariant: nothing here reads a clock, a thread or a random source but [`rng::Rng`]; a seed
//! replays byte for byte.

// Two test binaries share this folder and neither uses all of it.
#![allow(dead_code)]

pub mod check;
pub mod foony;
pub mod model;
pub mod profile;
pub mod rng;
pub mod run;
pub mod store;
pub mod wire;
pub mod world;
