//! `config reference`: every key, in Markdown. Types, defaults and texts are those of the structs
//! that are parsed, ranges those that are checked.

use std::fmt::Write;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Config;
use super::check::{Bound, bounds};
use crate::policy::Policy;

const TITLE: &str = "# Configuration\n";

const INTRODUCTION: &str = "
This page is the output of `headcount config reference`.

The configuration is a TOML file: `headcount serve --config FILE`, or the environment variable
`HEADCOUNT_CONFIG`. Every key is optional unless it says so, and so is the file. It is read at start
only. Options of `serve` win over the file.

- An unknown key is refused, and the error suggests the nearest known name. A value out of range is
  refused with the range.
- The unit is in the name of a key: `_us` microseconds, `_ms` milliseconds, `_s` seconds, `_bytes`
  bytes.
- `headcount config check FILE` says whether `serve` would accept a file, `headcount config print
  FILE` shows the effective values, and `headcount config explain CHANNEL` shows those of a channel
  and where each comes from.
- Keys of `[limits]` apply per process unless they state otherwise. [`refusals.md`](refusals.md) has
  what a client sees when one is reached.
- Environment: `HEADCOUNT_ADMIN_TOKEN` is the admin token, `HEADCOUNT_LOG` says what is logged. An
  empty variable counts as unset.
";

/// A table of the file, with the schema of its struct.
struct Table {
    /// As in errors: `auth.key`.
    name: String,
    heading: String,
    schema: Map<String, Value>,
}

impl Config {
    /// The reference of all keys, as Markdown.
    pub fn reference() -> String {
        let mut tables = Vec::new();
        collect_tables("", &schema_of::<Config>(), &mut tables);
        let mut page = format!("{TITLE}{INTRODUCTION}");
        for table in &tables {
            // Writing to a `String` cannot fail.
            let _ = write!(page, "\n{}", section(table));
        }
        page
    }
}

/// The schema of a type, without references.
fn schema_of<T: JsonSchema>() -> Map<String, Value> {
    let inlined = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = inlined.into_generator().into_root_schema_for::<T>();
    schema.as_object().cloned().unwrap_or_default()
}

fn properties(schema: &Map<String, Value>) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
    let all = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    all.filter_map(|(key, value)| Some((key, value.as_object()?)))
}

/// The tables inside a table, in the order of the struct. Recursion is bounded by the types.
fn collect_tables(name: &str, schema: &Map<String, Value>, tables: &mut Vec<Table>) {
    for (key, property) in properties(schema) {
        let Some((inner, is_array)) = inner_table(property) else { continue };
        let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        let heading = if is_array { format!("[[{name}]]") } else { format!("[{name}]") };
        tables.push(Table { name: name.clone(), heading, schema: inner.clone() });
        collect_tables(&name, inner, tables);
    }
}

/// The struct of a table, or of the items of an array of tables.
fn inner_table(property: &Map<String, Value>) -> Option<(&Map<String, Value>, bool)> {
    if property.contains_key("properties") {
        return Some((property, false));
    }
    let items = property.get("items")?.as_object()?;
    items.contains_key("properties").then_some((items, true))
}

fn section(table: &Table) -> String {
    let summary = text(table.schema.get("description"));
    // The doc comment begins with the name of the table, which is the heading here.
    let summary = summary.split_once("`: ").map_or(summary.as_str(), |(_, rest)| rest);
    let mut page = format!("## `{}`\n\n{}\n\n", table.heading, capitalized(summary));
    page.push_str("| key | type | default | range | description |\n|---|---|---|---|---|\n");
    let (texts, defaults) = match table.name.as_str() {
        "namespace" => (schema_of::<Policy>(), defaults_of(&Policy::default())),
        _ => (table.schema.clone(), Map::new()),
    };
    for (key, own) in properties(&table.schema).filter(|(_, own)| inner_table(own).is_none()) {
        let property =
            properties(&texts).find(|(name, _)| *name == key).map_or(own, |found| found.1);
        let default = defaults.get(key).or(own.get("default"));
        page.push_str(&row(&table.name, key, property, default));
    }
    page
}

