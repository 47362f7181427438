//! What goes wrong: a schedule from a seed, and what can go wrong with one standalone Redis and the nodes' links to it.
//! (Sentinels and Clusters: `failovers`.)
//!
//! One fault at a time, each undone before the next, with some calm in between. The judge is told what may be lost and what
//! is surely gone; of Redis's own faults it makes no other difference.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use tokio::time::Instant;

use super::truth::{Truth, Upheaval};
use crate::support::{
    proxy::{Cut, FaultProxy, Faults, Link, Who},
    redis::RedisServer,
};

/// What a fault does; it has undone it when it returns, but for what [`Scene::heal`] undoes.
pub type Fault<S> = fn(&mut S, &Truth, &mut fastrand::Rng);

/// Something that faults can be injected into.
pub trait Scene: Sized + 'static {
    /// Name, weight, what happens.
    const FAULTS: &'static [(&'static str, u32, Fault<Self>)];

    /// Undoes what is left of a fault.
    fn heal(&mut self) {}

    /// A number that a failover makes another one.
    fn reign(&self) -> u64 {
        0
    }
}

/// Redis, and a proxy to it for each node.
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

/// Longest stop of Redis and longest hold of a link.
const LONGEST: u64 = 3000;

/// A time within a range of milliseconds.
pub fn millis(random: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

/// A schedule under way.
pub struct Schedule {
    started: Instant,
    random: fastrand::Rng,
    injected: BTreeMap<&'static str, u64>,
    /// Failovers that nobody asked for: a machine under load keeps a primary from answering in time.
    unplanned: u64,
    /// Name, beginning, time it took.
    diary: Vec<(&'static str, Instant, Duration)>,
}

impl Schedule {
    /// The same seed, the same faults.
    pub fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { started: Instant::now(), random, injected: BTreeMap::new(), unplanned: 0, diary: Vec::new() }
    }

    /// Injects faults until `end`, and heals all.
    pub fn run<S: Scene>(&mut self, scene: &mut S, truth: &Truth, end: Instant) {
        while Instant::now() < end {
            let reign = scene.reign();
            sleep(millis(&mut self.random, 100..900));
            self.unplanned += u64::from(scene.reign() != reign);
            let (name, fault) = self.choose::<S>();
            let began = Instant::now();
            fault(scene, truth, &mut self.random);
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

    /// How often what was injected.
    pub fn injected(&self) -> &BTreeMap<&'static str, u64> {
        &self.injected
    }

    /// Failovers that nobody asked for. They undo writes of which the judge was told nothing.
    pub fn unplanned(&self) -> u64 {
        self.unplanned
    }

    /// What happened when, since the start.
    pub fn diary(&self) -> String {
        let line = |(name, began, took): &(_, Instant, _)| format!("{:?} {name}, {took:?}\n", *began - self.started);
        self.diary.iter().map(line).collect()
    }
}

impl Stage {
    /// One of the proxies, or all.
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

fn kill(stage: &mut Stage, truth: &Truth, random: &mut fastrand::Rng) {
    let began = Instant::now();
    truth.begins(Upheaval::Loss);
    stage.redis.kill();
    sleep(millis(random, 0..1000));
    stage.redis.restart();
    truth.ends(Upheaval::Loss);
    truth.barrier(began);
}

fn stop(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    stage.redis.pause();
    sleep(millis(random, 50..LONGEST));
    stage.redis.resume();
}

/// Whatever was sent over a killed connection and not yet done is never done.
fn kill_clients(stage: &mut Stage, truth: &Truth, _: &mut fastrand::Rng) {
    let began = Instant::now();
    stage.redis.run("CLIENT KILL TYPE normal");
    truth.barrier(began);
}

fn kill_links(stage: &mut Stage, _: &Truth, _: &mut fastrand::Rng) {
    kill_links_of(&stage.redis);
}

/// Kills who tracks in broadcasting mode.
pub fn kill_links_of(redis: &RedisServer) {
    let clients: String = redis.ask(&[b"CLIENT", b"LIST"]);
    let field = |line: &str, name| line.split(' ').find_map(|word| word.strip_prefix(name)).map(str::to_owned);
    let links = clients.lines().filter(|line| field(line, "flags=").is_some_and(|flags| flags.contains('B')));
    for id in links.filter_map(|line| field(line, "id=")) {
        redis.run(&format!("CLIENT KILL ID {id}"));
    }
}

fn kill_subscribers(stage: &mut Stage, _: &Truth, _: &mut fastrand::Rng) {
    stage.redis.run("CLIENT KILL TYPE pubsub");
}

fn pause_all(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    pause(stage, random, "ALL");
}

fn pause_writes(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    pause(stage, random, "WRITE");
}

fn pause(stage: &Stage, random: &mut fastrand::Rng, what: &str) {
    let lasts = random.u64(50..1500);
    stage.redis.run(&format!("CLIENT PAUSE {lasts} {what}"));
    sleep(Duration::from_millis(lasts));
}

fn flush(stage: &mut Stage, truth: &Truth, _: &mut fastrand::Rng) {
    truth.begins(Upheaval::Loss);
    stage.redis.run("FLUSHALL");
    truth.ends(Upheaval::Loss);
}

/// A limit a little below what is used, so that some keys go and others stay.
fn evict(stage: &mut Stage, truth: &Truth, random: &mut fastrand::Rng) {
    const LESS: u64 = 32 << 10;
    truth.begins(Upheaval::Loss);
    let memory: String = stage.redis.ask(&[b"INFO", b"memory"]);
    let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("INFO tells it");
    let limit = used.trim().parse::<u64>().expect("a number").saturating_sub(LESS);
    stage.redis.run(&format!("CONFIG SET maxmemory {limit} maxmemory-policy allkeys-random"));
    sleep(millis(random, 100..800));
    stage.redis.run("CONFIG SET maxmemory 0 maxmemory-policy noeviction");
    truth.ends(Upheaval::Loss);
}

fn link_late(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    // Up to a second the fence still stands, and L1 answers by what it has heard.
    let faults = Faults::late_answers(millis(random, 20..1000), millis(random, 0..200));
    let lasts = millis(random, 500..LONGEST);
    stage.suffer(random, Who::Link(Link::Invalidation), faults, lasts);
}

fn data_late(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let faults = Faults::late_answers(millis(random, 1..60), millis(random, 0..20));
    let lasts = millis(random, 300..2000);
    stage.suffer(random, Who::Link(Link::Data), faults, lasts);
}

fn link_held(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let lasts = millis(random, 500..LONGEST);
    stage.suffer(random, Who::Link(Link::Invalidation), Faults::held(), lasts);
}

fn data_held(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let lasts = millis(random, 20..LONGEST);
    stage.suffer(random, Who::Link(Link::Data), Faults::held(), lasts);
}

fn one_held(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let proxy = &stage.proxies[random.usize(..stage.proxies.len())];
    let connections = proxy.connections();
    if let Some((id, _)) = random.choice(&connections) {
        proxy.set(Who::One(*id), Faults::held());
        sleep(millis(random, 20..LONGEST));
    }
}

fn all_late(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let faults = Faults::late(millis(random, 1..30), millis(random, 0..100));
    let lasts = millis(random, 300..2000);
    stage.suffer(random, Who::All, faults, lasts);
}

fn throttled(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let faults = Faults::throttled(random.u64(2_000..200_000));
    let lasts = millis(random, 300..2000);
    stage.suffer(random, Who::All, faults, lasts);
}

fn some_links(random: &mut fastrand::Rng) -> Who {
    *random.choice(&[Who::All, Who::Link(Link::Data), Who::Link(Link::Invalidation)]).expect("not empty")
}

fn cut(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let (who, how) = (some_links(random), if random.bool() { Cut::Fin } else { Cut::Rst });
    for _ in 0..random.u32(1..5) {
        stage.some(random).iter().for_each(|proxy| proxy.cut(who, how));
        sleep(millis(random, 0..200));
    }
}

fn link_half_open(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let lasts = millis(random, 500..LONGEST);
    stage.suffer(random, Who::Link(Link::Invalidation), Faults::half_open(), lasts);
}

fn half_open(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let (who, lasts) = (some_links(random), millis(random, 50..LONGEST));
    stage.suffer(random, who, Faults::half_open(), lasts);
}

fn refused(stage: &mut Stage, _: &Truth, random: &mut fastrand::Rng) {
    let some = stage.some(random);
    for proxy in some {
        proxy.refuse(true);
        proxy.cut(Who::All, Cut::Rst);
    }
    sleep(millis(random, 100..1500));
    some.iter().for_each(|proxy| proxy.refuse(false));
}
