//! The server inside another program.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Banner;
use super::admission::AdmissionHook;
use super::line_queue::LineQueue;
use super::listen::Takeover;
use super::start::{Addresses, Options, StartError, serve};
use crate::config::{Config, ConfigError, InsecurePlaintext};

/// What an embedding program takes part in.
#[derive(Default)]
pub struct Hooks {
    pub(super) admission: Option<Arc<dyn AdmissionHook>>,
    pub(super) ready: Option<Box<dyn FnOnce(Addresses) + Send>>,
}

impl Hooks {
    /// None.
    pub fn new() -> Self {
        Hooks::default()
    }

    /// Decides who may connect, subscribe, be present and publish, by the rules of `[admission]`:
    /// `kinds`, `timeout_ms`, `on_timeout` and so on. Excludes a `webhook` there.
    pub fn admission(self, hook: impl AdmissionHook + 'static) -> Self {
        Hooks { admission: Some(Arc::new(hook)), ..self }
    }

    /// Is called once, when the server is ready, with its addresses: port 0 is resolved.
    pub fn on_ready(self, ready: impl FnOnce(Addresses) + Send + 'static) -> Self {
        Hooks { ready: Some(Box::new(ready)), ..self }
    }
}

/// Stops a server, and changes its configuration while it runs. Clones are handles of the same
/// server; dropping them does not stop it.
#[derive(Clone, Debug)]
pub struct Handle {
    stops: (Sender<()>, Receiver<()>),
    reloads: (Sender<Reload>, Receiver<Reload>),
    asked: Arc<AtomicU8>,
}

/// A configuration to take up, and where the outcome goes.
#[derive(Debug)]
pub(super) struct Reload {
    pub config: Box<Config>,
    pub outcome: Sender<Result<Vec<&'static str>, ConfigError>>,
    /// Set when nobody waits for it any more.
    pub is_given_up: Arc<AtomicBool>,
}

/// Why a server goes on with the configuration that it had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("another configuration is being taken up, or the server has not started yet")]
    Busy,
    #[error("the server has not started yet, or is about to stop")]
    NotServing,
}

/// What a server has been asked so far.
const NOTHING: u8 = 0;
const TO_DRAIN: u8 = 1;
const TO_STOP: u8 = 2;

/// How long a server that runs takes at most to put a configuration in force.
const RELOAD_WITHIN: Duration = Duration::from_secs(10);

impl Default for Handle {
    fn default() -> Self {
        Handle::new()
    }
}

impl Handle {
    /// The handle of a server that is about to start.
    pub fn new() -> Self {
        Handle { stops: bounded(4), reloads: bounded(1), asked: Arc::default() }
    }

    /// The server drains: requests in progress are answered, sessions are closed. A second call
    /// ends it without that.
    pub fn stop(&self) {
        if self.asked.swap(TO_STOP, Ordering::Relaxed) != TO_DRAIN {
            // Full: it has been told often enough.
            let _ = self.stops.0.try_send(());
        }
    }

    /// Puts `[auth]`, `[admin]` and `[[namespace]]` of another configuration in force. Sessions end
    /// whose key is gone, has another secret, or no longer allows what they may do. Returns the
    /// other tables that differ, which are read at start only. Blocks until all executors have it.
    ///
    /// # Errors
    /// [`ReloadError`]: nothing has changed.
    pub fn reload(&self, config: Config) -> Result<Vec<&'static str>, ReloadError> {
        let (outcome, told) = bounded(1);
        let is_given_up = Arc::<AtomicBool>::default();
        let given_up = Arc::clone(&is_given_up);
        let reload = Reload { config: Box::new(config), outcome, is_given_up };
        self.reloads.0.try_send(reload).map_err(|_| ReloadError::Busy)?;
        let told = told.recv_timeout(RELOAD_WITHIN).map_err(|_| {
            given_up.store(true, Ordering::Relaxed);
            ReloadError::NotServing
        });
        Ok(told??)
    }

    /// The server drains; nothing more, however often it is called. A call of [`Handle::stop`]
    /// after it is the first one.
    pub(super) fn drain(&self) {
        let asked = &self.asked;
        if asked.compare_exchange(NOTHING, TO_DRAIN, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let _ = self.stops.0.try_send(());
        }
    }

    /// Receives once for a drain, once more for an end.
    pub(super) fn stops(&self) -> &Receiver<()> {
        &self.stops.1
    }

    pub(super) fn reloads(&self) -> &Receiver<Reload> {
        &self.reloads.1
    }
}

/// Serves in this process until [`Handle::stop`], then drains. Blocks the calling thread; shards
/// run on threads of their own. Signals are left to the program.
///
/// The configuration is as in the file; TLS is not built in, and that traffic beyond loopback is
/// not encrypted is for the caller to judge ([`Config::check_exposure`]).
///
/// ```no_run
/// use headcount::config::Config;
/// use headcount::server::{self, AdmitAnswer, AdmitKind, Blocking, Handle, Hooks};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::default();
/// config.listen.http = "127.0.0.1:0".parse()?;
///
/// // Decided on one of four threads, as if it asked a database.
/// let hook = Blocking::new(4, |ctx| match (ctx.kind, ctx.channel.as_deref()) {
///     (AdmitKind::Publish, Some("announcements")) if &*ctx.client_id != "editor" => {
///         Ok(AdmitAnswer::deny("only the editor publishes here"))
///     }
///     _ => Ok(AdmitAnswer::allow()),
/// })?;
///
/// let handle = Handle::new();
/// let hooks = Hooks::new()
///     .admission(hook)
///     .on_ready(|addresses| eprintln!("ready on {}", addresses.http));
/// let of_server = handle.clone();
/// let server = std::thread::spawn(move || server::run(config, hooks, of_server));
///
/// // ... later:
/// handle.stop();
/// server.join().expect("no panic")?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// One line that says why the server cannot start, or what failed while it ran.
pub fn run(config: Config, hooks: Hooks, handle: Handle) -> Result<(), StartError> {
    config.check()?;
    config.check_exposure(InsecurePlaintext::Allowed)?;
    let log = LineQueue::start("log", io::stderr())
        .map_err(|error| StartError::thread("the log", error))?;
    let options = Options { config, takeover: Takeover::Refused, banner: Banner::Hidden, log };
    // The ready line is for those who start a process.
    let ready = hooks.ready.or_else(|| Some(Box::new(|_| {})));
    serve(options, Hooks { ready, ..hooks }, handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_to_drain_end_nothing_and_the_signal_after_one_is_the_first() {
        let handle = Handle::new();
        let received = || handle.stops().try_iter().count();
        handle.drain();
        handle.drain();
        assert_eq!(received(), 1);
        handle.stop();
        assert_eq!(received(), 0, "it drains already");
        handle.drain();
        assert_eq!(received(), 0);
        handle.stop();
        assert_eq!(received(), 1, "the second signal ends it");
    }
}
