//! The Foony Realtime protocol (`protocols/foony.md` sections 2, 3 and 5).
//!
//! Owns one set of values, [`Request`] and [`Event`], and the two codecs that write them down:
//! [`binary`] (SDK 0.12.1 and later, records in binary messages) and [`json`] (0.0.1 to 0.12.0,
//! one object per text message). The session behind them need not know which one a client speaks.
//!
//! Invariant: a payload that was decoded is empty or exactly one JSON value, and travels as the
//! text that its publisher wrote.
//!
//! Must never know: sessions, channels, time, sockets. It neither decides nor remembers.

pub mod binary;
mod channel_name;
mod coalesce;
mod code;
pub mod json;
mod json_text;
mod value;

pub use channel_name::{Grammar, check_channel_name};
pub use coalesce::{COALESCED_BYTES_MAX, Coalescer};
pub use code::ErrorCode;
pub use json_text::validate_json;
pub use value::{
    Action, Auth, Content, Cursor, Delivery, Event, Malformed, Member, Message, Presence, Publish,
    Request,
};

/// Most messages in one batch. SDKs send 200 by themselves and 1000 in one publish at most, but
/// for applications that hand over longer lists; those are refused. Bounds what three bytes of a
/// message cost in memory while it is looked at.
pub const BATCH_MESSAGES_MAX: usize = 16 * 1024;
