//! Mints bearer tokens, byte for byte as the Foony SDK does.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::json;
use thiserror::Error;

use super::key::user_id;
use super::{Capability, Key};

/// Default lifetime of a token, milliseconds (`protocols/foony.md` section 4).
pub const TOKEN_TTL_MS_DEFAULT: u64 = 3_600_000;

/// Why a token cannot be minted: the server would refuse it, or the key cannot sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MintError {
    #[error("the key has no secret: sign its tokens with its private key")]
    NoSecret,
    #[error("the user id must have 1 to 255 bytes")]
    Subject,
    #[error("the capability grants more than the key's own")]
    ExceedsKey,
    #[error("the signature could not be made")]
    Signature,
}

/// Mints an HS256 token for the user `sub`, valid from `now_wall_ms` (milliseconds since the Unix
/// epoch) for `ttl_ms`, rounded up to seconds.
///
/// # Errors
/// [`MintError`]
pub fn mint(
    key: &Key,
    sub: &str,
    capability: &Capability,
    now_wall_ms: u64,
    ttl_ms: u64,
) -> Result<String, MintError> {
    let secret = key.secret.as_ref().ok_or(MintError::NoSecret)?;
    user_id(sub).map_err(|_| MintError::Subject)?;
    if !key.capability().covers(capability) {
        return Err(MintError::ExceedsKey);
    }
    let iat = now_wall_ms / 1000;
    let exp = iat.saturating_add(ttl_ms.div_ceil(1000));
    // The order of the fields is that of the SDK.
    let header = json!({ "alg": "HS256", "typ": "JWT", "kid": key.name() });
    let claims = json!({ "sub": sub, "cap": capability.to_string(), "iat": iat, "exp": exp });
    let part = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signing = EncodingKey::from_secret(secret.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &signing, Algorithm::HS256)
        .map_err(|_| MintError::Signature)?;
    Ok(format!("{message}.{signature}"))
}
