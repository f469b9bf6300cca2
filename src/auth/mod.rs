//! Who may do what: API keys, bearer tokens and the capabilities they carry.
//!
//! Owns the one decision "does this credential name a user, and what may that user do". It holds
//! nothing that changes after start-up, and reads neither a clock nor a file: the moment comes with
//! the call, key material comes with the configuration. It knows nothing of any wire.

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
pub use keyring::{Grant, Identity, Keyring, TOKEN_BYTES_MAX};
pub use mint::{MintError, TOKEN_TTL_MS_DEFAULT, mint};
pub use origin::{Origin, Origins, is_direct_host, without_port};
pub use refusals::Refusals;
