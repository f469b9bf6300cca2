//! The I/O thread of a client: one connection after another, and what is asked and sent on each.
//!
//! ```text
//!  program -> CommandQueue -> Core -> Outbound -> socket
//!  socket  -> Connection (protocol) -> Core -> callbacks, streams, Pending
//! ```
//!
//! Invariant: no code of the program runs on this thread, and no lock is held while it waits.

mod command;
mod core;
mod digest;
mod direct;
mod membership;
mod messages;
mod mirror;
mod publishing;
mod queue;
mod roster;
mod sinks;
mod socket;

pub(crate) use command::{Command, HandleId, Part};
pub(crate) use queue::CommandQueue;
pub(crate) use sinks::{DeliverySink, MemberSink, QUEUED_MAX};

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use self::core::Core;
use self::mirror::Mirror;
use self::socket::{Socket, wait_for_program};
use super::config::{ClientConfig, CredentialSource, Endpoint};
use super::pending::Completer;
use super::presence::Presence;
use super::protocol::{Backoff, Closed, Connection, Credential, Dialect, Event, Resume, Upgrade};
use super::state::{ClientState, StateCell};
use super::{BoxError, ClientError, Result};

/// Pending bytes above which no further commands are taken.
const PENDING_BYTES_MAX: usize = 1024 * 1024;

/// How often a wait for the credential looks whether the client is being closed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Everything that the I/O thread owns.
pub(crate) struct Driver {
    config: ClientConfig,
    endpoint: Endpoint,
    queue: Arc<CommandQueue>,
    state: Arc<StateCell>,
    presence: Arc<Presence>,
    core: Core,
    resume: Resume,
    attempts: Attempts,
    began: Instant,
    /// Completed when the client is closed.
    closing: Vec<Completer<()>>,
}

/// How often to try to connect for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempts {
    One,
    Unlimited,
}

/// Why a connection, or the attempt to make one, is over.
enum Ended {
    /// The program has closed the client.
    ByProgram,
    /// Another connection may do better.
    Lost(ClientError),
    /// None will.
    Fatal(ClientError),
}

impl Driver {
    pub fn new(
        config: ClientConfig,
        endpoint: Endpoint,
        queue: Arc<CommandQueue>,
        state: Arc<StateCell>,
        presence: Arc<Presence>,
        attempts: Attempts,
    ) -> Self {
        let client_id = config.client_id.clone().unwrap_or_default();
        let core = Core::new(Mirror::new(Arc::clone(&presence)));
        Driver {
            config,
            endpoint,
            queue,
            state,
            presence,
            core,
            resume: Resume { client_id, connection_id: String::new() },
            attempts,
            began: Instant::now(),
            closing: Vec::new(),
        }
    }

    /// Connects, again and again, until the client is closed.
    pub fn run(mut self) {
        let mut backoff = Backoff::new(self.config.backoff.first, self.config.backoff.max);
        let reason = loop {
            let ended = self.connect_and_drive(&mut backoff);
            let was_live = self.core.is_live();
            self.core.handle_disconnected();
            match ended {
                Ended::ByProgram => break ClientError::Closed,
                Ended::Fatal(error) => break error,
                Ended::Lost(error) if self.attempts == Attempts::One => break error,
                Ended::Lost(_) => {}
            }
            if was_live {
                self.state.set(ClientState::Stale { since: SystemTime::now() });
                self.core.mirror.mark_changed();
            }
            self.publish_graph();
            if self.wait(backoff.wait(random())) {
                break ClientError::Closed;
            }
        };
        for command in self.queue.close() {
            match command {
                Command::Close(completer) => self.closing.push(completer),
                command => self.core.handle_command(command, None),
            }
        }
        self.core.close(&reason);
        self.core.mirror.mark_changed();
        self.publish_graph();
        self.state.set(ClientState::Closed { reason });
        self.presence.close();
        self.closing.drain(..).for_each(|closing| closing.complete(Ok(())));
    }

    fn connect_and_drive(&mut self, backoff: &mut Backoff) -> Ended {
        match self.connect() {
            Ok((mut connection, mut socket)) => {
                let ended = self.drive(&mut connection, &mut socket, backoff);
                if let Ended::ByProgram = ended {
                    self.say_goodbye(&mut connection, &mut socket);
                }
                ended
            }
            Err(ended) => ended,
        }
    }

