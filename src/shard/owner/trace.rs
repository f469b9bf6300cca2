//! Traces: what reaches a channel, and what leaves it, for an operator who asks. A channel that
//! nobody traces pays for one look at an empty map.

use std::sync::Arc;

use super::Owner;
use crate::ids::{ChannelKey, ShardId};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Command, ReplyTo};
use crate::shard::trace::{Traced, Tracing};

impl Owner {
    /// An operator begins to trace a channel, or ends it.
    pub(super) fn set_tracing(
        &mut self,
        cx: &mut ShardContext,
        key: &Arc<ChannelKey>,
        tracing: Tracing,
    ) {
        match tracing {
            Tracing::On => {
                cx.traced.insert(key.log_hash(), Arc::clone(key));
                let slot = self.channels.find_key(key);
                let homes = slot.map_or(0, |slot| self.entry(slot).homes.len());
                cx.trace(key, || Traced::Begun { homes });
            }
            Tracing::Off => drop(cx.traced.remove(&key.log_hash())),
        }
    }
}

/// Tells of a command, before it is carried out.
pub(super) fn trace_command(
    cx: &mut ShardContext,
    from: ShardId,
    key: &ChannelKey,
    command: &Command,
) {
    if !matches!(command, Command::Trace(_)) {
        cx.trace(key, || Traced::Command { from, text: described(command) });
    }
}

/// A command in a few words.
fn described(command: &Command) -> String {
    match command {
        Command::Announce(new) => {
            format!("announce user={:?} connection={}", new.identity.user, new.addr)
        }
        Command::Leave { addr, reason } => format!("leave connection={addr} reason={reason:?}"),
        Command::Linger { addr } => format!("lost connection={addr}"),
        Command::Subscribe { feed, .. } => format!("subscribe feed={feed:?}"),
        Command::Unsubscribe { feed } => format!("unsubscribe feed={feed:?}"),
        Command::Snapshot { feed, .. } => format!("snapshot feed={feed:?}"),
        Command::Members { .. } => "members".to_owned(),
        Command::Attach { reply_to, after, .. } => {
            format!("attach {} after={after:?}", author(*reply_to))
        }
        Command::Publish { reply_to, draft } => {
            let (id, client) = (&draft.id, &draft.client_id);
            format!("publish {} client={client:?} id={id:?}", author(*reply_to))
        }
        Command::History { reply_to, .. } | Command::HistoryForward { reply_to, .. } => {
            format!("history {}", author(*reply_to))
        }
        Command::Fetch { reply_to, after, .. } => {
            format!("fetch {} after={after}", author(*reply_to))
        }
        Command::Verdict { addr, .. } => format!("verdict connection={addr}"),
        Command::Direct { reply_to, .. } => format!("direct {}", author(*reply_to)),
        Command::Count(count) => {
            format!("count messages={} presence={}", count.messages, count.presence)
        }
        Command::Check { reply_to, .. } => format!("check {}", author(*reply_to)),
        Command::CatchUp { conn, after, .. } => {
            format!("catch_up slot={} after={after}", conn.slot)
        }
        Command::Documents(_) => "documents".to_owned(),
        Command::Trace(_) => "trace".to_owned(),
    }
}

fn author(reply_to: ReplyTo) -> String {
    match reply_to {
        ReplyTo::Session { conn, request } => {
            format!("slot={}.{} request={request}", conn.slot, conn.generation)
        }
        ReplyTo::Edge(_) => "http".to_owned(),
        ReplyTo::Nobody => "server".to_owned(),
    }
}
