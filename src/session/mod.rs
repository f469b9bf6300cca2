//! One connection's protocol state: greeting, authentication, request -> command, event -> message.
//!
//! Invariant: one message in gives at most one [`Step`] and its answers, in order.
//! Must never know other connections, or who owns a channel.

mod feed;
pub mod foony;
mod state;
pub mod sync;

pub use feed::{Feed, FeedSet};
pub use state::{json_state, message_pack_state};

use std::borrow::Cow;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::auth::{Grant, Keyring, Origin, Origins, Refusals};
use crate::channel::{Draft, Identity, Message, Position, ResumeKey, State};
use crate::counters::Ignored;
use crate::error::{Disconnect, Reject};
use crate::ids::{Moment, Now};
use crate::limits::Limits;
use crate::wire::replace;
use crate::wire::sync::Layout;
use crate::wire::websocket::{Opcode, frame_header};

/// How messages are told apart on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One message per WebSocket message.
    WebSocket,
    /// Messages back to back.
    Stream,
}

/// Appends one message, framed as the connection demands. `write` appends its bytes.
pub fn append_message(framing: Framing, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    if framing == Framing::WebSocket {
        let header = frame_header(Opcode::Binary, out.len() - start);
        replace(out, start..start, &header);
    }
}

/// What sessions of this server agree on. Same for all, fixed at start.
#[derive(Debug)]
pub struct Settings {
    pub keyring: Keyring,
    /// What sessions without a token may do; `None` refuses them.
    pub anonymous: Option<Arc<Grant>>,
    /// Web pages that may open sessions without a token.
    pub origins: Origins,
    /// Layout of 10-byte-header sessions that greet with wire version 1.
    pub ten_byte_layout: Layout,
    /// Secret and random per process: proves that this process named a connection.
    pub connection_key: (u64, u64),
}

/// What a session is told besides the message.
pub struct Context<'s> {
    pub now: Now,
    pub settings: &'s Settings,
    pub limits: &'s Limits,
    pub names: &'s mut SessionNames,
    pub refusals: &'s mut Refusals,
    /// Where the connection comes from.
    pub origin: Origin,
}

/// What one message asks of the shard. Answers to the client are written at once, elsewhere.
#[derive(Debug)]
pub enum Step<'m> {
    /// Answered in full.
    Done,
    /// Counted, otherwise without effect.
    Ignored(Ignored),
    /// The session has a new identity, and is a member of nothing under it.
    Greeted(Arrival),
    /// The session has lost its identity.
    Ungreeted,
    /// The same identity, with other rights or another end.
    Renewed,
    /// Become a member, or replace the own state.
    Announce { channel: &'m str, state: &'m [u8] },
    /// Stop being a member.
    Leave { channel: &'m str },
    /// Send presence less often.
    Pace(Pace),
    /// To be carried out and answered by `id`.
    Request { id: u64, channel: Cow<'m, str>, request: Request },
    /// The connection ends.
    Close(Disconnect),
}

/// Has the session been here before?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    New,
    /// It shows what may have lost memberships, which it gets back.
    Returning,
}

/// What a session asks of a channel by number, allowed and within all limits. Every one is answered
/// with an [`Answer`], once.
#[derive(Debug)]
pub enum Request {
    /// Send the messages after the cursor, then all that come; without one, those that come.
    Subscribe {
        after: Option<Position>,
        scope: Scope,
    },
    /// Send neither messages nor presence, and be no member any longer.
    Unsubscribe,
    Publish(Box<Draft>),
    /// Become a member, or replace the own state.
    Announce(State),
    Leave,
    /// Send the members, then every change.
    Watch,
    Unwatch,
    History {
        limit: usize,
        before: Option<Position>,
    },
    /// Send the messages after a serial.
    Fetch {
        after: u64,
    },
}

/// What a subscription brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Messages,
    MessagesAndPresence,
}

/// What became of a [`Request`], as its session tells the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused(Reject),
    /// Serial of the message; 0 when it is not stored.
    Published {
        serial: u64,
    },
    /// What was missed, oldest first. `resumed`: whether it is all; `None` when nobody asked.
    Subscribed {
        messages: Vec<Arc<Message>>,
        resumed: Option<bool>,
    },
    /// Who has left unnoticed, then everybody present.
    Watched {
        left: Vec<Arc<Identity>>,
        members: Vec<Present>,
    },
    History {
        messages: Vec<Arc<Message>>,
        more: bool,
    },
    Fetched {
        messages: Vec<Arc<Message>>,
        resumed: bool,
    },
}

/// A member as a newcomer is shown it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    pub identity: Arc<Identity>,
    pub state: State,
    /// When it last announced its state, milliseconds since the Unix epoch.
    pub announced_wall_ms: u64,
}

/// How often a session wants to be sent presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    AtOnce,
    /// At most one presence frame per channel and this many milliseconds.
    Every(NonZeroU16),
}

/// Who a greeted session is.
#[derive(Clone, Debug)]
pub struct Principal {
    pub identity: Arc<Identity>,
    /// What the session may do.
    pub grant: Arc<Grant>,
    /// When the token ends, on the wall clock.
    pub expires: Option<Moment>,
}

const _: () = assert!(size_of::<Principal>() <= 24, "every greeted connection has one");

impl Principal {
    pub fn resume_key(&self) -> Option<ResumeKey> {
        self.identity.resume_key(&self.grant.app)
    }

    /// When the token ends, milliseconds since the Unix epoch.
    pub fn expires_wall_ms(&self) -> Option<u64> {
        self.expires.map(Moment::ms)
    }

    /// Did it present nothing?
    pub fn is_anonymous(&self) -> bool {
        self.grant.key_name.is_none()
    }
}

/// Makes names for sessions. Two sessions of one process never share one.
#[derive(Debug)]
pub struct SessionNames {
    key: u64,
    shard: u32,
    shards: u32,
    made: u32,
}

impl SessionNames {
    /// `key`: random per process. `shard` of `shards` that make names at the same time.
    pub fn new(key: u64, shard: u16, shards: u16) -> Self {
        SessionNames { key, shard: u32::from(shard), shards: u32::from(shards), made: 0 }
    }

    /// A number of which the high half differs between any two of the first 2^32 made by all
    /// shards together, because `scramble` is a permutation.
    pub fn next_number(&mut self) -> u64 {
        let number = self.made.wrapping_mul(self.shards).wrapping_add(self.shard);
        self.made = self.made.wrapping_add(1);
        let head = scramble(number ^ self.key as u32);
        let tail = scramble(head ^ (self.key >> 32) as u32);
        u64::from(head) << 32 | u64::from(tail)
    }

    /// 16 hexadecimal digits: [`SessionNames::next_number`] as text.
    pub fn next_name(&mut self) -> String {
        format!("{:016x}", self.next_number())
    }
}

/// A permutation of 32-bit numbers: each step (xor with own high bits, odd multiplier) can be
/// undone.
fn scramble(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_sessions_share_the_eight_digits_that_name_anonymous_users() {
        let mut seen = HashSet::new();
        for shard in 0..4 {
            let mut names = SessionNames::new(0x1234_5678_9abc_def0, shard, 4);
            for _ in 0..20_000 {
                assert!(seen.insert(names.next_name()[..8].to_string()));
            }
        }
    }
}
