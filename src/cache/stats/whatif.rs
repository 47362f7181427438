//! Estimates the hit rate of L1 at half, twice and four times its size with simulated caches, called ghosts, while the
//! server runs.
//!
//! A ghost is a separate L1 with the same policy. It stores weights instead of values and sees a sample of the keys:
//! all reads of a key whose hash is lower than a threshold. A sample of one key in eight in an eighth of the space
//! behaves like the whole (SHARDS: Waldspurger and others, FAST 2015). Its misses, times eight, divided by *all* reads
//! are the miss ratio. It does not matter whether a very hot key is in the sample, because hot keys hit anyway.
//!
//! The sample starts with all keys. It is halved whenever the largest ghost has more than [`ENTRIES_MAX`] entries, or a
//! round of the job that processes it finds more than [`ROUND_MAX`] reads. All ghosts together therefore take at most
//! about 25 MB and a few percent of one core, whatever the size of L1 and the traffic. The ghosts that continue with
//! half of the keys run in advance, which adds half of the cost, and have learned what to evict when their counts begin.
//! Without this, the estimates were up to 2.5 points too low on the traces of `benches/what_if`; with it, they are 0.6
//! points off where the sample was halved.
//!
//! Sampled reads wait in a queue of [`WAITING_MAX`]; reads that find the queue full are skipped. Counts cover the last
//! ten to twenty minutes. Ghosts simulate fills by reads, but not prefetch. One ghost is as large as L1 itself: the
//! difference between L1 and that ghost is the benefit of prefetch plus the error of the estimate.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    clock::Tick,
    l1::{Epoch, Fill, Filled, L1, Leased, Settings, Token},
    model::{Key, Value},
};

/// Sizes of the ghosts, in quarters of L1.
const QUARTERS: [u64; 4] = [2, 4, 8, 16];
/// Initially one key in this many is in the sample: all keys.
const RATE_FIRST: u32 = 1;
/// At least one key in this many stays in the sample.
const RATE_LAST: u32 = 1 << 16;
/// Maximum number of entries in the largest simulated L1 of the size estimate. The sampling rate is halved above this
/// value.
const ENTRIES_MAX: u64 = 32_768;
/// Maximum number of reads that the size estimate processes every 20 ms. The sampling rate is halved above this value.
const ROUND_MAX: usize = 512;
/// Maximum number of sampled reads that wait for the size estimate (about 3 MB).
const WAITING_MAX: usize = 65_536;
/// Entries visited by one step of a scan.
const SCAN_STEP: usize = 1_024;
/// Time that one set of counts covers before the next one starts.
const TURN: Duration = Duration::from_secs(600);

/// A user read of a key in the sample.
#[derive(Debug, Clone, Copy)]
pub struct Touch {
    /// Hash of the key.
    pub hash: u32,
    /// Weight of an entry for the key; `None` if no tier has the key.
    pub weight: Option<u64>,
    /// Deadline of a copy that is read now.
    pub deadline: Tick,
    /// Time of the read.
    pub at: Tick,
}

/// An event that waits to be processed.
#[derive(Debug, Clone, Copy)]
enum Waiting {
    Read(Touch),
    /// A write inserted a copy, because L1 is the store.
    Put(Touch),
    /// The copy of this key was removed by a write or an invalidation.
    Changed(u32, Tick),
}

impl Waiting {
    /// Returns the sort key: reads and changes arrive on different paths and have to be ordered. Within a millisecond,
    /// a missed read is assumed to precede the write that fills the key, and a hit to follow it.
    fn order(&self) -> (Tick, u8) {
        match self {
            Self::Read(touch) if touch.weight.is_none() => (touch.at, 0),
            Self::Put(touch) => (touch.at, 1),
            Self::Changed(_, at) => (*at, 1),
            Self::Read(touch) => (touch.at, 2),
        }
    }
}

/// Estimate for L1 at one size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Size relative to the current size of L1.
    pub scale: f64,
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Share of all reads that L1 would answer without prefetch; `None` before the first read.
    pub l1_hit_rate: Option<f64>,
}

/// Estimates and their sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Estimates {
    /// Estimates by size, smallest first.
    pub sizes: Vec<Estimate>,
    /// One key in this many is in the sample.
    pub one_in: u32,
    /// Sampled reads that were processed.
    pub samples: u64,
    /// Total number of reads in the same time.
    pub reads: u64,
    /// Time that the estimates cover.
    pub over: Duration,
}