fn row(table: &str, key: &str, property: &Map<String, Value>, default: Option<&Value>) -> String {
    let bound = bounds(table).iter().find(|(name, ..)| *name == key);
    let range = bound.map_or_else(|| "-".to_owned(), |bound| range(key, *bound));
    let default = default.filter(|value| !value.is_null());
    let default = default.map_or_else(|| "-".to_owned(), |value| literal(key, value));
    let description = text(property.get("description")) + &choices(property);
    let cells = [format!("`{key}`"), kind(key, property), default, range, description];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

fn defaults_of(values: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(values) {
        Ok(Value::Object(values)) => values,
        _ => Map::new(),
    }
}

/// A doc comment on one line.
fn text(description: Option<&Value>) -> String {
    let text = description.and_then(Value::as_str).unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    first.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The type of a value, with its unit.
fn kind(key: &str, property: &Map<String, Value>) -> String {
    let unit = unit(key).map_or_else(String::new, |unit| format!(", {unit}"));
    match property.get("type") {
        Some(Value::String(kind)) => name_of(kind, property) + &unit,
        // Without a value a key is not set; it is never written as null.
        Some(Value::Array(kinds)) => {
            let kind = kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null");
            name_of(kind.unwrap_or_default(), property) + &unit
        }
        _ => alternatives(property).join(" or ") + &unit,
    }
}

fn name_of(kind: &str, property: &Map<String, Value>) -> String {
    match (kind, property.get("items").and_then(Value::as_object)) {
        ("array", Some(items)) => format!("array of {}s", kind_of_item(items)),
        ("object", _) => "table".to_owned(),
        (kind, _) => kind.to_owned(),
    }
}

fn kind_of_item(items: &Map<String, Value>) -> String {
    match items.get("type").and_then(Value::as_str) {
        Some(kind) => kind.to_owned(),
        None => "string".to_owned(),
    }
}

/// The types of an enum, or of an optional value that is one.
fn alternatives(property: &Map<String, Value>) -> Vec<String> {
    let mut kinds = Vec::new();
    for one in variants(property) {
        let kind = one.get("type").and_then(Value::as_str).unwrap_or("string");
        if kind != "null" && !kinds.iter().any(|known| known == kind) {
            kinds.push(kind.to_owned());
        }
    }
    if kinds.is_empty() { vec!["string".to_owned()] } else { kinds }
}

/// The variants of an enum; those of an optional one are one level deeper.
fn variants(property: &Map<String, Value>) -> Vec<&Map<String, Value>> {
    let lists = ["oneOf", "anyOf"].into_iter().filter_map(|list| property.get(list)?.as_array());
    let direct = lists.flatten().filter_map(Value::as_object);
    let nested = |one| match variants(one) {
        deeper if deeper.is_empty() => vec![one],
        deeper => deeper,
    };
    direct.flat_map(nested).collect()
}

/// The values of an enum, each with its text.
fn choices(property: &Map<String, Value>) -> String {
    let items = property.get("items").and_then(Value::as_object);
    let mut page = String::new();
    for one in variants(items.unwrap_or(property)) {
        let listed = one.get("enum").and_then(Value::as_array).into_iter().flatten();
        for value in one.get("const").into_iter().chain(listed) {
            let about = text(one.get("description"));
            let about = if about.is_empty() { about } else { format!(": {about}") };
            // Writing to a `String` cannot fail.
            let _ = write!(page, "<br>{}{about}", literal("", value));
        }
    }
    let listed = items.unwrap_or(property).get("enum").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().filter(|value| !value.is_null());
    let listed: Vec<String> = listed.map(|value| literal("", value)).collect();
    if !listed.is_empty() {
        let _ = write!(page, "<br>One of {}.", listed.join(", "));
    }
    page
}

fn unit(key: &str) -> Option<&'static str> {
    let units = [("_us", "us"), ("_ms", "ms"), ("_s", "s"), ("_percent", "percent")];
    let ending = units.into_iter().find(|(ending, _)| key.ends_with(ending));
    let is_bytes = key.split('_').any(|word| word == "bytes");
    ending.map(|(_, unit)| unit).or(is_bytes.then_some("bytes"))
}

fn range(key: &str, (_, min, max): Bound) -> String {
    format!("{} to {}", number(key, min), number(key, max))
}

/// A value as it is written in the file.
fn literal(key: &str, value: &Value) -> String {
    match (value.as_i64(), toml::Value::try_from(value)) {
        (Some(count), _) => number(key, count),
        (_, Ok(value)) => format!("`{value}`"),
        (_, Err(_)) => "-".to_owned(),
    }
}

/// A number; of bytes also in units of 1,024.
fn number(key: &str, value: i64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = |(bits, _): &(u32, _)| value != 0 && value % (1 << bits) == 0;
    match units.into_iter().find(fits).filter(|_| unit(key) == Some("bytes")) {
        Some((bits, name)) => format!("`{value}` ({} {name})", value >> bits),
        None => format!("`{value}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::known;
    use super::*;

    #[test]
    fn every_key_that_is_parsed_is_in_the_reference_once() {
        let page = Config::reference();
        for (table, keys) in known::tables().into_iter().filter(|(table, _)| !table.is_empty()) {
            let start = ["[", "[["].map(|open| format!("## `{open}{table}]"));
            let section = page.split("\n## ").map(|section| format!("## {section}"));
            let mut section = section.filter(|s| start.iter().any(|start| s.starts_with(start)));
            let section = section.next().unwrap_or_else(|| panic!("no table {table}"));
            for key in keys.iter().filter(|key| **key != "key" || table != "auth") {
                let rows = section.matches(&format!("\n| `{key}` | ")).count();
                assert_eq!(rows, 1, "{table}.{key} in\n{section}");
            }
            let rows = section.matches("\n| `").count();
            assert_eq!(rows, keys.len() - usize::from(table == "auth"), "{table}");
        }
    }

    #[test]
    fn every_key_has_a_text_and_no_link_into_the_source() {
        let page = Config::reference();
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert!(cells.len() >= 5 && cells[1] != "" && cells[4].len() > 5, "{row}");
            assert!(!row.contains("[`"), "{row}");
        }
    }

    #[test]
    fn types_defaults_and_ranges_are_those_of_the_code() {
        let page = Config::reference();
        for row in [
            "| `shards` | string or integer | `\"auto\"` | `1` to `128` | ",
            "| `send_queue_bytes_max` | integer, bytes | `1048576` (1 MiB) | \
             `16384` (16 KiB) to `1073741824` (1 GiB) | ",
            "| `presence_ttl_ms` | integer, ms | `60000` | `100` to `86400000` | ",
            "| `http` | string | `\"127.0.0.1:7400\"` | - | ",
            "| `match` | string | - | - | ",
            "| `durability` | string | - | - | Where documents are stored",
            "| `durability` | string | `\"memory\"` | - | Where messages are stored",
        ] {
            assert!(page.contains(&format!("\n{row}")), "no {row} in\n{page}");
        }
    }
}
