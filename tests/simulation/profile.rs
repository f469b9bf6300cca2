//! The settings of one run.

use std::sync::Arc;

use enumset::EnumSet;
use headcount::auth::{Capability, Grant, Key, Keyring, Material, Origins, mint};
use headcount::ids::{Router, ShardId};
use headcount::limits::Limits;
use headcount::policy::{Heartbeat, Policies, Policy};
use headcount::relay::RelayPolicy;
use headcount::session;
use headcount::shard::Settings;
use headcount::wire::sync::Layout;

use super::rng::Rng;

pub const APPS: [&str; 2] = ["alpha", "beta"];
pub const CHANNELS: [&str; 5] = ["ns0:a", "ns0:b", "ns1:a", "ns1:b", "ns2:a"];

const INTERVAL_MS_MAX: u64 = 250;

/// What a run is made of, besides the settings of the server.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// No stalls, throttles, losses or full mailboxes: what is then demanded is stricter.
    pub calm: bool,
    pub clients: usize,
    pub steps: usize,
    /// Capacity of a mailbox: from, to.
    pub mailbox: (usize, usize),
    /// Bytes of a state: from, to.
    pub state_bytes: (usize, usize),
    /// Time without updates after which states limited by their rate have arrived.
    pub rate_ms: u64,
    pub ttl_ms: u64,
    pub grace_ms: u64,
    /// The server may close a receiver as slow.
    pub may_be_slow: bool,
    /// Time that may pass before a large set that is shown knows of a change.
    pub lag_ms: u64,
    /// Members that a channel takes, when they are few enough that some are refused.
    pub members_max: Option<usize>,
}

/// The keys of both apps, `NAME.k`.
pub fn keys() -> Vec<Key> {
    let key = |app: &str| {
        let secret = Material::Hs256(format!("sk_{app}_0123456789abcdef"));
        Key::new(&format!("{app}.k"), secret, Capability::all()).expect("a key")
    };
    APPS.iter().map(|app| key(app)).collect()
}

pub fn token(app: &str, user: &str, now_wall_ms: u64, ttl_ms: u64) -> String {
    let key = &keys()[APPS.iter().position(|&known| known == app).expect("an app")];
    mint(key, user, &Capability::all(), now_wall_ms, ttl_ms).expect("a token")
}

/// Settings of `shards` shards with these limits and policies, both apps, anonymous sessions in
/// the first.
pub fn settings(shards: u16, seed: u64, limits: Limits, policies: Policies) -> Settings {
    Settings {
        router: Router::new((seed, !seed), shards),
        edge: ShardId(shards),
        limits,
        policies,
        session: session::Settings {
            keyring: Keyring::new(keys()).expect("keys"),
            anonymous: Some(Arc::new(Grant::anonymous(APPS[0]))),
            origins: Origins::default(),
            ten_byte_layout: Layout::V0_6,
            connection_key: (seed.rotate_left(7), seed.rotate_left(31)),
            peer_metadata_bytes_max: 4096,
            graph_peers_max: 10_000,
            relay: RelayPolicy::off(),
        },
        proxied: Vec::new(),
        hint_app: APPS[0].into(),
        serial_base: 0,
        name_key: seed.rotate_left(17),
        echo: false,
        // One run of eight has an admission hook, which allows everything after a while.
        asks: if seed.is_multiple_of(8) { EnumSet::all() } else { EnumSet::empty() },
        vacated_delay_ms: 3_000,
    }
}

/// Everything about a run that its seed decides before the first step.
pub fn random(rng: &mut Rng) -> (Settings, Profile) {
    let shards = *rng.pick(&[1, 2, 3, 4, 4, 4, 4, 4, 5, 8]);
    let calm = rng.percent(25);
    let tiny_queue = !calm && rng.percent(25);
    let limited = !calm && rng.percent(20);
    let clients = rng.between(2, 10);
    let burst_bytes = match !calm && rng.percent(40) {
        true => rng.between(200, 2_000),
        false => 1 << 20,
    };
    let profile = Profile {
        calm,
        clients,
        steps: rng.between(150, 450),
        mailbox: match (calm, rng.below(3)) {
            (true, _) => (4096, 4096),
            (false, 0) => (1, 4),
            (false, 1) => (1, 32),
            (false, _) => (64, 4096),
        },
        state_bytes: if rng.percent(30) { (0, 200) } else { (0, 8) },
        rate_ms: if limited { 6_000 } else { 0 },
        ttl_ms: *rng.pick(&[1_500, 3_000]),
        grace_ms: if rng.percent(20) { 0 } else { 800 },
        may_be_slow: tiny_queue,
        lag_ms: if burst_bytes < 1 << 20 { lag_ms(clients, burst_bytes) } else { 0 },
        members_max: (!calm && rng.percent(10)).then(|| rng.between(1, 3)),
    };
    let limits = Limits {
        send_queue_bytes_max: if tiny_queue { rng.between(100, 1500) } else { 1 << 20 },
        presence_burst_bytes_max: burst_bytes,
        updates_per_second_max: if limited { rng.between(2, 4) as u32 } else { 10_000 },
        home_subscribers_max: if rng.percent(40) { rng.between(0, 2) as u32 } else { 5_000 },
        greeting_ms: 2_000,
        ping_after_ms: *rng.pick(&[0, 700]),
        idle_ms: 0,
        sweep_ms: *rng.pick(&[50, 200]),
        members_per_channel_max: profile
            .members_max
            .unwrap_or(Limits::default().members_per_channel_max),
        ..Limits::default()
    };
    let policies = random_policies(rng, &profile);
    let settings = settings(shards, rng.next(), limits, policies);
    (settings, profile)
}

/// A change waits for its interval, and then for the time between two sets of the largest size;
/// each client may have a lost session that lingers.
fn lag_ms(clients: usize, burst_bytes: usize) -> u64 {
    const ENTRY_BYTES_MAX: usize = 300;
    let set_bytes = 2 * clients * ENTRY_BYTES_MAX;
    INTERVAL_MS_MAX + 1 + (16 * set_bytes / burst_bytes) as u64
}

fn random_policies(rng: &mut Rng, profile: &Profile) -> Policies {
    let policy = |presence_interval_ms, heartbeat, snapshot_on_join| {
        Arc::new(Policy {
            presence_ttl_ms: profile.ttl_ms,
            presence_grace_ms: profile.grace_ms,
            presence_interval_ms,
            heartbeat,
            snapshot_on_join,
            ..Policy::default()
        })
    };
    let interval_ms = *rng.pick(&[20, 100, INTERVAL_MS_MAX]);
    let heartbeat = *rng.pick(&[Heartbeat::AnyFrame, Heartbeat::Update]);
    let any = *rng.pick(&[Heartbeat::AnyFrame, Heartbeat::Transport]);
    Policies {
        rules: vec![
            ("ns0:*".parse().expect("a pattern"), policy(0, any, true)),
            ("ns1:*".parse().expect("a pattern"), policy(interval_ms, any, true)),
        ],
        default: policy(0, heartbeat, false),
    }
}

pub fn interval_of(settings: &Settings, channel: &str) -> u64 {
    settings.policies.for_channel(channel).presence_interval_ms
}
