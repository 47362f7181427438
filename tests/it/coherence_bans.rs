//! The coherence contract with pattern bans: under faults and with killed sweepers, no read returns an invalidated
//! value, and no value written after an invalidation is lost.
//!
//! Keys form groups. Each group has one writer, which alternately sets keys and invalidates the pattern of the group,
//! each time through another node. So the correct state of each key is known at any time. Readers query all nodes. A
//! read that began at t may return any state that was current at some moment since t − Δ. A write without an answer
//! leaves its keys unjudged until they are written again.
//!
//! `TERRACE_CHECK_SECONDS` and `TERRACE_CHECK_SEED` have the same meaning as in `coherence`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use redis::{Commands, Connection, ConnectionLike};
use tokio::time::Instant;

use crate::support::{
    checker::{BOUND, run::seconds},
    eventually,
    process::Process,
    proxy::{Cut, FaultProxy, Faults, Link, Who},
    redis::RedisServer,
    resp::try_connection,
    setting_from_environment,
};

const GROUPS: usize = 6;
const KEYS: usize = 24;
/// Retention of states: longer than any read takes, plus Δ.
const KEPT: Duration = Duration::from_secs(60);
/// Deadlines longer than any fault, because a call without an answer proves nothing.
const PATIENT: [&str; 4] = ["--l2-read-timeout", "20s", "--l2-write-timeout", "20s"];

/// A state of a key, and the times from which reads may and must return it.
#[derive(Debug, Clone, Copy)]
struct State {
    /// `None` = the key is missing.
    number: Option<u64>,
    sent_at: Instant,
    acked_at: Option<Instant>,
    /// The write has no answer, so any result is allowed.
    doubtful: bool,
}

/// The states of one key, oldest first.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<State>>);

impl Log {
    fn send(&self, number: Option<u64>) {
        let now = Instant::now();
        let mut states = self.0.lock();
        let is_over = |state: &State| state.acked_at.is_some_and(|acked_at| acked_at + KEPT < now);
        // The last state before the retention period was current at its beginning.
        while states.len() > 2 && is_over(&states[1]) {
            states.remove(0);
        }
        states.push(State { number, sent_at: now, acked_at: None, doubtful: false });
    }

    fn acked(&self, is_certain: bool) {
        let mut states = self.0.lock();
        let last = states.last_mut().expect("it was sent");
        last.acked_at = Some(Instant::now());
        last.doubtful = !is_certain;
    }

    /// Returns whether a read between these times may return this number.
    fn allows(&self, began: Instant, ended: Instant, number: Option<u64>) -> bool {
        let states = self.0.lock();
        let since = began - BOUND;
        states.iter().enumerate().any(|(at, state)| {
            let is_over = states[at + 1..]
                .iter()
                .any(|next| !next.doubtful && next.acked_at.is_some_and(|acked_at| acked_at < since));
            !is_over && state.sent_at <= ended && (state.doubtful || state.number == number)
        })
    }
}

impl Log {
    /// The newest states with their times, as text.
    fn told(&self, now: Instant) -> String {
        let ms = |at: Instant| if at > now { format!("+{:?}", at - now) } else { format!("-{:?}", now - at) };
        let told = |state: &State| {
            let doubt = if state.doubtful { "?" } else { "" };
            format!(
                "{:?}{doubt} ({} to {})",
                state.number,
                ms(state.sent_at),
                state.acked_at.map(ms).unwrap_or_default()
            )
        };
        let states = self.0.lock();
        format!("newest first: {}", states.iter().rev().take(5).map(told).collect::<Vec<_>>().join(", "))
    }
}

