//! Time-outs of connections: when each is looked at although nothing came from it, and what becomes
//! of those that were silent for too long.

use super::Shard;
use super::connection::{Phase, Transport};
use super::timers::Timer;
use crate::error::Disconnect;
use crate::ids::{ConnId, Now};
use crate::session::Principal;
use crate::wire::http::HeadError;

impl Shard {
    /// Looks at every connection whose check is due.
    pub(super) fn sweep(&mut self, now: Now) {
        let mut from = 0;
        while let Some(id) = self.connections.next_due(from, now.mono_ms) {
            from = id.slot + 1;
            let next_ms = self.check_connection(now, id);
            self.connections.set_check(id, next_ms);
        }
        self.spares.trim();
        self.sweeping = self.connections.len() > 0;
        if self.sweeping {
            self.timers.set(now.mono_ms + self.settings.limits.sweep_ms, Timer::Sweep);
        }
    }

    /// Applies the time-outs of one connection; returns when to look again.
    fn check_connection(&mut self, now: Now, id: ConnId) -> u64 {
        if let Some(reason) = self.overdue(now, id) {
            match self.connections.get(id).map(|connection| &connection.details.transport) {
                Some(Transport::Http) => self.refuse_head(now, id, HeadError::Timeout),
                _ => self.disconnect(now, id, reason),
            }
            return u64::MAX;
        }
        if self.connections.get(id).is_none_or(|c| c.phase == Phase::Closing) {
            return u64::MAX;
        }
        self.end_long_hold(now, id);
        let members_ms = self.expire_memberships(now, id);
        let liveness_ms = self.check_liveness(now, id);
        members_ms.min(liveness_ms)
    }

    /// Why a connection has to end now, if it has to.
    fn overdue(&self, now: Now, id: ConnId) -> Option<Disconnect> {
        let connection = self.connections.get(id).filter(|connection| connection.is_open())?;
        let ended = connection.rare().and_then(|rare| rare.ended);
        if let Some(ended) = ended.filter(|ended| ended.until.ms() <= now.mono_ms) {
            return Some(ended.reason);
        }
        if connection.details.greeting.deadline_ms().is_some_and(|due_ms| due_ms <= now.mono_ms) {
            return Some(Disconnect::GreetingTimeout);
        }
        let expires = connection.principal().and_then(Principal::expires_wall_ms);
        if expires.is_some_and(|end_ms| end_ms <= now.wall_ms) {
            return Some(Disconnect::TokenExpired);
        }
        if connection.flags.polling {
            let absent = self.poll_absent_ms(id).is_some_and(|due_ms| due_ms <= now.mono_ms);
            return absent.then_some(Disconnect::Lost);
        }
        let idle_ms = self.silences(connection).idle_ms;
        let is_idle = connection.details.alive.ms().saturating_add(idle_ms) <= now.mono_ms;
        is_idle.then_some(Disconnect::IdleTimeout)
    }
}
