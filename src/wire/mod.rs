//! Bytes <=> messages.

pub mod msgpack;
