//! The HTTP port: the page at `/`, `/metrics`, `/healthz`, `/readyz`.
//!
//! The port has tight limits, because it shares the process with the cache: few connections, small request heads, no
//! bodies, deadlines ([`connections`]). Probes are answered whatever other clients do. [`guard`] checks each request.

mod connections;
mod dashboard;
mod guard;
mod history;
mod json;
mod learned_api;
mod page;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::time::{MissedTickBehavior, interval};

use self::{connections::Served, guard::Guard, history::History};
use crate::{access::Access, cache::Cache, cache::State as L2State, metrics::Metrics, node::Node, socket::Listener};

/// Maximum size of a request body. No path accepts a body.
const BODY_MAX_BYTES: usize = 0;
/// Age of a heartbeat above which a worker counts as stalled. Workers send a heartbeat every second, and no task takes
/// this long.
const STALL: Duration = Duration::from_secs(10);
/// Interval of the maintenance of the metrics exporter.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Body of a 404 response: the available paths.
const PATHS: &str = "available paths:\n/         page with live statistics\n/metrics  metrics for Prometheus\n/healthz  200 while the process makes progress\n\
                     /readyz   200 from the first contact with L2 until the drain\n";

/// Body of a 503 response on a connection beyond the limits.
const TOO_MANY: &str =
    "too many HTTP connections from this address, or in total; only /healthz and /readyz are served\n";

/// Shared state of the HTTP port.
pub struct Edge {
    /// The cache.
    pub cache: Cache,
    /// This process.
    pub node: Arc<Node>,
    /// Users and roles.
    pub access: Arc<Access>,
    /// `/readyz` returns 503 while L2 is unavailable. Reloadable.
    pub ready_requires_l2: AtomicBool,
    /// Names that a request may have as its host, in addition to IP literals and names without a dot. Reloadable.
    pub hosts: ArcSwap<Vec<String>>,
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

/// The listeners of HTTP.
pub struct Listeners {
    /// The listener of `http.addr`.
    pub all: Listener,
    /// The listener of `http.health_addr`, which serves only the two probes.
    pub health: Option<Listener>,
}

/// Serves until the future is dropped. Continues during the drain, because probes and scrapers need the state then.
pub async fn serve(listeners: Listeners, edge: Arc<Edge>) {
    let state = HttpState {
        edge: Arc::clone(&edge),
        metrics: Arc::default(),
        history: Arc::default(),
        top: Arc::default(),
        learned: Arc::default(),
    };
    let checks_hosts = matches!(listeners.all, Listener::Tcp(_));
    let all = Served {
        all: router(state.clone(), checks_hosts),
        surplus: surplus(state.clone()),
        tls: Some(Arc::clone(&edge.node.tls.http)),
    };
    let health = async {
        if let Some(listener) = listeners.health {
            let served = Served { all: probes_only(state.clone()), surplus: probes_only(state.clone()), tls: None };
            connections::accept(listener, served, Arc::clone(&edge.node)).await;
        }
    };
    tokio::join!(maintain(&state), connections::accept(listeners.all, all, Arc::clone(&edge.node)), health);
}

/// Maintains the metrics exporter and the history of the page.
async fn maintain(state: &HttpState) {
    let (mut upkeep, mut points) = (interval(UPKEEP_EVERY), interval(history::EVERY));
    points.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = upkeep.tick() => state.metrics.upkeep(),
            _ = points.tick() => state.history.add(&state.edge.cache),
        }
    }
}

fn probes() -> Router<HttpState> {
    Router::new().route("/healthz", get(alive)).route("/readyz", get(ready))
}

fn router(state: HttpState, checks_hosts: bool) -> Router {
    let guard = Guard::new(Arc::clone(&state.edge), checks_hosts);
    dashboard::routes(probes())
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, PATHS) })
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .layer(from_fn_with_state(guard, guard::guard))
        .with_state(state)
}

/// Returns the routes of a connection beyond the limits.
fn surplus(state: HttpState) -> Router {
    let refuse = |State(state): State<HttpState>| async move {
        state.edge.node.connections.rejected.fetch_add(1, Relaxed);
        (StatusCode::SERVICE_UNAVAILABLE, TOO_MANY)
    };
    probes().fallback(refuse).layer(DefaultBodyLimit::max(BODY_MAX_BYTES)).with_state(state)
}

fn probes_only(state: HttpState) -> Router {
    let other = || async { (StatusCode::NOT_FOUND, "available paths: /healthz and /readyz\n") };
    probes().fallback(other).layer(DefaultBodyLimit::max(BODY_MAX_BYTES)).with_state(state)
}

async fn metrics(State(shared): State<HttpState>) -> Response {
    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let page = page::render(&shared.metrics, &shared.edge.cache, &shared.edge.node, &shared.edge.access);
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
