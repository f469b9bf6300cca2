//! HTTP requests of the edge and their responses, over hyper.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::future;
use futures_lite::stream::{self, BoxedLocal, StreamExt};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    ORIGIN, WWW_AUTHENTICATE,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::connections::{CountGuard, IdleTimer};
use super::io::{HyperIo, linger};
use super::upgrade::{UpgradeRequest, upgrade_head};
use super::watch::{self, Next, Watch, WatchItem};
use super::{Edge, api, pages, rest, trace};
use crate::admin::api::ListQuery;
use crate::admin::{self, Api, ChannelApi, Denied, Exposition, Process, Route, Surface, route};
use crate::auth::Key;
use crate::limits::REQUEST_HEADERS_MAX;
use crate::rest::{CORS_HEADERS, Refusal, Reply};
use crate::server::reload::Reloadable;
use crate::wire::foony::ErrorCode;

pub(super) type Body =
    Either<Full<Bytes>, StreamBody<BoxedLocal<Result<Frame<Bytes>, Infallible>>>>;

const TEXT: &str = "text/plain; charset=utf-8";
const LINES: &str = "application/x-ndjson";

/// Interval of the empty lines that a watcher is sent to detect dead connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long idle connections stay open when the server stops: requests in flight are answered 503
/// and not reset.
const IDLE_WHEN_STOPPING: Duration = Duration::from_millis(250);

/// The smallest limit of a request head that hyper accepts.
const HYPER_HEAD_BYTES_MIN: usize = 8 * 1024;

