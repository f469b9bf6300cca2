//! Who was present in a channel at a time: the entries of its presence history since the last list
//! of everyone.

use std::sync::Arc;

use super::Edge;
use super::rest::refused;
use crate::admin;
use crate::channel::{Message, PageLimit, Position};
use crate::ids::{ChannelKey, ShardId, presence_log, presence_logged};
use crate::policy::Durability;
use crate::rest::{Refusal, Reply};
use crate::session::Answer;
use crate::session::presence_history::{is_beginning, lists_everyone, present_after};
use crate::shard::Command;
use crate::wire::foony::ErrorCode;

/// Bytes of entries that are read at once.
const PAGE_BYTES: usize = 256 * 1024;

/// The log of a channel's presence history.
struct History<'e> {
    edge: &'e Edge,
    key: Arc<ChannelKey>,
    owner: ShardId,
}

pub async fn respond(edge: &Edge, app: &str, channel: &str, at_ms: u64) -> Result<Reply, Refusal> {
    if edge.settings().policies.for_channel(channel).presence_log.is_none() {
        return Err(Refusal::no_presence_history());
    }
    let (key, owner) = edge.locate(&app.into(), &presence_log(channel));
    let entries = (History { edge, key, owner }).at(at_ms).await?;
    let answer = admin::members_at(app, channel, at_ms, &present_after(&entries));
    Ok(Reply::json(answer.to_string().into_bytes()))
}

/// It is longer ago than history is kept.
fn too_long_ago() -> Refusal {
    let message = "presence history does not reach back to that time";
    Refusal::new(ErrorCode::NotFound, message)
}

impl History<'_> {
    /// The entries up to a time, from the last one on that lists everyone. Entries of an earlier
    /// process say nothing of a time when this one was running: its members began anew.
    async fn at(&self, at_ms: u64) -> Result<Vec<Arc<Message>>, Refusal> {
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
                return if is_cut { Err(too_long_ago()) } else { Ok(Vec::new()) };
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
    async fn is_cut(&self, at_ms: u64, started_ms: u64) -> Result<bool, Refusal> {
        let now_ms = self.edge.shared.clock.now().wall_ms;
        let channel = presence_logged(&self.key.name).unwrap_or_default();
        let settings = self.edge.settings();
        let policy = settings.policies.for_channel(channel);
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
    async fn first_after(&self, at_ms: u64) -> Result<u64, Refusal> {
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

    async fn oldest(&self, limit: PageLimit) -> Result<Vec<Arc<Message>>, Refusal> {
        let key = Arc::clone(&self.key);
        let command = |reply_to| Command::HistoryForward { reply_to, after: 0, limit };
        messages(self.edge.client.call(self.owner, key, command).await?)
    }

    /// The newest entries before a serial, or of all.
    async fn page(
        &self,
        before: Option<u64>,
        limit: PageLimit,
    ) -> Result<Vec<Arc<Message>>, Refusal> {
        let before = before.map(Position::Serial);
        let command = |reply_to| Command::History { reply_to, before, limit };
        let key = Arc::clone(&self.key);
        messages(self.edge.client.call(self.owner, key, command).await?)
    }
}

fn messages(answer: Answer) -> Result<Vec<Arc<Message>>, Refusal> {
    match answer {
        Answer::History { messages, .. } => Ok(messages),
        answer => Err(refused(answer)),
    }
}
