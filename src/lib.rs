//! Headcount: presence and realtime channels.
pub mod error;
pub mod ids;
pub mod limits;
pub mod wire;
