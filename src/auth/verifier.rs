//! Verification of a token's signature and claims, with the algorithm of its key.

use std::collections::HashSet;
use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation, decode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Capability, CredentialError, Key, KeyError, Material, SignatureAlgorithm, TokenRules};
use crate::limits::IDENTITY_METADATA_BYTES_MAX;

/// Tolerated clock skew of an issuer, milliseconds. Applies to `nbf` and `iat`, not to `exp`.
const CLOCK_SKEW_MS: u64 = 60_000;

/// Smallest RSA modulus in bytes (RFC 7518 section 3.3).
const RSA_MODULUS_BYTES_MIN: usize = 256;

/// An uncompressed point on P-256: a tag and two coordinates (SEC 1 section 2.3.3).
const P256_POINT_BYTES: usize = 65;

/// Milliseconds of a time in seconds since the Unix epoch, possibly with a fraction (RFC 7519
/// section 2). Times before the epoch are clamped to it.
fn ms_of(numeric_date: f64) -> u64 {
    (numeric_date * 1000.0) as u64
}

/// The claims that are used, and the others, of which one may be the metadata.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub sub: Option<String>,
    pub cap: Option<Capability>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl Claims {
    /// Takes out what the operator says of the user: the text of a JSON object.
    pub fn metadata(&mut self, name: &str) -> Result<Option<Arc<str>>, CredentialError> {
        let text = match self.others.remove(name) {
            None => return Ok(None),
            Some(object @ Value::Object(_)) => object.to_string(),
            Some(_) => return Err(CredentialError::Claims),
        };
        match text.len() {
            0..=IDENTITY_METADATA_BYTES_MAX => Ok(Some(text.into())),
            _ => Err(CredentialError::Claims),
        }
    }

    /// Checks the times against `now_wall_ms` and returns the expiry, milliseconds since the Unix
    /// epoch. A token without expiry could not be revoked, so it is refused.
    pub fn expiry(&self, now_wall_ms: u64) -> Result<u64, CredentialError> {
        let latest = now_wall_ms.saturating_add(CLOCK_SKEW_MS);
        if [self.nbf, self.iat].into_iter().flatten().any(|from| ms_of(from) > latest) {
            return Err(CredentialError::NotYetValid);
        }
        let expires_at_wall_ms = ms_of(self.exp.ok_or(CredentialError::NoExpiry)?);
        if expires_at_wall_ms <= now_wall_ms {
            return Err(CredentialError::Expired);
        }
        Ok(expires_at_wall_ms)
    }
}

/// Verifies the tokens of one `kid`.
pub(super) struct Verifier {
    /// Index of the key in the keyring.
    pub key: usize,
    decoding: DecodingKey,
    validation: Validation,
}

impl Verifier {
    fn new(key: usize, rules: &TokenRules, algorithm: Algorithm, decoding: DecodingKey) -> Self {
        Verifier { key, decoding, validation: validation(algorithm, rules) }
    }

    /// The verifiers of a key with the `kid` of each: its name, or the ids in its JWK set.
    pub fn of_key(position: usize, key: &Key) -> Result<Vec<(String, Verifier)>, KeyError> {
        let name = key.name().to_owned();
        let (algorithm, decoding) = match &key.material {
            Material::Hs256(secret) => {
                (Algorithm::HS256, DecodingKey::from_secret(secret.as_bytes()))
            }
            Material::PublicKey { algorithm, pem } => public_key(*algorithm, pem)?,
            Material::Jwks { json, algorithm } => {
                return Ok(jwks(json, *algorithm)?
                    .into_iter()
                    .map(|(kid, (alg, jwk))| (kid, Verifier::new(position, &key.rules, alg, jwk)))
                    .collect());
            }
        };
        Ok(vec![(name, Verifier::new(position, &key.rules, algorithm, decoding))])
    }

