//! Tuned TTLs: a manual clock and keys that change in three rhythms.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use terrace::{
    cache::{
        Cache, Condition, Core, Flavor, Op, Read, ReadOptions, Rules, SetExpiry,
        l1_store::CoreStore,
        policy::{Policy, Ttl},
    },
    clock::{Clock, ManualClock},
    glob::Glob,
    l1::{PolicyKind, Settings},
    l2::none::NoneBackend,
    learn::recorder::{Event, is_sampled},
    model::{Key, Life},
};

use crate::support::grpc::block_on;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;

/// Name, time between reads, time between changes, and the TTL that the formula gives.
const RHYTHMS: [(&str, u64, Option<u64>, u64); 3] = [
    ("quick", 10 * SECOND, Some(60 * SECOND), 25 * SECOND),
    ("slow", 600 * SECOND, Some(24 * HOUR), 1_500 * SECOND),
    ("rare", 5 * HOUR, None, 45_000 * SECOND),
];
/// A new key of each rhythm is created at this interval, is read this many times, and then never again.
const BORN_EVERY: u64 = 2 * HOUR;
const READS: u64 = 20;
/// For this time after the creation of a key, its owner writes each change to the stores that hold the key, read or
/// not. TTLs of more than a minute pay for these writes; tuned TTLs do not. If owners stop after half a day, a single
/// TTL is better: the formula spends 2.5 intervals for two hits of keys that are read regularly, and gives frequently
/// read keys no more hits.
const CHANGES_FOR: u64 = 72 * HOUR;
/// End of the test and start of the measurement: TTLs change by at most a factor of two per hour.
const END: u64 = 170 * HOUR;
const MEASURED_FROM: u64 = 110 * HOUR;

/// A store of keys with equal values.
trait Store {
    fn move_to(&mut self, at_ms: u64);
    fn has(&mut self, key: &Key) -> bool;
    /// Reads a key as a client does.
    async fn read(&mut self, key: &Key) -> bool;
    /// Writes a key without a TTL. Returns the TTL that it got.
    async fn set(&mut self, key: &Key) -> u64;
    fn tick(&mut self) {}
}

/// A cache whose L1 is the store.
struct Served {
    cache: Cache,
    core: Arc<Core>,
    time: Arc<ManualClock>,
    events: Vec<Event>,
    steps: u64,
    now_ms: u64,
    byte_ms: u128,
    entry_ms: u128,
}

impl Served {
    fn new(ttl: Ttl, default_ttl_ms: u64) -> Self {
        let (clock, time) = Clock::manual();
        let mut rules = Rules::new(1 << 20, Duration::from_secs(60));
        let default_ttl = Some(Duration::from_millis(default_ttl_ms));
        rules.policies = vec![Policy { ttl, default_ttl, ..Policy::of(Glob::new(b"*").unwrap()) }];
        rules.ttl.min = Duration::from_secs(1);
        let settings = Settings { capacity_bytes: 1 << 24, max_entries: None, policy: PolicyKind::Lru };
        let core = Core::new(settings, Flavor::None, rules, clock);
        let cache = Cache::new(Arc::clone(&core), NoneBackend::new(CoreStore::new(&core)));
        Self { cache, core, time, events: Vec::new(), steps: 0, now_ms: 0, byte_ms: 0, entry_ms: 0 }
    }
}

impl Store for Served {
    fn move_to(&mut self, at_ms: u64) {
        // Memory is released when a TTL ends, not when a key is read.
        let step = HOUR / 30;
        while self.now_ms < at_ms {
            let next = at_ms.min(self.now_ms + step);
            self.core.sweep(usize::MAX);
            if self.now_ms >= MEASURED_FROM {
                let (usage, ms) = (self.cache.l1_usage(), u128::from(next - self.now_ms));
                self.byte_ms += u128::from(usage.bytes) * ms;
                self.entry_ms += u128::from(usage.entries) * ms;
            }
            self.time.advance(Duration::from_millis(next - self.now_ms));
            self.now_ms = next;
        }
    }

