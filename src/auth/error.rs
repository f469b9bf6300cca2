//! Errors of credentials, and of the configuration of keys.

use enum_map::Enum;
use strum::IntoStaticStr;
use thiserror::Error;

use crate::error::Reject;
use crate::limits::USER_ID_BYTES_MAX;

/// Why a token or an API key is refused. For counters and logs; clients are sent the [`Reject`]
/// that it maps to and its [`CredentialError::reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Enum, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum CredentialError {
    #[error("longer than the limit")]
    TooLong,
    /// Not three base64url parts of JSON with a known `alg`, or a key without a colon.
    #[error("malformed")]
    Malformed,
    #[error("the token has no kid")]
    #[strum(serialize = "missing_kid")]
    MissingKeyId,
    #[error("no such key")]
    UnknownKey,
    #[error("the token's algorithm is not its key's")]
    Algorithm,
    /// Reported as [`CredentialError::Secret`] for a key, see [`CredentialError::of_key`].
    #[error("the signature does not match")]
    #[strum(serialize = "bad_signature")]
    Signature,
    #[error("the secret does not match")]
    #[strum(serialize = "bad_secret")]
    Secret,
    /// The payload is not JSON of the expected types, or its `cap` is not a capability.
    #[error("malformed claims")]
    Claims,
    /// A token with an audience is accepted only when its key has that audience configured.
    #[error("the issuer or audience is not the one that the key demands")]
    #[strum(serialize = "issuer_or_audience")]
    Issuer,
    #[error("the client id is missing, empty or longer than {USER_ID_BYTES_MAX} bytes")]
    #[strum(serialize = "client_id_length")]
    Subject,
    /// The client requested one id, its token names another.
    #[error("the client id is not the token's")]
    #[strum(serialize = "other_client_id")]
    OtherSubject,
    /// A session cannot be re-authenticated with a token of another app.
    #[error("the token is of another app")]
    OtherApp,
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
    /// Label of the metric.
    pub fn label(self) -> &'static str {
        self.into()
    }

    /// The corresponding error for a key instead of a token.
    pub fn of_key(self) -> Self {
        match self {
            CredentialError::Signature => CredentialError::Secret,
            error => error,
        }
    }

    /// The text that the client is sent. It is stable, and discloses nothing to an unauthenticated
    /// client: which check failed behind `refused` is only in the log and the metrics.
    pub fn reason(self) -> &'static str {
        match self {
            CredentialError::Expired => "expired",
            CredentialError::NotYetValid => "not yet valid",
            CredentialError::TooLong
            | CredentialError::Malformed
            | CredentialError::MissingKeyId
            | CredentialError::Claims
            | CredentialError::NoExpiry => "malformed",
            CredentialError::UnknownKey => "unknown key",
            CredentialError::Subject => "the client id must have 1 to 255 bytes",
            CredentialError::Algorithm
            | CredentialError::Signature
            | CredentialError::Secret
            | CredentialError::Issuer
            | CredentialError::OtherSubject
            | CredentialError::OtherApp
            | CredentialError::ExceedsKey => "refused",
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

/// A key of the configuration that cannot be used. Reported at start-up.
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
    use std::collections::HashSet;

    fn all() -> Vec<CredentialError> {
        (0..CredentialError::LENGTH).map(CredentialError::from_usize).collect()
    }

    #[test]
    fn only_expiry_has_a_code_of_its_own() {
        for error in all() {
            let expired = error == CredentialError::Expired;
            assert_eq!(Reject::from(error) == Reject::TokenExpired, expired, "{error:?}");
        }
    }

    #[test]
    fn clients_get_one_of_five_reasons_or_the_limit_of_their_id() {
        let reasons = ["expired", "not yet valid", "malformed", "unknown key", "refused"];
        for error in all() {
            let reason = error.reason();
            match error {
                CredentialError::Subject => {
                    assert!(reason.contains(&USER_ID_BYTES_MAX.to_string()), "{reason}");
                }
                _ => assert!(reasons.contains(&reason), "{error:?}: {reason}"),
            }
        }
    }

    #[test]
    fn causes_have_labels_and_sentences_of_their_own() {
        let different = |texts: Vec<String>| texts.iter().collect::<HashSet<_>>().len();
        let labels = all().into_iter().map(|error| error.label().to_owned());
        assert_eq!(different(labels.collect()), CredentialError::LENGTH);
        let sentences = all().into_iter().map(|error| error.to_string());
        assert_eq!(different(sentences.collect()), CredentialError::LENGTH);
    }

    /// Dashboards and alerts name them.
    #[test]
    fn labels_do_not_change() {
        let labels: Vec<_> = all().into_iter().map(CredentialError::label).collect();
        assert_eq!(
            labels.join(" "),
            "too_long malformed missing_kid unknown_key algorithm bad_signature bad_secret claims \
             issuer_or_audience client_id_length other_client_id other_app no_expiry expired \
             not_yet_valid exceeds_key"
        );
    }
}
