//! What keeps a callback registered.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::callbacks::Handle;
use super::driver::{Command, CommandQueue};
use super::pending::{Completer, Pending, pending};
use super::{ClientError, Result};

/// Defines a handle that is nothing but its callback.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Dropping it cancels the callback: it waits for a call that is being made on another
        /// thread, and no call follows. Inside the callback itself it returns at once.
        #[must_use = "dropping it cancels the callback"]
        #[derive(Debug)]
        pub struct $name {
            callback: Handle,
        }

        impl $name {
            pub(super) fn new(callback: Handle) -> Self {
                $name { callback }
            }

            /// Ends the callback, as dropping does.
            pub fn cancel(&self) {
                self.callback.cancel();
            }

            /// Whether the callback has been ended.
            pub fn is_cancelled(&self) -> bool {
                self.callback.is_cancelled()
            }
        }
    };
}

handle! {
    /// Keeps a callback of [`Client::on_state`](super::Client::on_state) registered.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let observer = client.on_state(|state| println!("{state:?}"));
    /// observer.cancel();
    /// assert!(observer.is_cancelled());
    /// # Ok::<(), ClientError>(())
    /// ```
    StateObserver
}
handle! {
    /// Keeps a callback of [`Client::on_direct_message`](super::Client::on_direct_message)
    /// registered.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let observer = client.on_direct_message(|message| println!("{}", message.data));
    /// observer.cancel();
    /// assert!(observer.is_cancelled());
    /// # Ok::<(), ClientError>(())
    /// ```
    DirectObserver
}
handle! {
    /// Keeps a callback of the presence graph registered.
    ///
    /// ```
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect_lazy(ClientConfig::new("ws://127.0.0.1:9"))?;
    /// let presence = client.presence();
    /// let observer = presence.observe(|graph| println!("{graph}"));
    /// drop(observer); // From here on the callback is not called.
    /// # Ok::<(), ClientError>(())
    /// ```
    PresenceObserver
}

/// Defines a handle of a callback that the server sends events for.
macro_rules! channel_handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Dropping it cancels the callback: it waits for a call that is being made on another
        /// thread, and no call follows. Inside the callback itself it returns at once.
        #[must_use = "dropping it cancels the callback"]
        #[derive(Debug)]
        pub struct $name {
            callback: Handle,
            gate: Gate,
            interest: Interest,
        }

        impl $name {
            pub(super) fn new(callback: Handle, gate: Gate, interest: Interest) -> Self {
                $name { callback, gate, interest }
            }

            /// Completes when the server sends events.
            ///
            /// # Errors
            /// [`ClientError::Refused`](super::ClientError::Refused),
            /// [`ClientError::Closed`](super::ClientError::Closed).
            pub fn ready(&self) -> Pending<()> {
                self.gate.pending()
            }

            /// Ends the callback, as dropping does.
            pub fn cancel(&self) {
                self.interest.end();
                self.callback.cancel();
            }

            /// Whether the callback has been ended.
            pub fn is_cancelled(&self) -> bool {
                self.callback.is_cancelled()
            }
        }
    };
}

channel_handle! {
    /// Keeps the callback of a subscription registered.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let subscription = client.channel("shop").subscribe(|delivery| println!("{delivery:?}"));
    /// subscription.ready().wait()?;
    /// // Messages that are published from here on are received, until the end:
    /// subscription.cancel();
    /// assert!(subscription.is_cancelled());
    /// # Ok::<(), ClientError>(())
    /// ```
    Subscription
}
channel_handle! {
    /// Keeps a callback for members registered.
    ///
    /// ```no_run
    /// # use headcount::client::prelude::*;
    /// # let client = Client::connect(ClientConfig::new("ws://127.0.0.1:7400"))?;
    /// let observer = client.channel("shop").observe_members(|event| println!("{event:?}"));
    /// observer.ready().wait()?;
    /// // `MemberEvent::Present` is on its way to the callback.
    /// observer.cancel();
    /// # Ok::<(), ClientError>(())
    /// ```
    MemberObserver
}

/// What a callback or a stream asks of the server, until it ends.
pub(super) struct Interest {
    pub queue: Arc<CommandQueue>,
    /// Sent once.
    pub end: Mutex<Option<Command>>,
}

impl Interest {
    pub fn new(queue: &Arc<CommandQueue>, end: Command) -> Self {
        Interest { queue: Arc::clone(queue), end: Mutex::new(Some(end)) }
    }

    pub fn end(&self) {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            self.queue.submit(end);
        }
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interest").finish_non_exhaustive()
    }
}

/// An event that happens once, and that any number of operations wait for.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Mutex<Passage>>);

/// Opens a [`Gate`]; when it is dropped, the gate opens with
/// [`ClientError::Closed`](super::ClientError::Closed).
#[derive(Debug)]
pub(crate) struct Opener(Gate);

#[derive(Debug)]
enum Passage {
    Waiting(Vec<Completer<()>>),
    Open(Result<()>),
}

/// A gate, and what opens it.
pub(super) fn gate() -> (Opener, Gate) {
    let gate = Gate(Arc::new(Mutex::new(Passage::Waiting(Vec::new()))));
    (Opener(gate.clone()), gate)
}

impl Gate {
    pub fn pending(&self) -> Pending<()> {
        let (completer, waiting) = pending();
        match &mut *self.lock() {
            Passage::Waiting(completers) => completers.push(completer),
            Passage::Open(result) => completer.complete(result.clone()),
        }
        waiting
    }

    fn open(&self, result: Result<()>) {
        let earlier = {
            let mut passage = self.lock();
            match &*passage {
                Passage::Open(_) => return,
                Passage::Waiting(_) => {
                    std::mem::replace(&mut *passage, Passage::Open(result.clone()))
                }
            }
        };
        if let Passage::Waiting(completers) = earlier {
            completers.into_iter().for_each(|completer| completer.complete(result.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Passage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opener {
    pub fn complete(self, result: Result<()>) {
        self.0.open(result);
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.open(Err(ClientError::Closed));
    }
}
