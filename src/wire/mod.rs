//! Bytes <=> messages.
//!
//! Owns the grammar of every protocol that reaches a socket. Invariant: nothing is allocated in
//! proportion to a length a peer declared before those bytes have arrived, and no input panics.
//! Must never know: sessions, channels, sockets, clocks.

pub mod http;
pub mod websocket;
