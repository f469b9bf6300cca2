//! The configuration file: its keys and defaults, their validation, and the settings made from
//! them.
//!
//! Invariant: a [`Config`] that was read is valid. What depends on the command line is checked
//! later ([`Config::check_exposure`]). It must never open a socket or start a thread.

mod check;
pub mod dev_key;
mod explain;
mod exposure;
mod keys;
mod known;
mod print;
mod reference;
mod reload;
mod schema;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;
use toml::de::DeTable;

use crate::policy::{Durability, Policies, Policy};
use crate::relay::RelayPolicy;

pub use dev_key::{create_data_dir, replace_file};
pub use exposure::{Anonymous, Demo, InsecurePlaintext};
pub use schema::{
    Admin, Admission, Auth, Config, Cores, Data, Debugging, Documents, IdentityClaim, KeyAlgorithm,
    KeyEntry, Listen, Namespace, SecretText, Shards, SyncWire, TenByteLayout, Webhooks,
};

/// One line, `what: why`, that says what to do. The command line prints it after `error: ` and
/// exits with 78 (`EX_CONFIG` of sysexits.h).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what}: {why}")]
pub struct ConfigError {
    what: String,
    why: String,
}

impl ConfigError {
    fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        ConfigError { what: what.into(), why: why.into() }
    }
}

impl Config {
    /// Parses and validates a configuration. `origin`: its file, for errors; relative paths in it
    /// are resolved against the directory of that file.
    ///
    /// # Errors
    /// One line with the key, the file and the line number, that says what to do.
    pub fn from_toml(text: &str, origin: &Path) -> Result<Config, ConfigError> {
        let file = origin.display();
        let at = |what: String, offset: usize, why: String| {
            ConfigError::new(format!("config: {what} in {file} line {}", line(text, offset)), why)
        };
        let syntax = |error: toml::de::Error| {
            at("syntax".to_owned(), error.span().map_or(0, |span| span.start), one_line(&error))
        };
        let table = DeTable::parse(text).map_err(syntax)?;
        if let Some(unknown) = known::first_unknown(table.get_ref()) {
            return Err(at(unknown.to_string(), unknown.offset, unknown.advice()));
        }
        let mut config: Config = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let what = known::path_at("", table.get_ref(), offset)
                .map_or_else(|| "value".to_owned(), |path| format!("`{path}`"));
            at(what, offset, one_line(&error))
        })?;
        config.origin = Some(origin.to_owned());
        check::problem(&config).map_or(Ok(()), |problem| {
            let offset = known::offset_of(table.get_ref(), &problem);
            Err(at(problem.to_string(), offset, problem.why.clone()))
        })?;
        Ok(config)
    }

    /// Reads and validates a configuration file.
    ///
    /// # Errors
    /// As [`Config::from_toml`], or when the file cannot be read.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| {
            ConfigError::new(
                format!("config: cannot read {}", path.display()),
                format!("{error}; every key has a default, so the file may also be left out"),
            )
        })?;
        Config::from_toml(&text, path)
    }

    /// Validates a configuration that the command line has changed.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn check(&self) -> Result<(), ConfigError> {
        check::problem(self).map_or(Ok(()), |problem| {
            Err(ConfigError::new(format!("config: {problem}"), problem.why.clone()))
        })
    }

    /// Directory of the durable data and the development key; `None` keeps everything in memory.
    pub fn data_dir(&self) -> Option<&Path> {
        let dir = self.data.dir.as_path();
        (!dir.as_os_str().is_empty()).then_some(dir)
    }

    /// On disk, if there is a directory for it.
    fn best_durability(&self) -> Durability {
        match self.data_dir() {
            Some(_) => Durability::Disk,
            None => Durability::Memory,
        }
    }

    /// What the relay of documents keeps.
    pub fn relay(&self) -> RelayPolicy {
        let Documents { durability, bytes_max, delta_bytes_max } = self.documents;
        RelayPolicy {
            durability: durability.unwrap_or(self.best_durability()),
            bytes_max,
            delta_bytes_max: usize::try_from(delta_bytes_max).unwrap_or(usize::MAX),
        }
    }

    /// The policies of channels: the namespaces in the order of the file, and the defaults.
    pub fn policies(&self) -> Policies {
        let default = Arc::new(Policy::default());
        let rule = |namespace: &Namespace| {
            let policy = namespace.policy(&default).with_presence_log(self.best_durability());
            (namespace.pattern.clone(), Arc::new(policy))
        };
        Policies { rules: self.namespace.iter().map(rule).collect(), default: Arc::clone(&default) }
    }
}

/// The line number of a byte offset, from 1.
fn line(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

fn one_line(error: &toml::de::Error) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let advice = match message.as_str() {
        "invalid type: map, expected a sequence" => ", write its name in double brackets, [[name]]",
        _ => "",
    };
    message + advice
}
