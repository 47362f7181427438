//! Samples keys by their template and advises a TTL for each template.
//!
//! Bounded: [`KEYS_MAX`] keys of about 200 bytes, [`TEMPLATES_MAX`] templates.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;

use super::{
    advice::{Advice, TtlSettings, advice_of},
    key_track::KeyTrack,
};
use crate::{
    clock::{Tick, millis},
    learn::recorder::Happened,
    model::Key,
};

/// Maximum number of sampled keys whose read and change intervals are tracked.
const KEYS_MAX: usize = 8_192;
/// Maximum number of key templates with TTL statistics.
pub const TEMPLATES_MAX: usize = 1_024;

/// A sampled key.
#[derive(Debug, Default)]
struct SampledKey {
    template: u64,
    track: KeyTrack,
    seen_at: Option<Tick>,
}

/// The intervals of all sampled keys.
#[derive(Debug, Default)]
pub struct Intervals {
    keys: HashMap<Key, SampledKey, foldhash::fast::RandomState>,
    names: HashMap<u64, Arc<str>>,
}

impl Intervals {
    /// Notes an event of a sampled key. `template` is the hash of its template, and a function that returns its name.
    pub fn note(&mut self, key: &Key, template: (u64, impl FnOnce() -> String), happened: Happened, at: Tick) {
        if let Some(track) = self.track(key, template, at) {
            track.note(happened, at);
        }
    }

    /// Notes the length of a value that is written, and its TTL.
    pub fn note_value(&mut self, key: &[u8], bytes: u64, ttl: Option<Duration>) {
        if let Some(SampledKey { track, .. }) = self.keys.get_mut(key) {
            (track.value_bytes, track.ttl_ms) = (Some(bytes), ttl.map(millis));
        }
    }

    fn track(&mut self, key: &Key, template: (u64, impl FnOnce() -> String), at: Tick) -> Option<&mut KeyTrack> {
        let (template, name) = template;
        if !self.names.contains_key(&template) {
            if self.names.len() >= TEMPLATES_MAX {
                return None;
            }
            self.names.insert(template, name().into());
        }
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(key) {
            self.make_room();
        }
        let sampled = self.keys.entry(key.clone()).or_default();
        // Words of the key may have become variables since.
        sampled.template = template;
        sampled.seen_at = Some(at);
        Some(&mut sampled.track)
    }

    /// Removes the half of the keys that were not seen for longest, and templates without keys.
    fn make_room(&mut self) {
        let mut seen: Vec<Tick> = self.keys.values().filter_map(|sampled| sampled.seen_at).collect();
        let middle = seen.len() / 2;
        let (_, &mut median, _) = seen.select_nth_unstable(middle);
        self.keys.retain(|_, sampled| sampled.seen_at > Some(median));
        let mut used: Vec<u64> = self.keys.values().map(|sampled| sampled.template).collect();
        used.sort_unstable();
        self.names.retain(|template, _| used.binary_search(template).is_ok());
    }

