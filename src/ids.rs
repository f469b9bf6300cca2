//! Identifiers and times: shards, connections, channels, clocks. Values only, no behaviour.

use std::fmt;
use std::hash::Hasher;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use derive_more::Display;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

/// A shard: one core-owned partition of the channels, numbered from 0. The edge executor has the
/// number after the last shard, so that it exchanges envelopes with shards like a shard does.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// Index into a table with one entry per shard.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Where a connection is accepted, by its name in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Listener {
    Http,
    SyncTcp,
}

/// A connection on its home shard. Slots are reused; the generation distinguishes the connections
/// that have used a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    pub slot: u32,
    pub generation: u32,
}

/// The address of a connection, valid on every shard. As text `shard.slot.generation`.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[display("{shard}.{}.{}", conn.slot, conn.generation)]
pub struct ConnAddr {
    pub shard: ShardId,
    pub conn: ConnId,
}

impl ConnAddr {
    /// Reads its text; `None` for any other.
    pub fn parse(text: &str) -> Option<ConnAddr> {
        let mut numbers = text.split('.');
        let shard = ShardId(number(numbers.next()?)?);
        let conn = ConnId { slot: number(numbers.next()?)?, generation: number(numbers.next()?)? };
        numbers.next().is_none().then_some(ConnAddr { shard, conn })
    }
}

/// Digits only: not the sign that `parse` takes.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The public name of a connection, shown to members: 16 or 32 hexadecimal digits. It is stored
/// inline to avoid an allocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionName {
    /// Length of the name in `text`; the remaining bytes are 0.
    len: u8,
    text: [u8; CONNECTION_NAME_BYTES_MAX],
}

/// Longest connection name in bytes.
const CONNECTION_NAME_BYTES_MAX: usize = 32;

/// # Panics
/// If the name is longer than 32 bytes.
impl From<&str> for ConnectionName {
    fn from(name: &str) -> Self {
        let mut text = [0; CONNECTION_NAME_BYTES_MAX];
        let len = name.len();
        assert!(len <= text.len(), "a connection name of {len} bytes");
        text[..len].copy_from_slice(name.as_bytes());
        ConnectionName { len: len as u8, text }
    }
}

impl Deref for ConnectionName {
    type Target = str;

    fn deref(&self) -> &str {
        str::from_utf8(&self.text[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for ConnectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// The clocks of one turn, read once by the shell and passed to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Clocks {
    /// Monotonic clock, milliseconds. Deadlines and ages are measured on it.
    pub mono_ms: u64,
    /// Wall clock, milliseconds since the Unix epoch. Used for token expiry and for timestamps
    /// shown to users.
    pub wall_ms: u64,
}

impl Clocks {
    /// Both clocks at an earlier time of the wall clock; now, if that is later.
    pub fn at_wall(self, wall_ms: u64) -> Clocks {
        let age_ms = self.wall_ms.saturating_sub(wall_ms);
        Clocks { mono_ms: self.mono_ms.saturating_sub(age_ms), wall_ms: self.wall_ms - age_ms }
    }
}

/// A time on either clock in six bytes, milliseconds. The range is 8,900 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timestamp([u16; 3]);

impl Timestamp {
    /// Times beyond the range are clamped to the last representable one.
    pub fn at(ms: u64) -> Self {
        let ms = ms.min((1 << 48) - 1);
        Timestamp([ms as u16, (ms >> 16) as u16, (ms >> 32) as u16])
    }

    pub fn ms(self) -> u64 {
        let [low, middle, high] = self.0;
        u64::from(low) | u64::from(middle) << 16 | u64::from(high) << 32
    }
}

/// A channel name within an application, with its routing hash computed once.
#[derive(Debug, Display)]
#[display("{app}/{name}")]
pub struct ChannelKey {
    pub app: Arc<str>,
    pub name: Box<str>,
    pub hash: u64,
}

impl PartialEq for ChannelKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.name == other.name && self.app == other.app
    }
}

impl ChannelKey {
    /// A hash of its own for every log: a channel and the log of its members' events share `hash`.
    pub fn log_hash(&self) -> u64 {
        match presence_logged(&self.name) {
            Some(_) => !self.hash,
            None => self.hash,
        }
    }
}

impl Eq for ChannelKey {}

/// Names of the logs of members' events begin with it. No client can name such a channel.
const PRESENCE_LOG: &str = "\0presence:";

/// The name of the log of the events of a channel's members.
pub fn presence_log(channel: &str) -> String {
    [PRESENCE_LOG, channel].concat()
}

/// The channel whose members' events the log of this name has; `None` for other channels.
pub fn presence_logged(name: &str) -> Option<&str> {
    name.strip_prefix(PRESENCE_LOG)
}

/// Maps channels to the shards that own them. The hash is keyed, so that clients cannot choose
/// names that all map to one shard. Every shard has the same router.
#[derive(Clone, Copy, Debug)]
pub struct Router {
    key: (u64, u64),
    shards: u16,
}

impl Router {
    /// `key`: 128 secret random bits, one key per process. `shards`: 1 or more.
    pub fn new(key: (u64, u64), shards: u16) -> Self {
        assert!(shards > 0, "a router needs a shard, got {shards}");
        Router { key, shards }
    }

