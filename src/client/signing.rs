//! The own signatures: an Ed25519 key, and a version that grows with each value that is signed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;

use super::state_dir::{self, Content};
use crate::signature::MetadataSignature;

const KEY_FILE: &str = "signing_key";
const VERSION_FILE: &str = "metadata_version";
/// Digits of the greatest version.
const VERSION_BYTES_MAX: usize = 20;

/// Signs one value after another.
pub(crate) struct Signer {
    key: SigningKey,
    /// Of the last signature.
    version: u64,
    /// Where the version is persisted, if it is.
    file: Option<PathBuf>,
}

impl Signer {
    /// The key of this state directory, made if there is none; without a directory a new one.
    ///
    /// # Errors
    ///
    /// The directory cannot be made, or a file cannot be read or written.
    pub fn open(state_dir: Option<&Path>) -> io::Result<Self> {
        let key = SigningKey::from_bytes(&state_dir::random_bytes(state_dir, KEY_FILE)?);
        let file = state_dir.map(|dir| dir.join(VERSION_FILE));
        let persisted = file.as_deref().map(read_version).transpose()?;
        Ok(Signer { key, version: persisted.unwrap_or_default(), file })
    }

    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Signs a value with a version above all before, on every client with this state directory
    /// whose clock is right.
    ///
    /// # Errors
    ///
    /// The version cannot be persisted.
    pub fn sign(&mut self, metadata: &str) -> io::Result<MetadataSignature> {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = now_ms.as_millis() as u64;
        let version = now_ms.max(self.version.saturating_add(1));
        if let Some(file) = &self.file {
            state_dir::write(file, version.to_string().as_bytes())?;
        }
        self.version = version;
        Ok(MetadataSignature::new(&self.key, version, now_ms, metadata.as_bytes()))
    }
}

/// A damaged file counts as 0, with a warning: versions also follow the clock.
fn read_version(file: &Path) -> io::Result<u64> {
    let bytes = match state_dir::read(file, VERSION_BYTES_MAX)? {
        Content::Missing => return Ok(0),
        Content::TooLarge => Vec::new(),
        Content::Bytes(bytes) => bytes,
    };
    let version = std::str::from_utf8(&bytes).ok().and_then(|text| text.parse().ok());
    if version.is_none() {
        state_dir::warn(file, "damaged, versions begin with the time");
    }
    Ok(version.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::state_dir::tests::{Scratch, mode};
    use super::*;

    #[test]
    fn key_and_version_outlive_the_client() {
        let scratch = Scratch::new("signing");
        let dir = scratch.dir();
        let mut signer = Signer::open(Some(&dir)).expect("a signer");
        let first = signer.sign("{}").expect("signed");
        let second = signer.sign("{}").expect("signed");
        assert!(second.version > first.version);
        let ahead = second.version + 1_000_000_000;
        fs::write(dir.join(VERSION_FILE), ahead.to_string()).expect("written");
        let mut again = Signer::open(Some(&dir)).expect("a signer");
        assert_eq!(again.key().to_bytes(), signer.key().to_bytes());
        let third = again.sign("{}").expect("signed");
        assert_eq!(third.version, ahead + 1, "also when the clock was set back");
        assert!(third.is_valid(signer.key().verifying_key().as_bytes(), b"{}"));
        assert_eq!((mode(&dir.join(KEY_FILE)), mode(&dir.join(VERSION_FILE))), (0o600, 0o600));
    }

    #[test]
    fn a_damaged_version_counts_as_none_and_a_damaged_key_is_replaced() {
        let scratch = Scratch::new("signing-damaged");
        let dir = scratch.dir();
        let signer = Signer::open(Some(&dir)).expect("a signer");
        for damaged in [&b"x"[..], b"", b"\xff", &[b'9'; 21]] {
            fs::write(dir.join(VERSION_FILE), damaged).expect("written");
            assert_eq!(Signer::open(Some(&dir)).expect("a signer").version, 0);
        }
        fs::write(dir.join(KEY_FILE), "x").expect("written");
        let replaced = Signer::open(Some(&dir)).expect("a signer");
        assert_ne!(replaced.key().to_bytes(), signer.key().to_bytes());
        let again = Signer::open(Some(&dir)).expect("a signer");
        assert_eq!(replaced.key().to_bytes(), again.key().to_bytes());
    }

    #[test]
    fn without_a_directory_every_client_has_a_key_of_its_own() {
        let (mut a, b) = (Signer::open(None).expect("a"), Signer::open(None).expect("b"));
        assert_ne!(a.key().to_bytes(), b.key().to_bytes());
        assert!(a.sign("{}").is_ok());
    }
}
