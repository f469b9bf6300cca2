//! Starting, waiting for a reason to stop, stopping.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use super::admission::AdmissionHook;
use super::admission::gate::GateParts;
use super::admission::webhook::Webhook;
use super::banner::{self, Banner};
use super::clock::Clock;
use super::data_dir::DataDir;
use super::edge;
use super::embed::{Handle, Hooks};
use super::lifecycle::{Lifecycle, Phase};
use super::line_queue::LineQueue;
use super::listen::{self, Accept, ListenError, ShardListeners, SharedAddress, Takeover};
use super::mesh::{self, Endpoints, Mailboxes};
use super::probe::{self, HostError};
use super::proxies::Proxies;
use super::refusals::{RefusalLog, ShardRefusals};
use super::reload::{Fixed, Reloadable, Reloader};
use super::storage::StoreClient;
use super::turn::{Control, DescriptorBudget, Host, ShardParts, TurnLoop};
use super::watchdog::{self, Dead, Health};
use super::webhooks::Webhooks;
use crate::config::{Config, ConfigError, SecretText, Shards};
use crate::ids::{Router, ShardId};
use crate::limits::SHARDS_MAX;
use crate::policy::Durability;
use crate::shard::Shard;
use crate::store::Store;

/// How long a drain may take before the process ends anyway.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// Time for an executor that is behind to have room for what it is told.
const TELL_WITHIN: Duration = Duration::from_secs(2);

/// How often it is looked whether serials are to be reserved.
const SERIALS_EVERY: Duration = Duration::from_secs(1);

/// Time for every executor to say that it runs.
const START_WITHIN: Duration = Duration::from_secs(30);

/// File I/O memory of an executor, bytes. None of ours uses it; the runtime insists on some.
const EXECUTOR_MEMORY: usize = 64 * 1024;

/// The folder of the log in the data directory.
pub const STORE: &str = "store";

/// Exit code for configuration and host problems (`EX_CONFIG` of sysexits.h).
const EX_CONFIG: u8 = 78;

/// Exit code for faults of the server itself (`EX_SOFTWARE`).
const EX_SOFTWARE: u8 = 70;

/// What `serve` was asked to do; the configuration has been checked.
pub struct Options {
    pub config: Config,
    pub takeover: Takeover,
    pub banner: Banner,
    /// Standard error.
    pub log: LineQueue,
}

/// Why the server cannot start, or had to stop. One line, `what: why`, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("{0}")]
    Listen(#[from] ListenError),
    #[error("data directory {path}: {why}")]
    DataDir { path: String, why: String },
    #[error("store {path}: {why}")]
    Store { path: String, why: String },
    #[error("cannot start {what}: {why}")]
    Thread { what: String, why: String },
    #[error("{what} failed: {why}: this is a fault of the server, please report it")]
    Fault { what: String, why: String },
}

impl StartError {
    /// Exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Fault { .. } => EX_SOFTWARE,
            _ => EX_CONFIG,
        }
    }

    pub(super) fn thread(what: impl Into<String>, why: impl ToString) -> Self {
        StartError::Thread { what: what.into(), why: why.to_string() }
    }
}

/// Where the server can be reached; port 0 is resolved.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub http: SocketAddr,
    pub sync_tcp: SocketAddr,
    pub admin: SocketAddr,
}

/// What an executor's thread reports.
enum Report {
    Started,
    /// It has no session or connection left.
    Drained,
    Ended,
    Failed {
        what: String,
        why: String,
    },
}

/// The running parts of a server.
struct Running {
    reports: Receiver<Report>,
    dead: Receiver<Dead>,
    controls: Vec<Sender<Control>>,
    endpoints: Endpoints,
    lifecycle: Arc<Lifecycle>,
    shared: Vec<SharedAddress>,
    drain_delay: Duration,
    _handles: Vec<ExecutorJoinHandle<()>>,
    _watchdog_stop: Sender<()>,
    process: Process,
}

/// What a server has besides its executors.
struct Process {
    data_dir: DataDir,
    store: Option<Arc<Store>>,
    webhooks: Option<Webhooks>,
    reloader: Reloader,
    handle: Handle,
}