    fn has(&mut self, key: &Key) -> bool {
        self.cache.resident(key).is_some()
    }

    async fn read(&mut self, key: &Key) -> bool {
        matches!(self.cache.get(key.clone(), ReadOptions::default()).await.unwrap(), Read::Found(_))
    }

    async fn set(&mut self, key: &Key) -> u64 {
        let value = Bytes::from_static(&[7; 500]);
        let op = Op::Set { value, expiry: SetExpiry::Never, condition: Condition::Always, want_old: false };
        self.cache.write(key.clone(), op).await.unwrap();
        self.cache.resident(key).unwrap().hit.expires_at.0 - self.cache.now().0
    }

    fn tick(&mut self) {
        self.steps += 1;
        if self.steps.is_multiple_of(10) {
            self.core.learn(&mut self.events);
        }
    }
}

/// A model of a cache with a single TTL: no learning.
struct Fixed {
    ttl_ms: u64,
    now_ms: u64,
    held: HashMap<Key, (u64, u64)>,
    entry_ms: u128,
}

impl Fixed {
    fn new(ttl_ms: u64) -> Self {
        Self { ttl_ms, now_ms: 0, held: HashMap::new(), entry_ms: 0 }
    }

    fn close(&mut self, from_ms: u64, until_ms: u64) {
        self.entry_ms += u128::from(until_ms.min(END).saturating_sub(from_ms.max(MEASURED_FROM)));
    }
}

impl Store for Fixed {
    fn move_to(&mut self, at_ms: u64) {
        self.now_ms = at_ms;
    }

    fn has(&mut self, key: &Key) -> bool {
        self.held.get(key).is_some_and(|(_, until)| *until > self.now_ms)
    }

    async fn read(&mut self, key: &Key) -> bool {
        self.has(key)
    }

    async fn set(&mut self, key: &Key) -> u64 {
        if let Some((from, until)) = self.held.insert(key.clone(), (self.now_ms, self.now_ms + self.ttl_ms)) {
            self.close(from, until.min(self.now_ms));
        }
        self.ttl_ms
    }
}

/// Events of a store.
struct World<S> {
    store: S,
    names: [Vec<Key>; RHYTHMS.len()],
    now_ms: u64,
    reads: u64,
    hits: u64,
    ttls: [Vec<u64>; RHYTHMS.len()],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Born(usize),
    Read(usize, usize, u64),
    Changed(usize, usize, u64),
}

impl<S: Store> World<S> {
    fn new(store: S) -> Self {
        let ttls = std::array::from_fn(|_| Vec::new());
        Self { store, names: std::array::from_fn(names), now_ms: 0, reads: 0, hits: 0, ttls }
    }

    async fn set(&mut self, rhythm: usize, key: &Key) {
        let ttl_ms = self.store.set(key).await;
        if self.now_ms >= MEASURED_FROM {
            self.ttls[rhythm].push(ttl_ms);
        }
    }

    /// Reads as a client does: writes a missing key without a TTL.
    async fn read(&mut self, rhythm: usize, key: &Key) {
        let is_hit = self.store.read(key).await;
        if self.now_ms >= MEASURED_FROM {
            (self.reads, self.hits) = (self.reads + 1, self.hits + u64::from(is_hit));
        }
        if !is_hit {
            self.set(rhythm, key).await;
        }
    }

