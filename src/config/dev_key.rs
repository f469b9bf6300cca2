//! The development key: generated once, stored in the data directory, readable by its owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ConfigError;
use super::exposure::DEVELOPMENT_APP;
use crate::auth::{Capability, Key};

/// File in the data directory that holds the key as `app.keyId:secret` and a line end.
pub const FILE_NAME: &str = "dev-key";

/// Random bytes of a secret; 24 become 32 characters of base64url.
const SECRET_RANDOM_BYTES: usize = 24;

/// A development key, and its text to copy.
#[derive(Clone)]
pub struct DevKey {
    pub key: Key,
    /// `app.keyId:secret`; confidential.
    pub text: String,
}

/// Loads the key of the data directory; creates both if they do not exist.
///
/// # Errors
/// One line with the path: the directory cannot be written, or the file cannot be read, is readable
/// by other users, or does not contain a key.
pub fn load_or_create(data_dir: &Path) -> Result<DevKey, ConfigError> {
    create_data_dir(data_dir)?;
    let path = data_dir.join(FILE_NAME);
    if !exists(&path)? {
        let text = generate()?.text;
        replace_file(data_dir, FILE_NAME, &text).map_err(|error| unwritable(data_dir, &error))?;
    }
    load(&path)
}

/// Loads the key of the data directory, if it has one.
///
/// # Errors
/// As [`load_or_create`], without those of writing.
pub fn load_kept(data_dir: &Path) -> Result<Option<DevKey>, ConfigError> {
    let path = data_dir.join(FILE_NAME);
    if exists(&path)? { load(&path).map(Some) } else { Ok(None) }
}

/// Generates a key that is not stored, for servers without a data directory.
///
/// # Errors
/// The kernel returns no random bytes.
pub fn generate() -> Result<DevKey, ConfigError> {
    let mut random = [0; SECRET_RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(|error| {
        ConfigError::new("development key", format!("the kernel returns no random bytes: {error}"))
    })?;
    parse(format!("{DEVELOPMENT_APP}.kid_dev:sk_{}", URL_SAFE_NO_PAD.encode(random)))
        .map_err(|why| ConfigError::new("development key", why))
}

fn parse(text: String) -> Result<DevKey, String> {
    let key = Key::from_text(&text, Capability::all()).map_err(|error| error.to_string())?;
    Ok(DevKey { key, text })
}

/// Creates the data directory, readable by its owner only, if it does not exist.
///
/// # Errors
/// One line with the path and what to do.
pub fn create_data_dir(dir: &Path) -> Result<(), ConfigError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(|error| unwritable(dir, &error))
}

fn exists(path: &Path) -> Result<bool, ConfigError> {
    path.try_exists().map_err(|error| {
        ConfigError::new(format!("development key {}", path.display()), error.to_string())
    })
}

/// Replaces a file of the data directory atomically, also across a crash of the machine. Only its
/// owner may read it.
pub fn replace_file(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let draft = dir.join(format!("{name}.{}", process::id()));
    let written = write_private(&draft, text).and_then(|()| fs::rename(&draft, dir.join(name)));
    if written.is_err() {
        // Best effort: a leftover file is never read.
        let _ = fs::remove_file(&draft);
    }
    written.and_then(|()| File::open(dir)?.sync_all())
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

fn load(path: &Path) -> Result<DevKey, ConfigError> {
    let refuse = |why: String| ConfigError::new(format!("development key {}", path.display()), why);
    let (mode, text) = read(path)
        .map_err(|error| refuse(format!("cannot be read: {error}; run as the user who owns it")))?;
    if mode & 0o077 != 0 {
        return Err(refuse(format!(
            "other users can read or change it (mode {mode:04o}); run `chmod 600` on it, or \
             delete it to get a new one"
        )));
    }
    parse(text.trim_end().to_owned())
        .map_err(|why| refuse(format!("not a key: {why}; delete it to get a new one")))
}

/// Permission bits and content, read from one open file.
fn read(path: &Path) -> io::Result<(u32, String)> {
    let mut file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok((mode, text))
}

fn unwritable(dir: &Path, error: &io::Error) -> ConfigError {
    ConfigError::new(
        format!("data directory {}", dir.display()),
        format!(
            "cannot be written: {error}; set `data.dir` to a directory this user may write, or to \
             \"\" for memory only"
        ),
    )
}
