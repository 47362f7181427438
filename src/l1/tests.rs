//! Tests L1 through its public methods against a plain model, with [`L1::validate`] after each step.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;

use super::*;
use crate::{error::CacheError, error::Kind, model::Value};

const POLICIES: [PolicyKind; 2] = [PolicyKind::Learned, PolicyKind::Lru];
/// The epoch that [`opened`] starts.
const EPOCH: Epoch = Epoch::FIRST;

fn key(number: u64) -> Key {
    Key::copied(format!("key:{number}").as_bytes()).expect("a valid key")
}

fn settings(policy: PolicyKind, capacity_bytes: u64, max_entries: Option<u64>) -> Settings {
    Settings { capacity_bytes, max_entries, policy }
}

fn fill(value: &[u8], expires_at: Tick, deadline: Tick) -> Fill {
    Fill { value: Value::from(Bytes::copy_from_slice(value)), expires_at, deadline, group: 0 }
}

fn forever(value: &[u8]) -> Fill {
    fill(value, Tick::FAR, Tick::FAR)
}

/// Returns an L1 with an epoch whose fence never closes.
fn opened(l1: L1) -> L1 {
    assert_eq!(l1.begin(Tick::FAR), Some(EPOCH));
    l1
}

/// Takes a lease and fills.
fn put(l1: &L1, key: &Key, fill: Fill, now: Tick) -> Filled {
    put_in(l1, EPOCH, key, fill, now)
}

fn put_in(l1: &L1, epoch: Epoch, key: &Key, fill: Fill, now: Tick) -> Filled {
    let token = Token(fastrand::u64(..));
    assert!(matches!(l1.lease(key, token, now, Some(epoch), false), Leased::Lead));
    l1.fill(key, token, fill, now)
}

fn each_policy(test: impl Fn(PolicyKind, u64)) {
    for policy in POLICIES {
        let first = fastrand::u64(..);
        for seed in (0..4).map(|step| first.wrapping_add(step)) {
            eprintln!("policy {policy:?}, seed {seed}");
            test(policy, seed);
        }
    }
}

/// What the model knows about a key.
#[derive(Debug, Clone)]
struct Known {
    value: Vec<u8>,
    deadline: Tick,
}

/// An L1 and a plain model of the values that a hit may return.
struct Pair {
    l1: L1,
    epoch: Epoch,
    rng: Rng,
    now: Tick,
    keys: u64,
    value_max: usize,
    known: BTreeMap<u64, Known>,
    leases: BTreeMap<u64, (Token, bool)>,
    purges: Vec<Purge>,
}

impl Pair {
    fn new(settings: Settings, seed: u64, keys: u64, value_max: usize) -> Self {
        let rng = Rng::with_seed(seed);
        // One shard has many entries and blocks; several shards exchange room.
        let l1 =
            if seed.is_multiple_of(2) { L1::with_shards(settings, 1, Some(seed)) } else { L1::seeded(settings, seed) };
        let (known, leases) = (BTreeMap::new(), BTreeMap::new());
        Self { l1: opened(l1), epoch: EPOCH, rng, now: Tick(1), keys, value_max, known, leases, purges: Vec::new() }
    }

    fn step(&mut self) {
        let number = self.rng.u64(..self.keys);
        match self.rng.u8(..20) {
            0..=7 => self.get(number),
            8..=10 => self.take_lease(number),
            11..=13 => self.use_lease(number),
            14 => self.invalidate(number),
            15..=16 => self.update(number),
            17 => self.now = self.now.plus(Duration::from_millis(self.rng.u64(..40))),
            18 => self.sweep(),
            _ if self.rng.u8(..20) == 0 => self.end_epoch(),
            _ if self.rng.u8(..3) == 0 => self.ban(),
            _ if self.rng.bool() => self.purge(),
            _ => self.scan(),
        }
        self.l1.validate().expect("consistent");
        let usage = self.l1.usage();
        assert!(usage.bytes <= usage.capacity_bytes, "{usage:?}");
        assert!(self.l1.staged().bytes <= usage.capacity_bytes / 10, "{:?}", self.l1.staged());
    }

