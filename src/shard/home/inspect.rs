//! Connections as operators see them.

use std::sync::Arc;

use super::Home;
use super::connection::{Connection, Transport};
use crate::error::Disconnect;
use crate::ids::{ChannelKey, ConnAddr, ConnId};
use crate::session::Feed;
use crate::shard::context::ShardContext;
use crate::shard::inspection::{
    ConnectionDetail, ConnectionFilter, ConnectionView, SLOTS_LOOKED_AT, Slice, Subscribers,
};

impl Home {
    /// Connections from a slot on.
    pub fn inspect_connections(
        &self,
        cx: &ShardContext,
        filter: &ConnectionFilter,
        from: u32,
        limit: usize,
    ) -> Slice<ConnectionView> {
        let (mut found, mut slot) = (Vec::new(), from);
        let (slots, looked_at) =
            (self.connections.slot_count(), from.saturating_add(SLOTS_LOOKED_AT));
        while slot < slots.min(looked_at) && found.len() < limit {
            let tenant = self.connections.tenant(slot);
            let connection = tenant.and_then(|id| Some((id, self.connections.get(id)?)));
            let wanted = connection.filter(|(_, connection)| filter.is_met_by(connection));
            found.extend(wanted.map(|(id, connection)| view(cx, id, connection)));
            slot += 1;
        }
        Slice { found, next: (slot < slots).then_some(slot) }
    }

    /// One connection; `None` when it is gone.
    pub fn inspect_connection(&self, cx: &ShardContext, id: ConnId) -> Option<ConnectionDetail> {
        let connection = self.connections.get(id)?;
        let key = |slot| self.channels.get(slot).map(|channel| Arc::clone(&channel.key));
        let subscriptions = connection.warm.subscriptions.iter();
        let subscribed =
            |s: &super::subscription::Subscription| -> Option<(Arc<ChannelKey>, Feed)> {
                Some((key(s.channel())?, s.feed()))
            };
        Some(ConnectionDetail {
            view: view(cx, id, connection),
            subscribed: subscriptions.filter_map(subscribed).collect(),
            member_of: connection.warm.memberships.iter().filter_map(|m| key(m.channel)).collect(),
            is_blocked: connection.flags.blocked,
            is_behind: connection.flags.stale,
        })
    }

    /// How many connections receive a channel.
    pub fn inspect_subscribers(&self, key: &ChannelKey) -> Subscribers {
        let mut subscribers = Subscribers::default();
        let channel = self.channels.find_key(key).and_then(|slot| self.channels.get(slot));
        for (feed, subscriptions) in channel.into_iter().flat_map(|channel| channel.subscriptions())
        {
            subscribers.count(feed, subscriptions);
        }
        subscribers
    }

    /// Ends a connection for an operator; whether it was there.
    pub fn disconnect_for_operator(&mut self, cx: &mut ShardContext, id: ConnId) -> bool {
        let is_open = self.connections.get(id).is_some_and(Connection::is_open);
        if is_open {
            self.disconnect_by_id(cx, id, Disconnect::Operator);
        }
        is_open
    }
}

impl ConnectionFilter {
    fn is_met_by(&self, connection: &Connection) -> bool {
        let principal = connection.session().principal();
        let is_of_app = self
            .app
            .as_ref()
            .is_none_or(|app| principal.is_some_and(|principal| principal.grant.app == *app));
        let is_of_user = self.users.as_ref().is_none_or(|users| {
            principal.is_some_and(|principal| users.contains(&*principal.identity.user))
        });
        is_of_app && is_of_user
    }
}

fn view(cx: &ShardContext, conn: ConnId, connection: &Connection) -> ConnectionView {
    let (warm, session) = (&connection.warm, connection.session());
    let principal = session.principal();
    let greeted_ms = warm.auth.done_ms();
    let since = |ms: u64| cx.now.mono_ms.saturating_sub(ms);
    ConnectionView {
        addr: ConnAddr { shard: cx.id, conn },
        app: principal.map(|p| Arc::clone(&p.grant.app)).unwrap_or_default(),
        user: principal.map(|p| Arc::clone(&p.identity.user)).unwrap_or_default(),
        name: principal.map(|p| p.identity.connection.to_string()).unwrap_or_default(),
        protocol: session.protocol(),
        transport: match warm.transport {
            Transport::Proxied(_) | Transport::Http => "undecided",
            Transport::WebSocket(_) => "websocket",
            Transport::Stream => "tcp",
            Transport::LongPoll(_) => "long_poll",
        },
        phase: connection.phase,
        subscriptions: warm.subscriptions.len(),
        memberships: warm.memberships.len(),
        queue_bytes: connection.queue.len(),
        unanswered: warm.unanswered,
        silent_ms: since(warm.last_byte.ms()),
        greeted_ms: (greeted_ms > 0).then(|| since(greeted_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Listener;
    use crate::shard::testing::context;

    #[test]
    fn a_question_ends_at_its_bounds_and_goes_on_from_there() {
        let mut cx = context();
        let mut home = Home::new(&cx);
        let ids: Vec<ConnId> = (0..SLOTS_LOOKED_AT + 10)
            .map(|_| home.handle_open(&mut cx, Listener::SyncTcp).unwrap())
            .collect();
        let all = ConnectionFilter::default();
        let first = home.inspect_connections(&cx, &all, 0, 3);
        assert_eq!((first.found.len(), first.next), (3, Some(3)));
        let many = home.inspect_connections(&cx, &all, 0, usize::MAX);
        assert_eq!(many.found.len(), SLOTS_LOOKED_AT as usize);
        let rest = home.inspect_connections(&cx, &all, many.next.unwrap(), usize::MAX);
        assert_eq!((rest.found.len(), rest.next), (10, None));
        let beyond = home.inspect_connections(&cx, &all, u32::MAX, usize::MAX);
        assert_eq!((beyond.found.len(), beyond.next), (0, None));
        let nobody = ConnectionFilter {
            users: Some(["alice".into()].into()),
            ..ConnectionFilter::default()
        };
        assert!(home.inspect_connections(&cx, &nobody, 0, 10).found.is_empty());

        assert!(home.disconnect_for_operator(&mut cx, ids[1]));
        assert!(!home.disconnect_for_operator(&mut cx, ids[1]), "it is closing already");
        let detail = home.inspect_connection(&cx, ids[1]).unwrap();
        assert_eq!((detail.view.phase.label(), detail.view.transport), ("closing", "tcp"));
        home.connections.remove(ids[1]);
        assert!(home.inspect_connection(&cx, ids[1]).is_none());
    }
}
