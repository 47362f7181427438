//! Intervals of the hottest keys, and a TTL for each: the sample of keys by hash ([`is_sampled`]) omits 63 of 64 of them.
//!
//! Hot keys are found by the hits that are sampled by turn, 1 hit in [`HIT_TURNS`] whatever its key: a key with [`TURNS_MIN`]
//! such hits is hot. Between two sampled hits of a key lie about [`HIT_TURNS`] reads of it, so the time between them divided
//! by that number is a mean interval; the last means are kept. Writes, announcements and reads that L1 did not answer are
//! all recorded, so changes are as exact as those of sampled keys.
//!
//! Bounded: [`KEYS_MAX`] keys of about 300 bytes. A key without a place removes one turn from all others, and takes the place
//! of a key that has none left (frequent items by Misra and Gries). A key that is not read for [`FORGOTTEN_AFTER`] is removed.
//!
//! [`is_sampled`]: crate::learn::recorder::is_sampled

use std::time::Duration;

use hashbrown::HashMap;

use super::{
    advice::TtlSettings,
    key_track::{CHANGES_MIN, KeyTrack, Spread},
};
use crate::{
    clock::Tick,
    learn::recorder::{HIT_TURNS, Happened, Sample},
    model::Key,
};

/// Maximum number of hot keys whose read intervals are tracked individually.
pub(super) const KEYS_MAX: usize = 256;
/// Turns from which a key is hot: some 500 hits.
const TURNS_MIN: u32 = 8;
/// Minimum number of means for an advice.
const EVIDENCE_MIN: usize = 5;
/// Time without a read after which a key is removed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// One key that is counted.
#[derive(Debug, Default)]
struct HotKeyTrack {
    track: KeyTrack,
    turns: u32,
    turn_at: Option<Tick>,
    /// Other recorded reads since the last turn.
    others: u32,
}

/// The keys that are counted.
#[derive(Debug, Default)]
pub struct HotKeyIntervals(HashMap<Key, HotKeyTrack, foldhash::fast::RandomState>);

/// The advice for one hot key, and its evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct HotKeyAdvice {
    /// The key.
    pub key: Key,
    /// Number of reads that its intervals are the mean of.
    pub reads: u64,
    /// Mean interval between reads, in milliseconds.
    pub access_ms: f64,
    /// Intervals between changes; `None` while too few are known.
    pub change: Option<Spread>,
    /// TTL of the formula for this key alone, in milliseconds.
    pub ttl_ms: u64,
}

impl HotKeyIntervals {
    /// Notes an event of a key.
    pub fn note(&mut self, key: &Key, happened: Happened, at: Tick) {
        if happened == Happened::Hit(Sample::Turn) {
            return self.turn(key, at);
        }
        let Some(hot) = self.0.get_mut(key) else { return };
        match happened {
            Happened::Miss | Happened::HitL2 | Happened::FirstUse => hot.others += 1,
            Happened::Hit(_) | Happened::Failed => return,
            Happened::Written(_) | Happened::Invalidated => {}
        }
        hot.track.note_change(happened, at);
    }

    fn turn(&mut self, key: &Key, at: Tick) {
        if self.0.len() >= KEYS_MAX && !self.0.contains_key(key) {
            self.0.retain(|_, hot| {
                hot.turns -= 1;
                hot.turns > 0
            });
            if self.0.len() >= KEYS_MAX {
                return;
            }
        }
        let hot = self.0.entry(key.clone()).or_default();
        let reads = u64::from(HIT_TURNS) + u64::from(std::mem::take(&mut hot.others));
        if let Some(before) = hot.turn_at.replace(at) {
            // Microseconds: a hot key is read many times in a millisecond.
            hot.track.note_mean((at.0.saturating_sub(before.0)).saturating_mul(1_000) / reads);
        }
        hot.turns = hot.turns.saturating_add(1);
        hot.track.note_change(Happened::Hit(Sample::Turn), at);
    }

    /// Removes the keys that are no longer read.
    pub fn forget(&mut self, now: Tick) {
        self.0.retain(|_, hot| hot.turn_at.is_some_and(|at| now.since(at) < FORGOTTEN_AFTER));
    }