    /// Returns a size that is usually small and sometimes the maximum.
    fn value(&mut self) -> Vec<u8> {
        let shift_max = if self.rng.bool() { 22 } else { 5 };
        let length = self.value_max >> self.rng.u32(..shift_max);
        vec![self.rng.u8(..); self.rng.usize(..=length)]
    }

    fn life(&mut self) -> (Tick, Tick) {
        let ahead = |ms: u64, now: Tick| Tick(now.0 + ms);
        let longer = if self.rng.bool() { 1 } else { 50 };
        let expires_at = if self.rng.bool() { Tick::FAR } else { ahead(self.rng.u64(..400) * longer, self.now) };
        let deadline =
            if self.rng.bool() { expires_at } else { expires_at.min(ahead(self.rng.u64(..200) * longer, self.now)) };
        (expires_at, deadline)
    }

    fn get(&mut self, number: u64) {
        let Some(hit) = self.l1.get(&key(number), self.now, self.rng.bool()) else { return };
        let known = self.known.get(&number).expect("a hit was put there");
        assert_eq!(*hit.value, known.value[..], "the newest value");
        assert!(self.now < known.deadline, "not past its deadline");
    }

    fn take_lease(&mut self, number: u64) {
        let token = Token(self.rng.u64(..));
        let look = self.rng.bool();
        match self.l1.lease(&key(number), token, self.now, Some(self.epoch), look) {
            Leased::Hit(hit) => assert_eq!(*hit.value, self.known[&number].value[..]),
            Leased::Join(holder) => assert_eq!(self.leases[&number].0, holder),
            Leased::Lead => assert!(self.leases.insert(number, (token, true)).is_none_or(|(_, live)| !live)),
        }
    }

    fn use_lease(&mut self, number: u64) {
        let Some((token, live)) = self.leases.remove(&number) else { return };
        if self.rng.u8(..8) == 0 {
            return self.l1.release(&key(number), token);
        }
        let (value, (expires_at, deadline)) = (self.value(), self.life());
        let staged = self.rng.u8(..3) == 0;
        let fill = Fill { group: (number % 5) as u8, ..fill(&value, expires_at, deadline) };
        let filled = match staged {
            true => self.l1.fill_staged(&key(number), token, fill, self.now),
            false => self.l1.fill(&key(number), token, fill, self.now),
        };
        match filled {
            Filled::Inserted => assert!(live && self.now < deadline),
            Filled::Voided => assert!(!live),
            Filled::Expired => assert!(live && self.now >= deadline),
            Filled::Closed => panic!("each lease has an epoch"),
            Filled::TooLarge if staged => assert!(value.len() as u64 > self.l1.usage().capacity_bytes / 160),
            Filled::TooLarge => assert!(live && value.len() as u64 > self.l1.usage().capacity_bytes / 16),
        }
        if filled == Filled::Inserted {
            let reported = self.l1.peek(&key(number), self.now).map_or(Tick::ZERO, |resident| resident.deadline);
            assert!(
                reported <= deadline && deadline.since(reported) <= deadline.since(self.now) / 128,
                "{reported:?} of {deadline:?}"
            );
            self.known.insert(number, Known { value, deadline });
        }
    }

    fn invalidate(&mut self, number: u64) {
        self.l1.invalidate(&key(number));
        self.known.remove(&number);
        if let Some((_, live)) = self.leases.get_mut(&number) {
            *live = false;
        }
        assert!(self.l1.peek(&key(number), self.now).is_none());
    }

    fn end_epoch(&mut self) {
        if self.rng.bool() {
            self.l1.suspend(self.epoch);
        }
        self.l1.end(self.epoch);
        self.epoch = self.l1.begin(Tick::FAR).expect("a number is free");
        self.known.clear();
        self.leases.values_mut().for_each(|(_, live)| *live = false);
    }