    fn connect(&mut self) -> std::result::Result<(Connection, Socket), Ended> {
        let deadline = Instant::now() + self.config.connect_timeout;
        let unreachable = |why: String| Ended::Lost(ClientError::Unreachable { why });
        let (mut nonce, mut seed) = ([0; 16], [0; 8]);
        getrandom::fill(&mut nonce)
            .and_then(|()| getrandom::fill(&mut seed))
            .map_err(|error| unreachable(error.to_string()))?;
        let socket = Socket::connect(&self.endpoint.host, deadline)
            .map_err(|error| unreachable(error.to_string()))?;
        let upgrade = Upgrade::new(&self.endpoint.host, &self.endpoint.path, nonce);
        let seed = u64::from_ne_bytes(seed);
        Ok((Connection::websocket(self.now_ms(), Dialect::Foony, &upgrade, seed), socket))
    }

    /// Serves one connection until it ends.
    fn drive(
        &mut self,
        connection: &mut Connection,
        socket: &mut Socket,
        backoff: &mut Backoff,
    ) -> Ended {
        let credential = match self.credential() {
            Ok(credential) => credential,
            Err(ended) => return ended,
        };
        let mut unread = Vec::new();
        loop {
            if let Err(ended) = self.take_commands(Some(connection)) {
                return ended;
            }
            self.publish_graph();
            if let Err(error) = socket.flush(&mut connection.out) {
                return Ended::Lost(ClientError::Unreachable { why: error.to_string() });
            }
            let timeout = self.timeout(connection);
            let ready = match socket.wait(self.queue.heard(), timeout) {
                Ok(ready) => ready,
                Err(error) => return Ended::Fatal(ClientError::Io { why: error.to_string() }),
            };
            if ready.readable
                && let Err(ended) = self.read(connection, socket, &mut unread, &credential)
            {
                return ended;
            }
            if let Err(closed) = connection.handle_timeout(self.now_ms()) {
                return self.ended(&closed);
            }
            if self.core.is_live() {
                backoff.reset();
            }
        }
    }

    fn read(
        &mut self,
        connection: &mut Connection,
        socket: &mut Socket,
        unread: &mut Vec<u8>,
        credential: &Credential,
    ) -> std::result::Result<(), Ended> {
        match socket.read(unread) {
            Ok(0) => return Err(self.ended(&connection.handle_end(unread))),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => {
                return Err(Ended::Lost(ClientError::Unreachable { why: error.to_string() }));
            }
        }
        let now_ms = self.now_ms();
        let Driver { core, resume, state, attempts, .. } = self;
        let used = connection.handle_bytes(now_ms, unread, |out, event| {
            match event {
                Event::Open => core.greet(resume.auth(credential), out),
                Event::Greeted(greeted) => {
                    *attempts = Attempts::Unlimited;
                    resume.adopt(&greeted);
                    state.set_client_id(&resume.client_id);
                    core.handle_greeted();
                }
                event => core.handle_event(event, out),
            }
            if core.can_begin() {
                state.set(ClientState::Live);
                core.begin(out);
            }
            Ok::<(), Closed>(())
        });
        match used {
            Ok(used) => {
                unread.drain(..used);
                self.core.take_refusal().map_or(Ok(()), |why| Err(Ended::Lost(why)))
            }
            Err(closed) => Err(self.ended(&closed)),
        }
    }

