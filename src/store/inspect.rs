//! Looks at a log that no server uses: what `headcount store` does.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::Serialize;
use serde_json::json;

use super::StoreError;
use super::documents::each_document_row;
use super::engine::{Directory, Engine};
use super::format::{self, ChannelRows, HEADS, Head, MESSAGES};
use super::journal::{self, Salvaged};
use crate::channel::Message;
use crate::relay::{self, Row};

/// Something that is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// App and channel; empty when it is about the whole log.
    pub channel: String,
    pub what: String,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub channels: u64,
    pub messages: u64,
    /// Rows of documents.
    pub document_rows: u64,
    pub findings: Vec<Finding>,
}

/// How much there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    pub format: u32,
    /// Serial after which logs begin.
    pub floor: u64,
    pub channels: u64,
    pub messages: u64,
    /// Bytes of the messages.
    pub message_bytes: u64,
    /// Documents: rows, and their bytes.
    pub document_rows: u64,
    pub document_bytes: u64,
    /// Bytes of all files.
    pub disk_bytes: u64,
}

/// Findings above which a check only counts.
const FINDINGS_MAX: usize = 1000;

/// Reads everything. A torn tail is cut, as a start of the server would.
///
/// # Errors
/// The log cannot be opened: it is in use, of another format, or so damaged that nothing can be
/// said of it.
pub fn check(path: &Path) -> Result<Report, StoreError> {
    let directory = Directory::open(path, 0)?;
    let engine = match directory.open_engine() {
        Err(StoreError::Corrupt(what)) => {
            let finding = Finding { channel: String::new(), what };
            return Ok(Report { findings: vec![finding], ..Report::default() });
        }
        opened => opened?,
    };
    let mut report = Report::default();
    let checked =
        check_heads(&engine, &mut report).and_then(|()| check_strays(&engine, &mut report));
    let checked = checked.and_then(|()| check_documents(&engine, &mut report));
    match checked {
        Err(StoreError::Corrupt(what)) => report.add(String::new(), what),
        checked => checked?,
    }
    Ok(report)
}

impl Report {
    fn add(&mut self, channel: String, what: impl ToString) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { channel, what: what.to_string() });
        }
    }
}

fn check_heads(engine: &Engine, report: &mut Report) -> Result<(), StoreError> {
    for row in engine.prefix(&HEADS) {
        let (key, row) = row?;
        report.channels += 1;
        let Some(rows) = ChannelRows::of_head(&key) else {
            report.add(String::new(), format!("a row that is none of ours: {key:?}"));
            continue;
        };
        match Head::decode(&row) {
            Ok(head) => check_channel(engine, &rows, head, report)?,
            Err(error) => report.add(name(&rows), format!("its end cannot be read: {error}")),
        }
    }
    Ok(())
}

fn check_channel(
    engine: &Engine,
    rows: &ChannelRows,
    head: Head,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut expected = head.first;
    let (from, to) = (rows.message_key(head.first), rows.message_key(head.head));
    for row in (head.count() > 0).then(|| engine.range(&from, &to)).into_iter().flatten() {
        let (key, row) = row?;
        let serial = format::serial_of(&key).unwrap_or_default();
        if serial > expected {
            report.add(name(rows), format!("messages {expected} to {} are missing", serial - 1));
        }
        if let Err(error) = format::decode_message(serial, &row) {
            report.add(name(rows), format!("message {serial} cannot be read: {error}"));
        }
        expected = serial + 1;
        report.messages += 1;
    }
    if expected <= head.head {
        report.add(name(rows), format!("messages {expected} to {} are missing", head.head));
    }
    Ok(())
}

/// Messages of channels without an end, or behind it.
fn check_strays(engine: &Engine, report: &mut Report) -> Result<(), StoreError> {
    let mut last: Option<(ChannelRows, Option<Head>)> = None;
    for row in engine.prefix(&MESSAGES) {
        let (key, _) = row?;
        let names = format::names_of(&key).zip(format::serial_of(&key));
        let Some((rows, serial)) = names else {
            report.add(String::new(), format!("a row that is none of ours: {key:?}"));
            continue;
        };
        if last.as_ref().is_none_or(|(last, _)| *last != rows) {
            let head = engine.head(&rows).unwrap_or_default();
            last = Some((rows, head));
        }
        let Some((rows, head)) = &last else { continue };
        if head.is_none_or(|head| serial > head.head) {
            report.add(name(rows), format!("message {serial} is behind the end of the log"));
        }
    }
    Ok(())
}

