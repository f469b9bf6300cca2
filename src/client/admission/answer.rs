//! What a handler answers.

use std::time::Duration;

/// The answer to a connection request. More kinds of answers may follow, so it is opaque.
///
/// ```
/// use std::time::Duration;
///
/// use headcount::client::ConnectionRequestAuthorization;
///
/// let full = ConnectionRequestAuthorization::deny_with("full", Duration::from_secs(5));
/// assert_ne!(full, ConnectionRequestAuthorization::Deny);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRequestAuthorization(Decision);

/// What the server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allow,
    Deny {
        /// For the other peer.
        reason: Option<String>,
        /// The server's `deny_ttl`, if there is none.
        retry_after: Option<Duration>,
    },
}

#[allow(non_upper_case_globals)]
impl ConnectionRequestAuthorization {
    /// The peer may connect.
    pub const Allow: Self = Self(Decision::Allow);
    /// The peer may not connect; the server asks again after its `deny_ttl`.
    pub const Deny: Self = Self(Decision::Deny { reason: None, retry_after: None });

    /// The peer may not connect. It is told the reason; the server asks again after this time, in
    /// milliseconds on the wire, 1 ms at least.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use headcount::client::{ConnectionRequest, ConnectionRequestAuthorization};
    ///
    /// fn decide(_: ConnectionRequest) -> ConnectionRequestAuthorization {
    ///     ConnectionRequestAuthorization::deny_with("closed until 8", Duration::from_secs(3600))
    /// }
    /// # let _ = decide;
    /// ```
    pub fn deny_with(reason: impl Into<String>, retry_after: Duration) -> Self {
        Self(Decision::Deny { reason: Some(reason.into()), retry_after: Some(retry_after) })
    }

    /// A denial for the time that the server sets.
    pub(super) fn deny_because(reason: &str) -> Self {
        Self(Decision::Deny { reason: Some(reason.to_string()), retry_after: None })
    }

    pub(crate) fn into_decision(self) -> Decision {
        self.0
    }
}
