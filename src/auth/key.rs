//! A configured key: its name, its key material, its capability.

use std::sync::Arc;

use derive_more::Debug;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::keyring::{Grant, Identity};
use super::{Capability, CredentialError, KeyError};
use crate::limits::USER_ID_BYTES_MAX;

/// Longest name of a key in bytes. Longer ones are refused at start-up.
const KEY_NAME_BYTES_MAX: usize = 128;

/// Longest secret in bytes; longer ones are refused at start-up. Comparisons always read this many
/// bytes, so that their duration does not depend on the length.
pub(super) const SECRET_BYTES_MAX: usize = 256;

/// `app.keyId`, as in `demo.kid_main`. The app is the part before the first dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName {
    text: Arc<str>,
    app: Arc<str>,
}

impl KeyName {
    /// # Errors
    /// [`KeyError::Name`] unless both parts are non-empty. Colons are refused because the text form
    /// of a key is split at the first one.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        match text.split_once('.') {
            Some((app, id))
                if !app.is_empty()
                    && !id.is_empty()
                    && !text.contains(':')
                    && text.len() <= KEY_NAME_BYTES_MAX =>
            {
                Ok(KeyName { text: text.into(), app: app.into() })
            }
            _ => Err(KeyError::Name(text.to_owned())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A shared secret. `Debug` does not print it.
#[derive(Clone, Debug)]
#[debug("Secret(..)")]
pub(super) struct Secret(Box<[u8]>);

impl Secret {
    fn new(text: &str) -> Result<Self, KeyError> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > SECRET_BYTES_MAX {
            return Err(KeyError::Secret);
        }
        Ok(Secret(bytes.into()))
    }

    /// A random secret, compared with when the key is unknown so that the duration is the same.
    pub(super) fn decoy() -> Self {
        Secret([0; SECRET_BYTES_MAX].into())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Compares in constant time.
    pub(super) fn matches(&self, candidate: &str) -> bool {
        let same_length = self.0.len().ct_eq(&candidate.len());
        let same_bytes = padded(&self.0).ct_eq(&padded(candidate.as_bytes()));
        (same_length & same_bytes).into()
    }
}

/// The first [`SECRET_BYTES_MAX`] bytes, padded with zeros.
fn padded(bytes: &[u8]) -> [u8; SECRET_BYTES_MAX] {
    let mut buffer = [0; SECRET_BYTES_MAX];
    let kept = bytes.len().min(SECRET_BYTES_MAX);
    buffer[..kept].copy_from_slice(&bytes[..kept]);
    buffer
}

/// Asymmetric signature algorithms (RFC 7518 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "UPPERCASE")]
pub enum SignatureAlgorithm {
    Rs256,
    Es256,
}

/// Key material. It determines the algorithm of the key's tokens.
#[derive(Clone, Debug)]
pub enum Material {
    /// A shared secret: the bytes of its UTF-8 text. Only with it the server can mint tokens, and
    /// clients can authenticate with the key itself.
    #[debug("Hs256(..)")]
    Hs256(String),
    /// One public key, PEM.
    #[debug("PublicKey(..)")]
    PublicKey { algorithm: SignatureAlgorithm, pem: String },
    /// The public keys of an issuer: the JSON text of a JWK set (RFC 7517). The `kid` of a token
    /// selects one; with `algorithm`, keys for other algorithms are ignored.
    #[debug("Jwks(..)")]
    Jwks { json: String, algorithm: Option<SignatureAlgorithm> },
}

/// The first bytes of a SHA-256; zero for a JWK set and for no key.
pub(super) type Fingerprint = [u8; 8];

impl Material {
    fn fingerprint(&self) -> Fingerprint {
        let text = match self {
            Material::Hs256(text) | Material::PublicKey { pem: text, .. } => text,
            Material::Jwks { .. } => return Fingerprint::default(),
        };
        let digest = Sha256::digest(text);
        std::array::from_fn(|at| digest[at])
    }
}

/// Required claims of a key's tokens. A token with an `aud` is refused unless that audience is
/// configured (RFC 7519 section 4.1.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// The required `iss`; `None` does not check it.
    pub issuer: Option<String>,
    /// The `aud` that tokens must have or include.
    pub audience: Option<String>,
}

/// A key: clients authenticate with it, or with tokens that it has signed.
#[derive(Clone, Debug)]
pub struct Key {
    name: KeyName,
    pub(super) material: Material,
    pub(super) secret: Option<Secret>,
    grant: Arc<Grant>,
    pub(super) rules: TokenRules,
    metadata: Option<Arc<str>>,
}

impl Key {
    /// # Errors
    /// The name or the secret is invalid. Public keys are parsed by
    /// [`Keyring::new`](super::Keyring::new).
    pub fn new(name: &str, material: Material, capability: Capability) -> Result<Self, KeyError> {
        let secret = match &material {
            Material::Hs256(text) => Some(Secret::new(text)?),
            Material::PublicKey { .. } | Material::Jwks { .. } => None,
        };
        let name = KeyName::parse(name)?;
        let grant = Arc::new(Grant {
            app: Arc::clone(&name.app),
            key_name: Some(Arc::clone(&name.text)),
            fingerprint: material.fingerprint(),
            capability: Arc::new(capability),
        });
        let rules = TokenRules::default();
        Ok(Key { name, material, secret, grant, rules, metadata: None })
    }

