//! The sync protocol of NodeDB and its Lite clients (`protocols/nodedb.md` sections 1-3 and 9).
//!
//! Owns the encoding of this protocol: both frame headers, the field layouts of four client
//! generations, the 51 messages, and the replies that reject unsupported features without data loss
//! on the client.
//!
//! Invariant: decoding never panics and never allocates for more than the available bytes. The
//! encoding is byte for byte that of the clients' own codec.
//!
//! Must never know: sessions, channels, time, sockets. It has no state.

pub mod frame;
pub mod layout;
pub mod message;
mod present;
pub mod refusal;

pub use frame::{
    Detection, FrameHead, Header, Parsed, RawFrame, append_frame, detect, detect_message,
    frame_head, parse, parse_message,
};
pub use layout::{Layout, layout_for};
pub use message::presence::{
    Peer, append_broadcast_head, append_peer_age, append_peer_head, append_presence_broadcast,
    append_presence_leave,
};
pub use message::{Direction, Message, MessageType, decode, encode};
pub use present::Present;
pub use refusal::{Refusal, ack, refusal};

use crate::error::FrameError;

/// Appends one frame, header and body, for a client of this layout.
///
/// # Errors
/// Those of [`encode`]; `out` is unchanged.
pub fn append_message(
    message: &Message<'_>,
    layout: Layout,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    message.expressible(layout)?;
    append_frame(layout.header(), message.message_type(), out, |out| {
        message.append_body(layout, out);
    });
    Ok(())
}