/// On responses that are for no page of another site (Fetch standard).
pub(super) const SAME_ORIGIN_ONLY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// Serves the requests of one connection. Returns the connection when one of them is a WebSocket
/// upgrade, which shards serve.
pub async fn serve(
    edge: Rc<Edge>,
    surface: Surface,
    io: HyperIo,
    idle_timer: Rc<IdleTimer>,
) -> Option<UpgradeRequest> {
    let head_bytes_max = edge.settings().limits.request_head_bytes_max;
    let upgrade: Rc<RefCell<Option<Vec<u8>>>> = Rc::default();
    let requested = Rc::clone(&upgrade);
    let stopping = Rc::clone(&edge);
    let service = service_fn(move |request| {
        let counted = idle_timer.pause();
        let (edge, requested) = (Rc::clone(&edge), Rc::clone(&requested));
        async move {
            let head = upgrade_head(&request, head_bytes_max);
            if let Some(head) = head.filter(|_| surface == Surface::Public) {
                *requested.borrow_mut() = Some(head);
                future::pending::<()>().await;
            }
            let response = respond(&edge, surface, request).await;
            Ok::<_, Infallible>(response.map(|body| counted_body(body, counted)))
        }
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        // A client that half-closes the connection still waits for its response (RFC 9112
        // section 9.6).
        .half_close(true)
        .max_buf_size(head_bytes_max.max(HYPER_HEAD_BYTES_MIN))
        .max_headers(REQUEST_HEADERS_MAX)
        .serve_connection(io, service);
    let mut is_closing = false;
    let mut closing = pin!(async {
        stopping.stop.begun().await;
        glommio::timer::sleep(IDLE_WHEN_STOPPING).await;
    });
    poll_fn(|cx| {
        if !is_closing && closing.as_mut().poll(cx).is_ready() {
            is_closing = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        // An error means that the peer is gone: there is no one to report it to.
        let ended = Pin::new(&mut connection).poll(cx).is_ready();
        if ended || upgrade.borrow().is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let parts = connection.into_parts();
    let Some(mut unread) = upgrade.take() else {
        linger(parts.io).await;
        return None;
    };
    let (socket, rest) = parts.io.detach().ok()?;
    unread.extend_from_slice(&parts.read_buf);
    unread.extend_from_slice(&rest);
    Some(UpgradeRequest { socket, unread })
}

/// A request whose response is a stream is in progress until the stream ends.
fn counted_body(body: Body, counted: CountGuard) -> Body {
    match body {
        Either::Left(whole) => Either::Left(whole),
        Either::Right(stream) => {
            let counted_frames = stream.map(move |frame| {
                let _counted = &counted;
                frame
            });
            Either::Right(StreamBody::new(counted_frames.boxed_local()))
        }
    }
}

async fn respond(edge: &Rc<Edge>, surface: Surface, request: Request<Incoming>) -> Response<Body> {
    let may_have_body = surface == Surface::Admin && !request.method().is_safe();
    let mut response = match request.version() {
        // RFC 9112 section 3.2.
        Version::HTTP_11 if !request.headers().contains_key(HOST) => {
            text(StatusCode::BAD_REQUEST, TEXT, "the Host header is missing\n")
        }
        _ => dispatch(edge, surface, request).await,
    };
    edge.connections.count_response(response.status().as_u16());
    // Refused before its body is read, on which the connection may depend.
    let is_unread = may_have_body && matches!(response.status().as_u16(), 401 | 403);
    let headers = response.headers_mut();
    if surface == Surface::Public && !headers.contains_key(SAME_ORIGIN_ONLY) {
        for (name, value) in CORS_HEADERS {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    }
    if is_unread || edge.shared.lifecycle.is_stopping() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn dispatch(edge: &Rc<Edge>, surface: Surface, request: Request<Incoming>) -> Response<Body> {
    let route = route(surface, request.method().as_str(), request.uri().path());
    let rules = edge.reloadable();
    let key = match surface {
        Surface::Public => None,
        Surface::Admin => match check_admin(edge, &rules, &route, &request) {
            Ok(key) => key,
            Err(denied) => return refuse_admin(edge, denied),
        },
    };
    match route {
        Route::NotFound if surface == Surface::Public => whole(rest::respond(edge, request).await),
        _ if surface == Surface::Public && *request.method() == Method::OPTIONS => {
            whole(rest::respond(edge, request).await)
        }
        Route::Page => match surface {
            Surface::Public => pages::public(edge, request.headers()),
            Surface::Admin => pages::dashboard(),
        },
        Route::Health => text(StatusCode::OK, TEXT, "ok\n"),
        Route::Ready => readiness(edge),
        Route::Metrics => {
            let accept = request.headers().get_all(ACCEPT).iter();
            let accept = accept.filter_map(|value| value.to_str().ok());
            metrics(edge, Exposition::negotiate(accept)).await
        }
        Route::Api(asked) => answer_api(edge, key, asked, request).await,
        Route::NotFound => whole(Refusal::not_found().into()),
        Route::MethodNotAllowed(_) if surface == Surface::Public => {
            whole(Refusal::method("GET, HEAD, OPTIONS").into())
        }
        Route::MethodNotAllowed(allow) => whole(Refusal::method(allow).into()),
    }
}

/// Handles a request of the admin API.
async fn answer_api(
    edge: &Rc<Edge>,
    key: Option<&Key>,
    asked: Api,
    request: Request<Incoming>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let answer = match asked {
        Api::Channel { request: ChannelApi::Watch | ChannelApi::Trace, .. }
            if head.method != Method::GET =>
        {
            return lines(stream::empty().boxed_local());
        }
        Api::Channel { app, channel, request: ChannelApi::Watch } => {
            let (key, owner) = edge.locate(&app.into(), &channel);
            return stream_lines(edge, watch::watch(edge, key, owner), next_lines);
        }
        Api::Channel { app, channel, request: ChannelApi::Trace } => {
            let (key, owner) = edge.locate(&app.into(), &channel);
            let trace = trace::trace(edge, key, owner);
            return stream_lines(edge, trace, async |_, trace| trace.next().await);
        }
        Api::Server(request) => api::server(edge, request, &head).await,
        Api::App { app, request } => api::app(edge, &app, request, &head, body).await,
        Api::Channel { app, channel, request } => {
            api::channel(edge, key, (&app, &channel), request, (&head, body)).await
        }
    };
    whole(answer.unwrap_or_else(Reply::from))
}

fn check_admin<'r>(
    edge: &Edge,
    Reloadable { access, settings, .. }: &'r Reloadable,
    route: &Route,
    request: &Request<Incoming>,
) -> Result<Option<&'r Key>, Denied> {
    let bytes = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let text = |name| bytes(name).map(|value| str::from_utf8(value).unwrap_or_default());
    access.check_host(text(HOST))?;
    if !request.method().is_safe() {
        access.check_origin(text(ORIGIN), text(HOST))?;
    }
    let prefix = ListQuery::parse(request.uri().query()).map(|query| query.prefix);
    let (prefix, keyring) = (prefix.unwrap_or_default(), &settings.session.keyring);
    let now_ms = edge.shared.clock.now().wall_ms;
    let via = pages::via(request.headers());
    access.check(route, via, &prefix, bytes(AUTHORIZATION), keyring, now_ms)
}

fn refuse_admin(edge: &Edge, denied: Denied) -> Response<Body> {
    match denied {
        Denied::Host => whole(Refusal::misdirected().into()),
        Denied::Unauthenticated(why, cause) => {
            cause.into_iter().for_each(|cause| edge.count_refusal(cause));
            let mut response = whole(Refusal::new(ErrorCode::BadAuth, why).into());
            let schemes = HeaderValue::from_static("Basic realm=\"headcount\", Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, schemes);
            response
        }
        Denied::Forbidden(why) => whole(Refusal::new(ErrorCode::Forbidden, why).into()),
    }
}

/// Converts a reply for hyper.
fn whole(reply: Reply) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(reply.body))));
    *response.status_mut() =
        StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in reply.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}

pub(super) fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn readiness(edge: &Edge) -> Response<Body> {
    match edge.why_not_ready() {
        None => text(StatusCode::OK, TEXT, "ready\n"),
        Some(why_not) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why_not}\n")),
    }
}

async fn metrics(edge: &Edge, exposition: Exposition) -> Response<Body> {
    let Ok(counters) = edge.counters().await else { return unavailable() };
    let process = Process {
        ready: edge.shared.lifecycle.is_ready(),
        silent_executors: edge.shared.health.silent.load(Ordering::Relaxed),
        executor_stalls: edge.shared.health.stalls.load(Ordering::Relaxed),
        uptime_s: edge.started.elapsed().as_secs(),
        http_connections: edge.connections.open(),
        http_refused: edge.connections.refused(),
        http_responses: edge.connections.responses(),
        log_lines_lost: edge.shared.log.lost(),
        refusals: edge.refusals.borrow().clone(),
        webhooks: edge.shared.webhooks.counts(),
        store_writes: edge.shared.store.as_ref().map(|store| store.writes()).unwrap_or_default(),
        admission: edge.gate.as_ref().map(|gate| gate.metrics()).unwrap_or_default(),
    };
    let encoded = admin::encode_metrics(&counters, &process, exposition);
    text(StatusCode::OK, exposition.content_type(), encoded)
}

pub(super) fn unavailable() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "a shard did not answer in time, try again\n")
}

