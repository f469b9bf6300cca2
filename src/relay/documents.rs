//! The documents of one app.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::fold::{Fold, Folded};
use super::gate::{Engine, Gate};
use super::log::Log;
use super::record::{Content, Key, Record};
use super::rows::{self, Row, RowChange};

/// Streams with a push that is to come again.
const PUT_OFF_MAX: usize = 65_536;

/// Memory of a gate or an epoch, about.
const ENTRY_BYTES: u64 = 64;

/// What a device pushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// 0: a session without a device, whose repetitions are not recognized.
    pub device: u64,
    /// Of the device when its session began.
    pub epoch: u64,
    /// Its number in the stream of its engine and collection; 0 for none.
    pub number: u64,
    pub engine: Engine,
    pub collection: Arc<str>,
    pub contents: Vec<Content>,
}

/// What became of one of the contents of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Applied,
    Duplicate,
    /// A newer session of the device began with a higher epoch.
    Fenced,
    /// The log is full, or cannot be written: the device is to try again.
    Later,
}

/// The documents of one app: log, gates, devices, and what is to be stored of them.
#[derive(Debug, Default)]
pub struct Documents {
    log: Log,
    gates: HashMap<(u64, u64), Gate>,
    epochs: HashMap<u64, u64>,
    /// The lowest number that each stream was told to push again later, of at most
    /// [`PUT_OFF_MAX`]. Higher ones have to wait for it: a gate remembers few holes.
    put_off: BTreeMap<(u64, u64), u64>,
    /// By key; the newest counts.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    changed_bytes: usize,
}

impl Documents {
    /// The documents that these rows describe.
    pub fn restore(rows: impl IntoIterator<Item = Row>) -> Self {
        let mut documents = Documents::default();
        for row in rows {
            match row {
                Row::Record(record) => {
                    documents.log.insert(record);
                }
                Row::Epoch { device, epoch } => {
                    documents.epochs.insert(device, epoch);
                }
                Row::Gate { device, stream, gate } => {
                    documents.gates.insert((device, stream), gate);
                }
                Row::Engine { .. } => {}
            }
        }
        documents.log.settle(u64::MAX);
        documents
    }

    /// Everything that readers receive.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Everything up to a position is on disk.
    pub fn settle(&mut self, through: u64) {
        self.log.settle(through);
    }

    /// Memory that it takes, about.
    pub fn bytes(&self) -> u64 {
        let entries = self.gates.len() + self.epochs.len();
        self.log.bytes() + entries as u64 * ENTRY_BYTES
    }

    /// What is to be stored since the last time, in the order of keys.
    pub fn take_changes(&mut self) -> Vec<RowChange> {
        self.changed_bytes = 0;
        let changes = std::mem::take(&mut self.changes);
        changes.into_iter().map(|(key, row)| RowChange { key, row }).collect()
    }

    /// Bytes that the next call gives, about.
    pub fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    /// A session of a device begins. False if an earlier one had a higher epoch: there are two
    /// copies of the device.
    pub fn greet(&mut self, device: u64, epoch: u64) -> bool {
        let streams = self.put_off.range((device, 0)..=(device, u64::MAX));
        let streams: Vec<_> = streams.map(|(stream, _)| *stream).collect();
        for stream in streams {
            self.put_off.remove(&stream);
        }
        if epoch == 0 {
            return true;
        }
        let known = self.epochs.entry(device).or_default();
        if epoch > *known {
            *known = epoch;
            self.change(rows::epoch_key(device), Some(rows::encode_number(epoch)));
            return true;
        }
        epoch == *known
    }

    /// Applies a push, unless it is a repetition. One outcome for each of its contents.
    /// `bytes_max`: of the whole log.
    pub fn push(&mut self, push: Push, bytes_max: u64) -> Vec<Pushed> {
        let Push { device, epoch, number, engine, collection, contents } = push;
        let all = |pushed| vec![pushed; contents.len()];
        if device != 0 && self.epochs.get(&device).is_some_and(|known| epoch < *known) {
            return all(Pushed::Fenced);
        }
        let gate = (device, engine.stream(&collection));
        let is_gated = device != 0 && number != 0;
        if is_gated && self.gates.get(&gate).is_some_and(|gate| gate.contains(number)) {
            self.forget_put_off(gate, number);
            return all(Pushed::Duplicate);
        }
        let bytes: usize = contents.iter().map(Content::bytes).sum();
        let waits = is_gated && self.put_off.get(&gate).is_some_and(|first| *first < number);
        if waits || self.bytes() + bytes as u64 > bytes_max {
            if is_gated {
                self.put_off(device, engine, &collection, number);
            }
            return all(Pushed::Later);
        }
        let pushed = (device, number);
        let outcomes =
            contents.into_iter().map(|content| self.apply(pushed, &collection, content)).collect();
        if is_gated {
            self.forget_put_off(gate, number);
            let known = self.gates.entry(gate).or_default();
            known.insert(number);
            let row = rows::encode_gate(known);
            self.change(rows::gate_key(gate.0, gate.1), Some(row));
        }
        outcomes
    }

