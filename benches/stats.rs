//! Cost of all statistics and learning for a hit in L1: `cargo bench --bench stats [-- ROUNDS]` (default 300).
//!
//! Ours: a user read that L1 answers (`Cache::get_from_l1`), with all counting and sampling; then the same as a
//! separate request, of which some are timed. Yardstick: a lookup in a bare L1 with the same content. All three read
//! the value, as a response does. One thread. Keys are drawn with skew 0.9 in five templates: from 20,000, which exceed
//! the cache of the core, and from 500, which fit. Rounds are short and alternate. The output shows the fastest round
//! of each kind, which other work on the machine disturbed least.

#[path = "support/workload.rs"]
#[expect(dead_code, reason = "shared with the benches of L1, which use all of it")]
mod workload;

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use fastrand::Rng;
use terrace::{
    cache::{Cache, Condition, Core, Flavor, Op, Rules, SetExpiry, l1_store::CoreStore, stats::requests::Port},
    clock::{Clock, Tick, stopwatch_ns},
    l1::{Epoch, Fill, Hit, L1, Leased, PolicyKind, Settings, Token},
    l2::none::NoneBackend,
    model::{Key, Value},
};
use workload::Zipf;

const KEYS: [usize; 2] = [20_000, 500];
const READS: usize = 16_000;
const PASSES: usize = 3;
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

/// Returns the nanoseconds per read in the fastest of several passes. The first pass fills the caches of the core.
fn per_read(order: &[Key], mut read: impl FnMut(&Key) -> usize) -> f64 {
    let pass = |_| {
        let begun = stopwatch_ns();
        for key in order {
            black_box(read(black_box(key)));
        }
        (stopwatch_ns() - begun) as f64 / order.len() as f64
    };
    least(&(0..PASSES).map(pass).collect::<Vec<f64>>())
}

fn least(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::INFINITY, f64::min)
}

/// Minimum work of a caller with a hit.
fn first_byte(hit: Option<Hit>) -> usize {
    hit.and_then(|hit| hit.value.first().copied()).map_or(0, usize::from)
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(300);
    println!("{READS} hits per round, fastest of {rounds} rounds, one thread");
    KEYS.into_iter().for_each(|count| compare(count, rounds));
}

fn compare(count: usize, rounds: usize) {
    let keys: Vec<Key> = (0..count).map(key).collect();
    let (bare, whole) = (bare(&keys), whole(&keys));
    let (zipf, mut rng) = (Zipf::new(count, 0.9), Rng::with_seed(7));
    let order: Vec<Key> = (0..READS).map(|_| keys[zipf.draw(&mut rng)].clone()).collect();
    let (now, mut events) = (whole.now(), Vec::new());
    let look = |key: &Key| first_byte(bare.get(key, now, true));
    let read = |key: &Key| first_byte(whole.get_from_l1(key, now));
    let request = |key: &Key| {
        let _timed = whole.time_request(Port::Grpc);
        read(key)
    };
    whole.core().learn(&mut events);
    // Events of the writes that filled the cache.
    let dropped = whole.core().events_dropped();
    let (mut bares, mut reads, mut requests) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bares.push(per_read(&order, look));
        // Runs the work of a server's background job after each round.
        reads.push(per_read(&order, read));
        whole.core().learn(&mut events);
        requests.push(per_read(&order, request));
        whole.core().learn(&mut events);
    }
    let (bare, read, request) = (least(&bares), least(&reads), least(&requests));
    println!("{count:>6} keys: L1 alone {bare:.1} ns | user read {read:.1} ns | one request per read {request:.1} ns");
    println!(
        "statistics and learning cost {:.1} ns per hit, {:.1} ns including the request (goal at most 30)",
        read - bare,
        request - bare
    );
    let counted = whole.snapshot().reads.hit_l1;
    assert_eq!(counted, (READS * PASSES * 2 * rounds) as u64, "each read was a hit and was counted");
    assert_eq!(whole.core().events_dropped(), dropped, "each sample found room");
}