/// What `next` returns for `source`, until the server stops, and at most once more after a reload.
fn stream_lines<S: 'static>(
    edge: &Rc<Edge>,
    source: S,
    next: impl AsyncFn(&Edge, &mut S) -> String + 'static,
) -> Response<Body> {
    let began = edge.reloads.get();
    let state = (Rc::clone(edge), source, next);
    let frames = stream::unfold(state, move |(edge, mut source, next)| async move {
        let line = async { Some(next(&edge, &mut source).await) };
        let line = future::or(line, quiet(&edge)).await.filter(|_| edge.reloads.get() == began)?;
        Some((Ok(Frame::data(Bytes::from(line))), (edge, source, next)))
    });
    lines(frames.boxed_local())
}

/// An empty line after a while without one; nothing at the end.
async fn quiet(edge: &Edge) -> Option<String> {
    let keep_alive = async {
        glommio::timer::sleep(KEEP_ALIVE).await;
        Some("\n".to_owned())
    };
    let stop = async {
        edge.stop.begun().await;
        None
    };
    future::or(keep_alive, stop).await
}

fn lines(frames: BoxedLocal<Result<Frame<Bytes>, Infallible>>) -> Response<Body> {
    let mut response = Response::new(Either::Right(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(LINES));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn next_lines(edge: &Edge, watch: &mut Watch) -> String {
    let next = watch.next().await;
    let now = edge.shared.clock.now();
    match next {
        Next::Restarted => admin::reset_line(),
        Next::Item(WatchItem::Members(members)) => admin::present_lines(now, &members),
        Next::Item(WatchItem::Changes(tick)) => admin::changes_lines(now, &tick.changes),
    }
}
