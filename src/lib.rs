//! Headcount: presence and realtime channels.
pub mod auth;
pub mod error;
pub mod ids;
pub mod limits;
pub mod policy;
pub mod wire;