    fn ban(&mut self) {
        const PATTERNS: [&[u8]; 6] = [b"key:1*", b"key:?", b"key:*7", b"*", b"key:[2-3]??", b"other:*"];
        let glob = Glob::new(PATTERNS[self.rng.usize(..PATTERNS.len())]).expect("a pattern");
        let Some(purge) = self.l1.ban(glob.clone(), self.now) else {
            return assert_eq!(self.purges.len(), 64);
        };
        self.purges.push(purge);
        self.known.retain(|&number, _| !glob.matches(&key(number)));
        self.leases.iter_mut().for_each(|(&number, (_, live))| *live &= !glob.may_match(&key(number)));
        assert!((0..self.keys).all(|n| !glob.matches(&key(n)) || self.l1.peek(&key(n), self.now).is_none()));
        // Entries inserted in the same millisecond are hidden as well.
        self.now = self.now.plus(Duration::from_millis(1));
    }

    fn purge(&mut self) {
        if self.purges.is_empty() {
            return;
        }
        let at = self.rng.usize(..self.purges.len());
        let (before, budget) = (self.l1.usage().entries, self.rng.usize(1..300));
        let removed = self.l1.purge(&mut self.purges[at], self.now, budget);
        assert!(removed <= budget);
        assert_eq!(self.l1.usage().entries, before - removed as u64);
        if self.purges[at].is_done() {
            assert_eq!(self.l1.purge(&mut self.purges[at], self.now, budget), 0);
            drop(self.purges.swap_remove(at));
        }
    }

    fn update(&mut self, number: u64) {
        let (value, (expires_at, _)) = (self.value(), self.life());
        let change = match self.rng.u8(..4) {
            0 => Change::Remove,
            1 => Change::Reexpire(expires_at),
            2 => Change::Keep,
            _ => Change::Put(value.clone().into(), expires_at),
        };
        let known = self.known.get(&number).filter(|known| self.now < known.deadline).cloned();
        let seen = self.l1.update(&key(number), self.now, self.epoch, (number % 7) as u8, |current| {
            let seen = current.map(|current| current.value.to_vec());
            Ok((change.clone(), seen))
        });
        let Ok(seen) = seen else { return };
        assert!(seen.is_none() || seen == known.map(|known| known.value));
        match change {
            Change::Keep => {}
            Change::Remove => {
                self.known.remove(&number);
            }
            Change::Reexpire(at) if seen.is_some() => {
                self.known.entry(number).and_modify(|known| known.deadline = at);
            }
            Change::Reexpire(_) => {}
            Change::Put(..) => {
                self.known.insert(number, Known { value, deadline: expires_at });
                if let Some((_, live)) = self.leases.get_mut(&number) {
                    *live = false;
                }
            }
        }
    }

    fn sweep(&mut self) {
        let budget = self.rng.usize(1..200);
        let before = self.l1.usage().entries;
        let swept = self.l1.sweep(self.now, budget);
        assert_eq!(self.l1.usage().entries, before - swept as u64);
        // Hidden entries are removed by the purge.
        if swept < budget && self.purges.is_empty() {
            let mut live = 0;
            self.l1.scan(0, usize::MAX, self.now, |_, _| live += 1);
            assert_eq!(self.l1.usage().entries, live, "a sweep within its budget removes all expired entries");
        }
    }

    fn scan(&mut self) {
        let (mut seen, mut cursor, page) = (BTreeSet::new(), 0, self.rng.usize(1..50));
        loop {
            cursor = self.l1.scan(cursor, page, self.now, |key, _| {
                assert!(seen.insert(key.to_vec()), "without changes, no key is visited twice");
            });
            if cursor == 0 {
                break;
            }
        }
        let there = (0..self.keys).filter(|&n| self.l1.peek(&key(n), self.now).is_some()).count();
        assert_eq!(seen.len(), there);
        let drawn = self.l1.random_key(self.rng.u64(..), self.now);
        assert_eq!(drawn.is_some(), there > 0);
    }
}