    /// Verifies the signature of a token and returns its claims.
    pub fn verify(&self, token: &str) -> Result<Claims, CredentialError> {
        let verified = decode::<Claims>(token, &self.decoding, &self.validation);
        verified.map(|data| data.claims).map_err(|error| match error.kind() {
            ErrorKind::InvalidAlgorithm => CredentialError::Algorithm,
            ErrorKind::InvalidSignature => CredentialError::Signature,
            ErrorKind::Json(_) | ErrorKind::Utf8(_) => CredentialError::Claims,
            ErrorKind::InvalidIssuer
            | ErrorKind::InvalidAudience
            | ErrorKind::MissingRequiredClaim(_) => CredentialError::Issuer,
            _ => CredentialError::Malformed,
        })
    }
}

/// Allows one algorithm, and leaves the times to [`Claims::expiry`].
fn validation(algorithm: Algorithm, rules: &TokenRules) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.required_spec_claims = HashSet::new();
    if let Some(issuer) = &rules.issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    if let Some(audience) = &rules.audience {
        validation.set_audience(&[audience]);
        validation.required_spec_claims.insert("aud".to_owned());
    }
    validation
}

type DecodingPair = (Algorithm, DecodingKey);

/// Parses a PEM public key. Private keys are refused because the server does not need them, and
/// certificates because their chain would not be verified.
fn public_key(algorithm: SignatureAlgorithm, pem: &str) -> Result<DecodingPair, KeyError> {
    let is_public = pem.trim_start().starts_with("-----BEGIN PUBLIC KEY-----")
        || pem.trim_start().starts_with("-----BEGIN RSA PUBLIC KEY-----");
    let parsed = match algorithm {
        _ if !is_public => None,
        SignatureAlgorithm::Rs256 => DecodingKey::from_rsa_pem(pem.as_bytes()).ok(),
        SignatureAlgorithm::Es256 => DecodingKey::from_ec_pem(pem.as_bytes()).ok(),
    };
    checked(algorithm, parsed.ok_or(KeyError::PublicKey(algorithm))?)
}

/// Refuses keys that do not fit the algorithm, with which every token would fail.
fn checked(algorithm: SignatureAlgorithm, key: DecodingKey) -> Result<DecodingPair, KeyError> {
    let significant_bytes = match key.kind() {
        DecodingKeyKind::SecretOrDer(der) => der.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    };
    match algorithm {
        SignatureAlgorithm::Rs256 if significant_bytes < RSA_MODULUS_BYTES_MIN => {
            Err(KeyError::RsaTooShort)
        }
        SignatureAlgorithm::Es256 if significant_bytes != P256_POINT_BYTES => {
            Err(KeyError::PublicKey(algorithm))
        }
        SignatureAlgorithm::Rs256 => Ok((Algorithm::RS256, key)),
        SignatureAlgorithm::Es256 => Ok((Algorithm::ES256, key)),
    }
}

/// The usable keys of a set. Others are skipped (RFC 7517 section 5): sets of real issuers contain
/// encryption keys and unsupported algorithms.
fn jwks(
    json: &str,
    only: Option<SignatureAlgorithm>,
) -> Result<Vec<(String, DecodingPair)>, KeyError> {
    let set: JwkSet =
        serde_json::from_str(json).map_err(|error| KeyError::Jwks(error.to_string()))?;
    let mut usable = Vec::new();
    for jwk in &set.keys {
        let (Some(kid), Some(algorithm)) = (&jwk.common.key_id, jwk_algorithm(jwk)) else {
            continue;
        };
        if only.is_none_or(|only| only == algorithm) {
            let key = DecodingKey::from_jwk(jwk)
                .map_err(|error| KeyError::Jwks(format!("key `{kid}`: {error}")))?;
            usable.push((kid.clone(), checked(algorithm, key)?));
        }
    }
    if usable.is_empty() { Err(KeyError::JwksEmpty) } else { Ok(usable) }
}

/// The `alg` of a JWK, or else the algorithm for its key type.
fn jwk_algorithm(jwk: &Jwk) -> Option<SignatureAlgorithm> {
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => SignatureAlgorithm::Rs256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            SignatureAlgorithm::Es256
        }
        _ => return None,
    };
    let declared = jwk.common.key_algorithm.map(|declared| declared.to_string());
    let for_signatures = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let consistent = declared.is_none_or(|declared| declared == by_type.to_string());
    (for_signatures && consistent).then_some(by_type)
}
