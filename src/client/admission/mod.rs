//! Connection requests of other peers, and the application's handlers that answer them.
//!
//! Handlers run on threads of their own: blocking ones on a small pool, futures on one thread
//! without a runtime. Nothing here knows deadlines: the server has them, and ignores late answers.

mod answer;
mod futures;
mod pool;
mod request;

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use answer::ConnectionRequestAuthorization;
pub(crate) use answer::Decision;
use futures::FutureThread;
use pool::BlockingPool;
pub use request::ConnectionRequest;
pub(crate) use request::RequestParts;

/// How long a request that found no room is to wait.
const RETRY_WHEN_FULL: Duration = Duration::from_secs(1);
/// Without the words of the panic: the reason is for the other peer.
const PANICKED: &str = "the connection request handler panicked";

type Authorization = ConnectionRequestAuthorization;
type Answer = Box<dyn FnOnce(Authorization) + Send>;
type BoxFuture = Pin<Box<dyn Future<Output = Authorization> + Send>>;
type BlockingHandler = Arc<dyn Fn(ConnectionRequest) -> Authorization + Send + Sync>;

/// A connection request handler that can be kept in a variable.
///
/// ```
/// use headcount::client::{
///     ConnectionRequest, ConnectionRequestAuthorization, ConnectionRequestHandler,
/// };
///
/// let handler = ConnectionRequestHandler::new(|request: ConnectionRequest| {
///     match request.peer_metadata().get("role") {
///         Some(role) if role == "till" => ConnectionRequestAuthorization::Allow,
///         _ => ConnectionRequestAuthorization::Deny,
///     }
/// });
/// let handler_or_none = Some(handler);
/// # let _: Option<ConnectionRequestHandler> = handler_or_none;
/// ```
#[derive(Clone)]
pub struct ConnectionRequestHandler(BlockingHandler);

impl ConnectionRequestHandler {
    /// Wraps a handler. It may block: it runs on a thread for such.
    ///
    /// ```
    /// use headcount::client::prelude::*;
    ///
    /// let is_open = true;
    /// let deny_all = ConnectionRequestHandler::new(|_| ConnectionRequestAuthorization::Deny);
    /// let handler_or_none = (!is_open).then_some(deny_all);
    /// # assert!(handler_or_none.is_none());
    /// ```
    pub fn new<F>(handler: F) -> Self
    where
        F: Fn(ConnectionRequest) -> ConnectionRequestAuthorization + Send + Sync + 'static,
    {
        Self(Arc::new(handler))
    }
}

impl fmt::Debug for ConnectionRequestHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionRequestHandler")
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A handler or none: a closure that names its argument's type, `None`, or an
/// `Option<ConnectionRequestHandler>`. Sealed.
///
/// ```
/// use headcount::client::{
///     ConnectionRequest, ConnectionRequestAuthorization, ConnectionRequestHandler, IntoOption,
/// };
///
/// fn set(handler_or_none: impl IntoOption) -> bool {
///     handler_or_none.into_option().is_some()
/// }
/// assert!(set(|_: ConnectionRequest| ConnectionRequestAuthorization::Allow));
/// assert!(!set(None));
/// # let handler = ConnectionRequestHandler::new(|_| ConnectionRequestAuthorization::Deny);
/// assert!(set(Some(handler)));
/// ```
pub trait IntoOption: sealed::Sealed {
    /// The handler, if there is one.
    ///
    /// ```
    /// use headcount::client::{ConnectionRequest, ConnectionRequestAuthorization, IntoOption};
    ///
    /// let handler = |_: ConnectionRequest| ConnectionRequestAuthorization::Allow;
    /// assert!(handler.into_option().is_some());
    /// ```
    fn into_option(self) -> Option<ConnectionRequestHandler>;
}

impl<F> sealed::Sealed for F where
    F: Fn(ConnectionRequest) -> ConnectionRequestAuthorization + Send + Sync + 'static
{
}

impl<F> IntoOption for F
where
    F: Fn(ConnectionRequest) -> ConnectionRequestAuthorization + Send + Sync + 'static,
{
    fn into_option(self) -> Option<ConnectionRequestHandler> {
        Some(ConnectionRequestHandler::new(self))
    }
}

impl sealed::Sealed for Option<ConnectionRequestHandler> {}

impl IntoOption for Option<ConnectionRequestHandler> {
    fn into_option(self) -> Option<ConnectionRequestHandler> {
        self
    }
}

/// Runs code that may panic: the application's, destructors included.
fn run_guarded<T>(code: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(value) => Some(value),
        Err(payload) => {
            // Its destructor is the application's too.
            std::mem::forget(payload);
            None
        }
    }
}

/// The handler that is set, and the threads that run handlers. The threads start with the first
/// request that needs them, and end after the call in progress once this is dropped.
pub(crate) struct AdmissionHandlers {
    current: Mutex<Option<Handler>>,
    pool: BlockingPool,
    futures: FutureThread,
}

#[derive(Clone)]
enum Handler {
    Blocking(BlockingHandler),
    Async(Arc<dyn Fn(ConnectionRequest) -> BoxFuture + Send + Sync>),
}