fn check_documents(engine: &Engine, report: &mut Report) -> Result<(), StoreError> {
    each_document_row(engine, |row| {
        report.document_rows += 1;
        if row.content.is_none() {
            let what = format!("a row of documents cannot be read: {}", row.key.escape_ascii());
            report.add(row.app.clone(), what);
        }
        Ok(())
    })
}

fn name(rows: &ChannelRows) -> String {
    rows.names().map_or_else(String::new, |(app, channel)| format!("{app}/{channel}"))
}

/// Counts.
///
/// # Errors
/// The log cannot be opened or read.
pub fn stats(path: &Path) -> Result<Stats, StoreError> {
    let directory = Directory::open(path, 0)?;
    let engine = directory.open_engine()?;
    let mut stats = Stats {
        format: format::FORMAT_VERSION,
        floor: directory.floor,
        disk_bytes: engine.disk_bytes()?,
        ..Stats::default()
    };
    for row in engine.prefix(&HEADS) {
        let head = Head::decode(&row?.1).map_err(StoreError::corrupt)?;
        stats.channels += 1;
        stats.messages += head.count();
        stats.message_bytes += head.bytes;
    }
    each_document_row(&engine, |row| {
        stats.document_rows += 1;
        stats.document_bytes += row.row.len() as u64;
        Ok(())
    })?;
    Ok(stats)
}

/// Writes every message that can be read as a line of JSON. Returns how many could not be read.
///
/// # Errors
/// The log cannot be opened or read, or `out` cannot be written to.
pub fn export(path: &Path, out: &mut impl Write) -> Result<u64, StoreError> {
    let engine = Directory::open(path, 0)?.open_engine()?;
    let mut unreadable = 0;
    for row in engine.prefix(&MESSAGES) {
        let (key, row) = row?;
        let rows = format::names_of(&key);
        let names = rows.as_ref().and_then(ChannelRows::names).zip(format::serial_of(&key));
        let line = names.and_then(|((app, channel), serial)| {
            Some(export_line(app, channel, &format::decode_message(serial, &row).ok()?))
        });
        match line {
            Some(line) => writeln!(out, "{line}")?,
            None => unreadable += 1,
        }
    }
    each_document_row(&engine, |row| {
        match &row.content {
            Some(content) => {
                if let Some(line) = document_line(&row.app, content) {
                    writeln!(out, "{line}")?;
                }
            }
            None => unreadable += 1,
        }
        Ok(())
    })?;
    Ok(unreadable)
}

/// A record of documents, bytes as base64; `None` for rows that are no records.
fn document_line(app: &str, row: &Row) -> Option<serde_json::Value> {
    let base64 = |bytes: &[u8]| BASE64.encode(bytes);
    let record = match row {
        Row::Record(record) => record,
        Row::Engine { kind, collection, body } => {
            return Some(json!({
                "app": app, "collection": &**collection, "engine": kind, "body": base64(body),
            }));
        }
        Row::Epoch { .. } | Row::Gate { .. } => return None,
    };
    let content = match &record.content {
        relay::Content::Schema { body } => json!({ "schema": base64(body) }),
        relay::Content::Delta { document, delta } => {
            json!({ "document": String::from_utf8_lossy(document), "delta": base64(delta) })
        }
        relay::Content::Row { key, row, expires_wall_ms } => json!({
            "key": String::from_utf8_lossy(key),
            "row": row.as_ref().map(|row| base64(row)),
            "expires": expires_wall_ms,
        }),
        relay::Content::ArrayOp { clock, op } => {
            json!({ "arrayClock": base64(clock), "op": base64(op) })
        }
        relay::Content::ArraySchema { clock, snapshot, .. } => {
            json!({ "arrayClock": base64(clock), "arraySchema": base64(snapshot) })
        }
        relay::Content::Engine { body, .. } => json!({ "body": base64(body) }),
    };
    Some(json!({
        "app": app,
        "collection": &*record.collection,
        "position": record.position,
        "author": format!("{:016x}", record.author),
        "content": content,
    }))
}

