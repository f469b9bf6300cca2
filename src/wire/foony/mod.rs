//! The Foony Realtime protocol (`protocols/foony.md` sections 2, 3 and 5).
//!
//! Owns one set of types, [`Request`] and [`Event`], and their two codecs: [`binary`] (SDK 0.12.1
//! and later, records in binary messages) and [`json`] (0.0.1 to 0.12.0, one object per text
//! message). Sessions are independent of the codec.
//!
//! Invariant: a decoded payload is empty or exactly one JSON value, and is passed on as the text
//! that the publisher sent.
//!
//! Must never know: sessions, channels, time, sockets. It has no state.

pub mod binary;
mod channel_name;
mod coalesce;
mod code;
pub mod json;
mod json_text;
pub mod peer;
mod value;

pub use channel_name::{Grammar, check_channel_name};
pub use coalesce::{COALESCED_BYTES_MAX, Coalescer};
pub use code::ErrorCode;
pub use json_text::{json_depth, validate_json};
pub use peer::{PeerGreeting, PeerMember, PeerRequest, PeerUpdate};
pub use value::{
    Action, Auth, Content, Cursor, Delivery, Event, Malformed, Member, Message, Presence, Publish,
    Request,
};

/// Maximum number of messages in one batch. SDKs send 200 by themselves and at most 1000 in one
/// publish, except for longer lists passed by applications; these are refused. Bounds the memory to
/// decode a message, since each entry takes at least three bytes on the wire.
pub const BATCH_MESSAGES_MAX: usize = 16 * 1024;
