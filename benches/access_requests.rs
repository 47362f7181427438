//! Cost of access control and TLS for a whole request: server CPU of a RESP GET and of a gRPC Get answered from L1.
//!
//! Three servers run as separate processes with the same keys: without users, with a users file, and with a users file and
//! TLS. Each round measures all three. `redis-benchmark` sends the GETs, the generated stubs send the Gets, and the CPU time
//! of the server is read from `/proc`. The output shows the medians in µs per request, and the median of the ratios of the
//! rounds: off | users | ratio | users and TLS | ratio. Goal: a ratio of at most 1.02 with users.
//!
//! `cargo bench --bench access_requests [-- --rounds N] [--percent N]`: rounds (default 11), and requests of a measurement in
//! percent of the default.

#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bytes::Bytes;
use figures::median;
use futures_util::{future::join_all, stream};
use support::{
    certificates::Authority,
    process::{Process, cpu_ns},
};
use terrace::{
    access::SecretHash,
    proto::{
        GetRequest, Operation, PipelineRequest, SetManyRequest, SetRequest, cache_client::CacheClient, get_response,
        operation, operation_result, set_many_result,
    },
};
use terrace_client::{Channel, Client, Tls};
use tokio::runtime::Runtime;

const USER: &str = "bench";
const TOKEN: &str = "VGhpcyBpcyBhIHRva2VuIG9mIDQzIGNoYXJhY3RlcnMu";
/// Number of keys, all present, with the names of `redis-benchmark -r`.
const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 100;
/// Connections of `redis-benchmark`.
const RESP_CLIENTS: &str = "50";
/// Keys of a SetMany, and operations of a message of the Pipeline.
const BATCH: usize = 100;

/// Unit of the number of requests.
const UNIT: usize = 10_000;

/// A workload, with the number of requests of a measurement.
struct Scenario {
    name: &'static str,
    work: Work,
    requests: usize,
}

#[derive(Clone, Copy)]
enum Work {
    /// RESP GETs with this pipeline depth.
    Resp { pipeline: usize },
    /// Unary Gets.
    Get { connections: usize, streams: usize },
    /// Gets in a Pipeline stream per connection.
    Pipeline { connections: usize },
}

const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "RESP GET, pipeline 1", work: Work::Resp { pipeline: 1 }, requests: 300_000 },
    Scenario { name: "RESP GET, pipeline 16", work: Work::Resp { pipeline: 16 }, requests: 3_000_000 },
    Scenario {
        name: "gRPC Get, 10 connections x 100",
        work: Work::Get { connections: 10, streams: 100 },
        requests: 300_000,
    },
    Scenario { name: "gRPC Pipeline, 4 connections", work: Work::Pipeline { connections: 4 }, requests: 3_000_000 },
];

/// Access control of a server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Guard {
    Off,
    Users,
    UsersAndTls,
}

struct Server {
    guard: Guard,
    process: Process,
    /// Certificate of the authority.
    ca: PathBuf,
}

fn key(number: usize) -> Bytes {
    format!("key:{:012}", number % KEYS).into()
}

/// Users with the permissions of a service. `redis-benchmark` also reads the configuration of the server.
fn users() -> String {
    let hash = SecretHash::of(TOKEN.as_bytes()).to_text();
    format!(
        "[[role]]\nname = \"service\"\nkeys = [{{ prefix = \"key:\", allow = [\"read\", \"write\"] }}]\n\
         allow = [\"admin\"]\n[[user]]\nname = \"{USER}\"\nroles = [\"service\"]\nsecrets = [\"{hash}\"]\n"
    )
}

impl Server {
    fn start(guard: Guard, folder: &Path, authority: &Authority) -> Self {
        let dir = folder.join(format!("{guard:?}"));
        fs::create_dir(&dir).expect("a folder");
        // One worker: several would be idle more often.
        let mut settings = "[server]\nworkers = 1\n".to_owned();
        if guard != Guard::Off {
            let file = dir.join("users.toml");
            fs::write(&file, users()).expect("a file");
            settings += &format!("[auth]\nfile = {file:?}\n");
        }
        if guard == Guard::UsersAndTls {
            let (certificate, key) = authority.issue(None).write(&dir, "server");
            settings += &format!("[tls]\nmode = \"on\"\ncert_file = {certificate:?}\nkey_file = {key:?}\n");
        }
        let path = dir.join("terrace.toml");
        fs::write(&path, settings).expect("a file");
        let process = Process::start(&dir, &["--l2", "none", "--config", path.to_str().expect("a path in UTF-8")]);
        Self { guard, process, ca: authority.write(&dir) }
    }

    async fn channel(&self) -> CacheClient<Channel> {
        let mut builder = Client::builder(&self.process.grpc);
        if self.guard != Guard::Off {
            builder = builder.token(TOKEN);
        }
        if self.guard == Guard::UsersAndTls {
            builder = builder.tls(Tls::authorities(&self.ca));
        }
        CacheClient::new(builder.channel().await.expect("a connection"))
    }

    async fn fill(&self) {
        let mut client = self.channel().await;
        for first in (0..KEYS).step_by(BATCH) {
            let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
            let entry = |number| SetRequest { key: key(number), value: value.clone(), ..SetRequest::default() };
            let entries = (first..first + BATCH).map(entry).collect();
            let results = client.set_many(SetManyRequest { entries }).await.expect("an answer").into_inner().results;
            let is_stored = |result: &Option<_>| matches!(result, Some(set_many_result::Result::Stored(_)));
            assert!(results.iter().all(|result| is_stored(&result.result)), "{results:?}");
        }
    }

