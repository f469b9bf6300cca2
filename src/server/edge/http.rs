//! Requests and responses of the edge.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::stream::{self, BoxedLocal, StreamExt};
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};

use super::Edge;
use super::io::HyperIo;
use super::links::{self, Next, WatchItem};
use crate::admin::{self, Process, Route, Surface, route};
use crate::ids::{ChannelKey, ShardId};
use crate::limits::REQUEST_HEAD_BYTES_MAX;

type Body = Either<Full<Bytes>, StreamBody<BoxedLocal<Result<Frame<Bytes>, Infallible>>>>;

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Pause after which a watcher is sent an empty line, so that dead connections are noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const PAGE: &str = include_str!("page.html");

/// Serves one connection; `requested` is set once its request is complete.
pub async fn serve(edge: Rc<Edge>, surface: Surface, io: HyperIo, requested: Rc<Cell<bool>>) {
    let service = service_fn(move |request| {
        requested.set(true);
        let edge = Rc::clone(&edge);
        async move { Ok::<_, Infallible>(respond(&edge, surface, &request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .max_buf_size(2 * REQUEST_HEAD_BYTES_MAX)
        .serve_connection(io, service);
    // A connection that fails has nobody left to be told.
    let _ = connection.await;
}

async fn respond(edge: &Rc<Edge>, surface: Surface, request: &Request<Incoming>) -> Response<Body> {
    match route(surface, request.method().as_str(), request.uri().path()) {
        Route::Page => page(surface),
        Route::Health => text(StatusCode::OK, TEXT, "ok\n"),
        Route::Ready => readiness(edge),
        Route::Metrics => metrics(edge).await,
        Route::Members { app, channel } => members(edge, &app, &channel).await,
        Route::Watch { app, channel } if *request.method() == Method::GET => {
            watch(edge, &app, &channel)
        }
        Route::Watch { .. } => text(StatusCode::OK, LINES, ""),
        Route::NotFound => text(StatusCode::NOT_FOUND, TEXT, "not found\n"),
        Route::MethodNotAllowed => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn page(surface: Surface) -> Response<Body> {
    let links = match surface {
        Surface::Public => "",
        Surface::Admin => {
            "<p><a href=\"/healthz\">health</a> &middot; <a href=\"/readyz\">readiness</a> \
             &middot; <a href=\"/metrics\">metrics</a></p>"
        }
    };
    text(StatusCode::OK, HTML, PAGE.replace("{links}", links))
}

fn readiness(edge: &Edge) -> Response<Body> {
    let silent = edge.health.silent.load(Ordering::Relaxed);
    match (edge.ready.load(Ordering::Relaxed), silent) {
        (true, 0) => text(StatusCode::OK, TEXT, "ready\n"),
        (true, _) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "an executor is stalled\n"),
        (false, _) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
    }
}

async fn metrics(edge: &Edge) -> Response<Body> {
    let mut counters = Vec::new();
    for shard in 0..edge.settings.router.shards() {
        match edge.links.counters(ShardId(shard)).await {
            Ok(of_shard) => counters.push(of_shard),
            Err(links::NoAnswer) => return no_answer(),
        }
    }
    let process = Process {
        ready: edge.ready.load(Ordering::Relaxed),
        silent_executors: edge.health.silent.load(Ordering::Relaxed),
        executor_stalls: edge.health.stalls.load(Ordering::Relaxed),
        uptime_s: edge.started.elapsed().as_secs(),
    };
    text(StatusCode::OK, METRICS, admin::encode_metrics(&counters, process))
}

fn no_answer() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "a shard does not answer, try again\n")
}

fn locate(edge: &Edge, app: &str, channel: &str) -> (Arc<ChannelKey>, ShardId) {
    let key = Arc::new(edge.settings.router.key(&app.into(), channel));
    let owner = edge.settings.router.shard_of(&key);
    (key, owner)
}

async fn members(edge: &Edge, app: &str, channel: &str) -> Response<Body> {
    let (key, owner) = locate(edge, app, channel);
    match edge.links.members(owner, key).await {
        Ok(members) => {
            text(StatusCode::OK, JSON, admin::members(app, channel, &members).to_string())
        }
        Err(links::NoAnswer) => no_answer(),
    }
}

fn watch(edge: &Rc<Edge>, app: &str, channel: &str) -> Response<Body> {
    let (key, owner) = locate(edge, app, channel);
    let watch = links::watch(edge, key, owner);
    let edge = Rc::clone(edge);
    let lines = stream::unfold((edge, watch), |(edge, mut watch)| async move {
        let line = next_lines(&edge, &mut watch).await;
        Some((Ok(Frame::data(Bytes::from(line))), (edge, watch)))
    });
    let mut response = Response::new(Either::Right(StreamBody::new(lines.boxed_local())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(LINES));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn next_lines(edge: &Edge, watch: &mut links::Watch) -> String {
    let keep_alive = async {
        glommio::timer::sleep(KEEP_ALIVE).await;
        None
    };
    let next = futures_lite::future::or(async { Some(watch.next().await) }, keep_alive).await;
    let now = edge.clock.now();
    match next {
        None => "\n".to_string(),
        Some(Next::Restarted) => admin::reset_line(),
        Some(Next::Item(WatchItem::Members(members))) => admin::present_lines(now, &members),
        Some(Next::Item(WatchItem::Changes(tick))) => admin::changes_lines(now, &tick.changes),
    }
}
