//! Headcount: presence and realtime channels.
pub mod auth;
#[cfg(feature = "server")]
pub mod config;
pub mod error;
pub mod ids;
pub mod limits;
pub mod policy;
pub mod wire;
