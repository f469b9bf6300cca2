//! `POST /keys/{keyName}/requestToken`: mints a bearer token with the caller's key.

use serde::Deserialize;
use serde_json::json;

use super::object::Object;
use super::refusal::Refusal;
use super::reply::Reply;
use crate::auth::{Capability, Key, MintError, TOKEN_TTL_MS_DEFAULT, mint};
use crate::wire::foony::ErrorCode;

/// Longest lifetime of a token, milliseconds. Longer ones are clamped (`protocols/foony.md` section
/// 1.3); `expires` has the actual value.
pub const TOKEN_TTL_MS_MAX: u64 = 24 * 3_600_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ask {
    client_id: Option<String>,
    ttl: Option<u64>,
    /// An object, or a string that holds one.
    capability: Option<Capability>,
}

/// Mints the token that a body requests.
///
/// # Errors
/// 400 for an invalid body; 403 with 40301 when it requests more than the key has.
pub fn request_token(key: &Key, body: &[u8], now_wall_ms: u64) -> Result<Reply, Refusal> {
    let Object(ask): Object<Ask> = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad(format!("the body asks for no token: {error}")))?;
    let client_id = ask.client_id.unwrap_or_default();
    let ttl_ms = ask.ttl.unwrap_or(TOKEN_TTL_MS_DEFAULT).min(TOKEN_TTL_MS_MAX);
    if ttl_ms == 0 {
        return Err(Refusal::bad("ttl must be 1 or more milliseconds"));
    }
    let capability = ask.capability.as_ref().unwrap_or(key.capability());
    let token = mint(key, &client_id, capability, now_wall_ms, ttl_ms)?;
    // In whole seconds, as in the token.
    let issued = now_wall_ms / 1000 * 1000;
    let expires = issued + ttl_ms.div_ceil(1000) * 1000;
    let body = json!({
        "token": token,
        "keyName": key.name(),
        "issued": issued,
        "expires": expires,
        "clientId": client_id,
        "capability": capability.to_string(),
    });
    Ok(Reply::json(body.to_string().into_bytes()))
}

impl From<MintError> for Refusal {
    fn from(error: MintError) -> Self {
        match error {
            MintError::ExceedsKey => Refusal::new(ErrorCode::Capability, error.to_string()),
            MintError::Subject => Refusal::bad("clientId must have 1 to 255 bytes"),
            MintError::NoSecret | MintError::Signature => {
                Refusal::new(ErrorCode::Server, error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::caller::tests::{NOW_MS, keyring};
    use super::*;
    use serde_json::Value;

    fn ask(key: &str, body: &str) -> Result<Value, (u16, u32)> {
        let keyring = keyring();
        request_token(keyring.key(key).unwrap(), body.as_bytes(), NOW_MS + 7)
            .map(|reply| serde_json::from_slice(&reply.body).unwrap())
            .map_err(|refusal| (refusal.status, refusal.code.code()))
    }

    #[test]
    fn the_response_describes_the_token() {
        for (body, ttl_ms, capability) in [
            (r#"{"clientId":"alice"}"#, 3_600_000, r#"{"chat:*":["publish","history"]}"#),
            (
                r#"{"clientId":"alice","ttl":1,"capability":{"chat:a":["publish"]}}"#,
                1000,
                r#"{"chat:a":["publish"]}"#,
            ),
            (
                r#"{"clientId":"alice","ttl":999999999999,"capability":"{\"chat:a\":[]}"}"#,
                TOKEN_TTL_MS_MAX,
                r#"{"chat:a":[]}"#,
            ),
            (
                r#"{"clientId":"alice","capability":null,"ttl":null,"x":1}"#,
                3_600_000,
                r#"{"chat:*":["publish","history"]}"#,
            ),
        ] {
            let answer = ask("demo.chat", body).unwrap();
            assert_eq!(answer["keyName"], "demo.chat", "{body}");
            assert_eq!(answer["clientId"], "alice", "{body}");
            assert_eq!(answer["issued"], NOW_MS, "{body}");
            assert_eq!(answer["expires"], NOW_MS + ttl_ms, "{body}");
            assert_eq!(answer["capability"], capability, "{body}");
            let token = answer["token"].as_str().unwrap();
            let identity = keyring().verify_token(token, NOW_MS).unwrap();
            assert_eq!(&*identity.user, "alice", "{body}");
            assert_eq!(identity.grant.capability.to_string(), capability, "{body}");
            assert_eq!(identity.expires_at_wall_ms, Some(NOW_MS + ttl_ms), "{body}");
        }
    }

    #[test]
    fn what_cannot_be_granted_is_refused() {
        let long = format!("{{\"clientId\":\"{}\"}}", "x".repeat(256));
        for (body, expected) in [
            (r#"{"clientId":"a","capability":{"*":["*"]}}"#, (403, 40301)),
            (r#"{"clientId":"a","capability":{"chat:*":["presence"]}}"#, (403, 40301)),
            ("{}", (400, 40001)),
            (r#"{"clientId":""}"#, (400, 40001)),
            (r#"{"clientId":7}"#, (400, 40001)),
            (&long, (400, 40001)),
            (r#"{"clientId":"a","ttl":0}"#, (400, 40001)),
            (r#"{"clientId":"a","ttl":-1}"#, (400, 40001)),
            (r#"{"clientId":"a","ttl":"1h"}"#, (400, 40001)),
            (r#"{"clientId":"a","capability":{"*":["fly"]}}"#, (400, 40001)),
            (r#"{"clientId":"a","capability":"x"}"#, (400, 40001)),
            (r#"["a",1,null]"#, (400, 40001)),
            ("[]", (400, 40001)),
            ("", (400, 40001)),
        ] {
            assert_eq!(ask("demo.chat", body), Err(expected), "{body}");
        }
    }
}
