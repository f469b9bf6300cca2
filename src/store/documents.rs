//! Rows of documents: those of one app are together, and loaded together.

use super::engine::{Batch, Engine};
use super::format::{self, documents_key, documents_of};
use super::{OpenStore, StoreError};
use crate::relay::{LOADED, Row, RowChange};

/// Reads what is needed of the documents of an app: not what devices have pushed to other engines.
///
/// # Errors
/// A row is damaged, or cannot be read.
pub fn read_documents(store: &OpenStore, app: &str) -> Result<Vec<Row>, StoreError> {
    let prefix_bytes = documents_key(app, &[]).len();
    let kinds = LOADED.iter().map(|kind| documents_key(app, &[*kind]));
    let rows = kinds.flat_map(|kind| store.engine.prefix(&kind)).map(|row| {
        let (key, row) = row?;
        let key = &key[prefix_bytes..];
        Row::decode(key, &row).map_err(|error| {
            let key = key.escape_ascii();
            StoreError::corrupt(format_args!("a row of the documents of {app}, {key}: {error}"))
        })
    });
    rows.collect()
}

/// Adds changes of the documents of an app to a batch.
pub fn write_documents(batch: &mut Batch<'_>, app: &str, changes: &[RowChange]) {
    for RowChange { key, row } in changes {
        let key = documents_key(app, key);
        match row {
            Some(row) => batch.insert(&key, row),
            None => batch.remove(&key),
        }
    }
}

/// A row of documents, as a look at the store shows it.
pub struct DocumentRow<'e> {
    pub app: String,
    pub key: &'e [u8],
    pub row: &'e [u8],
    /// `None` if it cannot be read.
    pub content: Option<Row>,
}

/// Calls `see` with every row of documents.
///
/// # Errors
/// The engine cannot be read, or the error of `see`.
pub fn each_document_row(
    engine: &Engine,
    mut see: impl FnMut(&DocumentRow<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    for row in engine.prefix(&format::DOCUMENTS) {
        let (key, row) = row?;
        let (app, rest) = documents_of(&key).unwrap_or_default();
        let content = Row::decode(rest, &row).ok();
        see(&DocumentRow { app: app.to_owned(), key: &key, row: &row, content })?;
    }
    Ok(())
}