    /// Number of shards that own channels.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Whether there is a shard of this number.
    pub fn has(&self, shard: ShardId) -> bool {
        shard.0 < self.shards
    }

    /// SipHash-1-3 of the app and the name of a channel or session. A channel and the log of its
    /// members' events have the same hash, and so the same owner. The length of the app separates
    /// it from the name, so that different pairs do not concatenate to the same input.
    pub fn hash(&self, app: &str, name: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write_u64(app.len() as u64);
        hasher.write(app.as_bytes());
        hasher.write(presence_logged(name).unwrap_or(name).as_bytes());
        hasher.finish()
    }

    /// Builds the key of a channel and computes its hash.
    pub fn key(&self, app: &Arc<str>, channel: &str) -> ChannelKey {
        ChannelKey { app: Arc::clone(app), name: channel.into(), hash: self.hash(app, channel) }
    }

    /// The owner of the channel with this hash. Uses the high bits; hash tables use the low ones.
    pub fn shard_of(&self, hash: u64) -> ShardId {
        ShardId(((u128::from(hash) * u128::from(self.shards)) >> 64) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_gets_its_share_of_channels() {
        let router = Router::new((1, 2), 8);
        let app: Arc<str> = "demo".into();
        let mut owned = [0u32; 8];
        for i in 0..8000 {
            owned[router.shard_of(router.hash(&app, &format!("doc:{i}"))).index()] += 1;
        }
        assert!(owned.iter().all(|&n| (850..1150).contains(&n)), "{owned:?}");
    }

    #[test]
    fn a_log_of_events_has_the_owner_of_its_channel_and_a_hash_of_its_own() {
        let router = Router::new((1, 2), 8);
        let app: Arc<str> = "demo".into();
        let channel = router.key(&app, "doc:1");
        let log = router.key(&app, &presence_log("doc:1"));
        assert_eq!(channel.hash, log.hash);
        assert_ne!(channel.log_hash(), log.log_hash());
        assert!(channel != log);
        assert_eq!(presence_logged(&log.name), Some("doc:1"));
        assert_eq!(presence_logged("doc:1"), None);
    }

    #[test]
    fn the_address_of_a_connection_is_read_as_it_is_written() {
        let addr = ConnAddr { shard: ShardId(1), conn: ConnId { slot: 2, generation: 3 } };
        assert_eq!(addr.to_string(), "1.2.3");
        assert_eq!(ConnAddr::parse("1.2.3"), Some(addr));
        for text in ["", "1.2", "1.2.3.4", "1.2.x", "-1.2.3", "+1.2.3", "70000.1.1", "1..3"] {
            assert_eq!(ConnAddr::parse(text), None, "{text}");
        }
        let router = Router::new((1, 2), 1);
        assert!(router.has(ShardId(0)) && !router.has(addr.shard), "of another server");
    }

    #[test]
    fn a_connection_name_keeps_its_text() {
        for name in ["", "0123456789abcdef", "0123456789abcdef0123456789abcdef"] {
            let named = ConnectionName::from(name);
            assert_eq!((&*named, format!("{named:?}")), (name, format!("{name:?}")));
        }
        assert_ne!(ConnectionName::from("a"), ConnectionName::from("a\0"));
    }

    #[test]
    fn a_moment_has_millisecond_precision() {
        for ms in [0, 1, 0xffff, 0x1_0000, 0x1234_5678_9abc, (1 << 48) - 1] {
            assert_eq!(Timestamp::at(ms).ms(), ms);
        }
        assert_eq!(Timestamp::at(u64::MAX).ms(), (1 << 48) - 1);
        assert_eq!(size_of::<Timestamp>(), 6);
    }

    #[test]
    fn app_and_channel_do_not_run_together() {
        let router = Router::new((1, 2), 8);
        assert_ne!(router.hash("ab", "c"), router.hash("a", "bc"));
    }
}