    /// Hands the requests of the program to the core. `connection`: while there is one.
    fn take_commands(
        &mut self,
        connection: Option<&mut Connection>,
    ) -> std::result::Result<(), Ended> {
        let mut out = connection.map(|connection| &mut connection.out);
        if out.as_ref().is_some_and(|out| out.pending_bytes() > PENDING_BYTES_MAX) {
            return Ok(());
        }
        let mut commands = self.queue.take(self.core.outstanding());
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Close(completer) => {
                    self.closing.push(completer);
                    return Err(Ended::ByProgram);
                }
                command => {
                    let is_live = self.core.is_live();
                    let out = out.as_deref_mut().filter(|_| is_live);
                    self.core.handle_command(command, out);
                }
            }
        }
        Ok(())
    }

    /// Waits before the next attempt; true when the client is closed meanwhile.
    fn wait(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            if self.take_commands(None).is_err() {
                return true;
            }
            self.publish_graph();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            if wait_for_program(self.queue.heard(), left).is_err() {
                thread::sleep(left.min(LOOK_EVERY));
            }
        }
    }

    /// The credential of the next connection. A provider runs on a thread of its own.
    fn credential(&mut self) -> std::result::Result<Credential, Ended> {
        let provider = match &self.config.credential {
            CredentialSource::Fixed(credential) => return Ok(credential.clone()),
            CredentialSource::Provider(provider) => Arc::clone(provider),
        };
        let (sender, token) = mpsc::channel::<std::result::Result<String, BoxError>>();
        let asked = thread::Builder::new().name("headcount-token".to_owned());
        let asked = asked.spawn(move || drop(sender.send(provider())));
        asked.map_err(|error| Ended::Lost(ClientError::Io { why: error.to_string() }))?;
        loop {
            match token.recv_timeout(LOOK_EVERY) {
                Ok(Ok(token)) => return Ok(Credential::Token(token)),
                Ok(Err(error)) => {
                    let why = format!("no token: {error}");
                    return Err(Ended::Lost(ClientError::Unreachable { why }));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let why = "no token: the provider panicked".to_owned();
                    return Err(Ended::Lost(ClientError::Unreachable { why }));
                }
                Err(RecvTimeoutError::Timeout) => self.take_commands(None)?,
            }
        }
    }

    /// Closes the connection, and waits for the server to do so.
    fn say_goodbye(&mut self, connection: &mut Connection, socket: &mut Socket) {
        connection.close(self.now_ms(), "client close");
        let mut unread = Vec::new();
        loop {
            if socket.flush(&mut connection.out).is_err() {
                return;
            }
            let timeout = self.timeout(connection);
            match socket.wait(self.queue.heard(), timeout.map(|t| t.min(LOOK_EVERY))) {
                Ok(ready) if ready.readable => match socket.read(&mut unread) {
                    Ok(1..) => unread.clear(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    _ => return,
                },
                Ok(_) => {}
                Err(_) => return,
            }
            if connection.handle_timeout(self.now_ms()).is_err() {
                return;
            }
        }
    }

    fn ended(&self, closed: &Closed) -> Ended {
        match closed {
            Closed::Refused(refused) if refused.is_about_credentials() => {
                let code = refused.code.map_or(0, |code| code.code());
                let reason = refused.message.clone();
                let error = ClientError::Unauthorized { code, reason };
                match self.config.credential {
                    CredentialSource::Fixed(_) => Ended::Fatal(error),
                    CredentialSource::Provider(_) => Ended::Lost(error),
                }
            }
            closed => Ended::Lost(ClientError::Unreachable { why: closed.to_string() }),
        }
    }

    fn timeout(&self, connection: &mut Connection) -> Option<Duration> {
        let now_ms = self.now_ms();
        let protocol = connection.poll_timeout(now_ms);
        let protocol = protocol.map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
        [protocol, self.graph_wait()].into_iter().flatten().min()
    }

    /// Until the graph or its observers need something; `None`: until something changes.
    fn graph_wait(&self) -> Option<Duration> {
        self.presence.wait(self.core.mirror.is_changed())
    }

    fn publish_graph(&mut self) {
        if self.graph_wait().is_some_and(|wait| wait.is_zero()) {
            match self.core.mirror.is_changed() {
                true => {
                    let at = Instant::now();
                    let graph = self.core.graph();
                    self.presence.publish(graph, at, self.core.is_live());
                }
                false => self.presence.call_observers(),
            }
        }
        if !self.core.mirror.is_changed() {
            self.core.complete_joins(&self.resume.connection_id);
        }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => u32::MAX,
    }
}

/// Starts the thread of a driver.
///
/// # Errors
/// [`ClientError::Io`].
pub(crate) fn start(driver: Driver) -> Result<thread::JoinHandle<()>> {
    let thread = thread::Builder::new().name("headcount-client".to_owned());
    thread.spawn(|| driver.run()).map_err(|error| ClientError::Io { why: error.to_string() })
}
