//! The Rust client beside redis-rs: `cargo bench --bench clients [-- --rounds N]` (default 7)
//!
//! One process reads a value of 100 B that is in L1, with 1, 16 and 250 reads in flight, through each library in turn:
//! * `terrace-client`;
//! * redis-rs (multiplexed connection) to redis-server, the yardstick, and to the RESP port of Terrace;
//! * unary calls with the generated stubs.
//!
//! The table has the median of all rounds: wall time per read (with 1 in flight) or reads per second, CPU time of the
//! client and of the server per read, and the ratio of each to the yardstick. Goals: 1 in flight: wall at most 1.15 times;
//! 16 and 250: throughput at least 1.3 and 1.5 times, client CPU at most 0.75 and 0.6 times. Both runtimes are measured:
//! one thread, and two worker threads.

#[path = "support/figures.rs"]
mod figures;
#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use figures::median;
use rustix::time::{ClockId, clock_gettime};
use support::{
    grpc::connect,
    process::{Process, cpu_ns},
    redis::RedisServer,
};
use terrace::{grpc::client::CacheClient, proto::GetRequest};
use terrace_client::Client;
use tokio::{runtime::Runtime, time::Instant};

/// Reads in flight, and reads per measurement.
const LOADS: [(usize, usize); 3] = [(1, 20_000), (16, 160_000), (250, 400_000)];
const KEY: &str = "key:1";

type Read = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// One library, connected to one server.
struct Subject {
    name: &'static str,
    server: u32,
    read: Read,
}

/// Figures of one measurement, per read.
#[derive(Clone, Copy)]
struct Figures {
    wall_us: f64,
    client_us: f64,
    server_us: f64,
}

fn own_cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

async fn subjects(terrace: &Process, redis: &RedisServer) -> Vec<Subject> {
    let client = Client::builder(&terrace.grpc).read_timeout(Duration::from_secs(5)).connect().await.expect("a client");
    client.set(KEY, vec![b'v'; 100]).await.expect("stored");
    let grpc = CacheClient::new(connect(&terrace.grpc).await);
    let multiplexed = async |address: String| {
        let client = redis::Client::open(format!("redis://{address}")).expect("an address");
        client.get_multiplexed_async_connection().await.expect("the server accepts")
    };
    let mut to_redis = multiplexed(format!("127.0.0.1:{}", redis.port())).await;
    let _: () = redis::cmd("SET").arg(KEY).arg(vec![b'v'; 100]).query_async(&mut to_redis).await.expect("stored");
    let to_terrace = multiplexed(terrace.resp.clone()).await;
    let resp = |connection: redis::aio::MultiplexedConnection| -> Read {
        Arc::new(move || {
            let mut connection = connection.clone();
            Box::pin(async move {
                let value: Vec<u8> = redis::cmd("GET").arg(KEY).query_async(&mut connection).await.expect("a value");
                assert_eq!(value.len(), 100);
            })
        })
    };
    let key = Bytes::from_static(KEY.as_bytes());
    vec![
        Subject { name: "redis-rs to redis-server", server: redis.pid(), read: resp(to_redis) },
        Subject { name: "redis-rs to Terrace", server: terrace.id(), read: resp(to_terrace) },
        Subject {
            name: "unary stubs",
            server: terrace.id(),
            read: {
                let key = key.clone();
                Arc::new(move || {
                    let (mut grpc, key) = (grpc.clone(), key.clone());
                    Box::pin(async move {
                        grpc.get(GetRequest { key, options: None }).await.expect("a value");
                    })
                })
            },
        },
        Subject {
            name: "terrace-client",
            server: terrace.id(),
            read: Arc::new(move || {
                let get = client.get(&key).into_future();
                Box::pin(async move {
                    assert_eq!(get.await.expect("an answer").map_or(0, |value| value.len()), 100);
                })
            }),
        },
    ]
}

/// Reads `count` times, `in_flight` at a time.
async fn measure(subject: &Subject, in_flight: usize, count: usize) -> Figures {
    let (begun, client, server) = (Instant::now(), own_cpu_ns(), cpu_ns(subject.server));
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let read = Arc::clone(&subject.read);
            tokio::spawn(async move {
                for _ in 0..count / in_flight {
                    read().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("the reads succeed");
    }
    let per_read = |ns: f64| ns / count as f64 / 1_000.0;
    Figures {
        wall_us: per_read(begun.elapsed().as_nanos() as f64),
        client_us: per_read((own_cpu_ns() - client) as f64),
        server_us: per_read(cpu_ns(subject.server) - server),
    }
}

fn run(name: &str, runtime: &Runtime, rounds: usize, terrace: &Process, redis: &RedisServer) {
    println!(
        "\n{name}\n{:26} {:>6} {:>11} {:>9} {:>9} {:>24}",
        "", "flight", "reads/s", "client us", "server us", "wall, client / yardstick"
    );
    runtime.block_on(async {
        let subjects = subjects(terrace, redis).await;
        for (in_flight, count) in LOADS {
            let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); subjects.len()];
            for _ in 0..rounds {
                for (subject, figures) in subjects.iter().zip(&mut figures) {
                    measure(subject, in_flight, count / 10).await;
                    figures.push(measure(subject, in_flight, count).await);
                }
            }
            let medians = figures.iter().map(|rounds| {
                let of = |part: fn(&Figures) -> f64| median(rounds.iter().map(part));
                Figures { wall_us: of(|f| f.wall_us), client_us: of(|f| f.client_us), server_us: of(|f| f.server_us) }
            });
            let medians: Vec<Figures> = medians.collect();
            for (subject, of) in subjects.iter().zip(&medians) {
                println!(
                    "{:26} {in_flight:6} {:11.0} {:9.2} {:9.2} {:>14.2} x {:5.2} x",
                    subject.name,
                    1e6 / of.wall_us,
                    of.client_us,
                    of.server_us,
                    of.wall_us / medians[0].wall_us,
                    of.client_us / medians[0].client_us,
                );
            }
        }
    });
}

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--rounds").skip(1);
    let rounds = arguments.next().map_or(7, |rounds| rounds.parse().expect("a number of rounds"));
    let directory = tempfile::tempdir().expect("a directory");
    let terrace = Process::start(directory.path(), &["--l2", "none"]);
    let redis = RedisServer::start();
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    run("one thread", &one, rounds, &terrace, &redis);
    let two = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    run("two worker threads", &two, rounds, &terrace, &redis);
}