    /// Returns the advice for each template with enough evidence, by name.
    #[must_use]
    pub fn advice(&self, settings: &TtlSettings) -> Vec<Advice> {
        let mut tracks: HashMap<u64, Vec<&KeyTrack>> = HashMap::new();
        for sampled in self.keys.values() {
            tracks.entry(sampled.template).or_default().push(&sampled.track);
        }
        let named = tracks.into_iter().filter_map(|(template, tracks)| {
            let name = Arc::clone(self.names.get(&template)?);
            advice_of(template, name, &tracks, settings)
        });
        let mut all: Vec<Advice> = named.collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Returns the number of sampled keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::{
        recorder::{Sample, Wrote},
        ttl::advice::EVIDENCE_MIN,
    };

    const SETTINGS: TtlSettings =
        TtlSettings { freshness: 1.0, min: Duration::from_secs(1), max: Duration::from_secs(86_400) };

    fn key(number: u64) -> Key {
        Key::copied(format!("user:{number}").as_bytes()).expect("a key")
    }

    fn note(intervals: &mut Intervals, number: u64, happened: Happened, at_s: u64) {
        intervals.note(&key(number), (1, || "user:{d}".to_owned()), happened, Tick(at_s * 1_000 + 1));
    }

    const HIT: Happened = Happened::Hit(Sample::Key);
    const WRITTEN: Happened = Happened::Written(Wrote::Value(None));

    #[test]
    fn advice_has_evidence_and_an_expected_effect() {
        let mut intervals = Intervals::default();
        for second in (0..3_000).step_by(10) {
            (0..5).for_each(|number| note(&mut intervals, number, HIT, second));
            if second % 100 == 50 {
                (0..5).for_each(|number| note(&mut intervals, number, WRITTEN, second));
            }
            (0..5).for_each(|number| intervals.note_value(&key(number), 100, Some(Duration::from_secs(1_000))));
        }
        let advice = &intervals.advice(&SETTINGS)[0];
        assert_eq!((&*advice.name, advice.keys, advice.access.count, advice.ttl_ms), ("user:{d}", 5, 50, 25_000));
        assert_eq!((advice.access.p50_ms, advice.change.map(|change| change.p90_ms)), (10_000, Some(100_000)));
        assert_eq!((advice.current_ttl_ms, advice.value_bytes), (Some(1_000_000), 100));
        // Of ten reads ten seconds apart, all hit with 1,000 s; with 25 s every third one misses.
        assert_eq!((advice.now.hit_rate, advice.then.hit_rate), (1.0, 0.7));
        assert!(advice.then.stale_share < advice.now.stale_share && advice.now.stale_share < 0.5);
        assert!(advice.then.held < 0.9 && advice.now.held > 0.99, "{advice:?}");
    }

    #[test]
    fn advice_needs_enough_intervals() {
        let mut intervals = Intervals::default();
        (0..EVIDENCE_MIN).for_each(|number| note(&mut intervals, number, HIT, number));
        assert!(intervals.advice(&SETTINGS).is_empty(), "no key was read twice");
        // A key that is alone in its template is as good evidence as many keys.
        (100..99 + EVIDENCE_MIN).for_each(|second| note(&mut intervals, 0, HIT, second));
        assert!(intervals.advice(&SETTINGS).is_empty(), "one interval too few");
        note(&mut intervals, 0, HIT, 200);
        assert_eq!(intervals.advice(&SETTINGS).len(), 1);
    }

    /// Returns the mean change interval of three keys that are read each second for ten minutes, while `what` happens to one
    /// of them each minute.
    fn changes(what: impl Fn(&mut Intervals, u64)) -> Option<f64> {
        let mut intervals = Intervals::default();
        for second in 0..600 {
            (1..4).for_each(|number| note(&mut intervals, number, HIT, second));
            if second % 60 == 30 {
                what(&mut intervals, second);
            }
        }
        intervals.advice(&SETTINGS)[0].change.map(|change| change.mean_ms / 1e3)
    }

    #[test]
    fn a_change_counts_once_and_a_fill_is_not_a_change() {
        let written = |intervals: &mut Intervals, second| note(intervals, 1, WRITTEN, second);
        assert_eq!(changes(written), Some(60.0));
        let announced = |intervals: &mut Intervals, second| {
            note(intervals, 1, Happened::Invalidated, second);
            note(intervals, 1, Happened::HitL2, second);
        };
        assert_eq!(changes(announced), Some(60.0), "written straight to Redis");
        for echo_first in [false, true] {
            let echoed = |intervals: &mut Intervals, second| {
                let mut both = [WRITTEN, Happened::Invalidated];
                if echo_first {
                    both.reverse();
                }
                both.into_iter().for_each(|happened| note(intervals, 1, happened, second));
            };
            assert_eq!(changes(echoed), Some(60.0), "a write and its echo");
        }
        let expired = |intervals: &mut Intervals, second| {
            note(intervals, 1, Happened::Invalidated, second);
            note(intervals, 1, Happened::Miss, second);
            note(intervals, 1, WRITTEN, second);
        };
        assert_eq!(changes(expired), None, "it expired and was filled again");
    }

    #[test]
    fn the_number_of_keys_and_templates_is_bounded() {
        let mut intervals = Intervals::default();
        for number in 0..3 * KEYS_MAX as u64 {
            intervals.note(&key(number), (number, || number.to_string()), Happened::Miss, Tick(number + 1));
        }
        assert!(intervals.keys() <= KEYS_MAX && intervals.names.len() <= TEMPLATES_MAX);
        for number in 0..3 * KEYS_MAX as u64 {
            intervals.note(&key(number), (number % 10, || number.to_string()), Happened::Miss, Tick(number + 100_000));
        }
        assert!(intervals.keys() <= KEYS_MAX && intervals.keys() > KEYS_MAX / 4);
    }
}
