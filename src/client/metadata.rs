//! The own peer metadata: checked, kept as it was written, and persisted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ed25519_dalek::SigningKey;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::signing::Signer;
use super::state_dir::{self, Content};
use super::{ClientError, JsonObject, Result};
use crate::limits::VALUE_DEPTH_MAX;
use crate::signature::{MetadataSignature, ProvenKey};
use crate::wire::foony::json_depth;

/// Bytes of the JSON text.
pub(crate) const SIZE_MAX: usize = 4096;

const FILE: &str = "peer_metadata.json";
const EMPTY: &str = "{}";

/// Checks a text in the order of the API (client-api.md, D18): size, depth, JSON, object.
pub(crate) fn check(text: &str) -> Result<JsonObject> {
    if text.len() > SIZE_MAX {
        return Err(ClientError::SizeLimitExceeded { limit: SIZE_MAX, got: text.len() });
    }
    if json_depth(text.as_bytes()) > VALUE_DEPTH_MAX {
        return Err(ClientError::DepthLimitExceeded { limit: VALUE_DEPTH_MAX });
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ClientError::NotAMap),
        Err(error) => Err(invalid(&error)),
    }
}

fn invalid(error: &serde_json::Error) -> ClientError {
    ClientError::InvalidJson { why: error.to_string() }
}

/// The current metadata. Getters do not wait for a setter that writes to disk.
pub(crate) struct MetadataStore {
    /// Locked by a setter from the signature on until the value is current, so that versions, file
    /// and value have the same order.
    writer: Mutex<Writer>,
    current: Mutex<Current>,
    /// Set if the metadata is signed.
    key: Option<SigningKey>,
}

struct Writer {
    /// Where the text is persisted, if it is.
    file: Option<PathBuf>,
    signer: Option<Signer>,
}

#[derive(Clone)]
struct Current {
    text: Arc<str>,
    object: Arc<JsonObject>,
    signature: Option<MetadataSignature>,
}

impl MetadataStore {
    /// Reads what is persisted. A damaged or oversized file counts as `{}`, with a warning.
    /// `signer`: if the metadata is signed.
    ///
    /// # Errors
    ///
    /// The directory cannot be made, or a file cannot be read or written.
    pub(crate) fn open(
        state_dir: Option<&Path>,
        mut signer: Option<Signer>,
    ) -> std::io::Result<Self> {
        let file = state_dir.map(|dir| dir.join(FILE));
        let mut current = Current { text: EMPTY.into(), object: Arc::default(), signature: None };
        if let (Some(dir), Some(file)) = (state_dir, &file) {
            state_dir::create(dir)?;
            match parse(state_dir::read(file, SIZE_MAX)?) {
                Ok(Some(persisted)) => current = persisted,
                Ok(None) => {}
                Err(why) => state_dir::warn(file, &format!("{why}; counts as {{}}")),
            }
        }
        let text = &current.text;
        current.signature = signer.as_mut().map(|signer| signer.sign(text)).transpose()?;
        let key = signer.as_ref().map(|signer| signer.key().clone());
        let (writer, current) = (Mutex::new(Writer { file, signer }), Mutex::new(current));
        Ok(Self { writer, current, key })
    }

    /// Sets the text, which is kept verbatim. An error changes nothing.
    pub(crate) fn set_text(&self, text: &str) -> Result<()> {
        let object = Arc::new(check(text)?);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let signature = writer.write(text).map_err(|error| {
            let why = format!("the peer metadata cannot be persisted: {error}");
            ClientError::Io { why }
        })?;
        *self.lock() = Current { text: text.into(), object, signature };
        Ok(())
    }

    /// Sets the JSON of a value.
    #[cfg(test)]
    pub(crate) fn set(&self, value: &impl serde::Serialize) -> Result<()> {
        self.set_text(&serde_json::to_string(value).map_err(|error| invalid(&error))?)
    }

    pub(crate) fn text(&self) -> Arc<str> {
        self.lock().text.clone()
    }

    /// The text with its signature, if it is signed.
    pub(crate) fn signed_text(&self) -> (Arc<str>, Option<MetadataSignature>) {
        let current = self.lock();
        (current.text.clone(), current.signature)
    }

    /// Proves to a server that this client holds the key that it signs with.
    pub(crate) fn prove(&self, nonce: &[u8]) -> Option<ProvenKey> {
        self.key.as_ref().map(|key| ProvenKey::new(key, nonce))
    }

    pub(crate) fn is_signed(&self) -> bool {
        self.key.is_some()
    }

    /// The same `Arc` until the text changes.
    pub(crate) fn object(&self) -> Arc<JsonObject> {
        self.lock().object.clone()
    }

    pub(crate) fn serde<T: DeserializeOwned>(&self) -> Result<T> {
        serde(&self.text())
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Signs and persists a text.
    fn write(&mut self, text: &str) -> std::io::Result<Option<MetadataSignature>> {
        let signature = self.signer.as_mut().map(|signer| signer.sign(text)).transpose()?;
        if let Some(file) = &self.file {
            state_dir::write(file, text.as_bytes())?;
        }
        Ok(signature)
    }
}

/// A JSON text as a type of the application.
pub(crate) fn serde<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| invalid(&error))
}