#[test]
fn random_operations_on_small_entries_agree_with_the_model() {
    each_policy(|policy, seed| {
        let mut pair = Pair::new(settings(policy, 256 << 10, None), seed, 400, 2_000);
        (0..4_000).for_each(|_| pair.step());
    });
}

#[test]
fn random_operations_under_a_bound_on_entries_agree_with_the_model() {
    each_policy(|policy, seed| {
        let mut pair = Pair::new(settings(policy, 64 << 20, Some(150)), seed, 400, 100);
        (0..4_000).for_each(|_| {
            pair.step();
            assert!(pair.l1.usage().entries <= 150);
        });
    });
}

#[test]
fn random_operations_with_values_up_to_4_mib_keep_the_byte_bound() {
    each_policy(|policy, seed| {
        let mut pair = Pair::new(settings(policy, 36 << 20, None), seed, 300, 4 << 20);
        (0..600).for_each(|_| pair.step());
        for number in 1_000..1_030 {
            let filled = put_in(&pair.l1, pair.epoch, &key(number), forever(&vec![1; 2 << 20]), pair.now);
            assert_eq!(filled, Filled::Inserted);
            assert!(pair.l1.usage().bytes <= pair.l1.usage().capacity_bytes);
        }
        pair.l1.validate().expect("consistent");
        assert!(pair.l1.removals().size > 0, "room was short");
    });
}

#[test]
fn lru_evicts_the_least_recently_used() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let l1 = opened(L1::with_shards(settings(PolicyKind::Lru, u64::MAX, Some(50)), 1, Some(seed)));
    let mut order: VecDeque<u64> = VecDeque::new();
    for _ in 0..20_000 {
        let number = (rng.f64() * rng.f64() * 200.0) as u64;
        let hit = l1.get(&key(number), Tick(1), true).is_some();
        let there = order.iter().position(|&n| n == number);
        assert_eq!(hit, there.is_some());
        match there {
            Some(at) => drop(order.remove(at)),
            None if order.len() == 50 => drop(order.pop_front()),
            None => {}
        }
        order.push_back(number);
        if !hit {
            assert_eq!(put(&l1, &key(number), forever(b""), Tick(1)), Filled::Inserted);
        }
    }
}

#[test]
fn an_invalidation_between_lease_and_fill_voids_the_fill() {
    let l1 = opened(L1::new(settings(PolicyKind::Lru, 1 << 20, None)));
    let (a, now) = (key(1), Tick(5));
    assert!(matches!(l1.lease(&a, Token(1), now, Some(EPOCH), true), Leased::Lead));
    assert!(matches!(l1.lease(&a, Token(2), now, Some(EPOCH), true), Leased::Join(Token(1))));
    assert!(!l1.invalidate(&a));
    assert!(matches!(l1.lease(&a, Token(3), now, Some(EPOCH), true), Leased::Lead), "later readers lead anew");
    assert_eq!(l1.fill(&a, Token(1), forever(b"old"), now), Filled::Voided);
    assert_eq!(l1.fill(&a, Token(3), forever(b"new"), now), Filled::Inserted);
    assert!(matches!(l1.lease(&a, Token(4), now, Some(EPOCH), true), Leased::Hit(hit) if *hit.value == *b"new"));
    assert!(l1.invalidate(&a));
    assert!(l1.get(&a, now, true).is_none());
}

#[test]
fn the_end_of_an_epoch_voids_fills_hides_copies_and_lets_the_sweep_take_them() {
    let l1 = opened(L1::new(settings(PolicyKind::Lru, 1 << 20, None)));
    let now = Tick(5);
    (0..300).for_each(|n| assert_eq!(put(&l1, &key(n), forever(b"old"), now), Filled::Inserted));
    assert!(matches!(l1.lease(&key(300), Token(1), now, Some(EPOCH), true), Leased::Lead));
    l1.end(EPOCH);
    let next = l1.begin(Tick::FAR).expect("a number is free");
    assert_eq!(l1.fill(&key(300), Token(1), forever(b"old"), now), Filled::Voided);
    assert!(l1.get(&key(1), now, true).is_none());
    assert!(matches!(l1.lease(&key(1), Token(2), now, Some(next), true), Leased::Lead));
    assert_eq!(l1.fill(&key(1), Token(2), forever(b"new"), now), Filled::Inserted);
    assert_eq!(l1.sweep(now, 1_000), 299);
    assert_eq!((l1.usage().entries, l1.get(&key(1), now, true).map(|hit| hit.hits)), (1, Some(1)));
}

