//! TTLs from what was learned: on a clock that the test moves, for keys of three rhythms.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use bytes::Bytes;
use terrace::{
    cache::{
        Cache, Condition, Core, Flavor, Op, Read, ReadOptions, Rules, SetExpiry,
        policy::{Policy, Ttl},
        resident::CoreStore,
    },
    clock::{Clock, ManualClock},
    glob::Glob,
    l1::{PolicyKind, Settings},
    l2::none::NoneBackend,
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
/// A new key of each rhythm comes so often, is read so many times, and never again.
const BORN_EVERY: u64 = HOUR / 3;
const READS: u64 = 20;
/// How long it goes on, and from when it is measured: TTLs move by a doubling an hour at most.
const END: u64 = 170 * HOUR;
const MEASURED_FROM: u64 = 110 * HOUR;

/// A cache whose L1 is the store, and what happened in it.
struct World {
    cache: Cache,
    core: Arc<Core>,
    time: Arc<ManualClock>,
    /// Not where the TTL is fixed: it would take time and change nothing.
    learns: bool,
    now_ms: u64,
    reads: u64,
    hits: u64,
    byte_ms: u128,
    ttls: [Vec<u64>; RHYTHMS.len()],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Born(usize),
    Read(usize, u64, u64),
    Changed(usize, u64),
}

impl World {
    fn new(ttl: Ttl, default_ttl_ms: u64) -> Self {
        let (clock, time) = Clock::manual();
        let mut rules = Rules::new(1 << 20, Duration::from_secs(60));
        let default_ttl = Some(Duration::from_millis(default_ttl_ms));
        rules.policies = vec![Policy { ttl, default_ttl, ..Policy::of(Glob::new(b"*").unwrap()) }];
        rules.ttl.min = Duration::from_secs(1);
        let settings = Settings { capacity_bytes: 1 << 30, max_entries: None, policy: PolicyKind::Lru };
        let core = Core::new(settings, Flavor::None, rules, clock);
        let cache = Cache::new(Arc::clone(&core), NoneBackend::new(CoreStore::new(&core)));
        let ttls = std::array::from_fn(|_| Vec::new());
        Self { cache, core, time, learns: ttl != Ttl::Fixed, now_ms: 0, reads: 0, hits: 0, byte_ms: 0, ttls }
    }

    async fn set(&mut self, rhythm: usize, key: Key) {
        let value = Bytes::from_static(&[7; 500]);
        let op = Op::Set { value, expiry: SetExpiry::Never, condition: Condition::Always, want_old: false };
        self.cache.write(key.clone(), op).await.unwrap();
        let Some(resident) = self.cache.resident(&key) else { return };
        if self.now_ms >= MEASURED_FROM {
            self.ttls[rhythm].push(resident.hit.expires_at.0 - self.cache.now().0);
        }
    }

    /// A client's read: what is missing it sets, without a TTL.
    async fn read(&mut self, rhythm: usize, key: Key) {
        let found = self.cache.get(key.clone(), ReadOptions::default()).await.unwrap();
        let is_hit = matches!(found, Read::Found(_));
        if self.now_ms >= MEASURED_FROM {
            (self.reads, self.hits) = (self.reads + 1, self.hits + u64::from(is_hit));
        }
        if !is_hit {
            self.set(rhythm, key).await;
        }
    }

    fn move_to(&mut self, at_ms: u64) {
        // Memory comes back when its time is over, not when somebody looks.
        let step = if self.now_ms >= MEASURED_FROM { 30 * SECOND } else { HOUR / 4 };
        while self.now_ms < at_ms {
            let next = at_ms.min(self.now_ms + step);
            self.core.sweep(usize::MAX);
            if self.now_ms >= MEASURED_FROM {
                self.byte_ms += u128::from(self.cache.l1_usage().bytes) * u128::from(next - self.now_ms);
            }
            self.time.advance(Duration::from_millis(next - self.now_ms));
            self.now_ms = next;
        }
    }

    async fn live(&mut self, end_ms: u64) {
        let mut coming: BinaryHeap<Reverse<(u64, What)>> = (0..3).map(|r| Reverse((1, What::Born(r)))).collect();
        let (mut born, mut events, mut rng) = (0, Vec::new(), fastrand::Rng::with_seed(11));
        let mut steps = 0_u64;
        while let Some(Reverse((at, what))) = coming.pop().filter(|Reverse((at, _))| *at < end_ms) {
            self.move_to(at);
            match what {
                What::Born(rhythm) => {
                    born += 1;
                    coming.push(Reverse((at + BORN_EVERY, What::Born(rhythm))));
                    coming.push(Reverse((at, What::Read(rhythm, born, READS))));
                    coming.extend(RHYTHMS[rhythm].2.map(|every| Reverse((at + every, What::Changed(rhythm, born)))));
                }
                What::Read(rhythm, number, left) => {
                    self.read(rhythm, key(rhythm, number)).await;
                    if left > 1 {
                        let every = RHYTHMS[rhythm].1;
                        let next = at + every * 19 / 20 + rng.u64(..every / 10);
                        coming.push(Reverse((next, What::Read(rhythm, number, left - 1))));
                    }
                }
                What::Changed(rhythm, number) => {
                    // As long as it lives, and is there: nobody announces what nobody holds.
                    if self.cache.resident(&key(rhythm, number)).is_some() {
                        self.set(rhythm, key(rhythm, number)).await;
                        let next = at + RHYTHMS[rhythm].2.unwrap_or(END);
                        coming.push(Reverse((next, What::Changed(rhythm, number))));
                    }
                }
            }
            steps += 1;
            if self.learns && steps.is_multiple_of(50) {
                self.core.learn(&mut events);
            }
        }
    }

    fn hit_rate(&self) -> f64 {
        self.hits as f64 / self.reads as f64
    }

    fn bytes_held(&self) -> f64 {
        self.byte_ms as f64 / (END - MEASURED_FROM) as f64
    }
}

fn key(rhythm: usize, number: u64) -> Key {
    Key::copied(format!("{}:{number}", RHYTHMS[rhythm].0).as_bytes()).unwrap()
}

fn lived(ttl: Ttl, default_ttl_ms: u64, end_ms: u64) -> World {
    let mut world = World::new(ttl, default_ttl_ms);
    fastrand::seed(5);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(world.live(end_ms));
    world
}

#[test]
fn tuned_ttls_follow_each_rhythm_and_hold_less_for_the_same_hits() {
    let tuned = lived(Ttl::Tune, HOUR, END);
    for ((name, _, _, formula), ttls) in RHYTHMS.iter().zip(&tuned.ttls) {
        let mean = ttls.iter().sum::<u64>() as f64 / ttls.len() as f64;
        let off = mean / *formula as f64 - 1.0;
        println!("{name}: {} writes got {:.1} s, the formula says {} s", ttls.len(), mean / 1e3, formula / SECOND);
        assert!(off.abs() < 0.2, "{name} is off by {off:.2}");
        // What was written together does not expire together.
        let (least, most) = (ttls.iter().min().unwrap(), ttls.iter().max().unwrap());
        assert!(*most as f64 > *least as f64 * 1.1, "{name}: {least} to {most}");
    }
    println!("tuned: hit rate {:.3}, {:.0} bytes held", tuned.hit_rate(), tuned.bytes_held());
    // The shortest that hits what is read each five hours, and so as often as the tuned ones.
    let fixed = lived(Ttl::Fixed, 6 * HOUR, END);
    println!("fixed 6 h: hit rate {:.3}, {:.0} bytes held", fixed.hit_rate(), fixed.bytes_held());
    assert!(fixed.hit_rate() >= tuned.hit_rate() && fixed.bytes_held() > 1.5 * tuned.bytes_held());
}

#[test]
fn advice_changes_nothing_and_a_clients_ttl_is_kept() {
    let advised = lived(Ttl::Advise, HOUR, END);
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

    let tuned = lived(Ttl::Tune, HOUR, 20 * HOUR);
    block_on(async {
        let (mine, own) = (key(0, 1), Duration::from_secs(7_777));
        let expiry = SetExpiry::In(own);
        let set = Op::Set { value: Bytes::new(), expiry, condition: Condition::Always, want_old: false };
        tuned.cache.write(mine.clone(), set).await.unwrap();
        let Read::Found(found) = tuned.cache.get(mine, ReadOptions::default()).await.unwrap() else {
            panic!("it is there")
        };
        assert_eq!(found.life, Life::For(own));
    });
}