/// The ghosts of one L1.
pub struct WhatIf {
    /// Settings of the current L1.
    settings: Settings,
    /// A key with a lower hash is in the sample.
    threshold: AtomicU32,
    waiting: Mutex<Vec<Waiting>>,
    ghosts: Mutex<Ghosts>,
}

struct Ghosts {
    one_in: u32,
    /// Ghosts by size, in the order of [`QUARTERS`].
    sizes: Vec<Ghost>,
    /// Ghosts for half of the keys, with the same sizes. They learn in advance, to replace the current ghosts. Empty at
    /// [`RATE_LAST`].
    next: Vec<Ghost>,
    tokens: u64,
    now: Turn,
    before: Turn,
}

struct Ghost {
    l1: L1,
    epoch: Option<Epoch>,
}

/// Counts of one turn.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// Start of the turn, and the number of reads at that time.
    begun: Option<(Tick, u64)>,
    samples: u64,
    /// Misses, each weighted by the number of keys that it represents.
    misses: [u64; QUARTERS.len()],
}

impl WhatIf {
    /// Creates ghosts for an L1 with these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let ghosts = Ghosts {
            one_in: RATE_FIRST,
            sizes: ghosts(&settings, RATE_FIRST),
            next: ghosts(&settings, RATE_FIRST * 2),
            tokens: 0,
            now: Turn::default(),
            before: Turn::default(),
        };
        Self {
            settings,
            threshold: AtomicU32::new(threshold(RATE_FIRST)),
            waiting: Mutex::new(Vec::new()),
            ghosts: Mutex::new(ghosts),
        }
    }

    /// Returns whether a key is in the sample.
    #[inline]
    #[must_use]
    pub fn wants(&self, hash: u32) -> bool {
        hash < self.threshold.load(Relaxed)
    }

    /// Returns the threshold of the sample: a key with a lower hash is in the sample.
    #[must_use]
    pub fn threshold(&self) -> u32 {
        self.threshold.load(Relaxed)
    }

    /// Adds a read of a sampled key.
    pub fn read(&self, touch: Touch) {
        self.wait(Waiting::Read(touch));
    }

    /// Adds a write of a sampled key, if L1 is the store.
    pub fn put(&self, touch: Touch) {
        self.wait(Waiting::Put(touch));
    }

    /// Adds the removal of the copy of a sampled key.
    pub fn changed(&self, hash: u32, at: Tick) {
        self.wait(Waiting::Changed(hash, at));
    }

    fn wait(&self, event: Waiting) {
        // If the lock is taken, the event is skipped; the sample remains valid.
        if let Some(mut waiting) = self.waiting.try_lock()
            && waiting.len() < WAITING_MAX
        {
            waiting.push(event);
        }
    }

    /// Processes the waiting events. `reads` is the total number of user reads.
    pub fn play(&self, now: Tick, reads: u64) {
        let mut waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.sort_by_key(Waiting::order);
        let mut ghosts = self.ghosts.lock();
        ghosts.turn(now, reads);
        let many = waiting.len() > ROUND_MAX;
        waiting.into_iter().for_each(|event| ghosts.play(event));
        if (many || ghosts.is_full()) && ghosts.one_in < RATE_LAST {
            ghosts.halve(&self.settings, now);
            self.threshold.store(threshold(ghosts.one_in), Relaxed);
        }
    }

    /// Returns the estimates. `reads` is as for [`WhatIf::play`].
    #[must_use]
    pub fn estimates(&self, now: Tick, reads: u64) -> Estimates {
        let ghosts = self.ghosts.lock();
        let begun = ghosts.before.begun.or(ghosts.now.begun);
        let reads = begun.map_or(0, |(_, before)| reads.saturating_sub(before));
        let rate = |at: usize| {
            let misses = ghosts.now.misses[at] + ghosts.before.misses[at];
            (reads > 0).then(|| (1.0 - misses as f64 / reads as f64).max(0.0))
        };
        let sizes = QUARTERS.iter().enumerate().map(|(at, &quarters)| Estimate {
            scale: quarters as f64 / 4.0,
            capacity_bytes: scaled(self.settings.capacity_bytes, quarters, 1),
            l1_hit_rate: rate(at),
        });
        Estimates {
            sizes: sizes.collect(),
            one_in: ghosts.one_in,
            samples: ghosts.now.samples + ghosts.before.samples,
            reads,
            over: begun.map_or(Duration::ZERO, |(at, _)| now.since(at)),
        }
    }
}

