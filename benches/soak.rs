//! Many concurrent clients: `cargo bench --bench soak -- [clients] [seconds]` (default 1,000 of each protocol, 60 s).
//!
//! Each client has its own connection and runs the same mix: 80 % reads and 20 % writes over 20,000 keys of 16 B to 1
//! KiB. The output shows operations, errors, and the memory of the server when all clients are connected and at the
//! end.

#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use terrace::proto::{GetRequest, SetRequest, cache_client::CacheClient};
use tonic::transport::Endpoint;

const KEYS: u64 = 20_000;

#[derive(Default)]
struct Tally {
    operations: AtomicU64,
    errors: AtomicU64,
    connected: AtomicU64,
    stop: AtomicBool,
}

impl Tally {
    fn count<T, E: std::fmt::Display>(&self, result: Result<T, E>) {
        self.operations.fetch_add(1, Relaxed);
        if let Err(error) = result
            && self.errors.fetch_add(1, Relaxed) < 5
        {
            eprintln!("error: {error}");
        }
    }
}

/// Returns a key and, for a write, its value.
fn next(random: &mut fastrand::Rng) -> (String, Option<Vec<u8>>) {
    let number = random.u64(..KEYS);
    let value = (random.u8(..10) < 2).then(|| vec![b'v'; random.usize(16..1024)]);
    (format!("soak:{number}"), value)
}

async fn grpc_client(address: String, seed: u64, tally: Arc<Tally>) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut client = match endpoint.connect().await {
        Ok(channel) => CacheClient::new(channel),
        Err(error) => return tally.count::<(), _>(Err(error)),
    };
    tally.connected.fetch_add(1, Relaxed);
    let mut random = fastrand::Rng::with_seed(seed);
    while !tally.stop.load(Relaxed) {
        let (key, value) = next(&mut random);
        let key = key.into_bytes().into();
        match value {
            Some(value) => {
                let request = SetRequest { key, value: value.into(), ..SetRequest::default() };
                tally.count(client.set(request).await);
            }
            None => tally.count(client.get(GetRequest { key, ..GetRequest::default() }).await),
        }
    }
}

async fn resp_client(address: String, seed: u64, tally: Arc<Tally>) {
    let client = redis::Client::open(format!("redis://{address}")).expect("an address");
    let mut connection = match client.get_multiplexed_async_connection().await {
        Ok(connection) => connection,
        Err(error) => return tally.count::<(), _>(Err(error)),
    };
    tally.connected.fetch_add(1, Relaxed);
    let mut random = fastrand::Rng::with_seed(seed);
    while !tally.stop.load(Relaxed) {
        let (key, value) = next(&mut random);
        let mut command = redis::Cmd::new();
        match value {
            Some(value) => command.arg("SET").arg(key).arg(value),
            None => command.arg("GET").arg(key),
        };
        tally.count(command.query_async::<redis::Value>(&mut connection).await);
    }
}

fn rss_mib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64 / (1 << 20)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let clients = numbers.first().copied().unwrap_or(1000);
    let seconds = numbers.get(1).copied().unwrap_or(60);
    let directory = tempfile::tempdir().expect("a directory");
    let server = support::process::Process::start(directory.path(), &[]);
    let tally = Arc::new(Tally::default());
    let mut tasks = Vec::new();
    for seed in 0..clients {
        tasks.push(tokio::spawn(grpc_client(server.grpc.clone(), seed, Arc::clone(&tally))));
        tasks.push(tokio::spawn(resp_client(server.resp.clone(), seed, Arc::clone(&tally))));
    }
    while tally.connected.load(Relaxed) + tally.errors.load(Relaxed) < 2 * clients {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{clients} gRPC and {clients} RESP clients connected, memory {} MiB", rss_mib(server.id()));
    for second in 1..=seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if second % 10 == 0 || second == seconds {
            let (operations, errors) = (tally.operations.load(Relaxed), tally.errors.load(Relaxed));
            println!("{second:>4} s  {operations} operations  {errors} errors  memory {} MiB", rss_mib(server.id()));
        }
    }
    tally.stop.store(true, Relaxed);
    for task in tasks {
        task.await.expect("a client ends");
    }
}
