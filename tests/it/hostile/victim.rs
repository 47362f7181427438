//! A server process under attack: its peak memory, and other clients that use it meanwhile.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use terrace::{
    grpc::client::CacheClient,
    proto::{GetRequest, SetRequest},
};

use crate::support::{
    grpc::connect,
    node::PATIENT,
    process::{Process, memory_of},
};

const MIB: u64 = 1 << 20;
/// `server.max_in_flight` of the server.
pub const IN_FLIGHT: u64 = 64 * MIB;
/// Value that attackers read.
pub const LARGE: usize = 1 << 20;

/// A server whose L1 is full.
pub struct Victim {
    process: Process,
    idle: u64,
    peak: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    samples: Option<JoinHandle<()>>,
    _data: tempfile::TempDir,
}

pub fn get(key: &str) -> GetRequest {
    GetRequest { key: key.to_owned().into(), options: None }
}

pub fn set(key: &str, value: impl Into<Bytes>) -> SetRequest {
    SetRequest { key: key.to_owned().into(), value: value.into(), ..SetRequest::default() }
}

/// Runs clients on several threads; fails the test when they do not end in time.
pub fn run<F: Future>(clients: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(120), clients).await };
    runtime.block_on(limited).expect("the test ends in time")
}

/// Number of attempts of an attack.
const ATTEMPTS: usize = 3;

/// Runs an attack until it has the expected effect. The peak of the memory depends on when threads run, and the deadlines of
/// the other clients on other processes of the machine: both are within their bounds in one of the attempts. Without the byte
/// budget, no attempt is near the bounds.
pub fn repeatedly(attempt: impl Fn() + std::panic::RefUnwindSafe) {
    for number in 1..=ATTEMPTS {
        match std::panic::catch_unwind(&attempt) {
            Ok(()) => return,
            Err(panic) if number == ATTEMPTS => std::panic::resume_unwind(panic),
            Err(_) => println!("attempt {number} failed; another one follows"),
        }
    }
}

impl Victim {
    /// Starts a server with an L1 of 32 MiB over this L2, and fills L1. `large` then has 1 MiB.
    pub fn start(l2: &str) -> Self {
        Self::start_with(l2, 0)
    }

    /// Like [`Victim::start`], with this number of values of 7.9 MiB in L2, named `huge:0` and so on.
    pub fn start_with(l2: &str, huge: usize) -> Self {
        let data = tempfile::tempdir().unwrap();
        // Large values take the time of the machine: only the deadlines of clients count.
        let args = ["--l2", l2, "--l1-size", "32MiB", "--server-max-in-flight", "64MiB", "--l2-read-timeout", "5s"];
        let args = [&args[..], &PATIENT].concat();
        let process = Process::start(Path::new(data.path()), &args);
        run(async {
            let mut client = CacheClient::new(connect(&process.grpc).await);
            for number in 0..huge {
                client.set(set(&format!("huge:{number}"), vec![b'h'; 7_900 << 10])).await.unwrap();
            }
            for number in 0..64 {
                client.set(set(&format!("fill:{number}"), vec![b'f'; LARGE])).await.unwrap();
                client.get(get(&format!("fill:{number}"))).await.unwrap();
            }
            client.set(set("large", vec![b'x'; LARGE])).await.unwrap();
            client.set(set("small", "v")).await.unwrap();
        });
        let idle = memory_of(process.id()).unwrap();
        let (peak, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (pid, highest, ended) = (process.id(), Arc::clone(&peak), Arc::clone(&ends));
        let samples = std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                highest.fetch_max(memory_of(pid).unwrap_or(0), Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self { process, idle, peak, ends, samples: Some(samples), _data: data }
    }

    pub fn grpc(&self) -> &str {
        &self.process.grpc
    }

    pub fn resp(&self) -> &str {
        &self.process.resp
    }

    /// Runs an attack while another client reads and writes on both ports, until the attack has ended; at least 100
    /// times.
    pub fn attack<F: Future>(&self, attack: F) -> F::Output {
        run(async {
            let ended = AtomicBool::new(false);
            let other = async {
                let mut grpc = CacheClient::new(connect(self.grpc()).await);
                let url = format!("redis://{}", self.resp());
                let mut resp = {
                    // The deadline of other clients: that of gRPC calls.
                    let patient =
                        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(5)));
                    let client = redis::Client::open(url).unwrap();
                    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
                };
                for round in 0_usize.. {
                    if ended.load(Relaxed) && round >= 100 {
                        break;
                    }
                    grpc.get(get("small")).await.unwrap();
                    grpc.set(set("other", "v")).await.unwrap();
                    if round % 10 == 0 {
                        grpc.get(get("large")).await.unwrap();
                    }
                    let read: Option<String> = redis::cmd("GET").arg("other").query_async(&mut resp).await.unwrap();
                    assert_eq!(read.as_deref(), Some("v"));
                    let () = redis::cmd("SET").arg("third").arg("v").query_async(&mut resp).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let attack = async {
                let result = attack.await;
                ended.store(true, Relaxed);
                result
            };
            tokio::join!(attack, other).0
        })
    }

    /// Checks the peak memory with this many connections of attackers, and that the server drains.
    pub fn check(mut self, connections: u64) {
        self.ends.store(true, Relaxed);
        if let Some(samples) = self.samples.take() {
            samples.join().unwrap();
        }
        let bound = (self.idle + IN_FLIGHT + 64 * MIB + connections * 32 * 1024) * 115 / 100;
        let peak = self.peak.load(Relaxed);
        println!("idle {} MiB, peak {} MiB, bound {} MiB", self.idle / MIB, peak / MIB, bound / MIB);
        assert!(peak <= bound, "idle {} MiB, peak {} MiB, bound {} MiB", self.idle / MIB, peak / MIB, bound / MIB);
        self.process.stop();
    }
}
