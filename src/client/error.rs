//! What can go wrong in a client, as its caller sees it.

use std::time::Duration;

/// The result of an operation of a client.
///
/// ```
/// use headcount::client::{Client, ClientConfig, Result};
///
/// fn lazy(url: &str) -> Result<Client> {
///     Client::connect_lazy(ClientConfig::new(url))
/// }
/// assert!(lazy("no URL").is_err());
/// ```
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

/// Any error, as the closures of an application return it.
///
/// ```
/// use headcount::client::{BoxError, ClientConfig};
///
/// fn token() -> Result<String, BoxError> {
///     Ok(std::fs::read_to_string("/run/secrets/headcount-jwt")?.trim().to_owned())
/// }
/// let config = ClientConfig::new("ws://127.0.0.1:7400").token_provider(token);
/// # let _ = config;
/// ```
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation failed. One type for all of them, so that `?` works across the API.
///
/// Variants and fields may be added: match with a last arm, and struct variants with `..`.
///
/// ```
/// use headcount::client::ClientError;
///
/// fn advice(error: &ClientError) -> &'static str {
///     match error {
///         ClientError::Denied { .. } | ClientError::RateLimited { .. } => "later",
///         ClientError::SizeLimitExceeded { .. } => "send less",
///         ClientError::Closed => "connect again",
///         _ => "read the log",
///     }
/// }
/// assert_eq!(advice(&ClientError::Closed), "connect again");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The configuration, or an argument, cannot be used.
    #[error("configuration: {why}")]
    #[non_exhaustive]
    Config { why: String },
    /// The state directory, or a thread, cannot be used.
    #[error("input or output: {why}")]
    #[non_exhaustive]
    Io { why: String },
    /// No server that speaks the protocol answered: refused, no WebSocket, no greeting.
    #[error("server unreachable: {why}")]
    #[non_exhaustive]
    Unreachable { why: String },
    /// The time that the caller gave is over. The operation may be under way.
    #[error("timed out")]
    Timeout,
    /// The server did not accept the credential.
    #[error("unauthorized ({code}): {reason}")]
    #[non_exhaustive]
    Unauthorized {
        /// The wire's code, such as 40101.
        code: u32,
        reason: String,
    },
    /// The server refused one request; the connection lives.
    #[error("refused ({code}): {reason}")]
    #[non_exhaustive]
    Refused {
        /// The wire's code, such as 40301.
        code: u32,
        reason: String,
    },
    /// A text is no JSON, or not the JSON of the type that was asked for.
    #[error("invalid JSON: {why}")]
    #[non_exhaustive]
    InvalidJson { why: String },
    /// Peer metadata is JSON, but no object.
    #[error("peer metadata is no JSON object")]
    NotAMap,
    /// Peer metadata is nested too deeply.
    #[error("nested more than {limit} levels deep")]
    #[non_exhaustive]
    DepthLimitExceeded {
        /// Levels of arrays and objects, the outermost one included.
        limit: usize,
    },
    /// Peer metadata is too long.
    #[error("{got} bytes, {limit} are allowed")]
    #[non_exhaustive]
    SizeLimitExceeded {
        /// Bytes of the JSON text.
        limit: usize,
        /// Bytes of the JSON text.
        got: usize,
    },
    /// The server accepts no more for a while.
    #[error("rate limited, try again in {retry_after:?}")]
    #[non_exhaustive]
    RateLimited { retry_after: Duration },
    /// The other peer's connection request handler, or our own, denied the connection.
    #[error("denied, again possible in {retry_after:?}: {reason}")]
    #[non_exhaustive]
    Denied {
        reason: String,
        /// What is left of the denial.
        retry_after: Duration,
    },
    /// The other peer cannot take a direct message.
    #[error("peer unavailable: {why}")]
    #[non_exhaustive]
    PeerUnavailable { why: String },
    /// Too many operations are outstanding.
    #[error("too many outstanding operations")]
    QueueFull,
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sentences_with_their_values() {
        let table = [
            (ClientError::Config { why: "no URL".into() }, "configuration: no URL"),
            (ClientError::DepthLimitExceeded { limit: 64 }, "nested more than 64 levels deep"),
            (
                ClientError::SizeLimitExceeded { limit: 4096, got: 4097 },
                "4097 bytes, 4096 are allowed",
            ),
            (
                ClientError::Refused { code: 40301, reason: "no such channel".into() },
                "refused (40301): no such channel",
            ),
            (
                ClientError::Denied {
                    reason: "full".into(),
                    retry_after: Duration::from_millis(1500),
                },
                "denied, again possible in 1.5s: full",
            ),
        ];
        for (error, sentence) in table {
            assert_eq!(error.to_string(), sentence);
        }
    }

    #[test]
    fn errors_become_boxes_of_applications() {
        fn fails() -> std::result::Result<(), BoxError> {
            Err(ClientError::Closed)?
        }
        let error = fails().expect_err("an error");
        assert_eq!(error.downcast_ref(), Some(&ClientError::Closed));
    }
}
