//! Who was present in a channel at a time: the entries of its presence history since the last list
//! of everyone.

use std::sync::Arc;

use hyper::{Response, StatusCode};

use super::Edge;
use super::client::Unavailable;
use super::http::{Body, JSON, TEXT, text, unavailable};
use crate::admin;
use crate::channel::{Message, PageLimit, Position};
use crate::ids::{ChannelKey, ShardId, presence_log, presence_logged};
use crate::policy::Durability;
use crate::rest::Refusal;
use crate::session::Answer;
use crate::session::presence_history::{is_beginning, lists_everyone, present_after};
use crate::shard::Command;

/// Bytes of entries that are read at once.
const PAGE_BYTES: usize = 256 * 1024;

/// The log of a channel's presence history.
struct History<'e> {
    edge: &'e Edge,
    key: Arc<ChannelKey>,
    owner: ShardId,
}

/// Why the members at a time are not known.
enum Unknown {
    Unavailable,
    Refused(String),
    /// It is longer ago than history is kept.
    TooLongAgo,
}

impl From<Unavailable> for Unknown {
    fn from(_: Unavailable) -> Self {
        Unknown::Unavailable
    }
}

/// The value of `at`: milliseconds since the Unix epoch.
///
/// # Errors
/// What to write instead.
pub fn time_of(query: Option<&str>) -> Result<Option<u64>, &'static str> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let at = pairs.find(|(name, _)| name == "at");
    let at = at.map(|(_, value)| value.parse());
    at.transpose().map_err(|_| "`at` must be milliseconds since the Unix epoch\n")
}

pub async fn respond(edge: &Edge, app: &str, channel: &str, at_ms: u64) -> Response<Body> {
    if edge.shared.settings.policies.for_channel(channel).presence_log.is_none() {
        let why = format!("{}\n", Refusal::no_presence_history().message());
        return text(StatusCode::NOT_FOUND, TEXT, why);
    }
    let (key, owner) = edge.locate(&app.into(), &presence_log(channel));
    match (History { edge, key, owner }).at(at_ms).await {
        Ok(entries) => {
            let present = present_after(&entries);
            let page = admin::members_at(app, channel, at_ms, &present);
            text(StatusCode::OK, JSON, page.to_string())
        }
        Err(Unknown::TooLongAgo) => {
            let why = "presence history does not reach back to that time\n";
            text(StatusCode::NOT_FOUND, TEXT, why)
        }
        Err(Unknown::Unavailable) => unavailable(),
        Err(Unknown::Refused(why)) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why),
    }
}

impl History<'_> {
    /// The entries up to a time, from the last one on that lists everyone. Entries of an earlier
    /// process say nothing of a time when this one was running: its members began anew.
    async fn at(&self, at_ms: u64) -> Result<Vec<Arc<Message>>, Unknown> {
        let clock = self.edge.shared.clock.now();
        let started_ms =
            clock.wall_ms.saturating_sub(self.edge.started.elapsed().as_millis() as u64);
        let mut before = self.first_after(at_ms).await?;
        let mut entries: Vec<Arc<Message>> = Vec::new();
        loop {
            let limit = PageLimit { messages: usize::MAX, bytes: PAGE_BYTES };
            let page = self.page(Some(before), limit).await?;
            let is_old =
                |entry: &Arc<Message>| at_ms >= started_ms && entry.timestamp_ms < started_ms;
            let is_outdated = page.first().is_some_and(is_old);
            let Some(first) = page.first() else {
                let is_cut = !entries.is_empty() || self.is_cut(at_ms, started_ms).await?;
                return if is_cut { Err(Unknown::TooLongAgo) } else { Ok(Vec::new()) };
            };
            before = first.serial;
            entries.splice(0..0, page);
            let list = entries.iter().rposition(|entry| lists_everyone(entry));
            if list.is_some() || is_outdated {
                entries.drain(..list.unwrap_or(0));
                entries.retain(|entry| !is_old(entry));
                break;
            }
        }
        Ok(entries)
    }

    /// Whether something of what was before a time is no longer kept, when no entry is from before
    /// it. Otherwise nobody had come yet.
    async fn is_cut(&self, at_ms: u64, started_ms: u64) -> Result<bool, Unknown> {
        let now_ms = self.edge.shared.clock.now().wall_ms;
        let channel = presence_logged(&self.key.name).unwrap_or_default();
        let policy = self.edge.shared.settings.policies.for_channel(channel);
        let kept_ms = policy.presence_history_s.saturating_mul(1000);
        let log = policy.presence_log.as_ref();
        let is_on_disk = log.is_some_and(|log| log.durability == Durability::Disk);
        if at_ms < now_ms.saturating_sub(kept_ms) || (!is_on_disk && at_ms < started_ms) {
            return Ok(true);
        }
        let oldest = self.oldest(PageLimit { messages: 1, bytes: PAGE_BYTES }).await?;
        Ok(oldest.first().is_some_and(|entry| !is_beginning(entry)))
    }

    /// The serial of the first entry after a time; that after the last one if there is none.
    async fn first_after(&self, at_ms: u64) -> Result<u64, Unknown> {
        let one = PageLimit { messages: 1, bytes: PAGE_BYTES };
        let newest = self.page(None, one).await?;
        let oldest = self.oldest(one).await?;
        let (Some(newest), Some(oldest)) = (newest.first(), oldest.first()) else { return Ok(0) };
        if newest.timestamp_ms <= at_ms {
            return Ok(newest.serial + 1);
        }
        let (mut low, mut high) = (oldest.serial, newest.serial);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.page(Some(middle + 1), one).await?;
            match entry.first() {
                Some(entry) if entry.timestamp_ms > at_ms => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(low)
    }

    async fn oldest(&self, limit: PageLimit) -> Result<Vec<Arc<Message>>, Unknown> {
        let key = Arc::clone(&self.key);
        let command = |reply_to| Command::HistoryForward { reply_to, after: 0, limit };
        messages(self.edge.client.call(self.owner, key, command).await?)
    }

    /// The newest entries before a serial, or of all.
    async fn page(
        &self,
        before: Option<u64>,
        limit: PageLimit,
    ) -> Result<Vec<Arc<Message>>, Unknown> {
        let before = before.map(Position::Serial);
        let command = |reply_to| Command::History { reply_to, before, limit };
        let key = Arc::clone(&self.key);
        messages(self.edge.client.call(self.owner, key, command).await?)
    }
}

fn messages(answer: Answer) -> Result<Vec<Arc<Message>>, Unknown> {
    match answer {
        Answer::History { messages, .. } => Ok(messages),
        Answer::Refused(reject) => Err(Unknown::Refused(format!("{reject}\n"))),
        other => Err(Unknown::Refused(format!("the history cannot be read: {other:?}\n"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_milliseconds() {
        assert_eq!(time_of(None), Ok(None));
        assert_eq!(time_of(Some("x=1")), Ok(None));
        assert_eq!(time_of(Some("x=1&at=1700000000000")), Ok(Some(1_700_000_000_000)));
        assert!(time_of(Some("at=yesterday")).is_err());
    }
}
