//! Sessions that return over another connection: the earlier connection ends without an event, and
//! the memberships that it lost are found again.

use std::sync::Arc;

use super::Home;
use super::connection::Connection;
use super::connections::ActiveConnection;
use super::membership::command_for;
use crate::channel::{LeaveReason, ResumeKey};
use crate::error::Disconnect;
use crate::ids::{ConnAddr, ConnId, ShardId};
use crate::session::{NO_REQUEST, Principal};
use crate::shard::context::ShardContext;
use crate::shard::envelope::{Command, Envelope, ResumedMembership, SessionClaim, SessionNotice};

/// Lets a session that is known by the name of its connection be found. If it has another
/// connection, one of them ends.
pub(super) fn register_session(cx: &mut ShardContext, conn: &ActiveConnection) {
    notify_named(cx, conn, |principal, addr| {
        SessionNotice::Connected(claim_of(principal, conn, addr))
    });
}

/// The connection ends, or moves to another shard.
pub(super) fn unregister_session(cx: &mut ShardContext, conn: &ActiveConnection) {
    notify_named(cx, conn, |_, addr| SessionNotice::Disconnected { addr });
}

fn notify_named(
    cx: &mut ShardContext,
    conn: &ActiveConnection,
    notice: impl FnOnce(&Principal, ConnAddr) -> SessionNotice,
) {
    let principal = conn.session().principal();
    if let Some(principal) = principal.filter(|p| p.identity.is_named_by_connection()) {
        let (app, name) = (&principal.grant.app, &principal.identity.connection);
        let notice = notice(principal, Home::addr(cx, conn.id));
        cx.notify_registry(app, name, notice);
    }
}

fn claim_of(principal: &Principal, conn: &Connection, addr: ConnAddr) -> SessionClaim {
    SessionClaim {
        app: Arc::clone(&principal.grant.app),
        identity: Arc::clone(&principal.identity),
        addr,
        greeted_ms: conn.warm.auth.done_ms(),
    }
}

/// Looks for memberships that an earlier connection of this session lost.
pub(super) fn find_lost(cx: &mut ShardContext, conn: &mut ActiveConnection) {
    let Some(key) = conn.session().principal().and_then(Principal::resume_key) else { return };
    let resuming = conn.cold_mut().resuming.get_or_insert_default();
    resuming.answers += 1;
    resuming.left.clear();
    let (key, addr) = (Arc::new(key), Home::addr(cx, conn.id));
    let notice = SessionNotice::FindLost { key: Arc::clone(&key), addr };
    cx.notify_registry(&key.app, key.session.as_str(), notice);
}

impl Home {
    /// Another connection claims the session of this one: the one that greeted earlier ends. The
    /// claim may be the earlier one when its connection was in transit between two shards.
    pub(super) fn handle_contest(&mut self, cx: &mut ShardContext, slot: u32, claim: SessionClaim) {
        let Some((id, connection)) = self.connections.tenant_mut(slot) else { return };
        let Some(principal) = connection.session().principal() else { return };
        let own = claim_of(principal, connection, Home::addr(cx, id));
        let is_same_session = own.app == claim.app
            && own.identity.is_named_by_connection()
            && own.identity.has_same_resume_key(&claim.identity);
        // The claim may be this connection's own, from before it moved here.
        if !is_same_session || Arc::ptr_eq(&own.identity, &claim.identity) {
            return;
        }
        if own.greeted_ms <= claim.greeted_ms {
            return self.disconnect_by_id(cx, id, Disconnect::Replaced);
        }
        let ConnAddr { shard, conn } = claim.addr;
        cx.outbox.send(shard, Envelope::Contest { slot: conn.slot, claim: own });
    }

    /// The registry's answer to a search: asks the owners, also when the connection has ended; what
    /// they give back lingers again then.
    pub(super) fn handle_lost_at(
        &mut self,
        cx: &mut ShardContext,
        id: ConnId,
        key: &Arc<ResumeKey>,
        owners: &[ShardId],
    ) {
        let addr = Home::addr(cx, id);
        for &owner in owners {
            cx.outbox.send(owner, Envelope::Resume { key: Arc::clone(key), addr });
        }
        self.with(cx, id, |_, _, conn| conn.resume_answered(owners.len()));
    }

    /// The session is a member again where it was. `is_answer`: to a resume.
    pub(super) fn handle_resumed(
        &mut self,
        cx: &mut ShardContext,
        id: ConnId,
        memberships: Vec<ResumedMembership>,
        is_answer: bool,
    ) {
        let Some(mut conn) = self.connections.check_out(id) else {
            for resumed in memberships.into_iter().filter(|_| is_answer) {
                command_for(cx, resumed.channel, Command::Linger { addr: Home::addr(cx, id) });
            }
            return;
        };
        for resumed in memberships {
            // What the session had entered again, it has left by itself.
            if is_answer || self.is_member_of(&conn, &resumed.channel) {
                self.take_over(cx, &mut conn, resumed);
            }
        }
        if is_answer {
            conn.resume_answered(0);
        }
        self.connections.check_in(conn);
    }

    /// Makes a session a member again. If it has left the channel since it asked, or may no longer
    /// be in it, it leaves; if it is gone, its membership lingers once more, unless the connection
    /// has entered under another identity, for which the owner has made room.
    fn take_over(
        &mut self,
        cx: &mut ShardContext,
        conn: &mut ActiveConnection,
        resumed: ResumedMembership,
    ) {
        let addr = Home::addr(cx, conn.id);
        let key = &resumed.channel;
        let is_member = self.is_member_of(conn, key);
        let has_left = conn.resuming().is_some_and(|resuming| resuming.left.contains(&key.hash));
        // Its key may allow less than when it entered.
        let is_denied = conn.session().principal().is_some_and(|principal| {
            principal.grant.capability.allows_presence(&key.name).is_err()
        });
        if (has_left || is_denied) && !is_member {
            return command_for(
                cx,
                resumed.channel,
                Command::Leave { addr, reason: LeaveReason::Left },
            );
        }
        let is_same = conn.session().principal().is_some_and(|principal| {
            principal.grant.app == key.app && principal.identity.is_same_session(&resumed.identity)
        });
        if !conn.is_open() || !is_same {
            if !is_member {
                command_for(cx, resumed.channel, Command::Linger { addr });
            }
            return;
        }
        conn.warm.session.adopt_identity(resumed.identity);
        let slot = self.open_channel(cx, resumed.channel);
        // A state that the session has announced since it asked is newer.
        if !is_member {
            self.set_membership(cx, conn, slot, resumed.state);
        }
        let Some(feed) = conn.session().feeds().member else { return };
        if !conn.is_subscribed(slot, feed) {
            self.subscribe(cx, conn, slot, feed, NO_REQUEST);
        }
        self.activate(conn, slot, feed);
        self.request_snapshot(cx, conn, slot, feed);
    }
}
