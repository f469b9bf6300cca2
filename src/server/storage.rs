//! A shard's connection to its worker of the store: a queue each way, and a thread behind them.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::mesh::Endpoints;
use crate::ids::{Router, ShardId};
use crate::relay::CAN_FOLD;
use crate::shard::{StoreOperation, StoreOutcome, StoreReply, StoreRequest};
use crate::store::{Store, Worker, WorkerParts};

/// The shard's ends of the queues. Both are bounded by the shard: it refuses publishes while
/// too much is being stored, and every reply answers one of its requests.
pub struct StoreClient {
    requests: Sender<StoreRequest>,
    /// To a thread of its own: it takes long, and reads nothing from disk.
    folds: Sender<StoreRequest>,
    replies: Receiver<StoreReply>,
}

impl StoreClient {
    /// Starts the worker of a shard. It ends with the client.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        store: &Arc<Store>,
        shard: ShardId,
        router: &Router,
        endpoints: &Endpoints,
    ) -> io::Result<Self> {
        let (requests, to_serve) = unbounded();
        let (answers, replies) = unbounded();
        let folds = start_folding(shard, answers.clone(), Arc::clone(endpoints))?;
        let endpoints = Arc::clone(endpoints);
        let worker = Worker::new(WorkerParts {
            store: Arc::clone(store),
            shard,
            router: *router,
            requests: to_serve,
            replies: answers,
            wake: Box::new(move || endpoints[shard.index()].wake_if_sleeping()),
        });
        let thread = thread::Builder::new().name(format!("store-{shard}"));
        thread.spawn(move || worker.run())?;
        Ok(StoreClient { requests, folds, replies })
    }

    pub fn send(&self, request: StoreRequest) {
        let queue = match request.operation {
            StoreOperation::Fold(_) => &self.folds,
            _ => &self.requests,
        };
        let sent = queue.send(request);
        assert!(sent.is_ok(), "the store's worker has ended before its shard");
    }

    /// The next answer, if there is one.
    pub fn next_reply(&self) -> Option<StoreReply> {
        self.replies.try_recv().ok()
    }

    /// No answer waits.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }
}

/// Starts the thread that folds the deltas of a shard, one collection after another. It ends with
/// the sender.
fn start_folding(
    shard: ShardId,
    answers: Sender<StoreReply>,
    endpoints: Endpoints,
) -> io::Result<Sender<StoreRequest>> {
    let (folds, to_fold) = unbounded::<StoreRequest>();
    if !CAN_FOLD {
        return Ok(folds);
    }
    let thread = thread::Builder::new().name(format!("fold-{shard}"));
    thread.spawn(move || {
        for StoreRequest { log, operation, .. } in to_fold {
            let StoreOperation::Fold(fold) = operation else { continue };
            // Without a receiver the shard has ended.
            let _ = answers.send(StoreReply { log, outcome: StoreOutcome::Folded(fold.run()) });
            endpoints[shard.index()].wake_if_sleeping();
        }
    })?;
    Ok(folds)
}
