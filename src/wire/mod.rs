//! Bytes <=> messages.

pub mod msgpack;
pub mod sync;