    /// A device was told to push this again later.
    pub fn put_off(&mut self, device: u64, engine: Engine, collection: &str, number: u64) {
        let stream = (device, engine.stream(collection));
        if let Some(first) = self.put_off.get_mut(&stream) {
            *first = number.min(*first);
        } else if self.put_off.len() < PUT_OFF_MAX {
            self.put_off.insert(stream, number);
        }
    }

    fn forget_put_off(&mut self, stream: (u64, u64), number: u64) {
        if self.put_off.get(&stream) == Some(&number) {
            self.put_off.remove(&stream);
        }
    }

    /// What was put off is remembered when the rest is read again, but for what is there.
    pub fn inherit(self, mut earlier: Documents) -> Self {
        let mut put_off = std::mem::take(&mut earlier.put_off);
        let is_there = |stream: &(u64, u64), number: u64| {
            self.gates.get(stream).is_some_and(|gate| gate.contains(number))
        };
        put_off.retain(|stream, number| !is_there(stream, *number));
        Documents { put_off, ..self }
    }

    /// `pushed`: the device, and its number of the push.
    fn apply(&mut self, pushed: (u64, u64), collection: &Arc<str>, content: Content) -> Pushed {
        if self.is_known(collection, &content) {
            return Pushed::Duplicate;
        }
        if let Content::Engine { kind, mut key, body } = content {
            if key.is_empty() {
                let number = [pushed.0.to_be_bytes(), pushed.1.to_be_bytes()].concat();
                key = number.into();
            }
            self.change(rows::engine_key(kind, collection, &key), Some(body.to_vec()));
            return Pushed::Applied;
        }
        self.append(pushed.0, Arc::clone(collection), content);
        Pushed::Applied
    }

    /// Whether the log has the same already, or something newer.
    fn is_known(&self, collection: &Arc<str>, content: &Content) -> bool {
        let newest = |key| self.log.newest(collection, key).map(|record| &record.content);
        match content {
            Content::Schema { .. } => newest(Key::Schema) == Some(content),
            Content::ArrayOp { clock, .. } => newest(Key::ArrayOp(*clock)).is_some(),
            Content::ArraySchema { clock, .. } => match newest(Key::ArraySchema) {
                Some(Content::ArraySchema { clock: known, .. }) => known >= clock,
                _ => false,
            },
            Content::Delta { .. } | Content::Row { .. } | Content::Engine { .. } => false,
        }
    }

    fn append(&mut self, author: u64, collection: Arc<str>, content: Content) {
        let record = Record { position: self.log.head() + 1, author, collection, content };
        self.change(rows::record_key(record.position), Some(rows::encode_record(&record)));
        if let Some(replaced) = self.log.insert(record) {
            self.change(rows::record_key(replaced), None);
        }
    }

    /// Deltas of a collection that should be folded, if there are any.
    pub fn next_fold(&mut self, through: u64) -> Option<Fold> {
        self.log.next_fold(through)
    }

    /// Puts one delta in the place of the last of those that it stands for. Who has read up to
    /// there, or not so far, misses nothing.
    pub fn fold(&mut self, folded: Folded) {
        let Folded { collection, positions, delta } = folded;
        let Some((&position, others)) = positions.split_last() else { return };
        others.iter().for_each(|other| self.change(rows::record_key(*other), None));
        let content = Content::Delta { document: Bytes::new(), delta };
        let record = Record { position, author: 0, collection, content };
        self.change(rows::record_key(position), Some(rows::encode_record(&record)));
        self.log.replace(&positions, record);
    }

    fn change(&mut self, key: Vec<u8>, row: Option<Vec<u8>>) {
        self.changed_bytes += key.len() + row.as_ref().map_or(0, Vec::len);
        self.changes.insert(key, row);
    }

