//! Stamps and publishes, as bytes.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::client::Out;
use super::super::options::{Dialect, PublishForm};
use super::super::stamp::Stamp;
use super::Plan;
use crate::wire::foony::{Content, Message, Publish};

/// Writes publishes. One per thread.
pub struct Encoder {
    pub payload: Vec<u8>,
    form: PublishForm,
    /// SDKs put the time into a message's id, and eight random digits.
    started_unix_ms: u64,
    message_id: String,
}

impl Encoder {
    pub fn new(form: PublishForm) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_unix_ms = since.as_millis() as u64;
        Encoder { payload: Vec::new(), form, started_unix_ms, message_id: String::new() }
    }

    /// Replaces the payload by a stamp, as JSON where the protocol demands that.
    pub fn stamp(&mut self, stamp: &Stamp, plan: &Plan) -> &[u8] {
        match plan.shape.base.dialect {
            Dialect::Sync => stamp.write(&mut self.payload, plan.shape.payload),
            Dialect::Foony | Dialect::Peer => {
                stamp.write_json(&mut self.payload, plan.shape.payload);
            }
        }
        &self.payload
    }

    /// Publishes the payload as a message. Ids begin with 1.
    pub fn publish(&mut self, id: u64, channel: &str, out: &mut Out<'_>) {
        self.message_id.clear();
        // Writing to a string cannot fail.
        let _ = match self.form {
            PublishForm::Sdk => {
                write!(self.message_id, "{:013}-{:08x}", self.started_unix_ms, id as u32)
            }
            PublishForm::Single => write!(self.message_id, "{id:x}"),
        };
        let message = Message { name: "m".into(), data: &self.payload, encoding: "".into() };
        out.publish(Publish {
            id,
            channel: channel.into(),
            message_id: self.message_id.as_str().into(),
            ephemeral: false,
            ttl_ms: 0,
            content: match self.form {
                PublishForm::Sdk => Content::Batch(vec![message]),
                PublishForm::Single => Content::One(message),
            },
        });
    }
}