#[test]
fn copies_of_a_suspended_epoch_are_stale_until_it_ends() {
    let l1 = opened(L1::new(settings(PolicyKind::Lru, 1 << 20, None)));
    let grace = Duration::from_secs(3_600);
    assert_eq!(put(&l1, &key(1), fill(b"v", Tick(900), Tick(50)), Tick(5)), Filled::Inserted);
    l1.extend(EPOCH, Tick(40));
    assert!(l1.get(&key(1), Tick(39), true).is_some() && l1.get(&key(1), Tick(40), true).is_none());
    l1.suspend(EPOCH);
    assert!(l1.get(&key(1), Tick(6), true).is_none(), "changes are not received");
    assert_eq!(l1.sweep(Tick(60), 10), 0, "the bound on its age does not end it");
    assert!(l1.get_stale(&key(1), Tick(60), grace).is_some_and(|hit| *hit.value == *b"v"));
    assert!(l1.get_stale(&key(1), Tick(60), Duration::from_millis(20)).is_none(), "20 ms after the fence at 40");
    assert!(l1.get_stale(&key(1), Tick(900), grace).is_none(), "the key's own expiry does");
    assert_eq!(l1.sweep(Tick(900), 10), 1);
    l1.end(EPOCH);
    assert!(l1.get_stale(&key(1), Tick(60), grace).is_none());
}

#[test]
fn a_flood_of_epochs_empties_l1_rather_than_mistake_one_for_another() {
    let l1 = L1::new(settings(PolicyKind::Learned, 1 << 20, None));
    let now = Tick(5);
    for number in 0..2_000 {
        let epoch = l1.begin(Tick::FAR).expect("numbers of ended epochs are reused");
        let token = Token(number);
        assert!(matches!(l1.lease(&key(number), token, now, Some(epoch), true), Leased::Lead));
        assert_eq!(l1.fill(&key(number), token, forever(b"v"), now), Filled::Inserted);
        assert!((number.saturating_sub(300)..number).all(|old| l1.get(&key(old), now, true).is_none()));
        assert!(l1.get(&key(number), now, true).is_some());
        l1.end(epoch);
    }
    l1.validate().expect("consistent");
}

