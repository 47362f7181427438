//! Fault injection: a schedule from a seed, and the faults of a standalone Redis and of the connections to it.
//! ([`super::failovers`] has the faults of Sentinels and Clusters.)
//!
//! Faults are injected one at a time. Each is undone before the next, with a pause between them. The judge is notified
//! of possible losses and of writes that can no longer be executed; it makes no other allowance for faults of Redis.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use tokio::time::Instant;

use super::history::{History, Upheaval};
use crate::support::{
    proxy::{Cut, FaultProxy, Faults, Link, Who},
    redis::RedisServer,
};

/// Injects a fault and undoes it before it returns, except for what [`Scene::heal`] undoes.
pub type Fault<S> = fn(&mut S, &History, &mut fastrand::Rng);

/// A system that faults can be injected into.
pub trait Scene: Sized + 'static {
    /// Name, weight and function of each fault.
    const FAULTS: &'static [(&'static str, u32, Fault<Self>)];

    /// Undoes the remaining effects of a fault.
    fn heal(&mut self) {}

    /// A number that every failover changes.
    fn reign(&self) -> u64 {
        0
    }
}

/// A standalone Redis, and a proxy to it for each node.
pub struct Stage {
    pub redis: RedisServer,
    pub proxies: Vec<FaultProxy>,
}

impl Scene for Stage {
    const FAULTS: &'static [(&'static str, u32, Fault<Self>)] = FAULTS;

    fn heal(&mut self) {
        self.proxies.iter().for_each(FaultProxy::heal);
    }
}

const FAULTS: &[(&str, u32, Fault<Stage>)] = &[
    ("SIGKILL and restart", 2, kill),
    ("SIGSTOP", 3, stop),
    ("CLIENT KILL TYPE normal", 2, kill_clients),
    ("CLIENT KILL of the invalidation links", 2, kill_links),
    ("CLIENT KILL TYPE pubsub", 1, kill_subscribers),
    ("CLIENT PAUSE ALL", 1, pause_all),
    ("CLIENT PAUSE WRITE", 1, pause_writes),
    ("FLUSHALL", 2, flush),
    ("evictions", 2, evict),
    ("invalidation link late, data fast", 3, link_late),
    ("data late, invalidation link fast", 3, data_late),
    ("invalidation link held", 3, link_held),
    ("data held", 2, data_held),
    ("one connection held", 2, one_held),
    ("everything late", 1, all_late),
    ("throttled", 1, throttled),
    ("cut", 3, cut),
    ("half-open", 1, half_open),
    ("invalidation link half-open", 3, link_half_open),
    ("cut and refused", 1, refused),
];

/// Longest stop of Redis and longest hold of a link, milliseconds.
const LONGEST: u64 = 3000;

/// A random duration within a range of milliseconds.
pub fn millis(random: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

/// A running schedule of faults.
pub struct Schedule {
    started: Instant,
    random: fastrand::Rng,
    injected: BTreeMap<&'static str, u64>,
    /// Failovers that the schedule did not cause: on a busy machine a primary may not answer in time.
    unplanned: u64,
    /// Name, beginning and duration of each fault.
    diary: Vec<(&'static str, Instant, Duration)>,
}

impl Schedule {
    /// Creates a schedule; the same seed gives the same faults.
    pub fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { started: Instant::now(), random, injected: BTreeMap::new(), unplanned: 0, diary: Vec::new() }
    }

    /// Injects faults until `end`, then undoes all of them.
    pub fn run<S: Scene>(&mut self, scene: &mut S, history: &History, end: Instant) {
        while Instant::now() < end {
            let reign = scene.reign();
            sleep(millis(&mut self.random, 100..900));
            self.unplanned += u64::from(scene.reign() != reign);
            let (name, fault) = self.choose::<S>();
            let began = Instant::now();
            fault(scene, history, &mut self.random);
            scene.heal();
            self.diary.push((name, began, began.elapsed()));
            *self.injected.entry(name).or_default() += 1;
        }
    }

    fn choose<S: Scene>(&mut self) -> (&'static str, Fault<S>) {
        let total: u32 = S::FAULTS.iter().map(|(_, weight, _)| weight).sum();
        let mut left = self.random.u32(..total);
        for (name, weight, fault) in S::FAULTS {
            if left < *weight {
                return (name, *fault);
            }
            left -= weight;
        }
        unreachable!("the weights sum up to the total")
    }

    /// Number of injections by fault.
    pub fn injected(&self) -> &BTreeMap<&'static str, u64> {
        &self.injected
    }

    /// Number of failovers that the schedule did not cause. They undo writes without notice to the judge.
    pub fn unplanned(&self) -> u64 {
        self.unplanned
    }

    /// All faults with their times since the start.
    pub fn diary(&self) -> String {
        let line = |(name, began, took): &(_, Instant, _)| format!("{:?} {name}, {took:?}\n", *began - self.started);
        self.diary.iter().map(line).collect()
    }
}

impl Stage {
    /// One random proxy, or all.
    fn some(&self, random: &mut fastrand::Rng) -> &[FaultProxy] {
        let chosen = random.usize(..=self.proxies.len());
        if chosen == self.proxies.len() { &self.proxies } else { &self.proxies[chosen..=chosen] }
    }

    fn suffer(&self, random: &mut fastrand::Rng, who: Who, faults: Faults, lasts: Duration) {
        let some = self.some(random);
        some.iter().for_each(|proxy| proxy.set(who, faults));
        sleep(lasts);
        some.iter().for_each(|proxy| proxy.set(who, Faults::default()));
    }
}

