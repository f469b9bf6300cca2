//! The configured keys, and authentication with them.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jsonwebtoken::decode_header;

use super::key::{Fingerprint, SECRET_BYTES_MAX, Secret};
use super::verifier::{Claims, Verifier};
use super::{Capability, CredentialError, Key, KeyError};

/// Longest token in bytes. Longer ones are refused without parsing.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The app and capability of a credential, and its key. Shared by all users of the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub app: Arc<str>,
    /// `None` for anonymous sessions.
    pub key_name: Option<Arc<str>>,
    /// Of the key's secret or public key, so that another one of the same name is told apart.
    pub(super) fingerprint: Fingerprint,
    pub capability: Arc<Capability>,
}

impl Grant {
    /// All operations in an app, without a key.
    pub fn anonymous(app: &str) -> Self {
        let (fingerprint, capability) = (Fingerprint::default(), Arc::new(Capability::all()));
        Grant { app: app.into(), key_name: None, fingerprint, capability }
    }
}

/// An authenticated user, and what the user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: Arc<str>,
    pub grant: Arc<Grant>,
    /// Expiry, milliseconds since the Unix epoch; `None` for a client that authenticated with a
    /// key.
    pub expires_at_wall_ms: Option<u64>,
    /// What the operator says of the user, the text of a JSON object: a claim of the token, else of
    /// the key.
    pub metadata: Option<Arc<str>>,
}

/// Name of the claim with the metadata of a user, unless configured.
pub const METADATA_CLAIM: &str = "ism";

/// The configured keys. Immutable; shards share one.
pub struct Keyring {
    /// In the order of the configuration.
    keys: Vec<Key>,
    /// By the `kid` of tokens: a key's name, or an id in its JWK set.
    verifiers: HashMap<String, Verifier>,
    decoy: Secret,
    metadata_claim: Box<str>,
}

impl Keyring {
    /// # Errors
    /// A key that cannot be used: its name, and why.
    pub fn new(keys: Vec<Key>) -> Result<Self, (String, KeyError)> {
        let mut ring = Keyring {
            keys: Vec::new(),
            verifiers: HashMap::new(),
            decoy: Secret::decoy(),
            metadata_claim: METADATA_CLAIM.into(),
        };
        for key in keys {
            let name = key.name().to_owned();
            ring.add(key).map_err(|error| (name, error))?;
        }
        Ok(ring)
    }

    fn add(&mut self, key: Key) -> Result<(), KeyError> {
        if self.key(key.name()).is_some() {
            return Err(KeyError::Duplicate(key.name().to_owned()));
        }
        for (kid, verifier) in Verifier::of_key(self.keys.len(), &key)? {
            if self.verifiers.contains_key(&kid) {
                return Err(KeyError::Duplicate(kid));
            }
            self.verifiers.insert(kid, verifier);
        }
        self.keys.push(key);
        Ok(())
    }

    /// The claim of tokens with the metadata of the user, in place of [`METADATA_CLAIM`].
    pub fn with_metadata_claim(self, name: &str) -> Self {
        Keyring { metadata_claim: name.into(), ..self }
    }

    /// The keys, in the order of the configuration.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The key of that name.
    pub fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name() == name)
    }

    /// Whether a session with this grant of an earlier keyring may go on: its key is still here,
    /// with the same secret or public key, and allows what the grant does. The keys of a JWK set
    /// may change; tokens that those gone have signed are valid until they expire.
    pub fn upholds(&self, grant: &Grant) -> bool {
        let key = grant.key_name.as_ref().and_then(|name| self.key(name));
        key.map(Key::grant).is_some_and(|now| {
            now.fingerprint == grant.fingerprint && now.capability.covers(&grant.capability)
        })
    }

    /// Verifies a bearer token (a compact JWS, RFC 7515). `now_wall_ms`: milliseconds since the
    /// Unix epoch. The `kid` selects the key, and the key determines the algorithm. Tokens without
    /// `exp` are refused.
    ///
    /// # Errors
    /// [`CredentialError`]: the first failed check; the signature is checked before the claims.
    pub fn verify_token(&self, token: &str, now_wall_ms: u64) -> Result<Identity, CredentialError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(CredentialError::TooLong);
        }
        let header = decode_header(token).map_err(|_| CredentialError::Malformed)?;
        if header.crit.is_some() {
            // RFC 7515 section 4.1.11: critical extensions; none is supported.
            return Err(CredentialError::Malformed);
        }
        let kid = header.kid.ok_or(CredentialError::MissingKeyId)?;
        let verifier = self.verifiers.get(&kid).ok_or(CredentialError::UnknownKey)?;
        let mut claims = verifier.verify(token)?;
        let metadata = claims.metadata(&self.metadata_claim)?;
        let identity = admit(&self.keys[verifier.key], claims, now_wall_ms)?;
        Ok(Identity { metadata: metadata.or(identity.metadata), ..identity })
    }

    /// Verifies a key in its text form `app.keyId:secret`, split at the first colon. An unknown
    /// name takes as long as a wrong secret. [`Key::identity`] makes the identity.
    ///
    /// # Errors
    /// [`CredentialError`]; clients cannot authenticate with a key that has no secret.
    pub fn verify_key(&self, text: &str) -> Result<&Key, CredentialError> {
        let (name, candidate) = text.split_once(':').ok_or(CredentialError::Malformed)?;
        if candidate.len() > SECRET_BYTES_MAX {
            return Err(CredentialError::TooLong);
        }
        let key = self.key(name);
        let secret = key.and_then(|key| key.secret.as_ref());
        let equal = secret.unwrap_or(&self.decoy).matches(candidate);
        match (key, secret) {
            (Some(key), Some(_)) if equal => Ok(key),
            (Some(_), _) => Err(CredentialError::Signature),
            (None, _) => Err(CredentialError::UnknownKey),
        }
    }
}

/// Names and counts only.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(Key::name)).finish()
    }
}

/// Makes an identity from verified claims: checks the times and the user id, and that the
/// capability is within that of the key.
fn admit(key: &Key, claims: Claims, now_wall_ms: u64) -> Result<Identity, CredentialError> {
    let expires_at_wall_ms = Some(claims.expiry(now_wall_ms)?);
    let owner = key.identity(claims.sub.as_deref().unwrap_or_default())?;
    match claims.cap {
        None => Ok(Identity { expires_at_wall_ms, ..owner }),
        Some(asked) if key.capability().covers(&asked) => {
            let grant = Grant { capability: Arc::new(asked), ..Grant::clone(&owner.grant) };
            Ok(Identity { grant: Arc::new(grant), expires_at_wall_ms, ..owner })
        }
        Some(_) => Err(CredentialError::ExceedsKey),
    }
}
