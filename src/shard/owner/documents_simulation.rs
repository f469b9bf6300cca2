//! Devices, an owner and a store that is slow and fails at any write: what is acknowledged is kept,
//! and nothing is kept twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::Owner;
use crate::error::Reject;
use crate::ids::{ChannelKey, ConnId, ShardId};
use crate::policy::Durability;
use crate::relay::{Content, Documents, Engine, Pushed, Read, RelayPolicy, Row, RowChange};
use crate::session::{DocumentAnswer, PushRequest, Receipt, Replica};
use crate::shard::context::ShardContext;
use crate::shard::documents::{CHANNEL, DocumentCommand, DocumentEvent};
use crate::shard::envelope::{Command, Effect, Envelope};
use crate::shard::storage::{StoreOperation, StoreOutcome, StoreReply, StoreRequest};
use crate::shard::testing::{context_with, key, set_room};
use crate::wire::sync::MessageType;

const SEEDS: u64 = 300;
const STEPS: usize = 400;
const DEVICES: u64 = 3;
const HOME: ShardId = ShardId(1);

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// A store that writes in order, late, and sometimes not.
#[derive(Default)]
struct Disk {
    rows: BTreeMap<Vec<u8>, Bytes>,
    requests: VecDeque<StoreRequest>,
    failed: u64,
}

impl Disk {
    fn serve(&mut self, rng: &mut Rng) -> Option<StoreReply> {
        let StoreRequest { log, operation, .. } = self.requests.pop_front()?;
        let fails = rng.below(12) == 0;
        let outcome = match operation {
            StoreOperation::ReadRows if fails => StoreOutcome::Failed(Reject::StoreFailed),
            StoreOperation::ReadRows => StoreOutcome::Rows(self.decoded()),
            StoreOperation::WriteRows(_) if log.opening <= self.failed => {
                StoreOutcome::Failed(Reject::StoreFailed)
            }
            StoreOperation::WriteRows(changes) => {
                if !fails || rng.below(2) == 0 {
                    self.write(changes);
                }
                match fails {
                    true => {
                        self.failed = log.opening;
                        StoreOutcome::Failed(Reject::StoreFailed)
                    }
                    false => StoreOutcome::RowsWritten,
                }
            }
            StoreOperation::Fold(fold) => StoreOutcome::Folded(fold.run()),
            other => panic!("{other:?} is for messages"),
        };
        Some(StoreReply { log, outcome })
    }

    fn decoded(&self) -> Vec<Row> {
        let row = |(key, row): (&Vec<u8>, &Bytes)| match Row::decode(key, row) {
            Ok(row) => row,
            Err(error) => panic!("{key:?} is damaged: {error}"),
        };
        self.rows.iter().map(row).collect()
    }

    fn write(&mut self, changes: Vec<RowChange>) {
        for RowChange { key, row } in changes {
            match row {
                Some(row) => self.rows.insert(key, row.into()),
                None => self.rows.remove(&key),
            };
        }
    }
}

/// A client that pushes again until it is answered.
#[derive(Default)]
struct Device {
    pushed: u64,
    unacknowledged: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
}

struct World {
    cx: ShardContext,
    owner: Owner,
    key: Arc<ChannelKey>,
    disk: Disk,
    devices: Vec<Device>,
    /// What a reader that listens has got: author and number.
    delivered: Vec<(u64, u64)>,
    cursor: u64,
}

fn relay() -> RelayPolicy {
    RelayPolicy { durability: Durability::Disk, bytes_max: 1 << 30, delta_bytes_max: 1 << 20 }
}

impl World {
    fn new() -> Self {
        let cx = context_with(relay());
        let mut world = World {
            owner: Owner::new(&cx),
            key: key(&cx, CHANNEL),
            cx,
            disk: Disk::default(),
            devices: (0..DEVICES).map(|_| Device::default()).collect(),
            delivered: Vec::new(),
            cursor: 0,
        };
        world.command(DocumentCommand::Listen);
        world
    }

    fn command(&mut self, command: DocumentCommand) {
        let (key, command) = (Arc::clone(&self.key), Command::Documents(Box::new(command)));
        self.owner.handle_command(&mut self.cx, HOME, key, command);
    }

    fn push(&mut self, device: u64, number: u64) {
        let text = format!("{device}:{number}");
        let push = PushRequest {
            engine: Engine::Crdt,
            collection: "notes".into(),
            number,
            contents: vec![Content::Delta { document: Bytes::new(), delta: text.into() }],
            receipt: Receipt {
                message_type: MessageType::DeltaPush,
                body: Bytes::copy_from_slice(&number.to_be_bytes()),
            },
        };
        let conn = ConnId { slot: device as u32, generation: 1 };
        let replica = Some(Replica { device: device + 1, epoch: 1 });
        self.command(DocumentCommand::Push { conn, replica, push: Box::new(push) });
    }