impl Ghosts {
    /// Starts a new turn of counts when the current one is over.
    fn turn(&mut self, now: Tick, reads: u64) {
        let (begun, _) = *self.now.begun.get_or_insert((now, reads));
        if now.since(begun) >= TURN {
            self.before = std::mem::replace(&mut self.now, Turn { begun: Some((now, reads)), ..Turn::default() });
        }
    }

    fn play(&mut self, event: Waiting) {
        let hash = match event {
            Waiting::Read(touch) | Waiting::Put(touch) => touch.hash,
            Waiting::Changed(hash, _) => hash,
        };
        // The sample may have been halved meanwhile.
        let Some(key) = Key::copied(&hash.to_le_bytes()).ok().filter(|_| hash < threshold(self.one_in)) else { return };
        self.tokens += 1;
        let next = if hash < threshold(self.one_in * 2) { &self.next[..] } else { &[] };
        match event {
            Waiting::Changed(..) => {
                for ghost in self.sizes.iter().chain(next) {
                    ghost.l1.invalidate(&key);
                }
            }
            Waiting::Put(touch) => {
                for ghost in self.sizes.iter().chain(next) {
                    ghost.l1.invalidate(&key);
                    ghost.take_in(&key, &touch, Token(self.tokens));
                }
            }
            Waiting::Read(touch) => {
                self.now.samples += 1;
                for (ghost, misses) in self.sizes.iter().zip(&mut self.now.misses) {
                    if !ghost.read(&key, &touch, Token(self.tokens)) {
                        *misses += u64::from(self.one_in);
                    }
                }
                for ghost in next {
                    ghost.read(&key, &touch, Token(self.tokens));
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.sizes.last().map_or(0, |ghost| ghost.l1.usage().entries) > ENTRIES_MAX
    }

    /// Continues with half of the keys.
    fn halve(&mut self, settings: &Settings, now: Tick) {
        self.one_in *= 2;
        self.sizes = std::mem::take(&mut self.next);
        if self.one_in < RATE_LAST {
            self.next = ghosts(settings, self.one_in * 2);
            for (next, whole) in self.next.iter().zip(&self.sizes) {
                next.take_over(whole, threshold(self.one_in * 2), now);
            }
        }
    }
}

impl Ghost {
    /// Copies the entries of another ghost whose hash is lower than `limit`, in the order of their last use.
    fn take_over(&self, other: &Self, limit: u32, now: Tick) {
        let mut entries: Vec<(Tick, bool, Key, Fill)> = Vec::new();
        let mut cursor = 0;
        loop {
            cursor = other.l1.scan(cursor, SCAN_STEP, now, |key, resident| {
                let hash = key.try_into().map_or(u32::MAX, u32::from_le_bytes);
                if let Some(key) = Key::copied(key).ok().filter(|_| hash < limit) {
                    let (value, deadline) = (resident.hit.value.clone(), resident.deadline);
                    let fill = Fill { value, expires_at: deadline, deadline, group: 0 };
                    entries.push((resident.used_at, resident.hit.hits > 0, key, fill));
                }
            });
            if cursor == 0 {
                break;
            }
        }
        entries.sort_by_key(|(used_at, ..)| *used_at);
        for (number, (_, was_hit, key, fill)) in entries.into_iter().enumerate() {
            self.fill(&key, fill, Token(number as u64), now);
            // The eviction policy has to see that the entry was used.
            let _used = was_hit.then(|| self.l1.get(&key, now, true));
        }
    }

    fn fill(&self, key: &Key, fill: Fill, token: Token, now: Tick) {
        if matches!(self.l1.lease(key, token, now, self.epoch, false), Leased::Lead) {
            // A copy that is too large is not kept in the real L1 either.
            let _kept: Filled = self.l1.fill(key, token, fill, now);
        }
    }

    /// Returns whether the ghost answers the read; if not, inserts a copy.
    fn read(&self, key: &Key, touch: &Touch, token: Token) -> bool {
        if self.l1.get(key, touch.at, true).is_some() {
            return true;
        }
        self.take_in(key, touch, token);
        false
    }

    fn take_in(&self, key: &Key, touch: &Touch, token: Token) {
        if let Some(weight) = touch.weight {
            let value = Value::from(bytes::Bytes::copy_from_slice(&weight.to_le_bytes()));
            let (expires_at, deadline) = (touch.deadline, touch.deadline);
            self.fill(key, Fill { value, expires_at, deadline, group: 0 }, token, touch.at);
        }
    }
}

/// Returns the threshold for a sample of one key in `one_in`: keys with a lower hash are in the sample.
pub(super) fn threshold(one_in: u32) -> u32 {
    u32::MAX / one_in
}

fn scaled(whole: u64, quarters: u64, one_in: u32) -> u64 {
    let scaled = u128::from(whole) * u128::from(quarters) / (4 * u128::from(one_in));
    u64::try_from(scaled).unwrap_or(u64::MAX).max(1)
}

fn ghosts(settings: &Settings, one_in: u32) -> Vec<Ghost> {
    let ghost = |&quarters: &u64| {
        let capacity_bytes = match settings.capacity_bytes {
            u64::MAX => u64::MAX,
            bytes => scaled(bytes, quarters, one_in),
        };
        let max_entries = settings.max_entries.map(|entries| scaled(entries, quarters, one_in));
        let l1 = L1::ghost(Settings { capacity_bytes, max_entries, ..*settings });
        let epoch = l1.begin(Tick::FAR);
        Ghost { l1, epoch }
    };
    QUARTERS.iter().map(ghost).collect()
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::l1::PolicyKind;

    const SETTINGS: Settings = Settings { capacity_bytes: 4 << 20, max_entries: None, policy: PolicyKind::Lru };

    /// Weights from 500 to 1,500, constant for each key.
    fn weight(number: u64) -> u64 {
        500 + number * 7_919 % 1_000
    }

    fn hash(number: u64) -> u32 {
        (number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32) as u32
    }

    /// Plays the reads on a separate plain L1 of `quarters` and returns its hit rate.
    fn measured(quarters: u64, order: &[u64]) -> f64 {
        let settings = Settings { capacity_bytes: scaled(SETTINGS.capacity_bytes, quarters, 1), ..SETTINGS };
        let l1 = L1::ghost(settings);
        let ghost = Ghost { epoch: l1.begin(Tick::FAR), l1 };
        let hits = order.iter().enumerate().filter(|(at, number)| {
            let touch = Touch { hash: 0, weight: Some(weight(**number)), deadline: Tick::FAR, at: Tick(1) };
            ghost.read(&Key::copied(&number.to_le_bytes()).expect("a key"), &touch, Token(*at as u64))
        });
        hits.count() as f64 / order.len() as f64
    }

    impl WhatIf {
        /// Entries of the current ghosts, and of the ghosts that are to replace them.
        fn entries(&self) -> (Vec<u64>, Vec<u64>) {
            let ghosts = self.ghosts.lock();
            let entries = |ghost: &Ghost| ghost.l1.usage().entries;
            (ghosts.sizes.iter().map(entries).collect(), ghosts.next.iter().map(entries).collect())
        }
    }

    fn play(what_if: &WhatIf, order: &[u64]) {
        for (at, number) in order.iter().enumerate() {
            let (number, hash) = (*number, hash(*number));
            if what_if.wants(hash) {
                what_if.read(Touch { hash, weight: Some(weight(number)), deadline: Tick::FAR, at: Tick(1) });
            }
            if at % 500 == 499 {
                what_if.play(Tick(1), at as u64 + 1);
            }
        }
    }

    #[test]
    fn ghosts_say_what_an_l1_of_that_size_does() {
        let mut rng = Rng::with_seed(5);
        let order: Vec<u64> = (0..200_000).map(|_| 60_000_f64.powf(rng.f64()) as u64).collect();
        let what_if = WhatIf::new(SETTINGS);
        what_if.play(Tick(1), 0);
        play(&what_if, &order);
        let estimates = what_if.estimates(Tick(1), order.len() as u64);
        assert_eq!(estimates.reads, order.len() as u64);
        for (estimate, quarters) in estimates.sizes.iter().zip(QUARTERS) {
            let (estimated, truth) = (estimate.l1_hit_rate.expect("many reads"), measured(quarters, &order));
            assert!((estimated - truth).abs() < 0.02, "{} times: {estimated:.4} of {truth:.4}", estimate.scale);
        }
    }

    #[test]
    fn when_the_sample_is_halved_nothing_has_to_be_learned_anew() {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        let mut rng = Rng::with_seed(seed);
        // Two reads in ten are for 1,500 keys, the others for keys that are never read again: least recently used
        // eviction fails.
        let draw = |at: u64| if rng.u64(..10) < 2 { rng.u64(..1_500) } else { 10_000 + at };
        let order: Vec<u64> = (0..80_000).map(draw).collect();
        let settings = Settings { capacity_bytes: u64::MAX, max_entries: Some(2_000), policy: PolicyKind::Learned };
        let (what_if, l1) = (WhatIf::new(settings), L1::ghost(settings));
        let real = Ghost { epoch: l1.begin(Tick::FAR), l1 };
        let (before, after) = order.split_at(70_000);
        let touch = |number: u64| Touch { hash: hash(number), weight: Some(1), deadline: Tick::FAR, at: Tick(1) };
        let misses = |order: &[u64]| {
            let is_miss = |number: &&u64| {
                let key = Key::copied(&number.to_le_bytes()).expect("a key");
                !real.read(&key, &touch(**number), Token(**number))
            };
            order.iter().filter(is_miss).count() as u64
        };
        play(&what_if, before);
        misses(before);
        (0..=ROUND_MAX).for_each(|_| what_if.changed(hash(1), Tick(1)));
        what_if.play(Tick(1), 70_000);
        let estimated_before = what_if.ghosts.lock().now.misses[1];
        assert_eq!(what_if.ghosts.lock().one_in, 2);
        play(&what_if, after);
        let (estimated, truth) = (what_if.ghosts.lock().now.misses[1] - estimated_before, misses(after));
        assert!(estimated.abs_diff(truth) < 200, "of 10,000 reads {truth} are misses; the estimate is {estimated}");
    }

    #[test]
    fn those_to_come_hear_of_changes() {
        let what_if = WhatIf::new(SETTINGS);
        let touch = |weight| Touch { hash: 1, weight, deadline: Tick::FAR, at: Tick(1) };
        let entries = || {
            what_if.play(Tick(1), 0);
            what_if.entries()
        };
        what_if.read(touch(Some(100)));
        assert_eq!(entries(), (vec![1; 4], vec![1; 4]));
        what_if.changed(1, Tick(1));
        assert_eq!(entries(), (vec![0; 4], vec![0; 4]));
        what_if.put(touch(Some(100)));
        what_if.read(Touch { hash: u32::MAX - 1, ..touch(Some(100)) });
        assert_eq!(entries(), (vec![2; 4], vec![1; 4]), "the key is not in the halved sample");
    }

    #[test]
    fn the_sample_is_halved_as_l1_grows_and_stays_bounded() {
        let what_if = WhatIf::new(Settings { capacity_bytes: 1 << 40, ..SETTINGS });
        let order: Vec<u64> = (0..500_000).collect();
        play(&what_if, &order);
        let estimates = what_if.estimates(Tick(1), order.len() as u64);
        assert!((16..=64).contains(&estimates.one_in), "{}", estimates.one_in);
        assert!(what_if.wants(0) && !what_if.wants(u32::MAX / 16 + 1));
        let (sizes, next) = what_if.entries();
        assert!(sizes.iter().all(|entries| *entries <= ENTRIES_MAX + 1_000), "{sizes:?}");
        assert!(next.iter().zip(&sizes).all(|(next, now)| next * 2 <= now + now / 10), "{next:?} of {sizes:?}");
        assert!(estimates.sizes[3].l1_hit_rate.expect("reads") < 0.05, "no key was read twice");
        (0..WAITING_MAX * 2).for_each(|_| what_if.changed(0, Tick(1)));
        assert_eq!(what_if.waiting.lock().len(), WAITING_MAX);
    }

    #[test]
    fn a_changed_key_and_one_whose_time_is_over_are_misses() {
        let what_if = WhatIf::new(SETTINGS);
        let read = |at: u64, weight| what_if.read(Touch { hash: 1, weight, deadline: Tick(at + 50), at: Tick(at) });
        let misses = |at: u64| {
            what_if.play(Tick(at), 0);
            what_if.ghosts.lock().now.misses[0]
        };
        read(1, None);
        read(2, Some(100));
        read(3, Some(100));
        assert_eq!(misses(3), 2, "a key that no tier has creates no entry");
        what_if.changed(1, Tick(4));
        read(4, Some(100));
        assert_eq!(misses(4), 3);
        read(60, Some(100));
        assert_eq!(misses(60), 4, "the entry had expired");
    }
}
