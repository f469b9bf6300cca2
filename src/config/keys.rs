//! Builds the key ring from the `[[auth.key]]` entries and the files that they name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dev_key::{self, DevKey};
use super::schema::{KeyAlgorithm, KeyEntry};
use super::{Config, ConfigError};
use crate::auth::{Key, Keyring, Material, MetricsAccess, SignatureAlgorithm, TokenRules};

impl Config {
    /// Builds the key ring: the configured keys in the order of the file, then `development_key`.
    ///
    /// # Errors
    /// One line with the key, the file that it comes from, and what is wrong.
    pub fn keyring(&self, development_key: Option<Key>) -> Result<Keyring, ConfigError> {
        let mut keys = Vec::new();
        for entry in &self.auth.key {
            keys.push(self.key(entry)?);
        }
        keys.extend(development_key);
        let ring = Keyring::new(keys);
        let ring = ring.map(|ring| ring.with_metadata_claim(&self.auth.identity_claim.0));
        ring.map_err(|(name, error)| {
            let entry = self.auth.key.iter().find(|entry| entry.name == name);
            let file = entry.and_then(material_file).map(|file| self.beside(file));
            let place = file.map_or_else(String::new, |path| format!(" ({})", path.display()));
            ConfigError::new(format!("config: auth.key `{name}`{place}"), error.to_string())
        })
    }

    /// The development key, used while no key is configured; stored in the data directory, if any.
    ///
    /// # Errors
    /// As [`dev_key::load_or_create`].
    pub fn development_key(&self) -> Result<Option<DevKey>, ConfigError> {
        if !self.auth.key.is_empty() {
            return Ok(None);
        }
        self.data_dir().map_or_else(dev_key::generate, dev_key::load_or_create).map(Some)
    }

    /// The admin token: of the environment, else `token` of the file, else the content of its
    /// `token_file`.
    ///
    /// # Errors
    /// One line with the key: the file cannot be read, or a required token is missing.
    pub fn admin_token(&self, environment: Option<String>) -> Result<Option<String>, ConfigError> {
        let in_file = self.admin.token.as_ref().map(|token| token.expose().to_owned());
        let token = match (environment.or(in_file), &self.admin.token_file) {
            (None, Some(file)) => Some(self.read("config: admin.token_file", file)?),
            (token, _) => token,
        };
        let token = token.map(|token| token.trim().to_owned());
        match (&token, self.admin.metrics) {
            (Some(token), _) if token.is_empty() => {
                let why = "the file is empty, put a random text into it";
                Err(ConfigError::new("config: admin.token_file".to_owned(), why))
            }
            (None, MetricsAccess::Token) => Err(ConfigError::new(
                "config: admin.metrics".to_owned(),
                "it is \"token\" and there is none: give [admin] token, token_file or \
                 HEADCOUNT_ADMIN_TOKEN",
            )),
            _ => Ok(token),
        }
    }

    fn key(&self, entry: &KeyEntry) -> Result<Key, ConfigError> {
        let what = || format!("config: auth.key `{}`", entry.name);
        let rules = TokenRules { issuer: entry.issuer.clone(), audience: entry.audience.clone() };
        let key = Key::new(&entry.name, self.material(entry)?, entry.capability.clone());
        let key = key.map_err(|error| ConfigError::new(what(), error.to_string()))?;
        Ok(key.with_rules(rules).with_metadata(identity_metadata(entry)))
    }

    fn material(&self, entry: &KeyEntry) -> Result<Material, ConfigError> {
        let algorithm = entry.algorithm.and_then(signature_algorithm);
        let what = format!("config: auth.key `{}`", entry.name);
        match (&entry.secret, &entry.public_key_file, &entry.jwks_file, algorithm) {
            (Some(secret), ..) => Ok(Material::Hs256(secret.expose().to_owned())),
            (_, Some(file), _, Some(algorithm)) => {
                Ok(Material::PublicKey { algorithm, pem: self.read(&what, file)? })
            }
            (_, _, Some(file), algorithm) => {
                Ok(Material::Jwks { json: self.read(&what, file)?, algorithm })
            }
            _ => Err(ConfigError::new(
                what,
                "give a `secret`, a `public_key_file` with its `algorithm`, or a `jwks_file`",
            )),
        }
    }

    fn read(&self, what: &str, file: &Path) -> Result<String, ConfigError> {
        let path = self.beside(file);
        fs::read_to_string(&path).map_err(|error| {
            ConfigError::new(
                format!("{what}: cannot read {}", path.display()),
                format!("{error}; paths are relative to the configuration file"),
            )
        })
    }

    /// Resolves a path relative to the directory of the configuration file.
    fn beside(&self, file: &Path) -> PathBuf {
        let directory = self.origin.as_deref().and_then(Path::parent);
        directory.map_or_else(|| file.to_owned(), |directory| directory.join(file))
    }
}

/// The text of a JSON object. A valid configuration has one that can be written.
pub(super) fn identity_metadata(entry: &KeyEntry) -> Option<Arc<str>> {
    let table = entry.identity_metadata.as_ref()?;
    serde_json::to_string(table).ok().map(Arc::from)
}

fn material_file(entry: &KeyEntry) -> Option<&Path> {
    entry.public_key_file.as_deref().or(entry.jwks_file.as_deref())
}

fn signature_algorithm(algorithm: KeyAlgorithm) -> Option<SignatureAlgorithm> {
    match algorithm {
        KeyAlgorithm::Hs256 => None,
        KeyAlgorithm::Rs256 => Some(SignatureAlgorithm::Rs256),
        KeyAlgorithm::Es256 => Some(SignatureAlgorithm::Es256),
    }
}