impl AdmissionHandlers {
    /// `name` is the beginning of the threads' names.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            current: Mutex::new(None),
            pool: BlockingPool::new(&format!("{name}-ask")),
            futures: FutureThread::new(&format!("{name}-ask-async")),
        }
    }

    /// Sets or removes the handler. Requests that were submitted before keep theirs.
    pub(crate) fn set(&self, handler: Option<ConnectionRequestHandler>) {
        self.replace(handler.map(|handler| Handler::Blocking(handler.0)));
    }

    pub(crate) fn set_async<Fut>(
        &self,
        handler: impl Fn(ConnectionRequest) -> Fut + Send + Sync + 'static,
    ) where
        Fut: Future<Output = ConnectionRequestAuthorization> + Send + 'static,
    {
        let handler = Arc::new(handler);
        // The handler itself runs with the first poll, so that its panic is that of its future.
        let start = move |request| -> BoxFuture {
            let handler = handler.clone();
            Box::pin(async move { handler(request).await })
        };
        self.replace(Some(Handler::Async(Arc::new(start))));
    }

    #[cfg(test)]
    pub(crate) fn is_set(&self) -> bool {
        self.lock().is_some()
    }

    /// Asks the handler; without one, the answer is yes. Never blocks. `answer` is called once, on
    /// the thread of the handler, or on this one when there is no handler or no room; not at all
    /// for what waits when `self` is dropped.
    pub(crate) fn submit(
        &self,
        request: ConnectionRequest,
        answer: impl FnOnce(ConnectionRequestAuthorization) + Send + 'static,
    ) {
        let handler = self.lock().clone();
        let answer: Answer = Box::new(answer);
        let refused = match handler {
            None => Err((answer, Authorization::Allow)),
            Some(Handler::Blocking(handler)) => self.pool.submit(handler, request, answer),
            Some(Handler::Async(start)) => {
                // The closure alone: it makes the boxed future and runs none of the application.
                self.futures.submit(start(request), answer)
            }
        };
        if let Err((answer, authorization)) = refused {
            answer(authorization);
        }
    }

    /// The handler before is dropped without the lock: it is the application's.
    fn replace(&self, handler: Option<Handler>) {
        let _old = std::mem::replace(&mut *self.lock(), handler);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Handler>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;
    use crate::client::ConnectionType;

    pub(super) const SOON: Duration = Duration::from_secs(20);

    pub(super) fn request(number: u32) -> ConnectionRequest {
        ConnectionRequest::new(RequestParts {
            peer_key: number.to_be_bytes().to_vec(),
            peer_metadata: format!("{{\"number\":{number}}}"),
            identity_service_metadata: "{}".into(),
            connection_type: ConnectionType::WebSocket,
            channel: "kitchen".into(),
        })
    }

    pub(super) fn number(request: &ConnectionRequest) -> u64 {
        request.peer_metadata()["number"].as_u64().expect("a number")
    }

    pub(super) struct Answers(Sender<(u32, Authorization)>, Receiver<(u32, Authorization)>);

    impl Answers {
        pub(super) fn new() -> Self {
            let (sender, receiver) = mpsc::channel();
            Self(sender, receiver)
        }

        pub(super) fn submit(&self, handlers: &AdmissionHandlers, number: u32) {
            let answers = self.0.clone();
            handlers.submit(request(number), move |answer| {
                let _ = answers.send((number, answer));
            });
        }

        pub(super) fn next(&self) -> (u32, Authorization) {
            self.1.recv_timeout(SOON).expect("an answer")
        }

        pub(super) fn is_empty(&self) -> bool {
            self.1.try_recv().is_err()
        }
    }

    /// The next answer is that a handler panicked, in no words of its own.
    pub(super) fn expect_panic(answers: &Answers) {
        let (reason, retry_after) = reason(answers.next().1);
        assert!(reason.contains("panicked") && !reason.contains("test"), "{reason}");
        assert_eq!(retry_after, None);
    }

    pub(super) fn reason(answer: Authorization) -> (String, Option<Duration>) {
        match answer.into_decision() {
            Decision::Allow => panic!("allowed"),
            Decision::Deny { reason, retry_after } => (reason.unwrap_or_default(), retry_after),
        }
    }

    #[test]
    fn without_a_handler_everyone_is_allowed_at_once() {
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        assert!(!handlers.is_set());
        answers.submit(&handlers, 1);
        assert_eq!(answers.1.try_recv(), Ok((1, Authorization::Allow)));
    }

    #[test]
    fn the_handler_that_is_set_answers() {
        let (handlers, answers) = (AdmissionHandlers::new("test"), Answers::new());
        let odd = |request: ConnectionRequest| match number(&request) % 2 {
            0 => Authorization::Deny,
            _ => Authorization::Allow,
        };
        handlers.set(odd.into_option());
        assert!(handlers.is_set());
        answers.submit(&handlers, 4);
        assert_eq!(answers.next(), (4, Authorization::Deny));
        handlers.set_async(move |request| async move { odd(request) });
        answers.submit(&handlers, 5);
        assert_eq!(answers.next(), (5, Authorization::Allow));
        handlers.set(None);
        assert!(!handlers.is_set());
    }

    #[test]
    fn a_handler_can_change_the_handler() {
        let handlers = Arc::new(AdmissionHandlers::new("test"));
        let (inner, answers) = (Arc::downgrade(&handlers), Answers::new());
        handlers.set(Some(ConnectionRequestHandler::new(move |_| {
            inner.upgrade().expect("alive").set(None);
            Authorization::Deny
        })));
        answers.submit(&handlers, 1);
        assert_eq!(answers.next(), (1, Authorization::Deny));
        answers.submit(&handlers, 2);
        assert_eq!(answers.next(), (2, Authorization::Allow));
    }
}
