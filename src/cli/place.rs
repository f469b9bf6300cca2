//! Which channel on which server.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::address::{Address, percent_encoded};

/// The channel a command is about, and where to ask.
#[derive(Clone, Debug, Args)]
pub(super) struct Place {
    /// Name of the channel, for example doc:1
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub channel: String,
    /// App the channel belongs to
    #[arg(long, default_value = "demo", value_parser = NonEmptyStringValueParser::new())]
    pub app: String,
    /// Admin address of the server, HOST:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7402")]
    pub admin: Address,
}

impl Place {
    /// Path of one question about the channel (`members` or `watch`).
    pub fn path(&self, question: &str) -> String {
        let (app, channel) = (percent_encoded(&self.app), percent_encoded(&self.channel));
        format!("/v1/apps/{app}/channels/{channel}/{question}")
    }
}
