//! Publishes under way: repeated with the same message id on every connection until the server has
//! answered.

use super::command::Part;
use crate::client::message::Published;
use crate::client::pending::Completer;
use crate::client::protocol::Outbound;
use crate::wire::foony::{self, Content, Publish, Request};

/// A publish that the server has not acknowledged.
pub(super) struct Publishing {
    pub channel: String,
    pub message_id: String,
    pub parts: Vec<Part>,
    pub completer: Completer<Published>,
    /// Its request on this connection.
    pub request: u64,
}

impl Publishing {
    pub fn send(&self, out: &mut Outbound) -> u64 {
        let content = match &*self.parts {
            [only] => Content::One(only.message()),
            parts => Content::Batch(parts.iter().map(Part::message).collect()),
        };
        out.request(|id| {
            let (channel, message_id) = ((&*self.channel).into(), (&*self.message_id).into());
            Request::Publish(Publish {
                id,
                channel,
                message_id,
                ephemeral: false,
                ttl_ms: 0,
                content,
            })
        })
    }
}

impl Part {
    fn message(&self) -> foony::Message<'_> {
        let (name, data) = (self.name.as_str().into(), self.data.as_bytes());
        foony::Message { name, data, encoding: "".into() }
    }
}