    /// Deletes rows that have expired: devices are told as of any other delete.
    pub fn expire(&mut self, now_wall_ms: u64) {
        for record in self.log.expired(now_wall_ms) {
            let Content::Row { key, .. } = &record.content else { continue };
            let deleted = Content::Row { key: key.clone(), row: None, expires_wall_ms: 0 };
            self.append(0, Arc::clone(&record.collection), deleted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::{Page, Read};

    const MAX: u64 = 1 << 20;

    fn text(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn push(device: u64, number: u64, collection: &str, content: Content) -> Push {
        let engine = match content {
            Content::Row { .. } => Engine::Kv,
            Content::ArrayOp { .. } => Engine::Array,
            _ => Engine::Crdt,
        };
        let contents = vec![content];
        Push { device, epoch: 1, number, engine, collection: collection.into(), contents }
    }

    fn delta(bytes: &str) -> Content {
        Content::Delta { document: text("n1"), delta: text(bytes) }
    }

    fn row(key: &str, value: Option<&str>, expires_wall_ms: u64) -> Content {
        Content::Row { key: text(key), row: value.map(text), expires_wall_ms }
    }

    fn contents(page: &Page) -> Vec<Content> {
        let all = page.schemas.iter().chain(&page.records);
        all.map(|record| record.content.clone()).collect()
    }

    fn all(documents: &mut Documents) -> Vec<Content> {
        documents.settle(documents.log.head());
        let read = Read { bytes_max: usize::MAX, ..Read::default() };
        contents(&documents.log.page(&read, documents.log.head()))
    }

    /// What a restart makes of everything that was ever to be stored.
    fn restored(documents: &mut Documents, disk: &mut BTreeMap<Vec<u8>, Bytes>) -> Documents {
        for RowChange { key, row } in documents.take_changes() {
            match row {
                Some(row) => disk.insert(key, row.into()),
                None => disk.remove(&key),
            };
        }
        let row = |(key, row): (&Vec<u8>, &Bytes)| Row::decode(key, row).expect("a whole row");
        Documents::restore(disk.iter().map(row))
    }

    #[test]
    fn a_repetition_is_recognized_also_after_a_restart() {
        let (mut documents, mut disk) = (Documents::default(), BTreeMap::new());
        assert!(documents.greet(7, 1));
        for _ in 0..2 {
            for number in [2, 1] {
                documents.push(push(7, number, "notes", delta(&number.to_string())), MAX);
            }
            documents = restored(&mut documents, &mut disk);
        }
        assert_eq!(all(&mut documents), [delta("2"), delta("1")]);
        let again = push(7, 2, "notes", delta("2"));
        assert_eq!(documents.push(again.clone(), MAX), [Pushed::Duplicate]);
        let elsewhere = Push { collection: "tasks".into(), ..again.clone() };
        assert_eq!(documents.push(elsewhere, MAX), [Pushed::Applied]);
        assert_eq!(documents.push(Push { device: 0, ..again }, MAX), [Pushed::Applied]);
    }

    #[test]
    fn of_rows_and_schemas_the_newest_is_kept() {
        let (mut documents, mut disk) = (Documents::default(), BTreeMap::new());
        let schema = |body: &str| Content::Schema { body: text(body) };
        let pushed = [
            schema("old"),
            delta("a"),
            row("k", Some("1"), 0),
            row("l", Some("2"), 0),
            schema("new"),
            row("k", None, 0),
        ];
        for (number, content) in (1..).zip(pushed) {
            let outcome = documents.push(push(7, number, "notes", content), MAX);
            assert_eq!(outcome, [Pushed::Applied]);
        }
        let kept = [schema("new"), delta("a"), row("l", Some("2"), 0), row("k", None, 0)];
        assert_eq!(all(&mut documents), kept);
        let outcome = documents.push(push(7, 0, "notes", schema("new")), MAX);
        assert_eq!(outcome, [Pushed::Duplicate]);
        let mut again = restored(&mut documents, &mut disk);
        assert_eq!(all(&mut again), kept);
        let rows = disk.keys().filter(|key| key[0] == b'r').count();
        assert_eq!(rows, kept.len(), "what was replaced is not on disk");
        assert_eq!((again.bytes(), again.log.head()), (documents.bytes(), documents.log.head()));
    }

    #[test]
    fn pages_together_are_the_whole_log_in_order_and_schemas_come_first() {
        let mut documents = Documents::default();
        for number in 1..=50 {
            documents.push(push(7, number, "notes", delta(&number.to_string())), MAX);
        }
        documents.push(push(7, 0, "notes", Content::Schema { body: text("s") }), MAX);
        documents.push(push(7, 1, "other", delta("x")), MAX);
        for collection in [None, Some("notes".into())] {
            let mut read =
                Read { collection: collection.clone(), bytes_max: 500, ..Read::default() };
            let (mut seen, mut pages) = (Vec::new(), 0);
            loop {
                let page = documents.log.page(&read, documents.log.head());
                seen.extend(contents(&page));
                (read.after, read.schemas_through) = (page.next, Some(page.schemas_through));
                read.schemas_sent = page.schemas_sent;
                pages += 1;
                if page.done {
                    break;
                }
            }
            assert!(pages > 5, "{pages}");
            assert_eq!(read.after, documents.log.head());
            let others = usize::from(collection.is_none());
            assert_eq!(seen.len(), 51 + others, "nothing twice");
            assert_eq!(seen[0], Content::Schema { body: text("s") });
            let deltas = (1..=50).map(|number: i32| delta(&number.to_string()));
            assert!(seen[1..51].iter().cloned().eq(deltas));
        }
        let read = Read { after: u64::MAX, ..Read::default() };
        let page = documents.log.page(&read, documents.log.head());
        assert!(page.records.is_empty() && page.schemas.is_empty() && page.done);
        assert_eq!(page.next, documents.log.head());
    }

    #[test]
    fn many_schemas_come_on_several_pages_each_once_and_before_all_else() {
        let mut documents = Documents::default();
        for number in 0..20 {
            let name = format!("c{number}");
            documents.push(push(7, 1, &name, delta("x")), MAX);
            let body = text(&"s".repeat(400));
            documents.push(push(7, 0, &name, Content::Schema { body }), MAX);
        }
        documents.settle(documents.log.head());
        let mut read = Read { bytes_max: 2000, ..Read::default() };
        let (mut schemas, mut deltas, mut pages) = (0, 0, 0);
        loop {
            let page = documents.log.page(&read, documents.log.head());
            assert!(page.schemas.is_empty() || deltas == 0, "schemas come first");
            schemas += page.schemas.len();
            deltas += page.records.len();
            (read.after, read.schemas_sent) = (page.next, page.schemas_sent);
            read.schemas_through = Some(page.schemas_through);
            pages += 1;
            if page.done {
                break;
            }
        }
        assert_eq!((schemas, deltas), (20, 20));
        assert!(pages > 5, "{pages}");
    }

    #[test]
    fn an_older_epoch_is_a_copy_and_may_not_push() {
        let mut documents = Documents::default();
        assert!(documents.greet(7, 5) && documents.greet(7, 5));
        assert!(!documents.greet(7, 4));
        let old = Push { epoch: 4, ..push(7, 1, "notes", delta("a")) };
        assert_eq!(documents.push(old.clone(), MAX), [Pushed::Fenced]);
        assert_eq!(documents.push(Push { epoch: 5, ..old }, MAX), [Pushed::Applied]);
    }

    #[test]
    fn a_full_log_puts_devices_off_and_forgets_no_number() {
        let mut documents = Documents::default();
        let large = || push(7, 1, "notes", delta(&"x".repeat(2000)));
        assert_eq!(documents.push(large(), 1000), [Pushed::Later]);
        assert_eq!(documents.push(large(), MAX), [Pushed::Applied]);
    }

    #[test]
    fn what_was_put_off_is_applied_before_what_follows_it() {
        let mut documents = Documents::default();
        assert_eq!(documents.push(push(7, 2, "notes", delta("b")), 0), [Pushed::Later]);
        assert_eq!(documents.push(push(7, 1, "notes", delta("a")), MAX), [Pushed::Applied]);
        assert_eq!(documents.push(push(7, 3, "notes", delta("c")), MAX), [Pushed::Later]);
        assert_eq!(documents.push(push(7, 2, "notes", delta("b")), MAX), [Pushed::Applied]);
        assert_eq!(documents.push(push(7, 3, "notes", delta("c")), 0), [Pushed::Later]);
        assert_eq!(documents.push(push(7, 4, "notes", delta("d")), MAX), [Pushed::Later]);
        assert_eq!(documents.push(push(7, 3, "notes", delta("c")), MAX), [Pushed::Applied]);
        assert_eq!(documents.push(push(7, 4, "notes", delta("d")), MAX), [Pushed::Applied]);
        assert_eq!(documents.push(push(7, 9, "notes", delta("i")), 0), [Pushed::Later]);
        // A device that does not have it any more begins a new session.
        assert!(documents.greet(7, 1));
        assert_eq!(documents.push(push(7, 10, "notes", delta("j")), MAX), [Pushed::Applied]);
    }

    #[test]
    fn what_is_replaced_is_shown_until_what_replaces_it_is_stored() {
        let mut documents = Documents::default();
        let schema = |body: &str| Content::Schema { body: text(body) };
        let pushes = [schema("old"), row("k", Some("1"), 0), schema("new"), row("k", Some("2"), 0)];
        for (number, content) in (1..).zip(pushes) {
            documents.push(push(7, number, "cfg", content), MAX);
        }
        let read = Read { bytes_max: usize::MAX, ..Read::default() };
        for (through, expected) in [
            (2, [schema("old"), row("k", Some("1"), 0)]),
            (3, [schema("new"), row("k", Some("1"), 0)]),
            (4, [schema("new"), row("k", Some("2"), 0)]),
        ] {
            documents.settle(through);
            assert_eq!(contents(&documents.log.page(&read, through)), expected, "{through}");
        }
        assert_eq!(documents.log.range(0, 4).len(), 2);
    }

    #[test]
    fn batches_of_an_engine_stay_beside_each_other() {
        let (mut documents, mut disk) = (Documents::default(), BTreeMap::new());
        for number in [1, 2] {
            let content = Content::Engine { kind: 0xa0, key: Bytes::new(), body: text("rows") };
            assert_eq!(documents.push(push(7, number, "t", content), MAX), [Pushed::Applied]);
        }
        let mut again = restored(&mut documents, &mut disk);
        assert_eq!(disk.keys().filter(|key| key[0] == b'x').count(), 2);
        let content = Content::Engine { kind: 0xa0, key: Bytes::new(), body: text("rows") };
        assert_eq!(again.push(push(7, 2, "t", content), MAX), [Pushed::Duplicate]);
    }

    #[test]
    fn a_row_that_expires_is_deleted_once() {
        let mut documents = Documents::default();
        documents.push(push(7, 1, "cfg", row("k", Some("1"), 1000)), MAX);
        documents.push(push(7, 2, "cfg", row("k", Some("2"), 2000)), MAX);
        documents.push(push(7, 3, "cfg", row("l", Some("3"), 0)), MAX);
        assert_eq!(documents.log.next_expiry_wall_ms(), Some(2000), "the first was replaced");
        documents.expire(1999);
        assert_eq!(documents.log.head(), 3);
        documents.expire(2000);
        assert_eq!(all(&mut documents), [row("l", Some("3"), 0), row("k", None, 0)]);
        assert_eq!(documents.log.next_expiry_wall_ms(), None);
    }

    #[test]
    fn folded_deltas_are_in_the_place_of_the_last_one() {
        let (mut documents, mut disk) = (Documents::default(), BTreeMap::new());
        let long = "x".repeat(400);
        for number in 1..=300 {
            documents.push(push(7, number, "notes", delta(&long)), MAX);
        }
        documents.push(push(7, 1, "other", delta("a")), MAX);
        let fold = documents.next_fold(299).expect("many deltas");
        assert_eq!((&*fold.collection, fold.records.len()), ("notes", 299));
        assert!(documents.next_fold(299).is_none(), "not again before there are twice as many");
        let positions = fold.records.iter().map(|record| record.position).collect();
        let folded = Folded { collection: fold.collection, positions, delta: text("all") };
        documents.fold(folded);
        let kept = |documents: &Documents| {
            let records = documents.log.range(0, documents.log.head());
            records.iter().map(|record| (record.position, record.author)).collect::<Vec<_>>()
        };
        assert_eq!(kept(&documents), [(299, 0), (300, 7), (301, 7)]);
        let again = restored(&mut documents, &mut disk);
        assert_eq!(kept(&again), kept(&documents));
        assert_eq!(again.bytes(), documents.bytes());
        assert_eq!(documents.push(push(7, 5, "notes", delta("x")), MAX), [Pushed::Duplicate]);
    }

    #[test]
    fn an_array_op_is_recognized_by_its_clock() {
        let mut documents = Documents::default();
        let op = |at: u8| Content::ArrayOp { clock: [at; 18], op: text("op") };
        for (at, expected) in [(2, Pushed::Applied), (1, Pushed::Applied), (2, Pushed::Duplicate)] {
            assert_eq!(documents.push(push(7, 0, "grid", op(at)), MAX), [expected]);
        }
        let clocks = |after| {
            let ops = documents.log.array_ops("grid", &[after; 18], u64::MAX, usize::MAX);
            ops.iter().map(|record| record.content.clone()).collect::<Vec<_>>()
        };
        assert_eq!(clocks(0), [op(1), op(2)]);
        assert_eq!(clocks(1), [op(2)]);
        assert_eq!(documents.log.array_ops("grid", &[0; 18], u64::MAX, 1).len(), 1, "one at least");
        assert!(documents.log.array_ops("other", &[0; 18], u64::MAX, 1).is_empty());
        let stored = documents.log.array_ops("grid", &[0; 18], 1, usize::MAX);
        assert_eq!(stored.len(), 1, "what is not stored is not shown");
    }
}