#[test]
fn a_banned_pattern_hides_what_was_there_at_once_and_nothing_else() {
    for policy in POLICIES {
        let l1 = opened(L1::new(settings(policy, 64 << 20, None)));
        (0..2_000).for_each(|n| assert_eq!(put(&l1, &key(n), forever(b"old"), Tick(5)), Filled::Inserted));
        assert!(matches!(l1.lease(&key(1_999_999), Token(1), Tick(5), Some(EPOCH), true), Leased::Lead));
        assert!(matches!(l1.lease(&key(3), Token(2), Tick(5), Some(EPOCH), false), Leased::Lead));
        let mut purge = l1.ban(Glob::new(b"key:1*").expect("a pattern"), Tick(5)).expect("a place");
        let is_banned = |n: u64| n.to_string().starts_with('1');
        let is_there = |n: u64| l1.get(&key(n), Tick(5), true).is_some();
        assert!((0..2_000).all(|n| is_there(n) != is_banned(n)), "before the walk");
        assert!(l1.get_stale(&key(1), Tick(5), Duration::from_secs(9)).is_none());
        assert!(l1.get_stale(&key(2), Tick(5), Duration::from_secs(9)).is_some());
        assert_eq!(l1.fill(&key(1_999_999), Token(1), forever(b"old"), Tick(5)), Filled::Voided);
        assert_eq!(l1.fill(&key(3), Token(2), forever(b"same"), Tick(5)), Filled::Inserted);
        assert!(
            matches!(l1.lease(&key(17), Token(3), Tick(6), Some(EPOCH), true), Leased::Lead),
            "the look misses too"
        );
        assert_eq!(l1.fill(&key(17), Token(3), forever(b"new"), Tick(7)), Filled::Inserted);
        let absent = |current: Option<Current<'_>>| {
            assert!(current.is_none());
            Ok((Change::Put(b"new"[..].into(), Tick::FAR), ()))
        };
        l1.update(&key(18), Tick(7), EPOCH, 0, absent).expect("it fits");
        // The clock of the walk was read before these entries were inserted.
        let mut steps = 0;
        while !purge.is_done() {
            let removed = l1.purge(&mut purge, Tick(6), 100);
            assert!(removed <= 100);
            steps += 1;
            l1.validate().expect("consistent");
        }
        // 1, 10 to 19, 100 to 199, 1000 to 1999, without the two new ones.
        assert_eq!((purge.removed(), l1.usage().entries), (1_109, 891));
        assert!((20..40).contains(&steps), "{steps}");
        let news: Vec<u64> = (0..2_000).filter(|&n| is_banned(n) && l1.peek(&key(n), Tick(7)).is_some()).collect();
        assert_eq!(news, [17, 18], "entries inserted after the ban stay");
        assert_eq!(l1.removals().invalidated, 1_109);
    }
}

#[test]
fn patterns_under_purge_are_bounded_and_a_place_is_free_again_after_the_walk() {
    let l1 = opened(L1::new(settings(PolicyKind::Lru, 1 << 20, None)));
    let ban = || l1.ban(Glob::new(b"key:*").expect("a pattern"), Tick(5));
    let mut purges: Vec<Purge> = std::iter::from_fn(ban).collect();
    assert_eq!(purges.len(), 64);
    assert_eq!(l1.purge(&mut purges[7], Tick(5), 1), 0);
    assert!(purges[7].is_done() && ban().is_some() && ban().is_none());
}

#[test]
fn update_sees_the_present_value_and_its_error_changes_nothing() {
    let l1 = opened(L1::new(settings(PolicyKind::Lru, 1 << 20, None)));
    let (a, now) = (key(1), Tick(5));
    let set = |value: &'static [u8]| move |_: Option<Current<'_>>| Ok((Change::Put(value.into(), Tick(90)), ()));
    l1.update(&a, now, EPOCH, 0, set(b"1")).expect("it fits");
    let refuse = |current: Option<Current<'_>>| -> Result<(Change, ())> {
        assert_eq!(current.map(|c| (c.value.to_vec(), c.expires_at)), Some((b"1".to_vec(), Tick(90))));
        Err(CacheError::new(Kind::NotANumber, "no"))
    };
    assert!(l1.update(&a, now, EPOCH, 0, refuse).is_err());
    let large = vec![0; 200 << 10];
    let refused = l1.update(&a, now, EPOCH, 0, |_| Ok((Change::Put(large.into(), Tick::FAR), ())));
    assert_eq!(refused.map_err(|error| error.kind()), Err(Kind::TooLarge));
    assert!(l1.get(&a, Tick(89), true).is_some());
    assert!(l1.get(&a, Tick(90), true).is_none());
    l1.update(&a, Tick(90), EPOCH, 0, |current| Ok((Change::Keep, assert!(current.is_none())))).expect("nothing to do");
}

#[test]
fn a_value_outlives_its_entry_and_shares_its_memory() {
    let l1 = opened(L1::new(settings(PolicyKind::Lru, 1 << 20, None)));
    assert_eq!(put(&l1, &key(1), forever(b"payload"), Tick(5)), Filled::Inserted);
    let hit = l1.get(&key(1), Tick(5), true).expect("it is there");
    l1.clear();
    assert_eq!(l1.usage(), Usage { entries: 0, bytes: 0, capacity_bytes: 1 << 20 });
    let place = hit.value.as_ptr();
    let bytes = hit.value.into_bytes();
    assert_eq!((&bytes[..], bytes.as_ptr()), (&b"payload"[..], place), "not copied");
}