/// Serves until [`Handle::stop`], then drains. [`run`](super::run) is for embedding programs.
///
/// # Errors
/// One line that says why the server cannot start, or what failed while it ran.
pub fn serve(options: Options, hooks: Hooks, handle: Handle) -> Result<(), StartError> {
    let clock = Clock::start();
    probe::check_memlock()?;
    probe::check_io_uring()?;
    let mut data_dir = DataDir::open(&options.config, options.takeover, clock.now())?;
    let store = open_store(&options, &data_dir)?;
    let development_key = options.config.development_key()?;
    data_dir.note_serial(data_dir.serial_base());
    let shards = shard_count(&options.config);
    let gate = gate_parts(&options.config, hooks.admission, shards)?;
    let fixed = Fixed::new(
        shards,
        data_dir.serial_base(),
        gate.iter().flat_map(|gate| gate.rules.kinds.iter().copied()).collect(),
        development_key.as_ref().map(|dev| dev.key.clone()),
    )?;
    let reloadable = Arc::new(Reloadable::new(&options.config, &fixed)?);
    let reloader = Reloader::new(options.config.clone(), fixed);
    let webhooks = Webhooks::start(&options.config.webhooks, store.clone())
        .map_err(|error| StartError::thread("the webhooks", error))?;
    let process = Process { data_dir, store, webhooks, reloader, handle };
    let (addresses, running) = start(&options, reloadable, clock, gate, process)?;
    running.await_start()?;
    running.lifecycle.set(Phase::Ready);
    if options.banner == Banner::Shown {
        let key = development_key.as_ref().map(|dev| dev.text.as_str());
        options.log.push(banner::text(&options.config, addresses, shards, key));
        options.log.flush();
    }
    match hooks.ready {
        Some(ready) => ready(addresses),
        None => announce(addresses)?,
    }
    running.await_end()
}

/// The hook of the embedding program, or the webhook; `None` without either.
fn gate_parts(
    config: &Config,
    hook: Option<Arc<dyn AdmissionHook>>,
    shards: u16,
) -> Result<Option<GateParts>, StartError> {
    let rules = config.admission.clone();
    let hook = match (hook, &rules.webhook) {
        (Some(_), Some(_)) => {
            let why = "this program decides by itself, leave `webhook` out";
            return Err(StartError::thread("a second admission hook", why));
        }
        (None, Some(url)) => {
            let secret = rules.secret.as_ref().map(SecretText::expose).unwrap_or_default();
            let webhook = Webhook::new(url, secret, Duration::from_millis(rules.timeout_ms));
            let in_flight_max = rules.in_flight_max as usize * (usize::from(shards) + 1);
            let started = webhook.start(in_flight_max);
            let started = started.map_err(|error| StartError::thread("the webhook", error))?;
            Some(Arc::new(started) as Arc<dyn AdmissionHook>)
        }
        (hook, None) => hook,
    };
    Ok(hook.map(|hook| GateParts { hook, rules }))
}

/// Prints the ready line. A standard output that does not take it means that nothing waits for it.
fn announce(addresses: Addresses) -> Result<(), StartError> {
    let Addresses { http, sync_tcp, admin } = addresses;
    let output = LineQueue::start("ready", io::stdout())
        .map_err(|error| StartError::thread("the ready line", error))?;
    output.push(format!("ready http={http} sync_tcp={sync_tcp} admin={admin}\n"));
    output.flush();
    Ok(())
}