    /// Reads `app.keyId:secret`, split at the first colon.
    ///
    /// # Errors
    /// There is no colon, or the name or the secret is invalid.
    pub fn from_text(text: &str, capability: Capability) -> Result<Self, KeyError> {
        let (name, secret) = text.split_once(':').ok_or(KeyError::Secret)?;
        Key::new(name, Material::Hs256(secret.to_owned()), capability)
    }

    /// Sets the required claims of its tokens.
    pub fn with_rules(self, rules: TokenRules) -> Self {
        Key { rules, ..self }
    }

    /// Sets what the operator says of its users, the text of a JSON object. A claim of a token
    /// replaces it.
    pub fn with_metadata(self, metadata: Option<Arc<str>>) -> Self {
        Key { metadata, ..self }
    }

    /// Its name, `app.keyId`.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The app that the key belongs to.
    pub fn app(&self) -> &Arc<str> {
        &self.name.app
    }

    /// What the key grants, and its app.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// What the operator says of its users.
    pub fn metadata(&self) -> Option<&Arc<str>> {
        self.metadata.as_ref()
    }

    /// What the key grants.
    pub fn capability(&self) -> &Arc<Capability> {
        &self.grant.capability
    }

    /// The identity of a client that authenticated with the key itself. `user`: the id that the
    /// client or the server has chosen. It does not expire.
    ///
    /// # Errors
    /// [`CredentialError::Subject`] for a user id that is empty or too long.
    pub fn identity(&self, user: &str) -> Result<Identity, CredentialError> {
        Ok(Identity {
            user: user_id(user)?,
            grant: Arc::clone(&self.grant),
            expires_at_wall_ms: None,
            metadata: self.metadata.clone(),
        })
    }
}

/// Checks a user id: 1 to [`USER_ID_BYTES_MAX`] bytes.
pub(super) fn user_id(text: &str) -> Result<Arc<str>, CredentialError> {
    if text.is_empty() || text.len() > USER_ID_BYTES_MAX {
        return Err(CredentialError::Subject);
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_name_has_two_parts_and_no_colon() {
        assert_eq!(&*KeyName::parse("demo.kid_main").unwrap().app, "demo");
        assert_eq!(&*KeyName::parse("a.b.c").unwrap().app, "a");
        let long = format!("a.{}", "k".repeat(127));
        for text in ["", "demo", ".kid", "demo.", ".", "a.b:c", &long] {
            assert_eq!(KeyName::parse(text), Err(KeyError::Name(text.to_owned())));
        }
    }

    #[test]
    fn a_secret_matches_itself_only() {
        let secret = Secret::new("sk_é").unwrap();
        assert!(secret.matches("sk_é"));
        for candidate in ["", "sk_e", "sk_é ", "sk_é\0", "sk_", &"x".repeat(300)] {
            assert!(!secret.matches(candidate), "{candidate:?}");
        }
        assert!(!Secret::new(&"x".repeat(256)).unwrap().matches(&"x".repeat(257)));
        assert!(Secret::new("").is_err() && Secret::new(&"x".repeat(257)).is_err());
    }

    #[test]
    fn nothing_printed_for_debugging_contains_a_secret() {
        let key = Key::from_text("demo.kid:hunter2", Capability::all()).unwrap();
        assert!(!format!("{key:?}").contains("hunter2"));
    }

    #[test]
    fn the_text_of_a_key_is_split_at_the_first_colon() {
        let key = Key::from_text("demo.kid:a:b", Capability::all()).unwrap();
        assert_eq!((key.name(), &**key.app()), ("demo.kid", "demo"));
        assert_eq!(key.secret.unwrap().as_bytes(), b"a:b");
        assert!(Key::from_text("demo.kid", Capability::all()).is_err());
    }
}
