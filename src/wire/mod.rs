//! Codecs: bytes to messages and back, one module per protocol.
//!
//! Invariant: no decoder allocates for a declared length, recurses on input or panics. Must never
//! know: sessions, channels, sockets, time.

pub mod foony;
pub mod http;
pub mod msgpack;
pub mod proxy_protocol;
mod replace;
pub mod sync;
pub mod websocket;

pub(crate) use replace::replace;
