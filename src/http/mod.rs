//! The HTTP port: the page at `/`, `/metrics`, `/healthz`, `/readyz`.
//!
//! The port has tight limits, because it shares the process with the cache: few connections, small request heads, no
//! bodies, deadlines.

mod dashboard;
mod history;
mod json;
mod learned_api;
mod page;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use self::history::History;
use crate::{
    cache::Cache,
    cache::State as L2State,
    metrics::Metrics,
    node::Node,
    socket::{Listener, Socket},
};

/// Maximum number of HTTP connections. Further connections wait in the queue of the operating system.
const CONNECTIONS_MAX: usize = 256;
/// Maximum size of a request head.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// Maximum number of header lines of a request.
const HEADERS_MAX: usize = 64;
/// Deadline for a complete request head. The deadline also limits idle keep-alive connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum lifetime of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Maximum size of a request body. No path accepts a body.
const BODY_MAX_BYTES: usize = 0;
/// First pause after a failed accept; each further failure doubles it. Without pauses, a full file table keeps one core
/// busy.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Maximum pause after a failed accept.
const BACKOFF_MAX: Duration = Duration::from_millis(1000);
/// Age of a heartbeat above which a worker counts as stalled. Workers send a heartbeat every second, and no task takes
/// this long.
const STALL: Duration = Duration::from_secs(10);
/// Interval of the maintenance of the metrics exporter.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Body of a 404 response: the available paths.
const PATHS: &str = "available paths:\n/         page with live statistics\n/metrics  metrics for Prometheus\n/healthz  200 while the process makes progress\n\
                     /readyz   200 from the first contact with L2 until the drain\n";

/// Shared state of the HTTP port.
pub struct Edge {
    /// The cache.
    pub cache: Cache,
    /// This process.
    pub node: Arc<Node>,
    /// `/readyz` returns 503 while L2 is unavailable. Reloadable.
    pub ready_requires_l2: AtomicBool,
}

/// State of the request handlers.
#[derive(Clone)]
struct HttpState {
    edge: Arc<Edge>,
    metrics: Arc<Metrics>,
    history: Arc<History>,
    top: Arc<json::Seen>,
    learned: Arc<json::Seen>,
}

/// Serves until the future is dropped. Continues during the drain, because probes and scrapers need the state then.
pub async fn serve(listener: Listener, edge: Arc<Edge>) {
    let metrics = Arc::new(Metrics::default());
    let history = Arc::new(History::default());
    let router = router(HttpState {
        edge: Arc::clone(&edge),
        metrics: Arc::clone(&metrics),
        history: Arc::clone(&history),
        top: Arc::default(),
        learned: Arc::default(),
    });
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (mut upkeep, mut points, mut backoff) = (interval(UPKEEP_EVERY), interval(history::EVERY), BACKOFF_MIN);
    points.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = upkeep.tick() => metrics.upkeep(),
            _ = points.tick() => history.add(&edge.cache),
            accepted = accept(&listener, &permits) => match accepted {
                Ok((stream, permit)) => {
                    backoff = BACKOFF_MIN;
                    tokio::spawn(connection(stream, router.clone(), Arc::clone(&edge), permit));
                }
                Err(error) => {
                    tracing::warn!(%error, backoff_ms = backoff.as_millis(), "cannot accept on the HTTP port");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            },
        }
    }
}

/// Waits for a free connection permit, then for a client. Cancel-safe: an accepted stream is returned immediately.
async fn accept(
    listener: &Listener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(Socket, Option<OwnedSemaphorePermit>)> {
    // The semaphore is never closed, so acquiring a permit cannot fail.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    let stream = listener.accept().await?;
    Ok((stream, permit))
}

/// Serves one connection, for a limited time.
async fn connection(stream: Socket, router: Router, edge: Arc<Edge>, permit: Option<OwnedSemaphorePermit>) {
    let counted = Counted::new(&edge.node.connections.http);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Clients may close, time out or send malformed requests; no result requires an action.
    let _ended = timeout(CONNECTION_TIMEOUT, served).await;
    drop((counted, permit));
}

/// Counts an open connection until it is dropped.
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn new(open: &Arc<AtomicU64>) -> Self {
        open.fetch_add(1, Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn router(shared: HttpState) -> Router {
    dashboard::routes(Router::new())
        .route("/metrics", get(metrics))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .fallback(|| async { (StatusCode::NOT_FOUND, PATHS) })
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .with_state(shared)
}

async fn metrics(State(shared): State<HttpState>) -> Response {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let page = page::render(&shared.metrics, &shared.edge.cache, &shared.edge.node);
    ([(header::CONTENT_TYPE, TEXT)], page).into_response()
}

/// Returns 200 while every worker makes progress.
async fn alive(State(shared): State<HttpState>) -> (StatusCode, String) {
    let edge = &shared.edge;
    let silent = edge.node.heartbeats.oldest().map_or(Duration::ZERO, |beat| edge.cache.now().since(beat));
    if silent > STALL {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("a worker has made no progress for {} s\n", silent.as_secs()),
        );
    }
    (StatusCode::OK, "ok\n".into())
}

/// Returns 200 from the first contact with L2 until the drain. A later loss of L2 does not change the status unless L2
/// is required.
async fn ready(State(shared): State<HttpState>) -> (StatusCode, String) {
    readiness(&shared.edge)
}

fn readiness(edge: &Edge) -> (StatusCode, String) {
    if edge.node.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    }
    match edge.cache.l2_state() {
        L2State::Up => match edge.cache.l2_health().damage {
            0 => (StatusCode::OK, "ready\n".into()),
            damage => (
                StatusCode::OK,
                format!("degraded: found {damage} damaged pieces of the embedded store since the start; see the log\n"),
            ),
        },
        L2State::Connecting => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the first contact with L2\n".into()),
        L2State::Down(why) if !edge.cache.l2_reached() => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for the first contact with L2: {why}\n"))
        }
        L2State::Down(why) if edge.ready_requires_l2.load(Relaxed) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("L2 is unavailable: {why}\n"))
        }
        L2State::Down(why) => (StatusCode::OK, format!("degraded: L2 is unavailable: {why}\n")),
    }
}