#[test]
fn a_scan_meets_every_entry_that_stays() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let l1 = opened(L1::seeded(settings(PolicyKind::Lru, 64 << 20, None), seed));
    let now = Tick(5);
    let stays: BTreeSet<u64> = (0..2_000).filter(|_| rng.bool()).collect();
    (0..2_000).for_each(|n| assert_eq!(put(&l1, &key(n), forever(b"v"), now), Filled::Inserted));
    let (mut seen, mut cursor, mut extra) = (BTreeSet::new(), 0, 2_000);
    loop {
        cursor = l1.scan(cursor, 10, now, |key, _| {
            seen.insert(key.to_vec());
        });
        if cursor == 0 {
            break;
        }
        for goes in (0..20).map(|_| rng.u64(..2_000)).filter(|n| !stays.contains(n)) {
            l1.invalidate(&key(goes));
        }
        assert_eq!(put(&l1, &key(extra), forever(b"v"), now), Filled::Inserted);
        extra += 1;
    }
    assert!(stays.iter().all(|&n| seen.contains(&key(n)[..])));
}

#[test]
fn memory_shrinks_after_a_mass_expiry() {
    let l1 = opened(L1::new(settings(PolicyKind::Lru, 256 << 20, None)));
    let deadline = Tick(1_000);
    (0..20_000).for_each(|n| assert_eq!(put(&l1, &key(n), fill(b"v", deadline, deadline), Tick(5)), Filled::Inserted));
    assert_eq!(l1.sweep(Tick(999), 100_000), 0);
    assert_eq!(l1.sweep(deadline, 15_000), 15_000);
    assert_eq!(l1.sweep(deadline, 100_000), 5_000);
    assert_eq!((l1.usage().entries, l1.usage().bytes, l1.removals().expired), (0, 0, 20_000));
    l1.validate().expect("consistent");
}

#[test]
fn threads_leave_no_old_value_behind() {
    let l1 = opened(L1::new(settings(PolicyKind::Lru, 1 << 20, None)));
    // The value in L2 by key: fills copy it between lease and fill; writers increment it and then invalidate.
    let stored: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
    let acked: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
    let (stop, tokens) = (AtomicBool::new(false), AtomicU64::new(0));
    let now = Tick(5);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let n = fastrand::usize(..64);
                    let floor = acked[n].load(std::sync::atomic::Ordering::SeqCst);
                    if let Some(hit) = l1.get(&key(n as u64), now, true) {
                        let number = u64::from_le_bytes((*hit.value)[..8].try_into().expect("eight bytes"));
                        assert!(number >= floor, "an old value: {number} after {floor}");
                        continue;
                    }
                    let token = Token(tokens.fetch_add(1, Relaxed));
                    if let Leased::Lead = l1.lease(&key(n as u64), token, now, Some(EPOCH), true) {
                        let value = stored[n].load(std::sync::atomic::Ordering::SeqCst).to_le_bytes();
                        l1.fill(&key(n as u64), token, forever(&value), now);
                    }
                }
            });
        }
        scope.spawn(|| {
            for step in 0..20_000 {
                let n = step % 64;
                let next = stored[n].fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                l1.invalidate(&key(n as u64));
                acked[n].store(next, std::sync::atomic::Ordering::SeqCst);
            }
            stop.store(true, Relaxed);
        });
    });
    l1.validate().expect("consistent");
}

/// Prefetches a key.
fn stage(l1: &L1, number: u64) -> Filled {
    let token = Token(fastrand::u64(..));
    assert!(l1.lease_prefetch(&key(number), token, Tick(1), EPOCH));
    l1.fill_staged(&key(number), token, forever(b"v"), Tick(1))
}

fn unused(l1: &L1) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    l1.take_unused(|key| keys.push(key.to_vec()));
    keys
}

