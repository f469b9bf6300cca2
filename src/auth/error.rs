//! Why a credential, or the configuration of a key, is refused.

use thiserror::Error;

use crate::error::Reject;

/// Why a token or an API key names nobody. For counters and logs; peers are told only the
/// [`Reject`] that it maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CredentialError {
    #[error("longer than the limit")]
    TooLong,
    /// Not three base64url parts of JSON with a known `alg`, or a key without a colon.
    #[error("malformed")]
    Malformed,
    #[error("the token has no kid")]
    MissingKeyId,
    #[error("no such key")]
    UnknownKey,
    #[error("the token's algorithm is not its key's")]
    Algorithm,
    #[error("the signature or secret does not match")]
    Signature,
    /// The payload is not JSON of the expected types, or its `cap` is not a capability.
    #[error("malformed claims")]
    Claims,
    #[error("the issuer or audience is not the one configured")]
    Issuer,
    #[error("the user id is missing, empty or too long")]
    Subject,
    #[error("the token has no expiry")]
    NoExpiry,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token grants more than its key")]
    ExceedsKey,
}

impl CredentialError {
    /// Every error, in the order of their metrics.
    pub const ALL: [CredentialError; 13] = [
        CredentialError::TooLong,
        CredentialError::Malformed,
        CredentialError::MissingKeyId,
        CredentialError::UnknownKey,
        CredentialError::Algorithm,
        CredentialError::Signature,
        CredentialError::Claims,
        CredentialError::Issuer,
        CredentialError::Subject,
        CredentialError::NoExpiry,
        CredentialError::Expired,
        CredentialError::NotYetValid,
        CredentialError::ExceedsKey,
    ];

    /// Label of the metric.
    pub fn label(self) -> &'static str {
        match self {
            CredentialError::TooLong => "too_long",
            CredentialError::Malformed => "malformed",
            CredentialError::MissingKeyId => "missing_kid",
            CredentialError::UnknownKey => "unknown_key",
            CredentialError::Algorithm => "algorithm",
            CredentialError::Signature => "signature",
            CredentialError::Claims => "claims",
            CredentialError::Issuer => "issuer",
            CredentialError::Subject => "subject",
            CredentialError::NoExpiry => "no_expiry",
            CredentialError::Expired => "expired",
            CredentialError::NotYetValid => "not_yet_valid",
            CredentialError::ExceedsKey => "exceeds_key",
        }
    }
}

impl From<CredentialError> for Reject {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::Expired => Reject::TokenExpired,
            _ => Reject::BadToken,
        }
    }
}

/// Why a key cannot be used. Found at start-up, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    #[error("key name `{0}` is not `app.keyId` (two non-empty parts, no colon, at most 128 bytes)")]
    Name(String),
    #[error("the secret must have 1 to {max} bytes", max = super::key::SECRET_BYTES_MAX)]
    Secret,
    #[error("expected one public key in PEM (`-----BEGIN PUBLIC KEY-----`) for {0}")]
    PublicKey(super::SignatureAlgorithm),
    #[error("an RSA key needs at least 2048 bits (RFC 7518 section 3.3)")]
    RsaTooShort,
    #[error("not a JWK set: {0}")]
    Jwks(String),
    #[error("the JWK set has no RS256 or ES256 verification key with a `kid`")]
    JwksEmpty,
    #[error("the key id `{0}` is already that of another key")]
    Duplicate(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_listed_once_and_in_order() {
        for (position, error) in CredentialError::ALL.into_iter().enumerate() {
            assert_eq!(error as usize, position);
        }
        let last = CredentialError::ExceedsKey as usize;
        assert_eq!(CredentialError::ALL.len(), last + 1);
    }

    #[test]
    fn only_expiry_is_told_apart_to_the_peer() {
        for error in CredentialError::ALL {
            let expired = error == CredentialError::Expired;
            assert_eq!(Reject::from(error) == Reject::TokenExpired, expired, "{error:?}");
        }
    }
}