fn export_line(app: &str, channel: &str, message: &Message) -> serde_json::Value {
    let parts = message.content.parts().iter().map(|part| {
        let data = serde_json::from_slice::<serde_json::Value>(&part.data).unwrap_or_default();
        json!({ "name": part.name, "data": data, "encoding": part.encoding })
    });
    json!({
        "app": app,
        "channel": channel,
        "serial": message.serial,
        "timestamp": message.timestamp_ms,
        "clientId": &*message.client_id,
        "id": message.id,
        "messages": parts.collect::<Vec<_>>(),
    })
}

/// Makes a damaged log usable again: what can be read is kept, the rest is set aside. Logs begin
/// after `floor` from then on, where a channel has lost its own end. Returns where the damaged log
/// is kept, and what is lost; `None` when nothing was wrong.
///
/// # Errors
/// It is in use, of another format, or the disk is full.
pub fn repair(path: &Path, floor: u64) -> Result<Option<(PathBuf, Report)>, StoreError> {
    let report = check(path)?;
    if report.findings.is_empty() {
        return Ok(None);
    }
    let directory = Directory::open(path, 0)?;
    let set_aside = (1..).map(|n| path.with_extension(format!("damaged-{n}")));
    let set_aside = set_aside.into_iter().find(|path| !path.exists());
    let Some(set_aside) = set_aside else { return Err(StoreError::corrupt("no name is free")) };
    let repaired = path.with_extension("repaired");
    if repaired.exists() {
        fs::remove_dir_all(&repaired)?;
    }
    // A channel that has lost its end begins after the floor.
    let copy = Directory::open(&repaired, floor.max(directory.floor))?.open_engine()?;
    let salvaged = journal::salvage(&directory.engine())?;
    match directory.open_engine() {
        Ok(damaged) => copy_readable(&damaged, &copy, &salvaged)?,
        Err(error @ (StoreError::DiskFull | StoreError::Locked)) => return Err(error),
        // Nothing of it can be read.
        Err(_) => {}
    }
    drop(copy);
    fs::rename(path, &set_aside)?;
    fs::rename(&repaired, path)?;
    Ok(Some((set_aside, report)))
}

/// Copies the channels, of each the newest messages without a hole. One whose newest messages may
/// be lost is left out: it begins anew above all serials that it may have given out.
fn copy_readable(damaged: &Engine, copy: &Engine, salvaged: &Salvaged) -> Result<(), StoreError> {
    for row in damaged.prefix(&HEADS) {
        let Ok((key, row)) = row else { continue };
        let Some(rows) = ChannelRows::of_head(&key) else { continue };
        let Ok(head) = Head::decode(&row) else { continue };
        if salvaged.may_lack_end(&rows) {
            continue;
        }
        let mut batch = copy.batch();
        let mut kept = Head { first: head.head + 1, bytes: 0, ..head };
        let (from, to) = (rows.message_key(head.first), rows.message_key(head.head));
        let messages = (head.count() > 0).then(|| damaged.range(&from, &to).rev());
        for row in messages.into_iter().flatten() {
            let Ok((key, row)) = row else { break };
            let serial = format::serial_of(&key).unwrap_or_default();
            if serial + 1 != kept.first || format::decode_message(serial, &row).is_err() {
                break;
            }
            batch.insert(&key, &row);
            (kept.first, kept.bytes) = (serial, kept.bytes + row.len() as u64);
        }
        batch.insert(&key, &kept.encode());
        batch.commit_durably()?;
    }
    copy_events(damaged, copy)?;
    copy_documents(damaged, copy)
}

/// Events for webhooks stand for themselves.
fn copy_events(damaged: &Engine, copy: &Engine) -> Result<(), StoreError> {
    let mut batch = copy.batch();
    for (key, row) in damaged.prefix(&format::EVENTS).flatten() {
        batch.insert(&key, &row);
    }
    batch.commit_durably()
}

/// Rows of documents stand for themselves, but for the gates: a push that may be lost must not be
/// taken for a repetition, and devices push what they have again under new numbers only.
fn copy_documents(damaged: &Engine, copy: &Engine) -> Result<(), StoreError> {
    let mut batch = copy.batch();
    for row in damaged.prefix(&format::DOCUMENTS) {
        let Ok((key, row)) = row else { continue };
        let Some((_, rest)) = format::documents_of(&key) else { continue };
        match Row::decode(rest, &row) {
            Ok(Row::Gate { .. }) | Err(_) => {}
            Ok(_) => batch.insert(&key, &row),
        }
    }
    batch.commit_durably()
}
