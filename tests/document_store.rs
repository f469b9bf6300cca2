//! Documents in the store: what builds on rows that were not written is not written either.
#![cfg(feature = "server")]

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use headcount::ids::{ChannelKey, Router, ShardId};
use headcount::policy::{Policies, Policy};
use headcount::relay::{Row, RowChange};
use headcount::shard::{LogId, LogOf, StoreOperation, StoreOutcome, StoreReply, StoreRequest};
use headcount::store::{Store, Worker, WorkerParts};
use tempdir::Dir;

mod tempdir;

/// How long an answer may take; a store that failed is opened again after a second.
const WITHIN: Duration = Duration::from_secs(10);

struct Client {
    requests: Sender<StoreRequest>,
    replies: Receiver<StoreReply>,
    key: Arc<ChannelKey>,
}

impl Client {
    fn start(store: Store) -> Client {
        let router = Router::new((1, 2), 1);
        let (requests, to_serve) = unbounded();
        let (answers, replies) = unbounded();
        let worker = Worker::new(WorkerParts {
            store: Arc::new(store),
            shard: ShardId(0),
            router,
            requests: to_serve,
            replies: answers,
            wake: Box::new(|| {}),
        });
        thread::spawn(move || worker.run());
        let key = Arc::new(router.key(&"demo".into(), "documents"));
        Client { requests, replies, key }
    }

    fn ask(&self, opening: u64, operation: StoreOperation) -> StoreOutcome {
        let log = LogId { of: LogOf::Documents, slot: 0, opening };
        let (channel, policy) = (Arc::clone(&self.key), Arc::new(Policy::default()));
        let request = StoreRequest { log, channel, policy, operation };
        self.requests.send(request).expect("a worker");
        let reply = self.replies.recv_timeout(WITHIN).expect("an answer");
        assert_eq!(reply.log, log);
        reply.outcome
    }

    fn write(&self, opening: u64, device: u64) -> bool {
        let row = RowChange { key: key(device), row: Some(vec![7]) };
        match self.ask(opening, StoreOperation::WriteRows(vec![row])) {
            StoreOutcome::RowsWritten => true,
            StoreOutcome::Failed(_) => false,
            other => panic!("{other:?}"),
        }
    }

    fn rows(&self, opening: u64) -> Vec<u64> {
        match self.ask(opening, StoreOperation::ReadRows) {
            StoreOutcome::Rows(rows) => rows.into_iter().map(device_of).collect(),
            other => panic!("{other:?}"),
        }
    }
}

/// The device of the row of an epoch.
fn device_of(row: Row) -> u64 {
    match row {
        Row::Epoch { device, .. } => device,
        other => panic!("{other:?}"),
    }
}

/// The key of the epoch of a device.
fn key(device: u64) -> Vec<u8> {
    [&[b'e'][..], &device.to_be_bytes()].concat()
}

#[test]
fn what_follows_a_failed_write_is_refused_until_the_log_is_opened_again() {
    let dir = Dir::new();
    let path = dir.path().join("store");
    // A file is in the way.
    fs::write(&path, "no directory").expect("writes");
    let client = Client::start(Store::new(&path, 0, Policies::default()));
    assert!(!client.write(1, 1));
    fs::remove_file(&path).expect("removes");
    thread::sleep(Duration::from_millis(1500));
    assert!(!client.write(1, 2), "the owner did not know yet that the first one failed");
    assert_eq!(client.rows(2), Vec::<u64>::new());
    assert!(client.write(2, 3));
    assert!(!client.write(1, 4), "an earlier opening");
    assert_eq!(client.rows(2), [3]);
}
