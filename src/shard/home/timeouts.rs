//! Time-outs of connections: when each is checked although nothing arrived from it, and how those
//! end that were silent for too long.

use super::Home;
use super::connection::{Phase, Transport};
use super::connections::ActiveConnection;
use crate::error::Disconnect;
use crate::session::Principal;
use crate::shard::context::ShardContext;
use crate::shard::timers::Timer;
use crate::wire::http::HeadError;

impl Home {
    /// Checks every connection that is due.
    pub(super) fn sweep(&mut self, cx: &mut ShardContext) {
        let mut from = 0;
        while let Some(id) = self.connections.next_due(from, cx.now.mono_ms) {
            from = id.slot + 1;
            let next_ms = self.with(cx, id, |home, cx, conn| home.check_connection(cx, conn));
            self.connections.set_check(id, next_ms.unwrap_or(u64::MAX));
        }
        self.outgoing.run_pool.trim();
        self.sweeping = self.connections.len() > 0;
        if self.sweeping {
            cx.timers.set(cx.now.mono_ms + cx.limits().sweep_ms, Timer::Sweep);
        }
    }

    /// Applies the time-outs of one connection; returns when to check again.
    fn check_connection(&mut self, cx: &mut ShardContext, conn: &mut ActiveConnection) -> u64 {
        if let Some(reason) = self.overdue(cx, conn) {
            match conn.warm.transport {
                Transport::Http => self.refuse_head(cx, conn, HeadError::Timeout),
                _ => self.disconnect(cx, conn, reason),
            }
            return u64::MAX;
        }
        if conn.phase == Phase::Closing {
            return u64::MAX;
        }
        self.end_long_hold(cx, conn);
        let members_ms = self.expire_memberships(cx, conn);
        let liveness_ms = self.check_liveness(cx, conn);
        members_ms.min(liveness_ms)
    }

    /// Why a connection has to end now, if it has to.
    fn overdue(&mut self, cx: &ShardContext, conn: &ActiveConnection) -> Option<Disconnect> {
        let now = cx.now;
        if !conn.is_open() {
            return None;
        }
        if let Some(half_closed) = conn.half_closed().filter(|h| h.until.ms() <= now.mono_ms) {
            return Some(half_closed.reason);
        }
        if conn.auth_deadline_ms(cx.limits()).is_some_and(|due_ms| due_ms <= now.mono_ms) {
            return Some(Disconnect::GreetingTimeout);
        }
        let expires = conn.session().principal().and_then(Principal::expires_wall_ms);
        if expires.is_some_and(|end_ms| end_ms <= now.wall_ms) {
            return Some(Disconnect::TokenExpired);
        }
        if let Some(poll) = conn.long_poll() {
            let is_absent = poll.absent_ms().is_some_and(|due_ms| due_ms <= now.mono_ms);
            return is_absent.then_some(Disconnect::Lost);
        }
        let idle_ms = self.silences(cx, conn).idle_ms;
        let is_idle = conn.warm.last_byte.ms().saturating_add(idle_ms) <= now.mono_ms;
        is_idle.then_some(Disconnect::IdleTimeout)
    }
}
