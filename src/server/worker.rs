//! One worker: a thread with its own runtime, client connections and L2 connections, so that a request wakes no other
//! thread.

use std::{sync::Arc, thread, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use super::{
    StartError,
    l2_tier::Tier,
    listen::{Caps, Peers, accept},
};
use crate::{
    access::Access,
    cache::{Cache, Core},
    grpc,
    node::{Heartbeat, Node},
    resp,
    socket::Listener,
};

/// Interval of a worker's heartbeats: short enough to detect a hanging worker within seconds, at negligible cost.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Everything that is needed to start a worker.
#[derive(Clone)]
pub(super) struct WorkerPlan {
    pub(super) core: Arc<Core>,
    pub(super) node: Arc<Node>,
    pub(super) tier: Tier,
    pub(super) grpc: Arc<ArcSwap<grpc::GrpcSettings>>,
    pub(super) resp: Arc<ArcSwap<resp::RespSettings>>,
    pub(super) resp_shared: Arc<resp::PortState>,
    pub(super) access: Arc<Access>,
    pub(super) changes: mpsc::Sender<resp::SettingsChange>,
    pub(super) connections_max: u64,
    /// Maximum number of connections on all ports.
    pub(super) all_connections_max: u64,
    pub(super) grpc_peers: Peers,
    pub(super) resp_peers: Peers,
    pub(super) stop: watch::Receiver<bool>,
}

/// Starts a worker's thread. `ready` is called once its listeners accept.
pub(super) fn start(
    number: usize,
    plan: WorkerPlan,
    grpc: socket2::Socket,
    resp: socket2::Socket,
    ready: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::Port(format!("cannot create the runtime of a worker: {error}")))?;
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || runtime.block_on(run(plan, grpc, resp, ready)))
        .map_err(|error| StartError::Port(format!("cannot start a worker thread: {error}")))
}

async fn run(plan: WorkerPlan, grpc: socket2::Socket, resp: socket2::Socket, ready: impl FnOnce()) {
    let (grpc, resp) = match (Listener::adopt(grpc), Listener::adopt(resp)) {
        (Ok(grpc), Ok(resp)) => (grpc, resp),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "worker cannot listen and serves no connections");
            return;
        }
    };
    let cache = Cache::new(Arc::clone(&plan.core), plan.tier.backend());
    // The task ends with this runtime.
    tokio::spawn(beat(plan.node.heartbeats.begin(cache.now()), cache.clone()));
    ready();
    tokio::join!(serve_grpc(&plan, cache.clone(), grpc), serve_resp(&plan, cache, resp));
}

/// Records periodically that this worker's runtime makes progress.
async fn beat(heartbeat: Heartbeat, cache: Cache) {
    let mut every = tokio::time::interval(BEAT_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        heartbeat.beat(cache.now());
    }
}

async fn serve_grpc(plan: &WorkerPlan, cache: Cache, listener: Listener) {
    let (node, settings, access) = (Arc::clone(&plan.node), Arc::clone(&plan.grpc), Arc::clone(&plan.access));
    let edge = Arc::new(grpc::Edge::new(cache, node, settings, access));
    let stop = plan.stop.clone();
    let caps = Caps {
        open: Arc::clone(&plan.node.connections.grpc),
        rejected: Arc::clone(&plan.node.connections.rejected),
        max: plan.connections_max,
        all: Arc::clone(&plan.node.connections.all),
        all_max: plan.all_connections_max,
        peers: plan.grpc_peers.clone(),
        refusal: b"",
    };
    let serving = stop.clone();
    let serve = move |stream| grpc::serve(stream, Arc::clone(&edge), serving.clone());
    accept(listener, caps, Arc::clone(&plan.node.tls.grpc), stop, serve).await;
}

async fn serve_resp(plan: &WorkerPlan, cache: Cache, listener: Listener) {
    let (node, settings, shared) = (Arc::clone(&plan.node), Arc::clone(&plan.resp), Arc::clone(&plan.resp_shared));
    let access = Arc::clone(&plan.access);
    let edge = Arc::new(resp::Edge::new(cache, node, settings, shared, access, plan.changes.clone()));
    let stop = plan.stop.clone();
    let caps = Caps {
        open: Arc::clone(&plan.node.connections.resp),
        rejected: Arc::clone(&plan.node.connections.rejected),
        max: plan.connections_max,
        all: Arc::clone(&plan.node.connections.all),
        all_max: plan.all_connections_max,
        peers: plan.resp_peers.clone(),
        refusal: b"-ERR max number of clients reached\r\n",
    };
    let serving = stop.clone();
    let serve = move |stream| {
        edge.node.connections.resp_accepted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        resp::serve(stream, Arc::clone(&edge), serving.clone())
    };
    accept(listener, caps, Arc::clone(&plan.node.tls.resp), stop, serve).await;
}
