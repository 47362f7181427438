//! The HTTP port: the page at `/`, `/metrics`, `/healthz`, `/readyz`.
//!
//! Small and bounded, because it stands beside the cache's work: few connections, small heads, no bodies, deadlines.

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
/// Pauses after a failed accept, doubling: without them a full file table costs a whole core.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// Maximum pause after a failed accept.
const BACKOFF_MAX: Duration = Duration::from_millis(1000);
/// A worker that did not move for so long hangs: they beat every second, and no piece of work takes as long.
const STALL: Duration = Duration::from_secs(10);
/// How often the exporter of metrics tidies up.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The paths there are, for who asks for another.
const PATHS: &str = "Terrace serves here:\n/         a page\n/metrics  for Prometheus\n/healthz  200 while the process makes progress\n\
                     /readyz   200 from the first contact with L2 until the drain\n";

/// The HTTP edge.
pub struct Edge {
    /// The facade.
    pub cache: Cache,
    /// This process.
    pub node: Arc<Node>,
    /// `/readyz` answers 503 while L2 is away. Reloadable.
    pub ready_requires_l2: AtomicBool,
}

/// The state that handlers answer from.
#[derive(Clone)]
struct HttpState {
    edge: Arc<Edge>,
    metrics: Arc<Metrics>,
    history: Arc<History>,
    top: Arc<json::Seen>,
    learned: Arc<json::Seen>,
}

/// Serves until it is dropped: also during the drain, because that is when probes and scrapers want to know.
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

/// Waits for room, then for a client. Nothing is lost when it is dropped: an accepted stream is returned at once.
async fn accept(
    listener: &Listener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(Socket, Option<OwnedSemaphorePermit>)> {
    // The semaphore is never closed, so there always is a permit.
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
    // How a connection ends is the client's affair: closed, timed out or malformed, nothing here has to change.
    let _ended = timeout(CONNECTION_TIMEOUT, served).await;
    drop((counted, permit));
}

/// Counts a connection as long as it lives.
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

/// 200 while every worker moves.
async fn alive(State(shared): State<HttpState>) -> (StatusCode, String) {
    let edge = &shared.edge;
    let silent = edge.node.heartbeats.oldest().map_or(Duration::ZERO, |beat| edge.cache.now().since(beat));
    if silent > STALL {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("a worker has not moved for {} s\n", silent.as_secs()));
    }
    (StatusCode::OK, "ok\n".into())
}

/// 200 from the first contact with L2 until the drain; an L2 lost later leaves it 200, unless it is required.
async fn ready(State(shared): State<HttpState>) -> (StatusCode, String) {
    readiness(&shared.edge)
}

fn readiness(edge: &Edge) -> (StatusCode, String) {
    if edge.node.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    }
    match edge.cache.l2_state() {
        L2State::Up => (StatusCode::OK, "ready\n".into()),
        L2State::Connecting => (StatusCode::SERVICE_UNAVAILABLE, "waiting for the first contact with L2\n".into()),
        L2State::Down(why) if !edge.cache.l2_reached() => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for the first contact with L2: {why}\n"))
        }
        L2State::Down(why) if edge.ready_requires_l2.load(Relaxed) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("L2 is away: {why}\n"))
        }
        L2State::Down(why) => (StatusCode::OK, format!("degraded: L2 is away: {why}\n")),
    }
}