struct Bench {
    logs: Vec<Vec<Log>>,
    /// RESP addresses; the last node is killed and replaced.
    nodes: Vec<RwLock<String>>,
    stop: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    bans: AtomicU64,
    doubts: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

impl Bench {
    fn connect(&self, node: usize) -> Option<Connection> {
        let address = self.nodes[node].read().clone();
        try_connection(&address).ok()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    fn write(&self, group: usize, mut random: fastrand::Rng) {
        let mut connections: Vec<Option<Connection>> = self.nodes.iter().map(|_| None).collect();
        for number in 1.. {
            if !self.goes_on() {
                return;
            }
            let node = random.usize(..self.nodes.len());
            let Some(mut connection) = connections[node].take().or_else(|| self.connect(node)) else { continue };
            let is_ban = random.u8(..150) == 0;
            let key = random.usize(..KEYS);
            let logs = if is_ban { &self.logs[group][..] } else { &self.logs[group][key..=key] };
            logs.iter().for_each(|log| log.send((!is_ban).then_some(number)));
            let done = if is_ban {
                redis::cmd("TERRACE.INVALIDATE").arg("PATTERN").arg(format!("g{group}:*")).exec(&mut connection)
            } else {
                connection.set(format!("g{group}:{key}"), number)
            };
            logs.iter().for_each(|log| log.acked(done.is_ok()));
            match (done, is_ban) {
                (Ok(()), true) => self.bans.fetch_add(1, Relaxed),
                (Ok(()), false) => self.writes.fetch_add(1, Relaxed),
                (Err(_), _) => self.doubts.fetch_add(1, Relaxed),
            };
            connections[node] = Some(connection).filter(ConnectionLike::is_open);
            thread::sleep(Duration::from_micros(random.u64(..4_000)));
        }
    }

    fn read(&self, node: usize, mut random: fastrand::Rng) {
        let mut connection = None;
        while self.goes_on() {
            let Some(mut open) = connection.take().or_else(|| self.connect(node)) else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            let group = random.usize(..GROUPS);
            let names: Vec<String> = (0..KEYS).map(|key| format!("g{group}:{key}")).collect();
            let began = Instant::now();
            if let Ok(numbers) = open.mget::<_, Vec<Option<u64>>>(&names) {
                self.judge(node, group, began, &numbers);
            }
            connection = Some(open).filter(ConnectionLike::is_open);
            thread::sleep(Duration::from_micros(random.u64(..1_000)));
        }
    }

    fn judge(&self, node: usize, group: usize, began: Instant, numbers: &[Option<u64>]) {
        let ended = Instant::now();
        self.reads.fetch_add(numbers.len() as u64, Relaxed);
        for (key, number) in numbers.iter().enumerate() {
            if !self.logs[group][key].allows(began, ended, *number) {
                let told = self.logs[group][key].told(began);
                self.wrong.lock().push(format!("g{group}:{key} at node {node}: {number:?}, {told}"));
            }
        }
    }
}

/// Injects faults until `until`.
fn faults(
    bench: &Bench,
    redis: &RedisServer,
    proxies: &[FaultProxy],
    dir: &std::path::Path,
    until: Instant,
    mut random: fastrand::Rng,
) {
    let start = || Process::start(dir, &[&["--l2", &proxies[1].url()], &PATIENT[..]].concat());
    let mut doomed = start();
    *bench.nodes[1].write() = doomed.resp.clone();
    while Instant::now() < until {
        let proxy = &proxies[random.usize(..proxies.len())];
        match random.u8(..6) {
            0 => proxy.set(Who::Link(Link::Invalidation), Faults::held()),
            1 => proxy.set(Who::Link(Link::Invalidation), Faults::late(Duration::from_millis(300), Duration::ZERO)),
            2 => proxy.cut(Who::Link(Link::Invalidation), Cut::Rst),
            3 => {
                redis.pause();
                thread::sleep(Duration::from_millis(random.u64(50..1_500)));
                redis.resume();
            }
            4 => proxy.set(Who::All, Faults::late(Duration::from_millis(20), Duration::from_millis(20))),
            _ => {
                doomed.kill();
                doomed = start();
                *bench.nodes[1].write() = doomed.resp.clone();
            }
        }
        thread::sleep(Duration::from_millis(random.u64(100..2_500)));
        proxies.iter().for_each(FaultProxy::heal);
        thread::sleep(Duration::from_millis(random.u64(..1_500)));
    }
    proxies.iter().for_each(FaultProxy::heal);
    // Both nodes finish the sweeps that were begun.
    bench.stop.store(true, Relaxed);
    let log = || redis.ask::<u64>(&[b"HLEN", b"__terrace:bans"]);
    eventually("all bans are swept", || log() <= 1);
}

#[test]
fn no_read_returns_what_was_invalidated_and_nothing_after_it_is_lost() {
    let seed = setting_from_environment("TERRACE_CHECK_SEED", fastrand::u64(..));
    println!("TERRACE_CHECK_SEED={seed}");
    let mut seeds = fastrand::Rng::with_seed(seed);
    let redis = RedisServer::start();
    // Enough keys that a sweep takes some time.
    let filler: Vec<(String, u8)> = (0..20_000).map(|number| (format!("filler:{number}"), 0)).collect();
    redis.connect().mset::<_, _, ()>(&filler).expect("stored");
    let proxies = [FaultProxy::start(redis.port()), FaultProxy::start(redis.port())];
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let lasting = Process::start(dirs[0].path(), &[&["--l2", &proxies[0].url()], &PATIENT[..]].concat());
    let bench = Arc::new(Bench {
        logs: (0..GROUPS).map(|_| (0..KEYS).map(|_| Log::default()).collect()).collect(),
        nodes: [lasting.resp.clone(), lasting.resp.clone()].map(RwLock::new).into(),
        stop: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        bans: AtomicU64::new(0),
        doubts: AtomicU64::new(0),
        wrong: Mutex::new(Vec::new()),
    });
    for log in bench.logs.iter().flatten() {
        log.send(None);
        log.acked(true);
    }
    let until = Instant::now() + seconds(10);
    thread::scope(|scope| {
        for group in 0..GROUPS {
            let random = fastrand::Rng::with_seed(seeds.u64(..));
            let bench = &bench;
            scope.spawn(move || bench.write(group, random));
        }
        for node in [0, 1, 0, 1] {
            let random = fastrand::Rng::with_seed(seeds.u64(..));
            let bench = &bench;
            scope.spawn(move || bench.read(node, random));
        }
        faults(&bench, &redis, &proxies, dirs[1].path(), until, fastrand::Rng::with_seed(seeds.u64(..)));
    });
    let of = |count: &AtomicU64| count.load(Relaxed);
    println!(
        "{} reads; {} writes, {} patterns, {} without an answer",
        of(&bench.reads),
        of(&bench.writes),
        of(&bench.bans),
        of(&bench.doubts)
    );
    // In the end Redis has exactly the acknowledged state.
    let mut straight = redis.connect();
    for (group, logs) in bench.logs.iter().enumerate() {
        for (key, log) in logs.iter().enumerate() {
            let now = Instant::now();
            let number: Option<u64> = straight.get(format!("g{group}:{key}")).expect("redis answers");
            assert!(
                log.allows(now + BOUND, now + BOUND, number),
                "g{group}:{key} is {number:?} in Redis: {}",
                log.told(now)
            );
        }
    }
    let wrong = bench.wrong.lock();
    assert!(
        wrong.is_empty(),
        "{} wrong reads; the first: {:#?}",
        wrong.len(),
        wrong.iter().take(5).collect::<Vec<_>>()
    );
}
