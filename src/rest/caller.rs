//! Authentication and authorization of REST requests.

use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::refusal::Refusal;
use crate::auth::{Capability, CredentialError, Identity, Key, Keyring, Operation};
use crate::limits::{Limits, USER_ID_BYTES_MAX};
use crate::wire::foony::{ErrorCode, Grammar, check_channel_name};

/// Base64 with optional padding: some clients omit it.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An authenticated caller.
#[derive(Clone, Debug)]
pub enum Caller<'k> {
    /// A server of the application: it may act for any client.
    Key(&'k Key),
    /// A client.
    Token(Identity),
    /// Whoever runs the server, for an app: it may do everything in the name of any client.
    Operator(Arc<str>),
}

impl<'k> Caller<'k> {
    /// Authenticates by `Basic base64(app.keyId:secret)` or `Bearer <jwt>`.
    ///
    /// # Errors
    /// 401 when the header is missing or invalid.
    pub fn identify(
        keyring: &'k Keyring,
        authorization: Option<&[u8]>,
        now_wall_ms: u64,
    ) -> Result<Self, Refusal> {
        let header = authorization.ok_or(Refusal::unauthenticated("Authorization is missing"))?;
        let (scheme, credential) = std::str::from_utf8(header)
            .ok()
            .and_then(|text| text.trim().split_once(' '))
            .ok_or(Refusal::unauthenticated("Authorization must be `Basic ...` or `Bearer ...`"))?;
        let credential = credential.trim_start();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Caller::Token(keyring.verify_token(credential, now_wall_ms)?));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(Refusal::unauthenticated("Authorization must be Basic or Bearer"));
        }
        let text = BASIC.decode(credential).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| {
            Refusal::unauthenticated("Basic must be followed by base64 text")
                .with_cause(CredentialError::Malformed)
        })?;
        Ok(Caller::Key(keyring.verify_key(&text).map_err(CredentialError::of_key)?))
    }

    /// The app of the credential.
    pub fn app(&self) -> &Arc<str> {
        match self {
            Caller::Key(key) => key.app(),
            Caller::Token(identity) => &identity.grant.app,
            Caller::Operator(app) => app,
        }
    }

    /// The name of the key; `None` for an anonymous credential, of which there is none here.
    pub fn key_name(&self) -> Option<&Arc<str>> {
        match self {
            Caller::Key(key) => key.grant().key_name.as_ref(),
            Caller::Token(identity) => identity.grant.key_name.as_ref(),
            Caller::Operator(_) => None,
        }
    }

    /// The user of a token; empty otherwise.
    pub fn user(&self) -> Arc<str> {
        match self {
            Caller::Key(_) | Caller::Operator(_) => Arc::default(),
            Caller::Token(identity) => Arc::clone(&identity.user),
        }
    }

    /// What the operator says of the user.
    pub fn metadata(&self) -> Option<&Arc<str>> {
        match self {
            Caller::Key(key) => key.metadata(),
            Caller::Token(identity) => identity.metadata.as_ref(),
            Caller::Operator(_) => None,
        }
    }

    /// `None`: everything.
    fn capability(&self) -> Option<&Capability> {
        match self {
            Caller::Key(key) => Some(key.capability()),
            Caller::Token(identity) => Some(&identity.grant.capability),
            Caller::Operator(_) => None,
        }
    }

    /// Checks the channel name, and that the caller may do the operation.
    ///
    /// # Errors
    /// 400 for the name; 403 with 40302 for the channel, 40301 for the operation.
    pub fn check(
        &self,
        channel: &str,
        operation: Operation,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        check_channel_name(channel, Grammar::Colons, limits.channel_name_bytes_max)?;
        let capability = self.capability();
        Ok(capability.map_or(Ok(()), |capability| capability.allows(channel, operation))?)
    }

    /// The client id of a publish: with a key and for an operator, any or none; with a token, the
    /// token's own.
    ///
    /// # Errors
    /// 403 when it is not the token's; 400 when it is too long.
    pub fn client_id(&self, asked: &str) -> Result<Arc<str>, Refusal> {
        match self {
            _ if asked.len() > USER_ID_BYTES_MAX => {
                Err(Refusal::bad("clientId must not have more than 255 bytes"))
            }
            Caller::Key(_) | Caller::Operator(_) => Ok(asked.into()),
            Caller::Token(identity) if asked.is_empty() || *asked == *identity.user => {
                Ok(Arc::clone(&identity.user))
            }
            Caller::Token(_) => {
                let message = "clientId must be that of the token, or left out";
                Err(Refusal::new(ErrorCode::Forbidden, message))
            }
        }
    }

    /// The key of that name, if the caller has authenticated with it.
    ///
    /// # Errors
    /// 401 for a token, 403 for another key.
    pub fn key_named(&self, name: &str) -> Result<&'k Key, Refusal> {
        match self {
            Caller::Key(key) if key.name() == name => Ok(key),
            Caller::Key(_) => Err(Refusal::new(
                ErrorCode::Forbidden,
                "the key in the path must be the one in Authorization",
            )),
            Caller::Token(_) | Caller::Operator(_) => {
                Err(Refusal::unauthenticated("this needs a key, not a token"))
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::auth::mint;
    use base64::engine::general_purpose::STANDARD as ENCODER;

    pub const NOW_MS: u64 = 1_700_000_000_000;

    pub fn keyring() -> Keyring {
        let key = |text, capability: &str| Key::from_text(text, capability.parse().unwrap());
        Keyring::new(vec![
            key("demo.main:sk:main", r#"{"*":["*"]}"#).unwrap(),
            key("demo.chat:sk_chat", r#"{"chat:*":["publish","history"]}"#).unwrap(),
        ])
        .unwrap()
    }

    pub fn basic(key: &str) -> String {
        format!("Basic {}", ENCODER.encode(key))
    }

    pub fn bearer(keyring: &Keyring, user: &str) -> String {
        let key = keyring.key("demo.main").unwrap();
        let token = mint(key, user, key.capability(), NOW_MS, 60_000).unwrap();
        format!("Bearer {token}")
    }

    fn code(result: Result<impl Sized, Refusal>) -> u32 {
        result.err().map_or(0, |refusal| refusal.code.code())
    }

    #[test]
    fn keys_and_tokens_authenticate_the_caller() {
        let keyring = keyring();
        let identify = |header: &str| {
            Caller::identify(&keyring, Some(header.as_bytes()), NOW_MS)
                .map(|caller| (caller.app().to_string(), matches!(caller, Caller::Key(_))))
                .map_err(|refusal| (refusal.status, refusal.code.code()))
        };
        let good = basic("demo.main:sk:main");
        assert_eq!(identify(&good), Ok(("demo".to_string(), true)));
        assert_eq!(identify(&good.replace("Basic", "bAsIc ")), Ok(("demo".to_string(), true)));
        let unpadded = basic("demo.chat:sk_chat");
        assert!(unpadded.ends_with('='), "else this says nothing");
        assert_eq!(identify(unpadded.trim_end_matches('=')), Ok(("demo".to_string(), true)));
        assert_eq!(identify(&bearer(&keyring, "alice")), Ok(("demo".to_string(), false)));
        for bad in [
            "",
            "Basic",
            "Basic ",
            "Basic !",
            "Basic /w==",
            &basic("demo.main:wrong"),
            &basic("demo.main"),
            &basic("demo.nobody:sk:main"),
            "Bearer x",
            &good.replace("Basic", "Digest"),
            &good.replace("Basic ", "Basic"),
        ] {
            assert_eq!(identify(bad), Err((401, 40101)), "{bad}");
        }
        let cause = |header: &str| {
            let caller = Caller::identify(&keyring, Some(header.as_bytes()), NOW_MS);
            caller.err().and_then(|refusal| refusal.cause())
        };
        for (header, expected) in [
            (basic("demo.main:wrong"), Some(CredentialError::Secret)),
            (basic("demo.nobody:sk:main"), Some(CredentialError::UnknownKey)),
            (basic("demo.main"), Some(CredentialError::Malformed)),
            ("Basic !".to_string(), Some(CredentialError::Malformed)),
            ("Bearer x".to_string(), Some(CredentialError::Malformed)),
            ("Digest x".to_string(), None),
        ] {
            assert_eq!(cause(&header), expected, "{header}");
        }
        let expired = bearer(&keyring, "alice");
        let late = Caller::identify(&keyring, Some(expired.as_bytes()), NOW_MS + 60_000);
        assert_eq!(code(late), 40102);
        assert_eq!(code(Caller::identify(&keyring, None, NOW_MS)), 40101);
        assert_eq!(code(Caller::identify(&keyring, Some(b"Basic \xff"), NOW_MS)), 40101);
    }

    #[test]
    fn channel_and_operation_have_errors_of_their_own() {
        let keyring = keyring();
        let caller = Caller::Key(keyring.key("demo.chat").unwrap());
        for (channel, operation, expected) in [
            ("chat:a", Operation::Publish, 0),
            ("chat:a", Operation::History, 0),
            ("chat:a", Operation::PresenceSubscribe, 40301),
            ("game", Operation::Publish, 40302),
            ("chat", Operation::Publish, 40302),
            ("", Operation::Publish, 40001),
            ("chat:a.b", Operation::Publish, 40001),
            ("chat:\u{fffd}", Operation::Publish, 40001),
            (&"a".repeat(256), Operation::Publish, 40001),
        ] {
            let checked = caller.check(channel, operation, &Limits::default());
            assert_eq!(code(checked), expected, "{channel} {operation:?}");
        }
        let limits = Limits { channel_name_bytes_max: 5, ..Limits::default() };
        assert_eq!(code(caller.check("chat:ab", Operation::Publish, &limits)), 40001);
    }

    #[test]
    fn a_key_may_use_any_client_id_and_a_token_its_own() {
        let keyring = keyring();
        let key = Caller::Key(keyring.key("demo.main").unwrap());
        let header = bearer(&keyring, "alice");
        let token = Caller::identify(&keyring, Some(header.as_bytes()), NOW_MS).unwrap();
        let long = "x".repeat(256);
        for (caller, asked, expected) in [
            (&key, "", Ok("")),
            (&key, "bob", Ok("bob")),
            (&key, &long, Err(40001)),
            (&token, "", Ok("alice")),
            (&token, "alice", Ok("alice")),
            (&token, "bob", Err(40300)),
            (&token, "Alice", Err(40300)),
        ] {
            let client_id = caller.client_id(asked).map_err(|refusal| refusal.code.code());
            assert_eq!(client_id.as_deref(), expected.as_ref().map(|id| *id), "{asked}");
        }
        assert!(key.key_named("demo.main").is_ok());
        assert_eq!(code(key.key_named("demo.chat")), 40300);
        assert_eq!(code(key.key_named("")), 40300);
        assert_eq!(code(token.key_named("demo.main")), 40101);
    }
}
