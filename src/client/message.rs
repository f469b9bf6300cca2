//! Messages of channels, and what becomes of them on the way.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::wire::foony;

/// What a subscription receives.
///
/// ```
/// use headcount::client::Delivery;
///
/// fn show(delivery: &Delivery) -> String {
///     match delivery {
///         Delivery::Message(message) => format!("{}: {}", message.client_id, message.data),
///         Delivery::Gap { from, to } => format!("{} messages are lost", to - from + 1),
///         _ => String::new(),
///     }
/// }
/// assert_eq!(show(&Delivery::Gap { from: 3, to: 5 }), "3 messages are lost");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "gaps are rare")]
pub enum Delivery {
    /// A message, in the order of the channel.
    Message(Message),
    /// Messages that the server keeps no longer, or that the program was too slow for: the serials
    /// from the first to the last one, both included.
    Gap {
        /// First serial that is lost.
        from: u64,
        /// Last serial that is lost.
        to: u64,
    },
}

/// A message of a channel.
///
/// ```
/// use headcount::client::Message;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Sale {
///     price: u64,
/// }
///
/// fn sale(message: &Message) -> Option<Sale> {
///     (message.name == "sold").then(|| Sale::deserialize(&message.data).ok())?
/// }
/// # let _ = |sale: Sale| sale.price;
/// # let _ = sale;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// The channel's name.
    pub channel: String,
    /// The event name that the publisher gave.
    pub name: String,
    /// `Null` if there is none.
    pub data: Value,
    /// The same wherever the message is seen.
    pub message_id: String,
    /// Position in the channel, which the messages of a batch share; `None` for ephemeral ones.
    pub serial: Option<u64>,
    /// The publisher.
    pub client_id: String,
    /// How the publisher encoded `data`; empty if it did not.
    pub encoding: String,
    /// When the server accepted it.
    pub timestamp: SystemTime,
}

/// What a publish became.
///
/// ```no_run
/// # use headcount::client::prelude::*;
/// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
/// let published = client.channel("shop").publish("sold", &3).wait()?;
/// println!("message {} has serial {}", published.message_id, published.serial);
/// # Ok::<(), ClientError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Position in the channel.
    pub serial: u64,
    /// The id of the message, or of the batch.
    pub message_id: String,
}

/// Which messages of the past to fetch.
///
/// ```
/// use headcount::client::prelude::*;
///
/// let newest = HistoryQuery::default();
/// let older = HistoryQuery::default().limit(20).before(1000);
/// assert_ne!(newest, older);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryQuery {
    pub(super) limit: u64,
    pub(super) before: u64,
}

impl HistoryQuery {
    /// At most this many messages; by default as many as the server chooses.
    ///
    /// ```
    /// use headcount::client::HistoryQuery;
    ///
    /// let newest_20 = HistoryQuery::default().limit(20);
    /// # assert_ne!(newest_20, HistoryQuery::default());
    /// ```
    pub fn limit(mut self, messages: u64) -> Self {
        self.limit = messages;
        self
    }

    /// Only messages with a lower serial; by default the newest.
    ///
    /// ```
    /// use headcount::client::HistoryQuery;
    ///
    /// let up_to_serial_999 = HistoryQuery::default().before(1000);
    /// # assert_ne!(up_to_serial_999, HistoryQuery::default());
    /// ```
    pub fn before(mut self, serial: u64) -> Self {
        self.before = serial;
        self
    }
}

/// A page of the past.
///
/// ```no_run
/// # use headcount::client::prelude::*;
/// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
/// let mut query = Some(HistoryQuery::default());
/// while let Some(page) = query.take() {
///     let page = client.channel("shop").history(page).wait()?;
///     page.messages.iter().rev().for_each(|message| println!("{}", message.data));
///     query = page.next;
/// }
/// # Ok::<(), ClientError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HistoryPage {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// The page before this one, if there is one.
    pub next: Option<HistoryQuery>,
}

/// The messages of a delivery, in order.
pub(super) fn messages_of(delivery: &foony::Delivery<'_>) -> Vec<Message> {
    let message = |part: &foony::Message<'_>| Message {
        channel: delivery.channel.clone().into_owned(),
        name: part.name.clone().into_owned(),
        data: serde_json::from_slice(part.data).unwrap_or_default(),
        message_id: delivery.message_id.clone().into_owned(),
        serial: (delivery.serial != 0).then_some(delivery.serial),
        client_id: delivery.client_id.clone().into_owned(),
        encoding: part.encoding.clone().into_owned(),
        timestamp: wall_time(delivery.timestamp_ms),
    };
    delivery.content.messages().iter().map(message).collect()
}

/// A time in milliseconds since the Unix epoch.
fn wall_time(ms: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}
