//! Authentication and authorization: API keys, bearer tokens, capabilities.
//!
//! Invariant: immutable, without a clock or file access: a reload makes another keyring. The caller
//! passes the time, the configuration the key material. It must never know wire protocols.

mod capability;
mod error;
mod key;
mod keyring;
mod mint;
mod origin;
mod refusals;
mod verifier;

pub use capability::{CAPABILITY_PATTERNS_MAX, Capability, Denied, Operation};
pub use error::{CredentialError, KeyError};
pub use key::{Key, KeyName, Material, SignatureAlgorithm, TokenRules};
pub use keyring::{Grant, Identity, Keyring, METADATA_CLAIM, TOKEN_BYTES_MAX};
pub use mint::{MintError, TOKEN_TTL_MS_DEFAULT, mint};
pub use origin::{Origin, Origins, is_direct_host, without_port};
pub use refusals::Refusals;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may read `/metrics`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MetricsAccess {
    /// Whoever can connect.
    #[default]
    Open,
    /// Clients with the admin token.
    Token,
}