#[test]
fn what_was_prefetched_waits_apart_until_its_first_use() {
    each_policy(|policy, _| {
        let l1 = opened(L1::with_shards(settings(policy, u64::MAX, Some(100)), 1, Some(1)));
        for number in 0..200 {
            put(&l1, &key(number), forever(b"v"), Tick(1));
        }
        assert_eq!(l1.residence(&key(500), Tick(1)), Residence::Absent);
        (500..530).for_each(|number| assert_eq!(stage(&l1, number), Filled::Inserted));
        assert_eq!((l1.staged().entries, l1.usage().entries), (10, 100), "a tenth of L1, inside its bound");
        let dropped: Vec<_> = (500..520).map(|number| key(number).to_vec()).collect();
        assert_eq!(unused(&l1), dropped, "in order of arrival, reported once");
        assert_eq!(unused(&l1), Vec::<Vec<u8>>::new());
        assert_eq!(l1.residence(&key(520), Tick(1)), Residence::Staged);
        assert!(!l1.lease_prefetch(&key(520), Token(1), Tick(1), EPOCH), "it is there");
        assert!(
            l1.get(&key(520), Tick(1), false).is_some_and(|hit| !hit.is_first_use),
            "an inspection does not count as a use"
        );
        assert!(l1.get(&key(520), Tick(1), true).is_some_and(|hit| hit.is_first_use));
        assert!(l1.get(&key(520), Tick(1), true).is_some_and(|hit| !hit.is_first_use), "once");
        assert_eq!((l1.residence(&key(520), Tick(1)), l1.staged().entries), (Residence::Resident, 9));
        // Fills on demand do not remove staged entries while they may still be requested.
        let mut demand = 600..;
        let mut fill = |count| {
            for number in demand.by_ref().take(count) {
                put(&l1, &key(number), forever(b"v"), Tick(1));
            }
        };
        fill(128);
        assert_eq!(l1.staged().entries, 9);
        l1.invalidate(&key(521));
        assert_eq!((l1.staged().entries, unused(&l1)), (8, vec![key(521).to_vec()]));
        fill(100);
        let overdue: Vec<_> = (522..530).map(|number| key(number).to_vec()).collect();
        assert_eq!(
            (l1.staged().entries, unused(&l1)),
            (0, overdue),
            "entries without a request in all that time are removed"
        );
        (540..548).for_each(|number| assert_eq!(stage(&l1, number), Filled::Inserted));
        l1.clear();
        assert_eq!((l1.staged().entries, unused(&l1).len()), (0, 8));
        l1.validate().expect("consistent");
    });
}

#[test]
fn a_miss_of_what_gave_way_shrinks_the_queue_and_a_use_too_late_grows_it() {
    let l1 = opened(L1::with_shards(settings(PolicyKind::Lru, u64::MAX, Some(1_000)), 1, Some(1)));
    for number in 0..1_000 {
        put(&l1, &key(number), forever(b"v"), Tick(1));
    }
    let miss =
        |number| assert!(matches!(l1.lease(&key(number), Token(number), Tick(1), Some(EPOCH), true), Leased::Lead));
    assert_eq!(l1.staged().places, 32);
    for number in 2_000..2_040 {
        stage(&l1, number);
    }
    // 32 evictions removed keys 0 to 31, and keys 2,000 to 2,007 made room for later ones.
    miss(31);
    assert_eq!((l1.staged().places, l1.staged().displaced), (29, 1));
    miss(2_007);
    assert_eq!(l1.staged().places, 30);
    miss(0);
    assert_eq!((l1.staged().places, l1.staged().displaced), (30, 1), "half the places would not have kept it");
    assert!(l1.get(&key(2_008), Tick(1), true).is_some_and(|hit| hit.is_first_use));
    assert_eq!(l1.staged().places, 31, "the entry was used late in its stay");
    assert!(l1.get(&key(2_039), Tick(1), true).is_some_and(|hit| hit.is_first_use));
    assert_eq!(l1.staged().places, 31, "the entry was used early");
}
