//! Server CPU of a gRPC call that L1 answers, compared with a bare tonic method that returns the same message, in one
//! process image: `cargo bench --bench grpc -- [rounds] [milliseconds per measurement]` (default 7, 1,000).
//!
//! Each server has a thread with a current_thread runtime, as a Terrace worker has, on the first core; the client runs
//! on the second core. Rounds alternate between the two servers. The output shows the medians: ours | yardstick |
//! ratio.

#[path = "support/bare.rs"]
mod bare;
#[path = "support/figures.rs"]
mod figures;

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use figures::median;
use futures_util::future::join_all;
use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use terrace::{
    access::{Access, AccessSettings},
    cache::{Cache, Core, Flavor, Rules, l1_store::CoreStore},
    clock::{Clock, stopwatch_ns},
    grpc::{self, Edge, GrpcSettings},
    l1,
    l2::none::NoneBackend,
    node::Node,
    proto::{
        GetManyRequest, GetRequest, Operation, PipelineRequest, SetRequest, cache_client::CacheClient, get_response,
        operation,
    },
    socket::Socket,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tonic::transport::{Channel, Endpoint};

use bare::{serve_bare, value};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
/// Number of keys of a GetMany and of operations of a batch.
const BATCH: usize = 100;
const KEYS: usize = 1_000;

fn key(number: usize) -> Bytes {
    format!("user:{:06}:profile", number % KEYS).into()
}

/// A server on its own thread that reports the CPU time it has used.
struct Server {
    name: &'static str,
    address: SocketAddr,
    cpu: mpsc::Sender<oneshot::Sender<u64>>,
}

impl Server {
    fn start<F: Future<Output = ()>>(
        name: &'static str,
        serve: impl FnOnce(TcpListener) -> F + Send + 'static,
    ) -> Self {
        let (cpu, mut questions) = mpsc::channel::<oneshot::Sender<u64>>(1);
        let (bound, address) = std::sync::mpsc::channel();
        let run = || async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            bound.send(listener.local_addr().expect("an address")).expect("somebody waits");
            let answer = async {
                while let Some(question) = questions.recv().await {
                    question.send(thread_cpu_ns()).expect("somebody waits");
                }
            };
            tokio::join!(serve(listener), answer);
        };
        let serve = move || {
            pin(SERVER_CORE);
            runtime().block_on(run());
        };
        // The name appears in profiles.
        thread::Builder::new().name(name.to_owned()).spawn(serve).expect("a thread");
        Self { name, address: address.recv().expect("the server binds"), cpu }
    }

    async fn cpu_ns(&self) -> u64 {
        let (question, answer) = oneshot::channel();
        self.cpu.send(question).await.expect("the server runs");
        answer.await.expect("the server runs")
    }
}

fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    if let Err(error) = sched_setaffinity(None, &cores) {
        eprintln!("cannot pin a thread to core {core}: {error}; the figures are less accurate");
    }
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).expect("time goes up")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn serve_terrace(listener: TcpListener) {
    let clock = Clock::real();
    let settings = l1::Settings { capacity_bytes: 64 << 20, max_entries: None, policy: l1::PolicyKind::Lru };
    let rules = Rules::new(8 << 20, Duration::from_secs(60));
    let core = Core::new(settings, Flavor::None, rules, clock.clone());
    let backend = NoneBackend::new(CoreStore::new(&core));
    let settings = GrpcSettings { message_max: 16 << 20, timeout: Duration::from_secs(5), warm_rate: 1 };
    let access = Access::new(AccessSettings::default(), clock.clone()).expect("the default settings");
    let node = Arc::new(Node::new(&clock, Vec::new()));
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let edge = Arc::new(Edge::new(Cache::new(core, backend), node, settings, access));
    let (_stopper, stop) = watch::channel(false);
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        tokio::spawn(grpc::serve(Socket::Tcp(stream), Arc::clone(&edge), stop.clone()));
    }
}

/// The call that the client repeats.
#[derive(Clone, Copy)]
enum Work {
    Get,
    GetMany,
    Pipeline,
}

/// A call pattern: connections, streams and the kind of call.
struct Scenario {
    name: &'static str,
    connections: usize,
    streams: usize,
    work: Work,
    /// Number of keys that one call answers.
    keys: u64,
}

const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "Get, 10 connections x 100", connections: 10, streams: 100, work: Work::Get, keys: 1 },
    Scenario { name: "Get, 1 connection x 1", connections: 1, streams: 1, work: Work::Get, keys: 1 },
    Scenario { name: "GetMany of 100, per key", connections: 4, streams: 4, work: Work::GetMany, keys: BATCH as u64 },
    Scenario {
        name: "Pipeline, batches of 100, per operation",
        connections: 4,
        streams: 4,
        work: Work::Pipeline,
        keys: BATCH as u64,
    },
];