    async fn live(&mut self, end_ms: u64) {
        let mut coming: BinaryHeap<Reverse<(u64, What)>> = (0..3).map(|r| Reverse((1, What::Born(r)))).collect();
        let (mut born, mut rng) = ([0; RHYTHMS.len()], fastrand::Rng::with_seed(11));
        while let Some(Reverse((at, what))) = coming.pop().filter(|Reverse((at, _))| *at < end_ms) {
            self.store.move_to(at);
            self.now_ms = at;
            match what {
                What::Born(rhythm) => {
                    let number = born[rhythm];
                    born[rhythm] += 1;
                    coming.push(Reverse((at + BORN_EVERY, What::Born(rhythm))));
                    coming.push(Reverse((at, What::Read(rhythm, number, READS))));
                    coming.extend(
                        RHYTHMS[rhythm].2.map(|every| Reverse((at + every, What::Changed(rhythm, number, at)))),
                    );
                }
                What::Read(rhythm, number, left) => {
                    let key = self.names[rhythm][number].clone();
                    self.read(rhythm, &key).await;
                    if left > 1 {
                        let every = RHYTHMS[rhythm].1;
                        let next = at + every * 19 / 20 + rng.u64(..every / 10);
                        coming.push(Reverse((next, What::Read(rhythm, number, left - 1))));
                    }
                }
                What::Changed(rhythm, number, born_at) => {
                    // Only while the store holds the key: changes of other keys are not announced.
                    let key = self.names[rhythm][number].clone();
                    if at - born_at < CHANGES_FOR && self.store.has(&key) {
                        self.set(rhythm, &key).await;
                        let next = at + RHYTHMS[rhythm].2.unwrap_or(END);
                        coming.push(Reverse((next, What::Changed(rhythm, number, born_at))));
                    }
                }
            }
            self.store.tick();
        }
        self.store.move_to(end_ms);
    }

    fn hit_rate(&self) -> f64 {
        self.hits as f64 / self.reads as f64
    }
}

/// Returns the keys of one rhythm, all of which are sampled.
fn names(rhythm: usize) -> Vec<Key> {
    let all = (0_u64..).map(|number| format!("{}:{number}", RHYTHMS[rhythm].0));
    let sampled = all.filter(|name| is_sampled(name.as_bytes())).map(|name| Key::copied(name.as_bytes()).unwrap());
    sampled.take((END / BORN_EVERY + 1) as usize).collect()
}

fn live<S: Store>(store: S, end_ms: u64) -> World<S> {
    let mut world = World::new(store);
    fastrand::seed(5);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(world.live(end_ms));
    world
}

/// Returns the hit rate and the mean number of entries held with a single TTL.
fn fixed(ttl_ms: u64) -> (f64, f64) {
    let mut world = live(Fixed::new(ttl_ms), END);
    let open: Vec<(u64, u64)> = world.store.held.values().copied().collect();
    open.into_iter().for_each(|(from, until)| world.store.close(from, until));
    (world.hit_rate(), world.store.entry_ms as f64 / (END - MEASURED_FROM) as f64)
}

/// Returns the minimum number of entries held at this hit rate, if a part of the keys gets one TTL and the other keys
/// another one.
fn least_held(line: &[(f64, f64)], hit_rate: f64) -> f64 {
    let mixed = |&(low, less): &(f64, f64), &(high, more): &(f64, f64)| {
        let part = (hit_rate - low) / (high - low);
        (0.0..=1.0).contains(&part).then_some(less + part * (more - less))
    };
    let mixes = line.iter().flat_map(|low| line.iter().filter_map(move |high| mixed(low, high)));
    mixes.fold(f64::INFINITY, f64::min)
}

#[test]
fn tuned_ttls_follow_each_rhythm_and_hold_less_for_the_same_hits() {
    let tuned = live(Served::new(Ttl::Tune, HOUR), END);
    for ((name, _, _, formula), ttls) in RHYTHMS.iter().zip(&tuned.ttls) {
        let mean = ttls.iter().sum::<u64>() as f64 / ttls.len() as f64;
        let off = mean / *formula as f64 - 1.0;
        println!("{name}: {} writes got {:.1} s, the formula says {} s", ttls.len(), mean / 1e3, formula / SECOND);
        assert!(off.abs() < 0.2, "{name} is off by {off:.2}");
        // Keys that were written together do not expire together.
        let (least, most) = (ttls.iter().min().unwrap(), ttls.iter().max().unwrap());
        assert!(*most as f64 > *least as f64 * 1.1, "{name}: {least} to {most}");
    }
    let measured_ms = (END - MEASURED_FROM) as f64;
    let (held, entry_bytes) =
        (tuned.store.byte_ms as f64 / measured_ms, tuned.store.byte_ms as f64 / tuned.store.entry_ms as f64);
    println!("tuned: hit rate {:.3}, {held:.0} bytes held", tuned.hit_rate());
    // With less than a minute, no change finds its key; from five hours on, all keys are read before they expire.
    let ttls_s = [10, 25, 55, 65, 600, 1_800, 3_600, 7_200, 14_400, 19_800, 21_600, 43_200];
    let line: Vec<(f64, f64)> = ttls_s.iter().map(|ttl_s| fixed(ttl_s * SECOND)).collect();
    for (ttl_s, (hit_rate, entries)) in ttls_s.iter().zip(&line) {
        println!("fixed {ttl_s} s: hit rate {hit_rate:.3}, {:.0} bytes held", entries * entry_bytes);
    }
    let least = least_held(&line, tuned.hit_rate()) * entry_bytes;
    println!("tuned holds {:.2} of the {least:.0} bytes that fixed ones need for its hit rate", held / least);
    assert!(held < least, "{held:.0} of {least:.0} bytes");
}