    /// Returns the CPU time of a request in nanoseconds.
    fn measure(&self, runtime: &Runtime, work: Work, requests: usize) -> f64 {
        let pid = self.process.id();
        let cpu = match work {
            Work::Resp { pipeline } => {
                let before = cpu_ns(pid);
                self.redis_benchmark(pipeline, requests);
                cpu_ns(pid) - before
            }
            Work::Get { connections, streams } => runtime.block_on(
                self.grpc(connections, streams, |client, seed| get(client, seed, requests / (connections * streams))),
            ),
            Work::Pipeline { connections } => runtime
                .block_on(self.grpc(connections, 1, |client, seed| pipeline(client, seed, requests / connections))),
        };
        cpu / requests as f64
    }

    fn redis_benchmark(&self, pipeline: usize, requests: usize) {
        let (host, port) = self.process.resp.rsplit_once(':').expect("host and port");
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", host, "-p", port, "-t", "get", "-q", "-c", RESP_CLIENTS, "-r", &KEYS.to_string()]);
        command.args(["-P", &pipeline.to_string(), "-n", &requests.to_string()]);
        if self.guard != Guard::Off {
            command.args(["--user", USER, "-a", TOKEN]);
        }
        if self.guard == Guard::UsersAndTls {
            command.arg("--tls").arg("--cacert").arg(&self.ca);
        }
        let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output();
        let output = output.expect("redis-benchmark is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs `work` in each stream of each connection, and returns the CPU time of the server in nanoseconds. The
    /// connections are opened before.
    async fn grpc<F>(&self, connections: usize, streams: usize, work: impl Fn(CacheClient<Channel>, usize) -> F) -> f64
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let clients = join_all((0..connections).map(|_| self.channel())).await;
        let before = cpu_ns(self.process.id());
        let all = clients.iter().flat_map(|client| std::iter::repeat_n(client.clone(), streams)).enumerate();
        let tasks: Vec<_> = all.map(|(number, client)| tokio::spawn(work(client, number * 31))).collect();
        for task in tasks {
            task.await.expect("the requests succeed");
        }
        cpu_ns(self.process.id()) - before
    }
}

async fn get(mut client: CacheClient<Channel>, seed: usize, count: usize) {
    for number in 0..count {
        let request = GetRequest { key: key(seed + number * 7), options: None };
        let answer = client.get(request).await.expect("an answer").into_inner();
        assert!(matches!(answer.result, Some(get_response::Result::Found(_))));
    }
}

async fn pipeline(mut client: CacheClient<Channel>, seed: usize, count: usize) {
    let operation = move |id: usize| Operation {
        id: id as u64,
        operation: Some(operation::Operation::Get(GetRequest { key: key(seed + id * 7), options: None })),
        context: 0,
    };
    let batches = (0..count.div_ceil(BATCH)).map(move |batch| {
        let ids = batch * BATCH..((batch + 1) * BATCH).min(count);
        PipelineRequest { operations: ids.map(operation).collect() }
    });
    let mut answers = client.pipeline(stream::iter(batches)).await.expect("a stream").into_inner();
    let mut found = 0;
    while let Some(answer) = answers.message().await.expect("an answer") {
        found += answer.results.iter().filter(|result| is_found(result.result.as_ref())).count();
    }
    assert_eq!(found, count);
}

fn is_found(result: Option<&operation_result::Result>) -> bool {
    let Some(operation_result::Result::Get(response)) = result else { return false };
    matches!(response.result, Some(get_response::Result::Found(_)))
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = arguments.iter().position(|argument| argument == name);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let (rounds, percent) = (option("--rounds", 11).max(1), option("--percent", 100).max(1));
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), Authority::new());
    let guards = [Guard::Off, Guard::Users, Guard::UsersAndTls];
    let servers = guards.map(|guard| Server::start(guard, folder.path(), &authority));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    servers.iter().for_each(|server| runtime.block_on(server.fill()));
    println!("server CPU in µs per request, {VALUE_BYTES} B, median of {rounds} rounds");
    for scenario in &SCENARIOS {
        // A multiple of the numbers of streams.
        let requests = (scenario.requests * percent / 100 / UNIT).max(1) * UNIT;
        compare(scenario, requests, &servers, &runtime, rounds);
    }
}

fn compare(scenario: &Scenario, requests: usize, servers: &[Server; 3], runtime: &Runtime, rounds: usize) {
    // The first measurement of a server also fills its caches.
    let measure = |server: &Server, requests| server.measure(runtime, scenario.work, requests);
    servers.iter().for_each(|server| {
        measure(server, UNIT);
    });
    let all: Vec<[f64; 3]> = (0..rounds).map(|_| servers.each_ref().map(|server| measure(server, requests))).collect();
    let us = |server: usize| median(all.iter().map(|round| round[server] / 1_000.0));
    let ratio = |server: usize| median(all.iter().map(|round| round[server] / round[0]));
    println!(
        "{:<31} off {:7.3} | users {:7.3} | ratio {:.3} | users and TLS {:7.3} | ratio {:.3}",
        scenario.name,
        us(0),
        us(1),
        ratio(1),
        us(2),
        ratio(2)
    );
}