async fn fill(server: &Server) {
    let mut client = CacheClient::new(connect(server).await);
    for number in 0..KEYS {
        let request = SetRequest { key: key(number), value: value(), ..SetRequest::default() };
        client.set(request).await.expect("a Set");
    }
}

async fn connect(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).expect("an address");
    endpoint.tcp_nodelay(true).connect().await.expect("the server accepts")
}

/// Runs until `end_ns` and returns the number of calls.
async fn work(channel: Channel, work: Work, seed: usize, end_ns: u64) -> u64 {
    let mut client = CacheClient::new(channel);
    match work {
        Work::Get => get(&mut client, seed, end_ns).await,
        Work::GetMany => get_many(&mut client, seed, end_ns).await,
        Work::Pipeline => pipeline(&mut client, seed, end_ns).await,
    }
}

async fn get(client: &mut CacheClient<Channel>, seed: usize, end_ns: u64) -> u64 {
    let mut calls = 0;
    while stopwatch_ns() < end_ns {
        let request = GetRequest { key: key(seed + calls * 7), options: None };
        let answer = client.get(request).await.expect("a Get").into_inner();
        assert!(matches!(answer.result, Some(get_response::Result::Found(_))));
        calls += 1;
    }
    calls as u64
}

async fn get_many(client: &mut CacheClient<Channel>, seed: usize, end_ns: u64) -> u64 {
    let mut calls = 0;
    while stopwatch_ns() < end_ns {
        let keys = (0..BATCH).map(|at| key(seed + calls + at)).collect();
        let answer = client.get_many(GetManyRequest { keys, options: None }).await.expect("a GetMany").into_inner();
        assert_eq!(answer.results.len(), BATCH);
        calls += 1;
    }
    calls as u64
}

async fn pipeline(client: &mut CacheClient<Channel>, seed: usize, end_ns: u64) -> u64 {
    let get = move |id: usize| Operation {
        id: id as u64,
        operation: Some(operation::Operation::Get(GetRequest { key: key(seed + id), options: None })),
        context: 0,
    };
    let batches = (0_usize..).take_while(move |_| stopwatch_ns() < end_ns);
    let batches = batches.map(move |_| PipelineRequest { operations: (0..BATCH).map(get).collect() });
    let mut answers = client.pipeline(futures_util::stream::iter(batches)).await.expect("a stream").into_inner();
    let mut operations = 0;
    while let Some(answer) = answers.message().await.expect("an answer") {
        operations += answer.results.len();
    }
    (operations / BATCH) as u64
}

/// Returns the server CPU time of one key in nanoseconds.
async fn measure(server: &Server, scenario: &Scenario, span: Duration) -> u64 {
    let channels = join_all((0..scenario.connections).map(|_| connect(server))).await;
    let end_ns = stopwatch_ns() + u64::try_from(span.as_nanos()).expect("a short span");
    let before = server.cpu_ns().await;
    let streams = scenario.connections * scenario.streams;
    let workers = (0..streams).map(|at| {
        let channel = channels[at % scenario.connections].clone();
        tokio::spawn(work(channel, scenario.work, at * 31, end_ns))
    });
    let mut calls = 0;
    for worker in workers.collect::<Vec<_>>() {
        calls += worker.await.expect("a client ends");
    }
    (server.cpu_ns().await - before) / (calls * scenario.keys).max(1)
}

async fn compare(servers: &[Server; 2], rounds: usize, span: Duration, only: Option<&str>) {
    for scenario in SCENARIOS.iter().filter(|scenario| only.is_none_or(|only| scenario.name.contains(only))) {
        let mut figures = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (server, figures) in servers.iter().zip(&mut figures) {
                figures.push(measure(server, scenario, span).await);
            }
        }
        let [ours, yardstick] = figures.map(|all| median(all.into_iter().map(|ns| ns as f64 / 1000.0)));
        println!(
            "{:<40} {} {ours:.3} µs | {} {yardstick:.3} µs | ratio {:.2}",
            scenario.name,
            servers[0].name,
            servers[1].name,
            ours / yardstick
        );
    }
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let rounds = numbers.first().map_or(7, |&rounds| usize::try_from(rounds).expect("a small number"));
    let span = Duration::from_millis(numbers.get(1).copied().unwrap_or(1_000));
    let only = std::env::args().skip(1).find(|argument| argument.starts_with(char::is_uppercase));
    let servers = [Server::start("terrace", serve_terrace), Server::start("bare tonic", serve_bare)];
    pin(CLIENT_CORE);
    runtime().block_on(async {
        fill(&servers[0]).await;
        compare(&servers, rounds, span, only.as_deref()).await;
    });
}