#[test]
fn advice_changes_nothing_and_a_clients_ttl_is_kept() {
    let advised = live(Served::new(Ttl::Advise, HOUR), 30 * HOUR).store;
    let advice = advised.cache.ttl_advice();
    let quick = advice.iter().find(|advised| &*advised.advice.name == "quick:{d}").unwrap();
    let off = quick.advice.ttl_ms as f64 / (25 * SECOND) as f64 - 1.0;
    assert!(off.abs() < 0.2 && quick.tuned_ms.is_none(), "{quick:?}");
    assert_eq!(quick.advice.current_ttl_ms, Some(HOUR), "writes get what the policy says");
    // Database 2 shows the same.
    assert_eq!(advised.cache.count_learned(), advice.len() as u64);
    let json: serde_json::Value = serde_json::from_str(&advised.cache.learned(b"ttl:quick:{d}").unwrap()).unwrap();
    assert_eq!(json["ttl_ms"], quick.advice.ttl_ms);
    assert!(json["access"]["intervals"].as_u64() >= Some(20), "{json}");

    let tuned = live(Served::new(Ttl::Tune, HOUR), 20 * HOUR).store;
    block_on(async {
        let (mine, own) = (names(0).remove(0), Duration::from_secs(7_777));
        let expiry = SetExpiry::In(own);
        let set = Op::Set { value: Bytes::new(), expiry, condition: Condition::Always, want_old: false };
        tuned.cache.write(mine.clone(), set).await.unwrap();
        let Read::Found(found) = tuned.cache.get(mine, ReadOptions::default()).await.unwrap() else {
            panic!("it is there")
        };
        assert_eq!(found.life, Life::For(own));
    });
}

/// Reads ten keys of a template each minute for two hours, and another key of it once each minute. Returns the TTLs of
/// the last of these other keys and of one of the ten.
fn of_once_and_often(ttl: Ttl) -> (u64, u64) {
    let mut store = Served::new(ttl, HOUR / 6);
    let (often, mut last) = (&names(0)[..10], 0);
    block_on(async {
        for minute in 0..120 {
            store.move_to(minute * 60 * SECOND + 1);
            for key in often {
                if !store.read(key).await {
                    store.set(key).await;
                }
            }
            let once = Key::copied(format!("quick:{}", 1_000_000 + minute).as_bytes()).unwrap();
            assert!(!store.read(&once).await);
            last = store.set(&once).await;
            store.core.learn(&mut store.events);
        }
        (last, store.set(&often[0]).await)
    })
}

#[test]
fn a_tuned_ttl_is_for_keys_that_come_back() {
    let (once, often) = of_once_and_often(Ttl::Tune);
    assert!((900..=1_100).contains(&once), "the shortest is a second: {once}");
    assert!((130 * SECOND..=200 * SECOND).contains(&often), "2.5 minutes, from ten down in two hours: {often}");
    assert_eq!(of_once_and_often(Ttl::Advise), (HOUR / 6, HOUR / 6));
}
