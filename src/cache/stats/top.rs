//! The most expensive keys: by reads, by bytes returned, by misses, and by time spent in L2.
//!
//! Each ranking is a sketch of bounded size that counts up to [`KEYS_MAX`] keys. If there are more keys, the median of
//! all counts is subtracted from each count, and keys without a remaining count are dropped (the frequent items
//! algorithm of Misra and Gries). A count is therefore never too high, and too low by at most the subtracted sum, which
//! each answer reports. L2 reads are counted exactly. Each worker counts the first [`EXACT_HITS`] hits of a group, then
//! one hit in [`HIT_TURNS`], chosen at random and counted [`HIT_TURNS`] times: the count of a key with h such hits is
//! then accurate to about 8 × √h.
//!
//! Each worker has its own sketches, so workers never wait for each other. An answer merges the sketches and adds their
//! errors. Answers are recent: two sketches alternate every five minutes, and an answer covers both.

use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::{clock::Tick, model::Key};

/// Maximum number of keys counted per worker for each ranking of top keys.
const KEYS_MAX: usize = 1_024;
/// Maximum size of a key that is counted for the rankings of top keys. The value bounds the memory of the rankings to 4
/// MB per worker.
const KEY_BYTES_MAX: usize = 512;
/// Time that one sketch counts.
const TURN: Duration = Duration::from_secs(300);
/// Number of hits of a group that each worker counts individually.
const EXACT_HITS: u64 = 1_024;
/// One later hit in this many is counted.
const HIT_TURNS: u64 = 64;

/// Criterion of a ranking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// User reads with any outcome.
    Reads,
    /// Bytes of returned values.
    Bytes,
    /// Reads of keys that no tier has.
    Misses,
    /// Microseconds of L2 reads. The duration of a call for many keys is divided among the keys.
    Time,
}

/// All criteria.
pub const ALL: [By; 4] = [By::Reads, By::Bytes, By::Misses, By::Time];

/// A ranking.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Top {
    /// Keys and their counts, largest first.
    pub keys: Vec<(Key, u64)>,
    /// Each count is too low by at most this number.
    pub error: u64,
    /// Total of all keys.
    pub total: u64,
    /// Time that was counted.
    pub over: Duration,
}

/// Counts of the largest keys.
#[derive(Debug, Default)]
struct Sketch {
    /// Time of the first key.
    begun: Option<Tick>,
    counts: HashMap<Key, u64, foldhash::fast::RandomState>,
    error: u64,
    total: u64,
}

impl Sketch {
    fn note(&mut self, key: &[u8], weight: u64) {
        self.total += weight;
        if let Some(count) = self.counts.get_mut(key) {
            *count += weight;
        } else if key.len() <= KEY_BYTES_MAX
            && let Ok(key) = Key::copied(key)
        {
            self.counts.insert(key, weight);
            if self.counts.len() > KEYS_MAX {
                self.make_room();
            }
        }
    }

    /// Subtracts the median from all counts.
    fn make_room(&mut self) {
        let mut counts: Vec<u64> = self.counts.values().copied().collect();
        let middle = counts.len() / 2;
        let (_, &mut median, _) = counts.select_nth_unstable(middle);
        self.error += median;
        self.counts.retain(|_, count| {
            *count = count.saturating_sub(median);
            *count > 0
        });
    }
}

/// The current sketch and the previous one.
#[derive(Debug, Default)]
struct Turns {
    now: Sketch,
    before: Sketch,
}

impl Turns {
    /// Rotates the sketches when the current one has counted long enough.
    fn at(&mut self, now: Tick) -> &mut Self {
        let begun = *self.now.begun.get_or_insert(now);
        let age = now.since(begun);
        if age >= TURN {
            self.before = std::mem::take(&mut self.now);
            self.now.begun = Some(now);
        }
        if age >= 2 * TURN {
            self.before = Sketch::default();
        }
        self
    }
}