fn parse(content: Content) -> std::result::Result<Option<Current>, String> {
    let bytes = match content {
        Content::Missing => return Ok(None),
        Content::TooLarge => return Err(format!("more than {SIZE_MAX} bytes")),
        Content::Bytes(bytes) => bytes,
    };
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    let object = Arc::new(check(&text).map_err(|error| error.to_string())?);
    Ok(Some(Current { text: text.into(), object, signature: None }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::super::state_dir::tests::{Scratch, mode, names};
    use super::*;

    fn nested(levels: usize) -> String {
        format!("{{\"a\":{}1{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1))
    }

    fn padded(bytes: usize) -> String {
        format!("{{{}}}", " ".repeat(bytes - 2))
    }

    #[test]
    fn the_checks_have_an_order_and_each_its_error() {
        let depth = ClientError::DepthLimitExceeded { limit: 64 };
        let table = [
            (padded(4096), Ok(())),
            (padded(4097), Err(ClientError::SizeLimitExceeded { limit: 4096, got: 4097 })),
            ("[".repeat(5000), Err(ClientError::SizeLimitExceeded { limit: 4096, got: 5000 })),
            (nested(64), Ok(())),
            (nested(65), Err(depth.clone())),
            ("[".repeat(65), Err(depth)),
            ("[1]".to_string(), Err(ClientError::NotAMap)),
            ("null".to_string(), Err(ClientError::NotAMap)),
        ];
        for (text, expected) in table {
            assert_eq!(check(&text).map(drop), expected, "{} bytes", text.len());
        }
        for text in ["", "{", "{\"a\":1}}", "{a:1}", "{\"a\":1e999}", &"[".repeat(64)] {
            let error = check(text).expect_err("no JSON");
            assert!(matches!(error, ClientError::InvalidJson { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn brackets_in_strings_have_no_depth() {
        let table = [
            (r#"{}"#, 1),
            (r#"{"a":[{}],"b":[]}"#, 3),
            (r#"{"[[[":"{{{"}"#, 1),
            (r#"{"\"[[[":"\\"}"#, 1),
            (r#"{"a\\":[["]"]]}"#, 3),
            (r#"{"é[":"\u005b["}"#, 1),
            ("]]]]{", 1),
        ];
        for (text, expected) in table {
            assert_eq!(json_depth(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn the_text_is_given_back_verbatim_and_a_refused_one_changes_nothing() {
        let store = MetadataStore::open(None, None).expect("a store");
        assert_eq!(&*store.text(), "{}");
        let text = "{ \"b\" : 1.0,\n\"a\":2 }";
        store.set_text(text).expect("set");
        let object = store.object();
        assert_eq!(store.set_text("[]"), Err(ClientError::NotAMap));
        assert_eq!(store.set(&7), Err(ClientError::NotAMap));
        assert_eq!(&*store.text(), text);
        assert!(Arc::ptr_eq(&object, &store.object()), "cached until the text changes");
        assert_eq!(object.keys().collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn values_of_the_application_go_in_and_out() {
        let store = MetadataStore::open(None, None).expect("a store");
        let value = BTreeMap::from([("role".to_string(), "till".to_string())]);
        store.set(&value).expect("set");
        assert_eq!(&*store.text(), r#"{"role":"till"}"#);
        assert_eq!(store.serde(), Ok(value));
        let other: Result<BTreeMap<String, u8>> = store.serde();
        assert!(matches!(other, Err(ClientError::InvalidJson { .. })));
        let no_json = store.set(&BTreeMap::from([((1, 2), 3)]));
        assert!(matches!(no_json, Err(ClientError::InvalidJson { .. })));
    }

    #[test]
    fn the_text_outlives_the_store_in_a_file_for_its_owner() {
        let scratch = Scratch::new("metadata");
        let dir = scratch.dir();
        let store = MetadataStore::open(Some(&dir), None).expect("a store");
        store.set_text("{\"a\": 1}").expect("set");
        store.set_text("{\"a\":  2}").expect("set");
        assert_eq!(&*MetadataStore::open(Some(&dir), None).expect("a store").text(), "{\"a\":  2}");
        assert_eq!((mode(&dir), mode(&dir.join(FILE))), (0o700, 0o600));
        assert_eq!(names(&dir), [FILE]);
    }

    #[test]
    fn a_damaged_file_counts_as_empty_until_the_next_value() {
        let scratch = Scratch::new("metadata-damaged");
        let dir = scratch.dir();
        state_dir::create(&dir).expect("a directory");
        let large = padded(4097);
        for damaged in [&b"{\"a\":"[..], b"\xff", b"[1]", b"", large.as_bytes()] {
            fs::write(dir.join(FILE), damaged).expect("written");
            let store = MetadataStore::open(Some(&dir), None).expect("a store");
            assert_eq!(&*store.text(), "{}");
            store.set_text("{\"b\":1}").expect("set");
            assert_eq!(
                &*MetadataStore::open(Some(&dir), None).expect("a store").text(),
                "{\"b\":1}"
            );
        }
    }

    #[test]
    fn a_value_that_cannot_be_persisted_is_not_set() {
        let scratch = Scratch::new("metadata-unwritable");
        let dir = scratch.dir();
        let store = MetadataStore::open(Some(&dir), None).expect("a store");
        fs::remove_dir_all(&dir).expect("removed");
        assert!(matches!(store.set_text("{\"a\":1}"), Err(ClientError::Io { .. })));
        assert_eq!(&*store.text(), "{}");
    }
}
