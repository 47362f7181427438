//! What all statistics and learning cost a hit in L1: `cargo bench --bench stats [-- ROUNDS]` (default 300).
//!
//! Ours: a user read that L1 answers (`Cache::get_resident`), with everything that is counted, sampled and told on the
//! way. Yardstick: the bare look into an L1 of the same content. One thread; keys drawn with skew 0.9 from 20,000 in five
//! templates. Rounds are short and alternate between the two; of each the quickest is printed, which is the one that no other
//! work on the machine disturbed.

#[path = "support/workload.rs"]
#[expect(dead_code, reason = "shared with the benches of L1, which use all of it")]
mod workload;

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use fastrand::Rng;
use terrace::{
    cache::{Cache, Condition, Core, Flavor, Op, Rules, SetExpiry, resident::CoreStore},
    clock::{Clock, Tick, stopwatch_ns},
    l1::{Epoch, Fill, L1, Leased, PolicyKind, Settings, Token},
    l2::none::NoneBackend,
    model::{Key, Value},
};
use workload::Zipf;

const KEYS: usize = 20_000;
const READS: usize = 20_000;
const VALUE: &[u8] = &[7; 100];

fn settings() -> Settings {
    Settings { capacity_bytes: 64 << 20, max_entries: None, policy: PolicyKind::Learned }
}

fn key(number: usize) -> Key {
    let name = ["user", "item", "page", "cart", "feed"][number % 5];
    Key::new(Bytes::from(format!("{name}:{number}:x"))).expect("a key")
}

/// An L1 alone.
fn bare(keys: &[Key]) -> L1 {
    let l1 = L1::new(settings());
    let epoch: Option<Epoch> = l1.begin(Tick::FAR);
    for (number, key) in keys.iter().enumerate() {
        let fill = Fill {
            value: Value::from(Bytes::from_static(VALUE)),
            expires_at: Tick::FAR,
            deadline: Tick::FAR,
            group: 0,
        };
        let token = Token(number as u64 + 1);
        assert!(matches!(l1.lease(key, token, Tick(1), epoch, false), Leased::Lead));
        l1.fill(key, token, fill, Tick(1));
    }
    l1
}

/// A whole cache whose L1 is the store.
fn whole(keys: &[Key]) -> Cache {
    let rules = Rules::new(1 << 20, Duration::from_secs(60));
    let core = Core::new(settings(), Flavor::None, rules, Clock::real());
    let cache = Cache::new(core.clone(), NoneBackend::new(CoreStore::new(&core)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for key in keys {
            let value = Bytes::from_static(VALUE);
            let set = Op::Set { value, expiry: SetExpiry::Never, condition: Condition::Always, want_old: false };
            cache.write(key.clone(), set).await.expect("it is stored");
        }
    });
    cache
}

/// Nanoseconds a read.
fn per_read(order: &[Key], mut read: impl FnMut(&Key) -> usize) -> f64 {
    let begun = stopwatch_ns();
    for key in order {
        black_box(read(black_box(key)));
    }
    (stopwatch_ns() - begun) as f64 / order.len() as f64
}

fn least(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::INFINITY, f64::min)
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(300);
    let keys: Vec<Key> = (0..KEYS).map(key).collect();
    let (bare, whole) = (bare(&keys), whole(&keys));
    let (zipf, mut rng) = (Zipf::new(KEYS, 0.9), Rng::with_seed(7));
    let order: Vec<Key> = (0..READS).map(|_| keys[zipf.draw(&mut rng)].clone()).collect();
    let (now, mut events) = (whole.now(), Vec::new());
    let look = |key: &Key| bare.get(key, now, true).map_or(0, |hit| hit.value.len());
    let read = |key: &Key| whole.get_resident(key, now).map_or(0, |hit| hit.value.len());
    let (mut bares, mut wholes) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bares.push(per_read(&order, look));
        wholes.push(per_read(&order, read));
        // What a job does on a server.
        whole.core().learn(&mut events);
    }
    let (bare, whole_read) = (least(&bares), least(&wholes));
    println!("{READS} hits a round, quickest of {rounds} rounds, one thread");
    println!("L1 alone {bare:.1} ns | user read {whole_read:.1} ns");
    println!("statistics and learning cost {:.1} ns a hit (goal at most 30)", whole_read - bare);
    let reads = whole.snapshot().reads;
    assert_eq!(reads.hit_l1, (READS * rounds) as u64, "each read was a hit and was counted");
}
