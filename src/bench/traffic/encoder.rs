//! Publishes, as bytes.

use std::fmt::Write;

use super::super::client::Out;
use super::super::options::PublishForm;
use crate::wire::foony::{Content, Message, Publish};

/// SDKs put the time in milliseconds into a message's id, and eight random digits.
const ID_UNIX_MS: u64 = 1_700_000_000_000;

/// Writes publishes. One per thread.
pub struct Encoder {
    pub payload: Vec<u8>,
    form: PublishForm,
    message_id: String,
}

impl Encoder {
    pub fn new(form: PublishForm) -> Self {
        Encoder { payload: Vec::new(), form, message_id: String::new() }
    }

    /// Publishes the payload as a message. Ids begin with 1.
    pub fn publish(&mut self, id: u64, channel: &str, out: &mut Out<'_>) {
        self.message_id.clear();
        // Writing to a string cannot fail.
        let _ = match self.form {
            PublishForm::Sdk => write!(self.message_id, "{ID_UNIX_MS}-{:08x}", id as u32),
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
