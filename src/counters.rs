//! What a shard counts. Every drop, conflation, ignored input and disconnect has a reason here;
//! plain integers that only their shard writes, read by the admin surface through a mailbox.

use crate::auth::Refusals;
use crate::error::{Disconnect, FrameError, Reject};

/// Why input from a peer had no effect although its connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// A frame or body that does not decode.
    Malformed(FrameError),
    /// A request that may not be done now, in a dialect without an answer for it.
    Refused(Reject),
    /// A message that only servers send.
    WrongDirection,
    /// A WebSocket text message in a binary dialect.
    Text,
    /// A request that was valid and asks for nothing this server keeps.
    NothingToDo,
}

impl Ignored {
    /// Labels of all reasons, in metric order.
    pub const LABELS: [&'static str; 25] = [
        "wrong_direction",
        "text_message",
        "nothing_to_do",
        "malformed_truncated",
        "malformed_too_long",
        "malformed_header",
        "malformed_type",
        "malformed_checksum",
        "malformed_body",
        "malformed_utf8",
        "malformed_websocket",
        "malformed_fragments",
        "malformed_protocol",
        "unauthenticated",
        "bad_token",
        "token_expired",
        "forbidden",
        "channel_name",
        "state_too_large",
        "message_too_large",
        "too_many_channels",
        "channel_full",
        "server_full",
        "busy",
        "unsupported",
    ];

    fn index(self) -> usize {
        match self {
            Ignored::WrongDirection => 0,
            Ignored::Text => 1,
            Ignored::NothingToDo => 2,
            Ignored::Malformed(error) => 3 + frame_error_index(error),
            Ignored::Refused(reject) => 13 + reject_index(reject),
        }
    }
}

fn frame_error_index(error: FrameError) -> usize {
    match error {
        FrameError::Truncated => 0,
        FrameError::TooLong => 1,
        FrameError::Header => 2,
        FrameError::UnknownType => 3,
        FrameError::Checksum => 4,
        FrameError::Body => 5,
        FrameError::Utf8 => 6,
        FrameError::WebSocket => 7,
        FrameError::TooManyFragments => 8,
        FrameError::UnknownProtocol => 9,
    }
}

fn reject_index(reject: Reject) -> usize {
    match reject {
        Reject::Unauthenticated => 0,
        Reject::BadToken => 1,
        Reject::TokenExpired => 2,
        Reject::Forbidden => 3,
        Reject::ChannelName => 4,
        Reject::StateTooLarge => 5,
        Reject::MessageTooLarge => 6,
        Reject::TooManyChannels => 7,
        Reject::ChannelFull => 8,
        Reject::ServerFull => 9,
        Reject::Busy => 10,
        Reject::Unsupported => 11,
    }
}

/// Something that was not delivered as it was. The first word says what, the rest where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A member's update waits at home, its newest state kept, because the owner's mailbox is full.
    RequestMailboxFull,
    /// A tick to a home shard; it gets the whole set on a later turn.
    EventMailboxFull,
    /// A connection stayed where it was accepted because the owner's mailbox is full.
    HandoffMailboxFull,
    /// A connection refused, as a new one or one that moved there, because its shard is at its
    /// limit or the process has no descriptor left.
    ConnectionLimit,
    /// A new connection to a listener that expects a PROXY header, from an address that may not
    /// send one, or that was gone before it could be asked for.
    ConnectionUntrusted,
    /// Messages to one subscriber whose send queue is full; it catches up, or sees the gap.
    MessageSlowConsumer,
    /// Messages to a home shard; it gets them, or sees the gap, on a later turn.
    MessageMailboxFull,
    /// Messages forgotten before their time, because the shard's memory for them is full.
    MessageHistoryFull,
}

impl Dropped {
    /// Labels of all reasons: what was dropped, and why.
    pub const LABELS: [(&'static str, &'static str); 8] = [
        ("request", "mailbox_full"),
        ("event", "mailbox_full"),
        ("handoff", "mailbox_full"),
        ("connection", "limit"),
        ("connection", "untrusted"),
        ("message", "slow_consumer"),
        ("message", "mailbox_full"),
        ("message", "history_full"),
    ];
}

/// Why a newer presence set replaced one that a receiver had not been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflated {
    /// The receiver's socket takes no more for the time being.
    SlowReceiver,
    /// The receiver asked for fewer frames.
    Throttled,
    /// The sender updates faster than its limit; its newest state is kept.
    UpdateRate,
    /// The channel tells its watchers at most once per interval; what happened meanwhile is one.
    Interval,
    /// The set is large, and shown in rounds; what happened during one is shown in the next.
    LargeSet,
}

impl Conflated {
    /// Labels of all reasons.
    pub const LABELS: [&'static str; 5] =
        ["slow_receiver", "throttled", "update_rate", "interval", "large_set"];
}

/// One shard's counts since start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub connections: u64,
    pub accepted: u64,
    pub adopted: u64,
    pub handed_off: u64,
    pub messages_in: u64,
    pub bytes_in: u64,
    pub presence_updates: u64,
    pub presence_ticks: u64,
    pub deliveries: u64,
    pub messages_published: u64,
    pub messages_resent: u64,
    pub messages_delivered: u64,
    pub bytes_out: u64,
    pub members: u64,
    pub channels: u64,
    pub subscriptions: u64,
    pub expired_members: u64,
    pub resumed_members: u64,
    pub receive_buffers_exhausted: u64,
    pub turns: u64,
    pub refusals: Refusals,
    ignored: [u64; Ignored::LABELS.len()],
    dropped: [u64; Dropped::LABELS.len()],
    conflated: [u64; Conflated::LABELS.len()],
    disconnects: [u64; Disconnect::ALL.len()],
}

impl Counters {
    pub fn ignore(&mut self, reason: Ignored) {
        self.ignored[reason.index()] += 1;
    }

    pub fn drop(&mut self, reason: Dropped) {
        self.drop_many(reason, 1);
    }

    pub fn drop_many(&mut self, reason: Dropped, count: u32) {
        self.dropped[reason as usize] += u64::from(count);
    }

    pub fn conflate(&mut self, reason: Conflated) {
        self.conflate_many(reason, 1);
    }

    pub fn conflate_many(&mut self, reason: Conflated, count: u32) {
        self.conflated[reason as usize] += u64::from(count);
    }

    pub fn disconnect(&mut self, reason: Disconnect) {
        self.disconnects[reason as usize] += 1;
    }

    pub fn ignored(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Ignored::LABELS.into_iter().zip(self.ignored)
    }

    pub fn dropped(&self) -> impl Iterator<Item = ((&'static str, &'static str), u64)> {
        Dropped::LABELS.into_iter().zip(self.dropped)
    }

    pub fn conflated(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Conflated::LABELS.into_iter().zip(self.conflated)
    }

    pub fn disconnects(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Disconnect::ALL.iter().map(|reason| reason.label()).zip(self.disconnects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_label() {
        assert_eq!(Ignored::Refused(Reject::Unsupported).index() + 1, Ignored::LABELS.len());
        assert_eq!(Ignored::Malformed(FrameError::UnknownProtocol).index(), 12);
        assert_eq!(Dropped::MessageHistoryFull as usize + 1, Dropped::LABELS.len());
        assert_eq!(Conflated::LargeSet as usize + 1, Conflated::LABELS.len());
    }
}
