//! A shard's connection to its worker of the store: a queue each way, and a thread behind them.

use std::io;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::mesh::Endpoints;
use crate::ids::{Router, ShardId};
use crate::shard::{StoreReply, StoreRequest};
use crate::store::{Store, Worker, WorkerParts};

/// The shard's ends of the two queues. Both are bounded by the shard: it refuses publishes while
/// too much is being stored, and every reply answers one of its requests.
pub struct StoreClient {
    requests: Sender<StoreRequest>,
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
        Ok(StoreClient { requests, replies })
    }

    pub fn send(&self, request: StoreRequest) {
        let sent = self.requests.send(request);
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
