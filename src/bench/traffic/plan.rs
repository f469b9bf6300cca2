//! Who publishes what to whom: what all threads of a run have in common.

use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::super::client::Target;
use super::super::options::{Dialect, FanoutOptions};
use super::{Publisher, Receiver};

/// What ends a publish's time in its publisher's window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowCounts {
    /// The last subscriber has received it.
    Deliveries,
    /// The server has acknowledged it, which says nothing about its delivery.
    // Records from before the option leave it out.
    #[default]
    Acks,
}

/// How a message is published on the Foony protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishForm {
    /// A batch of one message with an id of 22 characters, as every published SDK sends it.
    Sdk,
    /// One message outside of any batch, with a short id: fewer bytes than an SDK sends.
    // Records from before the option leave it out.
    #[default]
    Single,
}

/// Which channels a publisher publishes to when there are more of them than publishers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// The publishers share all channels; each takes turns through its part.
    All,
    /// Every publisher stays in one channel; the others are quiet.
    One,
}

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The states of members. A newer one may overtake an older one, and none is acknowledged.
    States,
    Messages,
}

/// What is published, and received.
#[derive(Debug)]
pub struct Plan {
    pub content: Content,
    pub shape: FanoutOptions,
    pub channels: Vec<Arc<str>>,
    /// By channel.
    pub targets: Vec<Target>,
    /// Of how many deliveries the delay of one is recorded.
    pub sampled_of: u64,
    /// Are the delays of pings recorded?
    pub measures_pings: bool,
}

impl Plan {
    /// Does the server give what is published a serial?
    pub fn is_numbered(&self) -> bool {
        self.content == Content::Messages && self.shape.base.dialect != Dialect::Peer
    }

    pub fn has_window_of_deliveries(&self) -> bool {
        self.shape.rate.is_none() && self.shape.publishing.window_counts == WindowCounts::Deliveries
    }

    /// On the sync wire publishers receive what the others publish.
    pub fn publishers_receive(&self) -> bool {
        self.content == Content::States && self.shape.base.dialect == Dialect::Sync
    }

    /// Publishers of a channel, and one more that it may have.
    pub fn publishers_of(&self, channel: usize) -> usize {
        (channel..self.shape.publishers).step_by(self.channels.len()).len().max(1)
    }

    /// A publisher's number among those of its channel: the n-th publisher of a channel comes a
    /// multiple of all channels after the first.
    pub fn place_of(&self, publisher: usize) -> usize {
        publisher / self.channels.len()
    }

    /// Receivers keep one position for each feed: for a channel or, where the server does not
    /// number, for a publisher of the channel.
    pub fn feed(&self, channel: usize, publisher: usize) -> usize {
        let place = if self.is_numbered() { 0 } else { self.place_of(publisher) };
        channel + place * self.channels.len()
    }

    /// What the server owes for a publish: its deliveries, and its acknowledgement if there is one.
    pub fn owed_for(&self, publisher: usize) -> u64 {
        let others = self.publishers_of(publisher % self.channels.len()) - 1;
        let deliveries = self.shape.subscribers + others * usize::from(self.publishers_receive());
        deliveries as u64 + u64::from(self.content == Content::Messages)
    }
}

/// One connection.
pub struct Member {
    /// The channel that it joins.
    pub channel: usize,
    pub publisher: Option<Box<Publisher>>,
    pub receiver: Option<Receiver>,
}