    fn end_turn(&mut self) {
        // A log that failed is left alone for a while.
        self.cx.now.mono_ms += 700;
        self.cx.now.wall_ms += 700;
        self.owner.flush(&mut self.cx);
        while let Some(effect) = self.cx.outbox.effects.pop_front() {
            match effect {
                Effect::Store(request) => self.disk.requests.push_back(*request),
                Effect::Send { envelope: Envelope::Documents { event, .. }, .. } => {
                    self.receive(*event);
                }
                other => panic!("{other:?}"),
            }
        }
        set_room(&mut self.cx, 1 << 20);
    }

    fn receive(&mut self, event: DocumentEvent) {
        match event {
            DocumentEvent::Answer { conn, answer } => {
                let DocumentAnswer::Pushed { receipt, outcomes } = answer else { panic!("a push") };
                let Ok(number) = receipt.body[..].try_into().map(u64::from_be_bytes) else {
                    panic!("{receipt:?} has no number");
                };
                let device = &mut self.devices[conn.slot as usize];
                if matches!(outcomes[..], [Pushed::Applied | Pushed::Duplicate]) {
                    device.unacknowledged.remove(&number);
                    device.acknowledged.insert(number);
                }
            }
            DocumentEvent::Batch(batch) => {
                assert_eq!(batch.after, self.cursor, "a batch follows the one before");
                self.cursor = batch.through;
                let authors = batch.records.iter().map(|record| (record.author, number_of(record)));
                self.delivered.extend(authors);
            }
            other => panic!("{other:?}"),
        }
    }

    fn step(&mut self, rng: &mut Rng) {
        match rng.below(4) {
            0 => {
                let at = rng.below(DEVICES);
                let device = &mut self.devices[at as usize];
                device.pushed += 1;
                let number = device.pushed;
                device.unacknowledged.insert(number);
                self.push(at, number);
            }
            1 => {
                let at = rng.below(DEVICES);
                let again = self.devices[at as usize].unacknowledged.clone();
                again.into_iter().for_each(|number| self.push(at, number));
            }
            _ => {
                for _ in 0..rng.below(4) {
                    if let Some(reply) = self.disk.serve(rng) {
                        self.owner.handle_stored(&mut self.cx, reply);
                    }
                }
            }
        }
        if rng.below(2) == 0 {
            self.end_turn();
        }
    }

    /// Every acknowledged push is on disk, each once.
    fn check(&self) {
        let documents = Documents::restore(self.disk.decoded());
        let read = Read { bytes_max: usize::MAX, ..Read::default() };
        let page = documents.log().page(&read, documents.log().head());
        let stored: Vec<(u64, u64)> =
            page.records.iter().map(|record| (record.author, number_of(record))).collect();
        let distinct: BTreeSet<_> = stored.iter().copied().collect();
        assert_eq!(distinct.len(), stored.len(), "something is there twice");
        for (at, device) in (1..).zip(&self.devices) {
            for number in &device.acknowledged {
                assert!(distinct.contains(&(at, *number)), "{number} of {at} is lost");
            }
        }
        for delivered in &self.delivered {
            assert!(distinct.contains(delivered), "{delivered:?} was seen and is lost");
        }
    }
}

fn number_of(record: &crate::relay::Record) -> u64 {
    let Content::Delta { delta, .. } = &record.content else { panic!("a delta") };
    let text = String::from_utf8_lossy(delta);
    match text.split(':').nth(1).map(str::parse) {
        Some(Ok(number)) => number,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn what_is_acknowledged_is_kept_once_whatever_the_store_does() {
    for seed in 0..SEEDS {
        let (mut world, mut rng) = (World::new(), Rng(seed));
        for _ in 0..STEPS {
            world.step(&mut rng);
            world.check();
            if rng.below(100) == 0 {
                // The process is killed: what the store was asked last is not written.
                let (disk, devices) = (world.disk.rows, world.devices);
                world = World::new();
                (world.disk.rows, world.devices) = (disk, devices);
                world.cursor = u64::MAX;
                world.start();
            }
        }
        world.settle(&mut rng);
        world.check();
    }
}

impl World {
    /// Begins where the log on disk ends, as a reader that has everything.
    fn start(&mut self) {
        let documents = Documents::restore(self.disk.decoded());
        self.cursor = documents.log().head();
    }

    /// Devices go on until everything is acknowledged.
    fn settle(&mut self, rng: &mut Rng) {
        for _ in 0..1000 {
            for at in 0..DEVICES {
                let again = self.devices[at as usize].unacknowledged.clone();
                again.into_iter().for_each(|number| self.push(at, number));
            }
            self.end_turn();
            while let Some(reply) = self.disk.serve(rng) {
                self.owner.handle_stored(&mut self.cx, reply);
                self.end_turn();
            }
            if self.devices.iter().all(|device| device.unacknowledged.is_empty()) {
                return;
            }
        }
        panic!("some pushes are never acknowledged");
    }
}