/// The log on disk, if anything is to be there. It is opened now if there are messages or documents
/// in it, or may be; without any, when the first document comes.
fn open_store(options: &Options, data_dir: &DataDir) -> Result<Option<Arc<Store>>, StartError> {
    let (policies, relay) = (options.config.policies(), options.config.relay());
    let has_messages = policies.any_on_disk();
    let has_webhooks = options.config.webhooks.url.is_some();
    let is_needed = has_messages || has_webhooks || relay.durability == Durability::Disk;
    let Some(dir) = options.config.data_dir().filter(|_| is_needed) else { return Ok(None) };
    let (path, floor) = (dir.join(STORE), data_dir.serial_base());
    let is_wanted = has_messages || path.exists();
    let store = Store::new(&path, floor, policies);
    if is_wanted && !data_dir.is_awaited() {
        store.open().map_err(|error| StartError::Store {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
    }
    Ok(Some(Arc::new(store)))
}

/// Without a number as many as the CPU affinity and the CPU quotas of all enclosing cgroups (v1 and
/// v2) allow. The standard library rounds a quota down, as it should be here: the kernel stops
/// every thread of a process that has used its quota up, which one shard more would see to.
pub fn shard_count(config: &Config) -> u16 {
    match config.cores.shards() {
        Shards::Count(count) => count,
        Shards::Auto => {
            let cpus = thread::available_parallelism().map_or(1, usize::from);
            u16::try_from(cpus).unwrap_or(SHARDS_MAX).min(SHARDS_MAX)
        }
    }
}

/// Every socket that is listened on.
struct Listening {
    addresses: Addresses,
    shards: Vec<ShardListeners>,
    admin: OwnedFd,
    shared: Vec<SharedAddress>,
}

fn bind(options: &Options, shards: usize) -> Result<Listening, StartError> {
    let (listen, takeover) = (&options.config.listen, options.takeover);
    let accept = if listen.defer_accept { Accept::WithData } else { Accept::AtOnce };
    let (http, http_fds) = listen::bind(listen.http, shards, takeover, accept)?;
    let (sync_tcp, tcp_fds) = listen::bind(listen.sync_tcp, shards, takeover, accept)?;
    let (admin, admin_fds) = listen::bind(listen.admin, 1, takeover, Accept::AtOnce)?;
    let shared = [&http_fds, &tcp_fds, &admin_fds].map(|fds| SharedAddress::new(fds).transpose());
    let shared = shared.into_iter().flatten().collect::<io::Result<_>>();
    let both = http_fds.into_iter().zip(tcp_fds);
    let admin_fd = admin_fds.into_iter().next();
    Ok(Listening {
        addresses: Addresses { http, sync_tcp, admin },
        shards: both.map(|(http, sync_tcp)| ShardListeners::new(http, sync_tcp)).collect(),
        admin: admin_fd.ok_or_else(|| StartError::thread("the admin address", "no socket"))?,
        shared: shared.map_err(|error| StartError::thread("the addresses", error))?,
    })
}

fn start_worker(
    store: &Arc<Store>,
    shard: ShardId,
    router: &Router,
    endpoints: &Endpoints,
) -> Result<StoreClient, StartError> {
    StoreClient::start(store, shard, router, endpoints)
        .map_err(|error| StartError::thread("the store", error))
}

fn start(
    options: &Options,
    reloadable: Arc<Reloadable>,
    clock: Clock,
    gate: Option<GateParts>,
    process: Process,
) -> Result<(Addresses, Running), StartError> {
    let (config, settings) = (&options.config, &reloadable.settings);
    let shards = usize::from(settings.router.shards());
    let Listening { addresses, shards: shard_listeners, admin, shared } = bind(options, shards)?;
    let budget = descriptor_budget(shards)?;
    let (endpoints, mut mailboxes) = mesh::build(shards + 1, settings.limits.mailbox_envelopes_max)
        .map_err(|error| StartError::thread("the mailboxes", error))?;
    let (proxies, refusal_log) = (Arc::new(Proxies::new(&config.listen)), start_refusal_log()?);
    let (health, lifecycle) = (Arc::<Health>::default(), Arc::new(Lifecycle::starting()));
    let (report, reports) = bounded(3 * (shards + 1));
    let (mut controls, mut handles, edge_mailboxes) = (Vec::new(), Vec::new(), mailboxes.pop());
    let parts = mailboxes.into_iter().zip(shard_listeners);
    for (index, (mailboxes, listeners)) in parts.enumerate() {
        let id = ShardId(index as u16);
        let worker = |store| start_worker(store, id, &settings.router, &endpoints);
        let parts = ShardParts {
            shard: Shard::new(id, Arc::clone(settings)),
            mailboxes,
            spin: Duration::from_micros(config.cores.spin_us),
            host: Host {
                listeners,
                proxies: Arc::clone(&proxies),
                control: new_control(&mut controls),
                clock,
                budget: Arc::clone(&budget),
                refusals: ShardRefusals::new(Arc::clone(&refusal_log)),
                store: process.store.as_ref().map(worker).transpose()?,
                webhooks: process.webhooks.as_ref().map(|webhooks| webhooks.sender.clone()),
            },
        };
        handles.push(start_shard(parts, index, placement(config, index), report.clone())?);
    }
    if let Some(mailboxes) = edge_mailboxes {
        let control = new_control(&mut controls);
        let state = edge::Shared {
            reloadable: RefCell::new(reloadable),
            clock,
            budget,
            refusal_log,
            health: Arc::clone(&health),
            lifecycle: Arc::clone(&lifecycle),
            addresses,
            handle: process.handle.clone(),
            log: options.log.clone(),
            webhooks: process.webhooks.as_ref().map(Webhooks::tallies).unwrap_or_default(),
            store: process.store.clone(),
        };
        handles.push(start_edge(mailboxes, admin, control, gate, state, report)?);
    }
    let (watchdog_stop, dead) = start_watchdog(&endpoints, health)?;
    let running = Running {
        reports,
        dead,
        controls,
        endpoints,
        lifecycle,
        shared,
        drain_delay: Duration::from_millis(config.listen.drain_delay_ms),
        _handles: handles,
        _watchdog_stop: watchdog_stop,
        process,
    };
    Ok((addresses, running))
}

fn descriptor_budget(shards: usize) -> Result<Arc<DescriptorBudget>, HostError> {
    let limit = probe::connection_budget(shards)?;
    Ok(Arc::new(DescriptorBudget { used: AtomicU32::new(0), limit }))
}

/// How an executor is told what to do, and the end that tells it.
fn new_control(controls: &mut Vec<Sender<Control>>) -> Receiver<Control> {
    let (control, controlled) = bounded(4);
    controls.push(control);
    controlled
}

/// It watches until the sending end is dropped.
fn start_watchdog(
    endpoints: &Endpoints,
    health: Arc<Health>,
) -> Result<(Sender<()>, Receiver<Dead>), StartError> {
    let (stop, stopped) = bounded(0);
    let (dead, deaths) = bounded(1);
    watchdog::start(Arc::clone(endpoints), health, stopped, dead)
        .map_err(|error| StartError::thread("the watchdog", error))?;
    Ok((stop, deaths))
}

fn start_refusal_log() -> Result<Arc<RefusalLog>, StartError> {
    let log = RefusalLog::start();
    log.map(Arc::new).map_err(|error| StartError::thread("the log of refused credentials", error))
}

/// The configured CPU of a shard; without one the kernel chooses among the allowed ones.
fn placement(config: &Config, index: usize) -> Placement {
    let pinned = config.cores.pin.as_ref().and_then(|pin| pin.get(index));
    pinned.map_or(Placement::Unbound, |&cpu| Placement::Fixed(cpu))
}

fn start_shard(
    parts: ShardParts,
    index: usize,
    placement: Placement,
    report: Sender<Report>,
) -> Result<ExecutorJoinHandle<()>, StartError> {
    let what = format!("shard {index}");
    let name = what.clone();
    executor(placement, &format!("shard-{index}"))
        .spawn(move || async move {
            let run = std::panic::AssertUnwindSafe(|| {
                let mut turns = TurnLoop::new(parts)?;
                let _ = report.send(Report::Started);
                turns.run_until_drained()?;
                let _ = report.send(Report::Drained);
                turns.run_until_ended()
            });
            let end = match std::panic::catch_unwind(run) {
                Ok(Ok(())) => Report::Ended,
                Ok(Err(error)) => Report::Failed { what, why: error.to_string() },
                Err(_) => Report::Failed { what, why: "it panicked".to_string() },
            };
            let _ = report.send(end);
        })
        .map_err(|error| StartError::thread(name, error))
}

fn start_edge(
    mailboxes: Mailboxes,
    admin: OwnedFd,
    control: Receiver<Control>,
    gate: Option<GateParts>,
    state: edge::Shared,
    report: Sender<Report>,
) -> Result<ExecutorJoinHandle<()>, StartError> {
    executor(Placement::Unbound, "edge")
        .spawn(move || async move {
            let _ = report.send(Report::Started);
            let mut end = EdgeEnd { report, drained: false };
            edge::run(mailboxes, admin, control, gate, state).await;
            end.drained = true;
        })
        .map_err(|error| StartError::thread("the edge", error))
}

/// Reports the end of the edge's task, also when a fault unwinds its executor.
struct EdgeEnd {
    report: Sender<Report>,
    drained: bool,
}

impl Drop for EdgeEnd {
    fn drop(&mut self) {
        let _ = self.report.send(match self.drained {
            true => Report::Drained,
            false => Report::Failed { what: "the edge".into(), why: "it panicked".into() },
        });
    }
}

fn executor(placement: Placement, name: &str) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(placement).name(name).io_memory(EXECUTOR_MEMORY)
}

impl Running {
    fn await_start(&self) -> Result<(), StartError> {
        for _ in 0..self.controls.len() {
            match self.reports.recv_timeout(START_WITHIN) {
                Ok(Report::Started) => {}
                Ok(Report::Failed { what, why }) => return Err(StartError::Thread { what, why }),
                Ok(Report::Drained | Report::Ended) | Err(_) => {
                    return Err(StartError::thread("the executors", "one did not report in time"));
                }
            }
        }
        // All executors have started, the slow ones too.
        while self.dead.try_recv().is_ok() {}
        Ok(())
    }

    /// Takes up other configurations, until it is to stop or something fails.
    fn await_end(mut self) -> Result<(), StartError> {
        let serials_due = crossbeam_channel::tick(SERIALS_EVERY);
        let handle = self.process.handle.clone();
        loop {
            select! {
                recv(handle.stops()) -> _ => return self.drain(),
                recv(handle.reloads()) -> reload => match reload {
                    Ok(reload) if !reload.is_given_up.load(Ordering::Relaxed) => {
                        let _ = reload.outcome.send(self.reload(*reload.config));
                    }
                    _ => {}
                },
                recv(self.dead) -> dead => return Err(died(dead.ok())),
                recv(self.reports) -> report => return Err(match report {
                    Ok(Report::Failed { what, why }) => StartError::Fault { what, why },
                    _ => StartError::Fault { what: "an executor".into(), why: "it ended".into() },
                }),
                recv(serials_due) -> _ => self.note_serials(),
            }
        }
    }

    /// Puts a configuration in force. Returns the tables that differ and need a restart.
    fn reload(&mut self, config: Config) -> Result<Vec<&'static str>, ConfigError> {
        let (reloadable, waiting) = self.process.reloader.take(config)?;
        if let Some(store) = &self.process.store {
            store.set_policies(reloadable.settings.policies.clone());
        }
        let reloadable = Arc::new(reloadable);
        self.tell(&self.controls, &Control::Reload(Arc::clone(&reloadable)));
        if !reloadable.await_taken(self.controls.len()) {
            tracing::warn!("an executor is busy, and takes up the configuration later");
        }
        Ok(waiting)
    }

    fn note_serials(&mut self) {
        let highest = self.endpoints.iter().map(|s| s.highest_serial.load(Ordering::Relaxed)).max();
        self.process.data_dir.note_serial(highest.unwrap_or(0));
    }

    /// Not ready, then nothing accepted, what was accepted finished, every session closed. A second
    /// signal or the time limit ends it.
    fn drain(mut self) -> Result<(), StartError> {
        tracing::info!("draining");
        self.note_serials();
        self.lifecycle.set(Phase::Leaving);
        let signals = self.process.handle.stops();
        if signals.recv_timeout(self.drain_delay).is_ok() {
            return Ok(());
        }
        self.lifecycle.set(Phase::Stopping);
        self.shared.iter().for_each(SharedAddress::leave_to_next);
        let deadline = crossbeam_channel::after(DRAIN_WITHIN);
        let Some((edge, shards)) = self.controls.split_last() else { return Ok(()) };
        // The edge needs the shards until it has answered the requests that it has begun.
        let steps = [
            (shards, Control::Drain),
            (std::slice::from_ref(edge), Control::Drain),
            (shards, Control::End),
        ];
        for (executors, control) in steps {
            self.tell(executors, &control);
            for reported in 0..executors.len() {
                select! {
                    recv(self.reports) -> report => {
                        if let Ok(Report::Failed { what, why }) = report {
                            return Err(StartError::Fault { what, why });
                        }
                    }
                    recv(signals) -> _ => return Ok(()),
                    recv(deadline) -> _ => {
                        let executors = executors.len() - reported;
                        tracing::warn!(executors, "did not drain in time");
                        return Ok(());
                    }
                }
            }
        }
        self.process.webhooks.into_iter().for_each(Webhooks::finish);
        Ok(())
    }

    fn tell(&self, executors: &[Sender<Control>], control: &Control) {
        for executor in executors {
            // An executor takes all of them every turn; the watchdog ends a process without turns.
            let _ = executor.send_timeout(control.clone(), TELL_WITHIN);
        }
        self.endpoints.iter().for_each(mesh::Endpoint::wake);
    }
}

fn died(dead: Option<Dead>) -> StartError {
    let why = match dead {
        Some(dead) => format!("no turn for {} s", dead.silent_for.as_secs()),
        None => "the watchdog ended".to_string(),
    };
    let what = dead.map_or_else(|| "watchdog".into(), |dead| format!("executor {}", dead.endpoint));
    StartError::Fault { what, why }
}