fn kill(stage: &mut Stage, history: &History, random: &mut fastrand::Rng) {
    let began = Instant::now();
    history.begins(Upheaval::Loss);
    stage.redis.kill();
    sleep(millis(random, 0..1000));
    stage.redis.restart();
    history.ends(Upheaval::Loss);
    history.barrier(began);
}

fn stop(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    stage.redis.pause();
    sleep(millis(random, 50..LONGEST));
    stage.redis.resume();
}

/// A command that was sent over a killed connection and not yet executed is never executed.
fn kill_clients(stage: &mut Stage, history: &History, _: &mut fastrand::Rng) {
    let began = Instant::now();
    stage.redis.run("CLIENT KILL TYPE normal");
    history.barrier(began);
}

fn kill_links(stage: &mut Stage, _: &History, _: &mut fastrand::Rng) {
    kill_links_of(&stage.redis);
}

/// Kills the clients that track in broadcasting mode.
pub fn kill_links_of(redis: &RedisServer) {
    let clients: String = redis.ask(&[b"CLIENT", b"LIST"]);
    let field = |line: &str, name| line.split(' ').find_map(|word| word.strip_prefix(name)).map(str::to_owned);
    let links = clients.lines().filter(|line| field(line, "flags=").is_some_and(|flags| flags.contains('B')));
    for id in links.filter_map(|line| field(line, "id=")) {
        redis.run(&format!("CLIENT KILL ID {id}"));
    }
}

fn kill_subscribers(stage: &mut Stage, _: &History, _: &mut fastrand::Rng) {
    stage.redis.run("CLIENT KILL TYPE pubsub");
}

fn pause_all(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    pause(stage, random, "ALL");
}

fn pause_writes(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    pause(stage, random, "WRITE");
}

fn pause(stage: &Stage, random: &mut fastrand::Rng, what: &str) {
    let lasts = random.u64(50..1500);
    stage.redis.run(&format!("CLIENT PAUSE {lasts} {what}"));
    sleep(Duration::from_millis(lasts));
}

fn flush(stage: &mut Stage, history: &History, _: &mut fastrand::Rng) {
    history.begins(Upheaval::Loss);
    stage.redis.run("FLUSHALL");
    history.ends(Upheaval::Loss);
}

/// Sets the memory limit slightly below the used memory, so that Redis evicts some keys.
fn evict(stage: &mut Stage, history: &History, random: &mut fastrand::Rng) {
    const LESS: u64 = 32 << 10;
    history.begins(Upheaval::Loss);
    let memory: String = stage.redis.ask(&[b"INFO", b"memory"]);
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("INFO tells it");
    let limit = used.trim().parse::<u64>().expect("a number").saturating_sub(LESS);
    stage.redis.run(&format!("CONFIG SET maxmemory {limit} maxmemory-policy allkeys-random"));
    sleep(millis(random, 100..800));
    stage.redis.run("CONFIG SET maxmemory 0 maxmemory-policy noeviction");
    history.ends(Upheaval::Loss);
}

fn link_late(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    // For up to one second the fence is still valid, and L1 answers.
    let faults = Faults::late_answers(millis(random, 20..1000), millis(random, 0..200));
    let lasts = millis(random, 500..LONGEST);
    stage.suffer(random, Who::Link(Link::Invalidation), faults, lasts);
}

fn data_late(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let faults = Faults::late_answers(millis(random, 1..60), millis(random, 0..20));
    let lasts = millis(random, 300..2000);
    stage.suffer(random, Who::Link(Link::Data), faults, lasts);
}

fn link_held(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let lasts = millis(random, 500..LONGEST);
    stage.suffer(random, Who::Link(Link::Invalidation), Faults::held(), lasts);
}

fn data_held(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let lasts = millis(random, 20..LONGEST);
    stage.suffer(random, Who::Link(Link::Data), Faults::held(), lasts);
}

fn one_held(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let proxy = &stage.proxies[random.usize(..stage.proxies.len())];
    let connections = proxy.connections();
    if let Some((id, _)) = random.choice(&connections) {
        proxy.set(Who::One(*id), Faults::held());
        sleep(millis(random, 20..LONGEST));
    }
}

fn all_late(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let faults = Faults::late(millis(random, 1..30), millis(random, 0..100));
    let lasts = millis(random, 300..2000);
    stage.suffer(random, Who::All, faults, lasts);
}

fn throttled(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let faults = Faults::throttled(random.u64(2_000..200_000));
    let lasts = millis(random, 300..2000);
    stage.suffer(random, Who::All, faults, lasts);
}

fn some_links(random: &mut fastrand::Rng) -> Who {
    *random.choice(&[Who::All, Who::Link(Link::Data), Who::Link(Link::Invalidation)]).expect("not empty")
}

fn cut(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let (who, how) = (some_links(random), if random.bool() { Cut::Fin } else { Cut::Rst });
    for _ in 0..random.u32(1..5) {
        stage.some(random).iter().for_each(|proxy| proxy.cut(who, how));
        sleep(millis(random, 0..200));
    }
}

fn link_half_open(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let lasts = millis(random, 500..LONGEST);
    stage.suffer(random, Who::Link(Link::Invalidation), Faults::half_open(), lasts);
}

fn half_open(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let (who, lasts) = (some_links(random), millis(random, 50..LONGEST));
    stage.suffer(random, who, Faults::half_open(), lasts);
}

fn refused(stage: &mut Stage, _: &History, random: &mut fastrand::Rng) {
    let some = stage.some(random);
    for proxy in some {
        proxy.refuse(true);
        proxy.cut(Who::All, Cut::Rst);
    }
    sleep(millis(random, 100..1500));
    some.iter().for_each(|proxy| proxy.refuse(false));
}
