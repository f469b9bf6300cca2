//! Who a session is, and the names that sessions are given.

use std::sync::Arc;

use crate::auth::{self, Grant};
use crate::channel::{Identity, Link, Resume, ResumeKey};
use crate::ids::{ConnectionName, Timestamp};

/// Who an authenticated session is.
#[derive(Clone, Debug)]
pub struct Principal {
    pub identity: Arc<Identity>,
    /// What the session may do.
    pub grant: Arc<Grant>,
    /// When the token expires, on the wall clock.
    pub expires: Option<Timestamp>,
}

const _: () = assert!(size_of::<Principal>() <= 24, "every authenticated connection has one");

impl Principal {
    /// A user on a connection of this name.
    pub fn new(
        bearer: auth::Identity,
        connection: ConnectionName,
        resume: Resume,
        link: Link,
    ) -> Self {
        let identity = Identity::new(bearer.user, connection, resume).over(link);
        Principal {
            identity: Arc::new(identity.with_metadata(bearer.metadata)),
            grant: bearer.grant,
            expires: bearer.expires_at_wall_ms.map(Timestamp::at),
        }
    }

    pub fn resume_key(&self) -> Option<ResumeKey> {
        self.identity.resume_key(&self.grant.app)
    }

    /// When the token expires, milliseconds since the Unix epoch.
    pub fn expires_wall_ms(&self) -> Option<u64> {
        self.expires.map(Timestamp::ms)
    }

    /// What the operator says of the user, the text of a JSON object, in place of what was said
    /// before. To be called before anybody else knows the identity.
    pub fn describe(&mut self, metadata: Arc<str>) {
        self.identity = Arc::new(self.identity.with_metadata(Some(metadata)));
    }

    /// True without a credential.
    pub fn is_anonymous(&self) -> bool {
        self.grant.key_name.is_none()
    }
}

/// Makes names for sessions. Two sessions of one process never share one.
#[derive(Debug)]
pub struct SessionNames {
    key: u64,
    shard: u32,
    shards: u32,
    made: u32,
}

impl SessionNames {
    /// `key`: random per process. `shard` of `shards` that make names at the same time.
    pub fn new(key: u64, shard: u16, shards: u16) -> Self {
        SessionNames { key, shard: u32::from(shard), shards: u32::from(shards), made: 0 }
    }

    /// A number whose high half differs between any two of the first 2^32 made by all shards
    /// together, because `scramble` is a permutation.
    pub fn next_number(&mut self) -> u64 {
        let number = self.made.wrapping_mul(self.shards).wrapping_add(self.shard);
        self.made = self.made.wrapping_add(1);
        let head = scramble(number ^ self.key as u32);
        let tail = scramble(head ^ (self.key >> 32) as u32);
        u64::from(head) << 32 | u64::from(tail)
    }

    /// 16 hexadecimal digits: [`SessionNames::next_number`] as text.
    pub fn next_name(&mut self) -> String {
        format!("{:016x}", self.next_number())
    }
}

/// A permutation of 32-bit numbers: each step (xor with own high bits, odd multiplier) is
/// invertible.
fn scramble(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_sessions_share_the_eight_digits_that_name_anonymous_users() {
        let mut seen = HashSet::new();
        for shard in 0..4 {
            let mut names = SessionNames::new(0x1234_5678_9abc_def0, shard, 4);
            for _ in 0..20_000 {
                assert!(seen.insert(names.next_name()[..8].to_string()));
            }
        }
    }
}
