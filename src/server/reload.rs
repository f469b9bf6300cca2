//! What a running server takes up from a changed configuration: the tables `[auth]`, `[admin]` and
//! `[[namespace]]`. All other keys are read at start only.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use enumset::EnumSet;

use super::start::StartError;
use crate::admin::{Access, Keys, Reach};
use crate::auth::{Grant, Key, Origins};
use crate::config::{Anonymous, Config, ConfigError, Demo, InsecurePlaintext, TenByteLayout};
use crate::ids::{Router, ShardId};
use crate::policy::AdmitKind;
use crate::session;
use crate::shard::Settings;
use crate::wire::sync::Layout;

/// Time for all executors to take up a reload.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);

/// What a reload replaces, as a whole.
pub struct Reloadable {
    pub settings: Arc<Settings>,
    pub access: Access,
    pub demo: Demo,
    /// How many executors have it.
    taken: AtomicUsize,
}

/// What a process has chosen at its start, and keeps.
#[derive(Clone, Debug)]
pub struct Fixed {
    router: Router,
    serial_base: u64,
    name_key: u64,
    connection_key: (u64, u64),
    asks: EnumSet<AdmitKind>,
    /// In place of configured keys.
    development_key: Option<Key>,
}

impl Fixed {
    /// # Errors
    /// The kernel returns no random bytes.
    pub fn new(
        shards: u16,
        serial_base: u64,
        asks: EnumSet<AdmitKind>,
        development_key: Option<Key>,
    ) -> Result<Self, StartError> {
        let mut random = [0; 40];
        getrandom::fill(&mut random)
            .map_err(|error| StartError::thread("without randomness", error))?;
        let word =
            |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| random[8 * at + byte]));
        Ok(Fixed {
            router: Router::new((word(0), word(1)), shards),
            serial_base,
            name_key: word(2),
            connection_key: (word(3), word(4)),
            asks,
            development_key,
        })
    }
}

impl Reloadable {
    /// # Errors
    /// A key that cannot be used.
    pub fn new(config: &Config, fixed: &Fixed) -> Result<Self, ConfigError> {
        Ok(Reloadable {
            settings: Arc::new(settings(config, fixed)?),
            access: access(config),
            demo: config.demo().0,
            taken: AtomicUsize::new(0),
        })
    }

    /// An executor has taken it up: what is judged there from now on, is judged by it.
    pub fn note_taken(&self) {
        self.taken.fetch_add(1, Ordering::Release);
    }

    /// Waits until so many executors have taken it up, which is a turn of each; false when that
    /// takes too long.
    pub fn await_taken(&self, executors: usize) -> bool {
        let deadline = Instant::now() + TAKEN_WITHIN;
        while self.taken.load(Ordering::Acquire) < executors {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// The configuration that is in force, and how another one takes its place.
pub struct Reloader {
    config: Config,
    fixed: Fixed,
}

impl Reloader {
    pub fn new(config: Config, fixed: Fixed) -> Self {
        Reloader { config, fixed }
    }

    /// Puts a configuration in force, as far as that needs no restart. Returns what is to be
    /// handed to the executors, and the tables that differ and need one.
    ///
    /// # Errors
    /// Why it cannot be; the old one stays in force.
    pub fn take(&mut self, new: Config) -> Result<(Reloadable, Vec<&'static str>), ConfigError> {
        let waiting = self.config.needs_restart(&new);
        let config = Config {
            auth: new.auth,
            admin: new.admin,
            namespace: new.namespace,
            ..self.config.clone()
        };
        config.check().map_err(|error| error.with_waiting(&waiting))?;
        config.check_exposure(InsecurePlaintext::Allowed)?;
        config.check_reload(&self.config)?;
        let reloadable = Reloadable::new(&config, &self.fixed)?;
        self.config = config;
        Ok((reloadable, waiting))
    }
}

fn settings(config: &Config, fixed: &Fixed) -> Result<Settings, ConfigError> {
    let everybody = Arc::new(Grant::anonymous(config.anonymous_app()));
    let hint_app = Arc::clone(&everybody.app);
    let anonymous = match config.anonymous().0 {
        Anonymous::Allowed => Some(everybody),
        Anonymous::Refused => None,
    };
    let ten_byte_layout = match config.sync.ten_byte_layout {
        TenByteLayout::V04 => Layout::V0_4,
        TenByteLayout::V06 => Layout::V0_6,
    };
    let development_key = fixed.development_key.clone().filter(|_| config.auth.key.is_empty());
    let policies = config.policies();
    Ok(Settings {
        router: fixed.router,
        edge: ShardId(fixed.router.shards()),
        limits: config.limits.clone(),
        session: session::Settings {
            keyring: config.keyring(development_key)?,
            anonymous,
            origins: Origins::new(config.auth.origins.clone()),
            ten_byte_layout,
            connection_key: fixed.connection_key,
            peer_metadata_bytes_max: policies.most(|policy| policy.peer_metadata_max_bytes),
            graph_peers_max: policies.most(|policy| policy.graph_max_peers),
            relay: config.relay(),
        },
        policies,
        proxied: config.listen.proxy_protocol.clone(),
        hint_app,
        serial_base: fixed.serial_base,
        name_key: fixed.name_key,
        echo: config.debug.echo,
        asks: fixed.asks,
        vacated_delay_ms: config.webhooks.vacated_delay_ms,
    })
}

/// What the admin address demands.
fn access(config: &Config) -> Access {
    Access {
        reach: if config.is_admin_exposed() { Reach::Network } else { Reach::ThisMachine },
        keys: if config.auth.key.is_empty() { Keys::Development } else { Keys::Configured },
        metrics: config.admin.metrics,
        token: config.admin.token.as_ref().map(|token| token.expose().into()),
        hosts: config.admin.hosts.clone(),
    }
}
