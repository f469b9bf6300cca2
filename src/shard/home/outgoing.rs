//! What is to be written: which connections have something in their send queues.

use std::sync::Arc;

use super::connection::Connection;
use super::send_queue::RunPool;
use super::write_order::{Due, WriteOrder};
use crate::ids::ConnId;

#[derive(Debug, Default)]
pub struct Outgoing {
    pub write_order: WriteOrder,
    pub run_pool: RunPool,
    /// Long-polling connections with something to send; each once.
    pub long_polls: Vec<ConnId>,
}

impl Outgoing {
    /// Notes that a connection has bytes to write.
    pub fn mark_due(&mut self, id: ConnId, connection: &mut Connection, due: Due) {
        if !connection.flags.long_poll {
            return self.write_order.note(id, &mut connection.flags.due, due);
        }
        if connection.flags.due.replace(due).is_none() {
            self.long_polls.push(id);
        }
    }

    /// Queues memory that other connections are sent as well.
    pub fn push_shared(&mut self, id: ConnId, connection: &mut Connection, bytes: &Arc<[u8]>) {
        connection.queue.push(Arc::clone(bytes), &mut self.run_pool);
        self.mark_due(id, connection, Due::Delivery);
    }
}
