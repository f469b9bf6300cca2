//! Errors, in three types that answer three questions: is the input valid ([`FrameError`]), may the
//! request be executed ([`Reject`]), why was the connection closed ([`Disconnect`]). All are `Copy`
//! and carry no strings; each dialect maps them to its own codes in one `match`.

use enum_map::Enum;
use strum::IntoStaticStr;
use thiserror::Error;

/// Invalid input. The peer is at fault; closes the connection unless the dialect ignores such
/// input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case", prefix = "malformed_")]
pub enum FrameError {
    /// The input ends inside a value or frame.
    #[error("truncated")]
    Truncated,
    /// A length above the configured limit. Detected before anything is allocated for it.
    #[error("longer than the limit")]
    TooLong,
    /// A frame header that is invalid in this protocol.
    #[error("malformed frame header")]
    Header,
    /// A type code that the protocol does not define.
    #[error("unknown message type")]
    #[strum(serialize = "type")]
    UnknownType,
    /// The body does not match its checksum.
    #[error("checksum mismatch")]
    Checksum,
    /// The body is not a value of the type that the header announces.
    #[error("malformed body")]
    Body,
    /// Text that is not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// A violation of RFC 6455: reserved bits, opcode, masking or fragmentation.
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

/// A request that cannot be executed. The client receives an error where the dialect has one,
/// otherwise the request is counted. The connection stays open.
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
    #[error("the session has reached its channel limit")]
    TooManyChannels,
    #[error("the channel has reached its member limit")]
    ChannelFull,
    #[error("the server has reached its channel limit")]
    ServerFull,
    #[error("the owner of the channel is overloaded, try again")]
    Busy,
    #[error("not supported")]
    Unsupported,
    #[error("the signature does not fit")]
    BadSignature,
    #[error("a newer version has been accepted")]
    Replayed,
    #[error("denied by the admission hook")]
    Denied,
    #[error("the disk is full, try again later")]
    DiskFull,
    #[error("the store failed, try again later")]
    StoreFailed,
}

/// The reason why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Disconnect {
    /// The peer closed it with a close message of its protocol.
    #[error("closed by the peer")]
    Clean,
    /// The socket was closed without a close message.
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
    #[error("handshake timeout")]
    GreetingTimeout,
    #[error("idle timeout")]
    IdleTimeout,
    #[error("incompatible wire version")]
    WireVersion,
    #[error("this feature needs a newer client")]
    OldClient,
    #[error("the token has expired")]
    TokenExpired,
    /// The operator has taken the key away, or some of what it allows.
    #[error("the credentials are no longer valid")]
    Revoked,
    #[error("credentials refused")]
    BadCredentials,
    /// The same session continues on another connection.
    #[error("continued on another connection")]
    Replaced,
    #[error("receiver too slow")]
    Slow,
    /// The connection moved to a shard that is at its limit.
    #[error("the server has reached its connection limit")]
    ConnectionLimit,
    #[error("server is shutting down")]
    Shutdown,
    /// By a request to the admin address.
    #[error("closed by the operator")]
    Operator,
    #[error("internal error")]
    Internal,
}

/// When a client may reconnect after a [`Disconnect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Now,
    Later,
    Never,
}

impl Disconnect {
    /// WebSocket close code (RFC 6455 section 7.4.1) sent to the peer.
    pub fn close_code(self) -> u16 {
        match self {
            Disconnect::Clean | Disconnect::Replaced => 1000,
            Disconnect::Shutdown => 1001,
            Disconnect::Protocol => 1002,
            Disconnect::UnknownProtocol => 1003,
            Disconnect::Utf8 => 1007,
            Disconnect::GreetingTimeout | Disconnect::WireVersion | Disconnect::OldClient => 1008,
            Disconnect::TokenExpired | Disconnect::Revoked => 1008,
            Disconnect::BadCredentials | Disconnect::Operator => 1008,
            Disconnect::TooLarge => 1009,
            Disconnect::Internal => 1011,
            Disconnect::Slow | Disconnect::ConnectionLimit => 1013,
            Disconnect::Lost | Disconnect::IdleTimeout => 1001,
        }
    }

    /// When the client may reconnect.
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
            Disconnect::Slow
            | Disconnect::ConnectionLimit
            | Disconnect::Operator
            | Disconnect::Internal => Retry::Later,
            _ => Retry::Now,
        }
    }

    /// Value of the metric label `reason`.
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
    fn close_codes_are_valid_in_a_close_frame() {
        for reason in (0..Disconnect::LENGTH).map(Disconnect::from_usize) {
            let code = reason.close_code();
            assert!((1000..=1014).contains(&code) && ![1004, 1005, 1006].contains(&code));
        }
    }
}
