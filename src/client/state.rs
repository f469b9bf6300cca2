//! Whether a client is connected.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::ClientError;
use super::callbacks::QueueSender;

/// Whether a client is connected.
///
/// [`ClientState::Connecting`], then [`ClientState::Live`] and [`ClientState::Stale`] in turn,
/// until [`ClientState::Closed`].
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use headcount::client::ClientState;
///
/// fn is_lost_for_long(state: &ClientState) -> bool {
///     let ClientState::Stale { since } = state else { return false };
///     since.elapsed().is_ok_and(|elapsed| elapsed > Duration::from_secs(30))
/// }
/// assert!(is_lost_for_long(&ClientState::Stale { since: SystemTime::UNIX_EPOCH }));
/// assert!(!is_lost_for_long(&ClientState::Live));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ClientState {
    /// Until the first greeting of the server.
    Connecting,
    /// Greeted.
    Live,
    /// The connection is lost, and another one is being made.
    Stale {
        /// When it was lost.
        since: SystemTime,
    },
    /// For good.
    Closed {
        /// [`ClientError::Closed`] when the program closed it.
        reason: ClientError,
    },
}

/// The state of a client, and who is told of changes.
pub(crate) struct StateCell {
    shared: Mutex<Shared>,
}

struct Shared {
    state: ClientState,
    client_id: Option<String>,
    observers: Vec<QueueSender<ClientState>>,
}

impl StateCell {
    pub fn new(client_id: Option<String>) -> Self {
        let state = ClientState::Connecting;
        StateCell { shared: Mutex::new(Shared { state, client_id, observers: Vec::new() }) }
    }

    pub fn state(&self) -> ClientState {
        self.lock().state.clone()
    }

    pub fn client_id(&self) -> Option<String> {
        self.lock().client_id.clone()
    }

    pub fn set_client_id(&self, id: &str) {
        self.lock().client_id = Some(id.to_owned());
    }

    /// Sends the state, and every one after it.
    pub fn observe(&self, observer: QueueSender<ClientState>) {
        let mut shared = self.lock();
        send(&observer, shared.state.clone());
        shared.observers.push(observer);
    }

    pub fn set(&self, state: ClientState) {
        let mut shared = self.lock();
        if shared.state == state {
            return;
        }
        shared.observers.retain(|observer| !observer.is_gone());
        shared.observers.iter().for_each(|observer| send(observer, state.clone()));
        shared.state = state;
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When too many wait, the latest replaces the last of them.
fn send(observer: &QueueSender<ClientState>, state: ClientState) {
    observer.send(state, |queue, latest| {
        queue.pop_back();
        queue.push_back(latest);
    });
}