    /// Returns the advice for all hot keys with enough evidence, hottest first.
    #[must_use]
    pub fn hottest(&self, settings: &TtlSettings) -> Vec<HotKeyAdvice> {
        let hot = self.0.iter().filter(|(_, hot)| hot.turns >= TURNS_MIN);
        let known = hot.filter_map(|(key, hot)| {
            let means = hot.track.reads.intervals();
            let sum: u64 = means.iter().sum();
            let access_ms = sum as f64 / means.len().max(1) as f64 / 1e3;
            let change = Some(hot.track.change_spread()).filter(|spread| spread.count >= CHANGES_MIN);
            (means.len() >= EVIDENCE_MIN).then(|| HotKeyAdvice {
                key: key.clone(),
                reads: means.len() as u64 * u64::from(HIT_TURNS),
                access_ms,
                change,
                ttl_ms: settings.advise(access_ms, change.map(|change| change.mean_ms)),
            })
        });
        let mut known: Vec<HotKeyAdvice> = known.collect();
        known.sort_by(|a, b| a.access_ms.total_cmp(&b.access_ms).then_with(|| a.key.cmp(&b.key)));
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::recorder::Wrote;

    const SETTINGS: TtlSettings =
        TtlSettings { freshness: 1.0, min: Duration::from_millis(1), max: Duration::from_secs(86_400) };

    fn key(number: u64) -> Key {
        Key::copied(format!("k:{number}").as_bytes()).expect("a key")
    }

    const TURN: Happened = Happened::Hit(Sample::Turn);

    #[test]
    fn intervals_cover_all_reads_and_all_changes() {
        let mut hot = HotKeyIntervals::default();
        // 1,000 reads per second of the first key, 1 in 64 recorded; half as many of the second. Redis announces a change each
        // 5 s.
        for ms in 1..=60_000_u64 {
            if ms % 64 == 0 {
                hot.note(&key(1), TURN, Tick(ms));
            }
            if ms % 128 == 0 {
                hot.note(&key(2), TURN, Tick(ms));
            }
            if ms % 5_000 == 0 {
                hot.note(&key(1), Happened::Invalidated, Tick(ms));
                hot.note(&key(1), Happened::HitL2, Tick(ms + 1));
            }
        }
        let known = hot.hottest(&SETTINGS);
        assert_eq!(known.iter().map(|hot| hot.key.clone()).collect::<Vec<_>>(), [key(1), key(2)]);
        assert!((known[0].access_ms - 1.0).abs() < 0.05 && (known[1].access_ms - 2.0).abs() < 0.05, "{known:?}");
        assert_eq!(known[0].change.map(|change| change.p50_ms), Some(5_000));
        assert_eq!((known[1].change, known[1].ttl_ms), (None, 5), "2.5 times 2 ms");
    }

    #[test]
    fn a_write_and_its_echo_are_one_change_and_a_touch_is_not_a_change() {
        let mut hot = HotKeyIntervals::default();
        for second in 1..=100_u64 {
            hot.note(&key(1), TURN, Tick(second * 1_000));
            if second % 10 == 0 {
                hot.note(&key(1), Happened::Written(Wrote::Value(None)), Tick(second * 1_000 + 1));
                hot.note(&key(1), Happened::Invalidated, Tick(second * 1_000 + 2));
            }
            if second % 10 == 5 {
                hot.note(&key(1), Happened::Written(Wrote::Lifetime), Tick(second * 1_000 + 1));
                hot.note(&key(1), Happened::Invalidated, Tick(second * 1_000 + 2));
            }
        }
        let change = hot.hottest(&SETTINGS)[0].change.expect("it changes");
        assert_eq!((change.p50_ms, change.p90_ms), (10_000, 10_000));
    }

    #[test]
    fn the_hottest_keys_stay_among_many_and_their_number_is_bounded() {
        let mut hot = HotKeyIntervals::default();
        for turn in 0..20_000_u64 {
            hot.note(&key(turn % 4), TURN, Tick(turn + 1));
            hot.note(&key(1_000 + turn), TURN, Tick(turn + 1));
            assert!(hot.0.len() <= KEYS_MAX);
        }
        let known = hot.hottest(&SETTINGS);
        assert_eq!(known.len(), 4, "{known:?}");
        hot.forget(Tick(20_000).plus(FORGOTTEN_AFTER));
        assert!(hot.0.is_empty());
    }
}
