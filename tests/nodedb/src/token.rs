//! JSON Web Tokens, made by hand so that the wrong ones can be made too.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::time::{SystemTime, UNIX_EPOCH};

/// The key that every server of these tests has.
pub const KEY_NAME: &str = "demo.kid_main";
pub const KEY_SECRET: &str = "sk_main_secret";

/// Seconds since the epoch.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("clock after 1970").as_secs()
}

/// A good token of the standard key, valid for an hour.
pub fn good(user: &str) -> String {
    signed(KEY_NAME, KEY_SECRET, &claims(user, 3600))
}

/// A good token with this capability, the text of a JSON object.
pub fn with_capability(user: &str, capability: &str) -> String {
    let mut claims = claims(user, 3600);
    claims["cap"] = capability.into();
    signed(KEY_NAME, KEY_SECRET, &claims)
}

/// Claims of `user` that expire in `ttl_s` seconds; a negative value has expired already.
pub fn claims(user: &str, ttl_s: i64) -> Value {
    let now = now_s() as i64;
    let issued = now.min(now + ttl_s - 1);
    json!({ "sub": user, "cap": "{\"*\":[\"*\"]}", "iat": issued, "exp": now + ttl_s })
}

/// A compact HS256 token of `claims`, with the key's name in `kid`.
pub fn signed(key_name: &str, secret: &str, claims: &Value) -> String {
    with_header(&json!({ "alg": "HS256", "typ": "JWT", "kid": key_name }), secret, claims)
}

/// A token whose header is the caller's, signed with HMAC-SHA-256 whatever the header says.
pub fn with_header(header: &Value, secret: &str, claims: &Value) -> String {
    let signing_input = format!("{}.{}", part(header), part(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key length");
    mac.update(signing_input.as_bytes());
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// A token with `alg: none` and an empty signature.
pub fn unsigned(key_name: &str, claims: &Value) -> String {
    let header = json!({ "alg": "none", "typ": "JWT", "kid": key_name });
    format!("{}.{}.", part(&header), part(claims))
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7515, appendix A.1, has a binary key and spaces in its JSON; this one
    /// was computed with `openssl dgst -sha256 -hmac`.
    #[test]
    fn signature_covers_header_and_claims() {
        let token = with_header(&json!({"alg":"HS256"}), "secret", &json!({"sub":"a"}));
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(parts[0], "eyJhbGciOiJIUzI1NiJ9");
        assert_eq!(parts[1], "eyJzdWIiOiJhIn0");
        assert_eq!(parts[2], "UUtsUaeO3koQylSZ3wxP4lqVvgFw6mGsVzGNBNF_1sQ");
    }
}