/// Rankings of one worker; workers share no lock.
#[derive(Debug, Default)]
pub(crate) struct Tops(Mutex<[Turns; ALL.len()]>);

impl Tops {
    fn note(&self, noted: &[(By, u64)], key: &[u8], now: Tick) {
        let mut tops = self.0.lock();
        for (by, weight) in noted {
            tops[*by as usize].at(now).now.note(key, *weight);
        }
    }

    /// Counts a hit that returned `bytes` bytes. `before` is the number of earlier hits of the group in this worker.
    #[inline]
    pub(crate) fn hit(&self, key: &[u8], bytes: usize, before: u64, now: Tick) {
        if before < EXACT_HITS {
            self.hits(key, bytes, 1, now);
        } else if is_drawn(before) {
            self.hits(key, bytes, HIT_TURNS, now);
        }
    }

    #[cold]
    fn hits(&self, key: &[u8], bytes: usize, count: u64, now: Tick) {
        self.note(&[(By::Reads, count), (By::Bytes, count * bytes as u64)], key, now);
    }

    /// Counts a read that L1 did not answer: found with a length, missing, or failed (`None`). `waited_us` is the
    /// duration of the L2 call, if L2 was called for this read.
    pub(crate) fn read_not_in_l1(&self, key: &[u8], found: Option<Option<usize>>, waited_us: Option<u64>, now: Tick) {
        let cost = found.map(|bytes| bytes.map_or((By::Misses, 1), |bytes| (By::Bytes, bytes as u64)));
        let time = waited_us.map(|us| (By::Time, us));
        let noted: SmallVec<[(By, u64); 3]> = [Some((By::Reads, 1)), cost, time].into_iter().flatten().collect();
        self.note(&noted, key, now);
    }
}

/// Returns the first `count` keys of a ranking over all workers. The errors of the sketches add up, as the counts do.
pub(crate) fn top<'t>(workers: impl Iterator<Item = &'t Tops>, by: By, count: usize, now: Tick) -> Top {
    let (mut top, mut sums) = (Top::default(), HashMap::<Key, u64, foldhash::fast::RandomState>::default());
    for worker in workers {
        let mut tops = worker.0.lock();
        let turns = tops[by as usize].at(now);
        for (key, count) in turns.now.counts.iter().chain(&turns.before.counts) {
            *sums.entry_ref(key).or_default() += count;
        }
        top.error += turns.now.error + turns.before.error;
        top.total += turns.now.total + turns.before.total;
        let begun = turns.before.begun.or(turns.now.begun);
        top.over = top.over.max(begun.map_or(Duration::ZERO, |begun| now.since(begun)));
    }
    top.keys = sums.into_iter().collect();
    top.keys.sort_unstable_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
    top.keys.truncate(count);
    top
}

