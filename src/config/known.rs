//! The known keys, their positions in a file, and suggestions for misspelt ones.

use std::ops::Range;

use derive_more::Display;
use serde_aux::serde_introspection::serde_introspect;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::Problem;
use super::schema::{
    Admin, Admission, Auth, Config, Cores, Data, Debugging, Documents, KeyEntry, Listen, Namespace,
    SyncWire, Webhooks,
};
use crate::limits::Limits;

/// Minimum similarity of a suggestion; 1 is equal.
const SIMILARITY_MIN: f64 = 0.6;

/// Similarity bonus of a key in the same table.
const SAME_TABLE_BONUS: f64 = 0.2;

type Keys = &'static [&'static str];

/// Every table with its keys.
pub(super) fn tables() -> [(&'static str, Keys); 14] {
    [
        ("", serde_introspect::<Config>()),
        ("cores", serde_introspect::<Cores>()),
        ("listen", serde_introspect::<Listen>()),
        ("data", serde_introspect::<Data>()),
        ("auth", serde_introspect::<Auth>()),
        ("auth.key", serde_introspect::<KeyEntry>()),
        ("admin", serde_introspect::<Admin>()),
        ("admission", serde_introspect::<Admission>()),
        ("webhooks", serde_introspect::<Webhooks>()),
        ("sync", serde_introspect::<SyncWire>()),
        ("documents", serde_introspect::<Documents>()),
        ("limits", serde_introspect::<Limits>()),
        ("debug", serde_introspect::<Debugging>()),
        ("namespace", serde_introspect::<Namespace>()),
    ]
}

/// An unknown key.
#[derive(Display)]
#[display("unknown key `{}`", joined(table, key))]
pub(super) struct Unknown {
    table: String,
    key: String,
    /// Byte range of the key in the text.
    pub offset: usize,
}

impl Unknown {
    /// The nearest known key, else all keys of the table.
    pub fn advice(&self) -> String {
        let mut best = (0.0, String::new());
        for (table, keys) in tables() {
            let bonus = if table == self.table { SAME_TABLE_BONUS } else { 0.0 };
            for key in keys {
                let similarity = strsim::normalized_damerau_levenshtein(&self.key, key);
                if similarity >= SIMILARITY_MIN && similarity + bonus > best.0 {
                    best = (similarity + bonus, joined(table, key));
                }
            }
        }
        match best.1.as_str() {
            "" => format!("known keys: {}", known_in(&self.table).unwrap_or_default().join(", ")),
            nearest => format!("did you mean `{nearest}`?"),
        }
    }
}

fn joined(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

fn known_in(table: &str) -> Option<Keys> {
    tables().into_iter().find(|(name, _)| *name == table).map(|(_, keys)| keys)
}

/// Finds the first unknown key, in the order of the text.
pub(super) fn first_unknown(root: &DeTable<'_>) -> Option<Unknown> {
    let mut unknown = Vec::new();
    collect_unknown("", root, &mut unknown);
    unknown.into_iter().min_by_key(|unknown| unknown.offset)
}

/// Recursion is bounded by the depth of the known tables.
fn collect_unknown(name: &str, table: &DeTable<'_>, found: &mut Vec<Unknown>) {
    let Some(known) = known_in(name) else { return };
    for (key, value) in table {
        let text = key.get_ref();
        if !known.contains(&text.as_ref()) {
            let offset = key.span().start;
            found.push(Unknown { table: name.to_owned(), key: text.to_string(), offset });
        } else {
            for inner in tables_in(value.get_ref()) {
                collect_unknown(&joined(name, text), inner, found);
            }
        }
    }
}

/// The tables of a value: itself, or the items of an array of tables.
fn tables_in<'v, 'i>(value: &'v DeValue<'i>) -> Vec<&'v DeTable<'i>> {
    match value {
        DeValue::Table(table) => vec![table],
        DeValue::Array(list) => list.iter().filter_map(|item| item.get_ref().as_table()).collect(),
        _ => Vec::new(),
    }
}

/// Finds the key, in the table `name`, whose value contains an offset of the text. Searches tables
/// first: the span of a table is its header only. The parser bounds the depth.
pub(super) fn path_at(name: &str, table: &DeTable<'_>, offset: usize) -> Option<String> {
    for (key, value) in table {
        let path = joined(name, key.get_ref());
        let tables = tables_in(value.get_ref());
        let inside = tables.into_iter().find_map(|inner| path_at(&path, inner, offset));
        if inside.is_some() {
            return inside;
        }
        if spans(value).any(|span| span.contains(&offset)) {
            return Some(path);
        }
    }
    None
}

/// The spans of a value and its items: the span of an array of tables is its first table only.
fn spans(value: &Spanned<DeValue<'_>>) -> impl Iterator<Item = Range<usize>> {
    let items = value.get_ref().as_array().into_iter().flatten();
    items.map(Spanned::span).chain([value.span()])
}

/// The offset of a problem's key in the text, or of the innermost table around it.
pub(super) fn offset_of(root: &DeTable<'_>, problem: &Problem) -> usize {
    let mut offset = 0;
    let mut table = root;
    for step in problem.table.split('.') {
        let Some((key, value)) = table.get_key_value(step) else { return offset };
        offset = key.span().start;
        let inner = match value.get_ref() {
            DeValue::Array(list) => list.get(problem.index).map(|item| {
                offset = item.span().start;
                item.get_ref()
            }),
            other => Some(other),
        };
        let Some(inner) = inner.and_then(DeValue::as_table) else { return offset };
        table = inner;
    }
    table.get_key_value(problem.key).map_or(offset, |(key, _)| key.span().start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_lists_its_keys() {
        for (name, keys) in tables() {
            assert!(!keys.is_empty(), "{name}");
        }
        assert!(known_in("namespace").unwrap().contains(&"match"));
        assert!(!known_in("").unwrap().contains(&"origin"));
    }

    #[test]
    fn advice_prefers_the_same_table_and_otherwise_looks_elsewhere() {
        for (table, key, expected) in [
            ("listen", "htp", "did you mean `listen.http`?"),
            ("", "listne", "did you mean `listen`?"),
            ("", "spin_us", "did you mean `cores.spin_us`?"),
            ("auth", "keys", "did you mean `auth.key`?"),
            ("debug", "qqq", "known keys: demo, echo"),
        ] {
            let unknown = Unknown { table: table.to_owned(), key: key.to_owned(), offset: 0 };
            assert_eq!(unknown.advice(), expected);
        }
    }
}
