//! Who is at fault, in three types for three questions. All are `Copy` and carry no strings;
//! each dialect maps them to its own codes in one `match`.

use enum_map::Enum;
use strum::IntoStaticStr;
use thiserror::Error;

/// Are these bytes our protocol? The peer's fault; ends the connection unless the dialect says
/// that such input is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case", prefix = "malformed_")]
pub enum FrameError {
    /// The value or frame needs more bytes than there are.
    #[error("truncated")]
    Truncated,
    /// A length above the configured limit; refused before anything is allocated for it.
    #[error("longer than the limit")]
    TooLong,
    /// A frame header that this protocol never has.
    #[error("malformed frame header")]
    Header,
    /// A type code outside the protocol's table.
    #[error("unknown message type")]
    #[strum(serialize = "type")]
    UnknownType,
    /// The body does not match its checksum.
    #[error("checksum mismatch")]
    Checksum,
    /// The body is not the value that its type demands.
    #[error("malformed body")]
    Body,
    /// Text that is not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// A WebSocket rule is broken (RFC 6455): reserved bits, opcode, masking, fragmentation.
    #[error("WebSocket protocol error")]
    #[strum(serialize = "websocket")]
    WebSocket,
    /// More fragments in one message than the limit.
    #[error("too many fragments")]
    #[strum(serialize = "fragments")]
    TooManyFragments,
    /// No supported protocol begins with these bytes.
    #[error("unrecognised protocol")]
    #[strum(serialize = "protocol")]
    UnknownProtocol,
}

/// May this request be done now? Answered where the dialect has an answer, else counted; the
/// connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Reject {
    #[error("the session is not authenticated")]
    Unauthenticated,
    #[error("invalid bearer token")]
    BadToken,
    #[error("the token has expired")]
    TokenExpired,
    #[error("the capability does not cover this channel and operation")]
    Forbidden,
    #[error("invalid channel name")]
    ChannelName,
    #[error("the state is larger than the limit")]
    StateTooLarge,
    #[error("the message is larger than the limit")]
    MessageTooLarge,
    #[error("the session is in as many channels as it may be")]
    TooManyChannels,
    #[error("the channel has as many members as it may have")]
    ChannelFull,
    #[error("the server has as many channels as it may have")]
    ServerFull,
    #[error("the owner of the channel is overloaded, try again")]
    Busy,
    #[error("not supported")]
    Unsupported,
}

/// Why did we end a connection?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Disconnect {
    /// The peer said goodbye in its protocol.
    #[error("closed by the peer")]
    Clean,
    /// The socket ended without a goodbye.
    #[error("connection lost")]
    Lost,
    #[error("protocol error")]
    Protocol,
    #[error("message is not valid UTF-8")]
    Utf8,
    #[error("message too large")]
    TooLarge,
    #[error("unrecognised protocol")]
    UnknownProtocol,
    #[error("no greeting in time")]
    GreetingTimeout,
    #[error("no sign of life")]
    IdleTimeout,
    #[error("incompatible wire version")]
    WireVersion,
    #[error("this feature needs a newer client")]
    OldClient,
    #[error("the token has expired")]
    TokenExpired,
    #[error("credentials refused")]
    BadCredentials,
    /// The same session goes on over another connection.
    #[error("continued on another connection")]
    Replaced,
    #[error("receiver too slow")]
    Slow,
    /// The connection moved to a shard that is at its limit.
    #[error("the server has as many connections as it may have")]
    ConnectionLimit,
    #[error("server is shutting down")]
    Shutdown,
    #[error("internal error")]
    Internal,
}

/// When may the client try again after a [`Disconnect`]?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Now,
    Later,
    Never,
}

impl Disconnect {
    /// WebSocket close code (RFC 6455 section 7.4.1) that tells the peer why.
    pub fn close_code(self) -> u16 {
        match self {
            Disconnect::Clean | Disconnect::Replaced => 1000,
            Disconnect::Shutdown => 1001,
            Disconnect::Protocol => 1002,
            Disconnect::UnknownProtocol => 1003,
            Disconnect::Utf8 => 1007,
            Disconnect::GreetingTimeout | Disconnect::WireVersion | Disconnect::OldClient => 1008,
            Disconnect::TokenExpired | Disconnect::BadCredentials => 1008,
            Disconnect::TooLarge => 1009,
            Disconnect::Internal => 1011,
            Disconnect::Slow | Disconnect::ConnectionLimit => 1013,
            Disconnect::Lost | Disconnect::IdleTimeout => 1001,
        }
    }

    /// What a well-behaved client does next.
    pub fn retry(self) -> Retry {
        match self {
            Disconnect::Protocol
            | Disconnect::Utf8
            | Disconnect::TooLarge
            | Disconnect::UnknownProtocol
            | Disconnect::WireVersion
            | Disconnect::OldClient
            | Disconnect::BadCredentials
            | Disconnect::Replaced => Retry::Never,
            Disconnect::Slow | Disconnect::ConnectionLimit | Disconnect::Internal => Retry::Later,
            _ => Retry::Now,
        }
    }

    /// Label of the metric.
    pub fn label(self) -> &'static str {
        self.into()
    }
}

impl From<FrameError> for Disconnect {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLong | FrameError::TooManyFragments => Disconnect::TooLarge,
            FrameError::Utf8 => Disconnect::Utf8,
            FrameError::UnknownProtocol => Disconnect::UnknownProtocol,
            _ => Disconnect::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_are_ones_that_may_travel() {
        for reason in (0..Disconnect::LENGTH).map(Disconnect::from_usize) {
            let code = reason.close_code();
            assert!((1000..=1014).contains(&code) && ![1004, 1005, 1006].contains(&code));
        }
    }
}
