//! Error codes (`protocols/foony.md` sections 3.4 and 4).

use strum::{FromRepr, VariantArray};

use crate::error::{FrameError, Reject};

/// Error of a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromRepr, VariantArray)]
#[repr(u32)]
pub enum ErrorCode {
    BadFrame = 40001,
    /// Stops a client that has only this token or key.
    BadAuth = 40101,
    /// As [`ErrorCode::BadAuth`].
    AuthExpired = 40102,
    /// With this and the next two codes a client gives up a channel. With any other code it
    /// suspends the channel until it reconnects.
    Forbidden = 40300,
    /// The capability covers the channel, but not this operation.
    Capability = 40301,
    /// The capability does not cover the channel.
    ChannelDenied = 40302,
    NotFound = 40400,
    RateLimited = 42900,
    Server = 50000,
    /// Not ready; retried later.
    Bootstrap = 50001,
}

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The code with this number, if there is one.
    pub fn from_code(code: u64) -> Option<ErrorCode> {
        ErrorCode::from_repr(u32::try_from(code).ok()?)
    }

    /// HTTP status over REST (section 1.3).
    pub fn status(self) -> u16 {
        match self {
            ErrorCode::Bootstrap => 503,
            code => (code as u32 / 100) as u16,
        }
    }
}

impl From<FrameError> for ErrorCode {
    fn from(_: FrameError) -> Self {
        ErrorCode::BadFrame
    }
}

impl From<Reject> for ErrorCode {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::Unauthenticated | Reject::BadToken => ErrorCode::BadAuth,
            Reject::TokenExpired => ErrorCode::AuthExpired,
            Reject::Forbidden | Reject::TooManyChannels | Reject::ChannelFull | Reject::Denied => {
                ErrorCode::Forbidden
            }
            Reject::ChannelName
            | Reject::StateTooLarge
            | Reject::MessageTooLarge
            | Reject::Unsupported
            | Reject::BadSignature
            | Reject::Replayed => ErrorCode::BadFrame,
            Reject::ServerFull | Reject::DiskFull | Reject::StoreFailed => ErrorCode::Bootstrap,
            Reject::Busy => ErrorCode::RateLimited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_names_its_code_and_begins_with_its_status() {
        for code in ErrorCode::VARIANTS {
            assert_eq!(ErrorCode::from_code(u64::from(code.code())), Some(*code));
            let status = u32::from(code.status());
            assert!(code.code() / 100 == status || *code == ErrorCode::Bootstrap, "{code:?}");
        }
        assert_eq!(ErrorCode::from_code(40303), None);
        assert_eq!(ErrorCode::Bootstrap.status(), 503);
    }
}