/// Draws one number in [`HIT_TURNS`] at random, so that no pattern of a client can correlate with the sample.
#[inline]
fn is_drawn(number: u64) -> bool {
    let mixed = (number ^ number >> 7).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((mixed ^ mixed >> 31).wrapping_mul(0x94D0_49BB_1331_11EB) >> 32).is_multiple_of(HIT_TURNS)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    fn first(tops: &Tops, by: By, count: usize, now: Tick) -> Top {
        top([tops, &Tops::default()].into_iter(), by, count, now)
    }

    const NOW: Tick = Tick(1_000);

    fn key(number: u64) -> Vec<u8> {
        format!("key:{number}").into_bytes()
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let tops = Tops::default();
        for number in 0..100 {
            let found = (number % 2 == 0).then_some(10);
            tops.read_not_in_l1(&key(number), Some(found), Some(7 * number), NOW);
            (0..number).for_each(|_| tops.read_not_in_l1(&key(number), Some(found), None, NOW));
        }
        let reads = first(&tops, By::Reads, 3, NOW);
        let shown: Vec<(&[u8], u64)> = reads.keys.iter().map(|(key, count)| (&**key, *count)).collect();
        assert_eq!(shown, [(&b"key:99"[..], 100), (b"key:98", 99), (b"key:97", 98)]);
        assert_eq!((reads.error, reads.total), (0, 5_050));
        assert_eq!(first(&tops, By::Misses, 1, NOW).keys[0].1, 100);
        let bytes = first(&tops, By::Bytes, 1, NOW).keys;
        assert_eq!((&*bytes[0].0, bytes[0].1), (&b"key:98"[..], 990));
        assert_eq!(first(&tops, By::Time, 1, NOW).keys[0].1, 693);
    }

    #[test]
    fn among_many_keys_no_count_is_off_by_more_than_is_said() {
        let (tops, mut rng) = (Tops::default(), Rng::with_seed(3));
        let mut truth = vec![0; 100_000];
        for _ in 0..400_000 {
            // Ranks drawn in proportion to 1 / rank.
            let number = (100_000_f64.powf(rng.f64()) as u64).min(99_999);
            truth[number as usize] += 1;
            tops.read_not_in_l1(&key(number), Some(None), None, NOW);
        }
        let top = first(&tops, By::Misses, 20, NOW);
        assert!(top.error > 0 && top.error <= 400_000 / (KEYS_MAX as u64 / 2), "{}", top.error);
        let mut best: Vec<u64> = (0..100_000).collect();
        best.sort_by_key(|&number| std::cmp::Reverse(truth[number as usize]));
        for number in &best[..10] {
            assert!(top.keys.iter().any(|(found, _)| **found == key(*number)), "{number} is among the top keys");
        }
        for (found, count) in &top.keys {
            let number: usize = std::str::from_utf8(&found[4..]).expect("text").parse().expect("a number");
            assert!((*count..=count + top.error).contains(&truth[number]), "{number}: {count} of {}", truth[number]);
        }
    }

    #[test]
    fn hits_are_counted_by_lot_and_come_out_right() {
        let (tops, mut rng) = (Tops::default(), Rng::with_seed(4));
        let mut truth = [0_u64; 8];
        for before in 0..1_000_000 {
            // In pairs, which a sample of every 64th hit would correlate with.
            let number = 2 * (rng.u64(..8) / 2) + before % 2;
            truth[number as usize] += 1;
            tops.hit(&key(number), 3, before, NOW);
        }
        for (found, count) in first(&tops, By::Reads, 8, NOW).keys {
            let number: usize = std::str::from_utf8(&found[4..]).expect("text").parse().expect("a number");
            let (count, truth) = (count as f64, truth[number] as f64);
            assert!((count - truth).abs() < 5.0 * 8.0 * truth.sqrt(), "{number}: {count} of {truth}");
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten_and_size_is_bounded() {
        let tops = Tops::default();
        tops.read_not_in_l1(b"old", Some(None), None, NOW);
        let later = NOW.plus(TURN);
        tops.read_not_in_l1(b"new", Some(None), None, later);
        let top = first(&tops, By::Reads, 9, later);
        assert_eq!((top.keys.len(), top.over), (2, TURN));
        let top = first(&tops, By::Reads, 9, later.plus(TURN));
        assert_eq!((top.keys.len(), &*top.keys[0].0), (1, &b"new"[..]));
        assert!(first(&tops, By::Reads, 9, later.plus(4 * TURN)).keys.is_empty());
        tops.read_not_in_l1(&[b'x'; KEY_BYTES_MAX + 1], Some(None), None, later.plus(5 * TURN));
        assert!(first(&tops, By::Reads, 9, later.plus(5 * TURN)).keys.is_empty(), "too old to be kept");
        (0..10_000).for_each(|number| tops.read_not_in_l1(&key(number), Some(None), None, later));
        assert!(tops.0.lock()[0].now.counts.len() <= KEYS_MAX);
    }
}
