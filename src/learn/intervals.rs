//! How often keys are read and how often they change, by template; and which TTL that asks for.
//!
//! Of each key that is followed the last [`KEPT`] intervals are kept, between reads and between changes: older ones and
//! keys that nobody uses any more say nothing. A write is a change, unless it fills in what was missing just before. An
//! invalidation is a change if the key is found afterwards: what expired or was deleted is not. The echo of a write through
//! this node, which Redis announces as well, is the same change.
//!
//! The advice is clamp(min(2.5 × mean access interval, freshness × mean change interval), min, max). What it would do is
//! computed by playing the intervals that are kept, read for read, under today's TTL and under the advised one.
//!
//! Bounded: [`KEYS_MAX`] keys of some 200 bytes, [`TEMPLATES_MAX`] templates.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;

use super::recorder::{Happened, Wrote};
use crate::{
    clock::{Tick, millis},
    model::Key,
};

/// Intervals kept of each key, of reads and of changes.
const KEPT: usize = 10;
/// Keys that are followed.
pub const KEYS_MAX: usize = 8_192;
/// Templates that have a name here.
pub const TEMPLATES_MAX: usize = 1_024;
/// The first term of the advice: so many mean access intervals.
const ACCESS_FACTOR: f64 = 2.5;
/// Intervals between reads that must have been seen before something is advised, also where a template has fewer keys than it
/// takes to keep so many.
const EVIDENCE_MIN: u64 = 20;
/// Intervals between changes below which changes are taken as unknown.
const CHANGES_MIN: usize = 3;
/// A write so soon after a miss fills in what was missing; an announcement so soon after a write is its echo.
const SOON: Duration = Duration::from_secs(10);
const ECHO: Duration = Duration::from_secs(1);

/// What the operator says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How many mean change intervals a TTL may be; 0: changes do not matter.
    pub freshness: f64,
    /// Shortest and longest TTL advised.
    pub min: Duration,
    /// See `min`.
    pub max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { freshness: 1.0, min: Duration::from_secs(300), max: Duration::from_secs(86_400) }
    }
}

impl Settings {
    /// The formula, milliseconds in and out.
    #[must_use]
    pub fn advise(&self, access_ms: f64, change_ms: Option<f64>) -> u64 {
        let by_access = (ACCESS_FACTOR * access_ms) as u64;
        by_access.min(self.fresh_ms(change_ms)).clamp(millis(self.min), millis(self.max))
    }

    /// Its second term, what changes allow: `u64::MAX` where none are known, or do not matter.
    #[must_use]
    pub fn fresh_ms(&self, change_ms: Option<f64>) -> u64 {
        change_ms.filter(|_| self.freshness > 0.0).map_or(u64::MAX, |ms| (self.freshness * ms) as u64)
    }
}

/// The last intervals, milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    ms: [u64; KEPT],
    count: u8,
    /// How many there have been.
    seen: u32,
    at: Option<Tick>,
}

impl Last {
    fn note(&mut self, now: Tick) {
        if let Some(before) = self.at {
            self.push(millis(now.since(before)));
        }
        self.at = Some(now);
    }

    fn push(&mut self, interval: u64) {
        self.ms.copy_within(..KEPT - 1, 1);
        self.ms[0] = interval;
        self.count = (self.count + 1).min(KEPT as u8);
        self.seen = self.seen.saturating_add(1);
    }

    /// Newest first.
    fn intervals(&self) -> &[u64] {
        &self.ms[..usize::from(self.count)]
    }
}

/// One key.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Track {
    template: u64,
    reads: Last,
    changes: Last,
    missed_at: Option<Tick>,
    written_at: Option<Tick>,
    /// An invalidation that is a change if the key is found.
    announced_at: Option<Tick>,
    seen_at: Option<Tick>,
    /// Length of the value that was written last, and the TTL it got.
    bytes: Option<u64>,
    ttl_ms: Option<u64>,
}

impl Track {
    fn read(&mut self, now: Tick, found: bool) {
        self.seen(now, found);
        self.reads.note(now);
    }

    /// A read as far as it tells of changes.
    fn seen(&mut self, now: Tick, found: bool) {
        if let Some(at) = self.announced_at.take().filter(|_| found) {
            self.changes.note(at);
        }
        self.missed_at = (!found).then_some(now);
    }

    /// Something happened, as far as it tells of changes.
    pub(super) fn note_change(&mut self, happened: Happened, at: Tick) {
        match happened {
            Happened::Hit(_) | Happened::FirstUse | Happened::HitL2 => self.seen(at, true),
            Happened::Miss => self.seen(at, false),
            Happened::Written(Wrote::Value(_) | Wrote::Deletion) => self.written(at),
            Happened::Written(Wrote::Lifetime) => self.retimed(at),
            Happened::Invalidated => self.invalidated(at),
            Happened::Failed => {}
        }
    }

    /// A mean of intervals between reads, in a unit of the caller's.
    pub(super) fn note_mean(&mut self, mean: u64) {
        self.reads.push(mean);
    }

    /// Those means, newest first.
    pub(super) fn means(&self) -> &[u64] {
        self.reads.intervals()
    }

    /// Intervals between changes.
    pub(super) fn changes(&self) -> Spread {
        Spread::of(self.changes.intervals().to_vec())
    }

    fn written(&mut self, now: Tick) {
        let fills_in = self.missed_at.take().is_some_and(|at| now.since(at) <= SOON);
        // Whatever was announced just before was this write.
        self.announced_at = self.announced_at.filter(|at| now.since(*at) > ECHO);
        self.written_at = Some(now);
        if !fills_in {
            self.changes.note(now);
        }
    }

    /// Its value is as before: what is announced of it now is no change.
    fn retimed(&mut self, now: Tick) {
        self.announced_at = self.announced_at.filter(|at| now.since(*at) > ECHO);
        self.written_at = Some(now);
    }

    fn invalidated(&mut self, now: Tick) {
        if self.written_at.is_none_or(|at| now.since(at) > ECHO) {
            self.announced_at = Some(now);
        }
    }
}

/// What is known of all templates.
#[derive(Debug, Default)]
pub struct Intervals {
    keys: HashMap<Key, Track, foldhash::fast::RandomState>,
    names: HashMap<u64, Arc<str>>,
}

/// How a TTL would do, as played on the intervals that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Expected {
    /// Reads that would find the value there.
    pub hit_rate: f64,
    /// Reads that would find a value older than the last change, if nobody told of changes.
    pub stale_share: f64,
    /// The part of the time that a value is held.
    pub held: f64,
}

/// What is advised for one template, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// The template's number, as its shape says.
    pub template: u64,
    /// Its name.
    pub name: Arc<str>,
    /// The TTL.
    pub ttl_ms: u64,
    /// Mean of what its writes got lately; `None` where they got none, or none was seen.
    pub current_ttl_ms: Option<u64>,
    /// Keys that were followed.
    pub keys: usize,
    /// Intervals between reads: how many, mean, median, 90th percentile.
    pub access: Spread,
    /// The same between changes; `None` while too few are known.
    pub change: Option<Spread>,
    /// Mean length of the values that were written.
    pub value_bytes: u64,
    /// Under the TTL of today.
    pub now: Expected,
    /// Under the advised one.
    pub then: Expected,
}

/// Intervals in figures, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Their mean.
    pub mean_ms: f64,
    /// The median.
    pub p50_ms: u64,
    /// What nine in ten do not exceed.
    pub p90_ms: u64,
}

impl Spread {
    fn of(mut intervals: Vec<u64>) -> Self {
        if intervals.is_empty() {
            return Self::default();
        }
        intervals.sort_unstable();
        let count = intervals.len();
        let sum: f64 = intervals.iter().map(|&ms| ms as f64).sum();
        Self { count, mean_ms: sum / count as f64, p50_ms: intervals[count / 2], p90_ms: intervals[count * 9 / 10] }
    }
}

impl Intervals {
    /// Something happened to a key that is followed. `shape` is its template: number and name.
    pub fn note(&mut self, key: &Key, shape: (u64, impl FnOnce() -> String), happened: Happened, at: Tick) {
        let Some(track) = self.track(key, shape, at) else { return };
        match happened {
            Happened::Hit(_) | Happened::FirstUse | Happened::HitL2 => track.read(at, true),
            Happened::Miss => track.read(at, false),
            Happened::Written(_) | Happened::Invalidated | Happened::Failed => track.note_change(happened, at),
        }
    }

    /// A value of this length was written with this TTL.
    pub fn note_value(&mut self, key: &[u8], bytes: u64, ttl: Option<Duration>) {
        if let Some(track) = self.keys.get_mut(key) {
            (track.bytes, track.ttl_ms) = (Some(bytes), ttl.map(millis));
        }
    }

    fn track(&mut self, key: &Key, shape: (u64, impl FnOnce() -> String), at: Tick) -> Option<&mut Track> {
        let (template, name) = shape;
        if !self.names.contains_key(&template) {
            if self.names.len() >= TEMPLATES_MAX {
                return None;
            }
            self.names.insert(template, name().into());
        }
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(key) {
            self.make_room();
        }
        let track = self.keys.entry(key.clone()).or_default();
        // Words may have become variables since.
        track.template = template;
        track.seen_at = Some(at);
        Some(track)
    }

    /// Forgets the half of the keys that were not met for longest, and templates without keys.
    fn make_room(&mut self) {
        let mut seen: Vec<Tick> = self.keys.values().filter_map(|track| track.seen_at).collect();
        let middle = seen.len() / 2;
        let (_, &mut median, _) = seen.select_nth_unstable(middle);
        self.keys.retain(|_, track| track.seen_at > Some(median));
        let mut used: Vec<u64> = self.keys.values().map(|track| track.template).collect();
        used.sort_unstable();
        self.names.retain(|template, _| used.binary_search(template).is_ok());
    }

    /// What is advised for each template of which enough is known, by name.
    #[must_use]
    pub fn advice(&self, settings: &Settings) -> Vec<Advice> {
        let mut tracks: HashMap<u64, Vec<&Track>> = HashMap::new();
        for track in self.keys.values() {
            tracks.entry(track.template).or_default().push(track);
        }
        let named = tracks.into_iter().filter_map(|(template, tracks)| {
            let name = Arc::clone(self.names.get(&template)?);
            advice_of(template, name, &tracks, settings)
        });
        let mut all: Vec<Advice> = named.collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Keys that are followed.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

fn advice_of(template: u64, name: Arc<str>, tracks: &[&Track], settings: &Settings) -> Option<Advice> {
    let all = |of: fn(&Track) -> &Last| tracks.iter().flat_map(|track| of(track).intervals()).copied().collect();
    if tracks.iter().map(|track| u64::from(track.reads.seen)).sum::<u64>() < EVIDENCE_MIN {
        return None;
    }
    let access = Spread::of(all(|track| &track.reads));
    let change = Some(Spread::of(all(|track| &track.changes))).filter(|spread| spread.count >= CHANGES_MIN);
    let change_ms = change.map(|spread| spread.mean_ms);
    let ttl_ms = settings.advise(access.mean_ms, change_ms);
    let current_ttl_ms = mean(tracks.iter().filter_map(|track| track.ttl_ms));
    let play = |ttl_ms| expected(tracks, ttl_ms, change_ms);
    Some(Advice {
        template,
        name,
        ttl_ms,
        current_ttl_ms,
        keys: tracks.len(),
        access,
        change,
        value_bytes: mean(tracks.iter().filter_map(|track| track.bytes)).unwrap_or(0),
        now: play(current_ttl_ms),
        then: play(Some(ttl_ms)),
    })
}

fn mean(values: impl Iterator<Item = u64>) -> Option<u64> {
    let (sum, count) = values.fold((0_u128, 0_u128), |(sum, count), value| (sum + u128::from(value), count + 1));
    sum.checked_div(count).and_then(|mean| u64::try_from(mean).ok())
}

/// Plays the reads of each key under a TTL: the first one fills, a read after its end fills again. `None`: no TTL.
fn expected(tracks: &[&Track], ttl_ms: Option<u64>, change_ms: Option<f64>) -> Expected {
    let ttl_ms = ttl_ms.unwrap_or(u64::MAX);
    let (mut reads, mut hits, mut stale, mut held, mut span) = (0_u64, 0_u64, 0.0, 0.0, 0.0);
    for track in tracks {
        let mut age: u64 = 0;
        for &interval in track.reads.intervals().iter().rev() {
            reads += 1;
            span += interval as f64;
            let older = age.saturating_add(interval);
            held += (older.min(ttl_ms) - age.min(ttl_ms)) as f64;
            if older >= ttl_ms {
                age = 0;
                continue;
            }
            hits += 1;
            age = older;
            // Changes come at any time alike.
            stale += change_ms.map_or(0.0, |change| 1.0 - (-(age as f64) / change.max(1.0)).exp());
        }
    }
    if reads == 0 || span == 0.0 {
        return Expected::default();
    }
    Expected { hit_rate: hits as f64 / reads as f64, stale_share: stale / reads as f64, held: held / span }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::recorder::Sample;

    const SETTINGS: Settings =
        Settings { freshness: 1.0, min: Duration::from_secs(1), max: Duration::from_secs(86_400) };

    fn key(number: u64) -> Key {
        Key::copied(format!("user:{number}").as_bytes()).expect("a key")
    }

    fn note(intervals: &mut Intervals, number: u64, happened: Happened, at_s: u64) {
        intervals.note(&key(number), (1, || "user:{d}".to_owned()), happened, Tick(at_s * 1_000 + 1));
    }

    const HIT: Happened = Happened::Hit(Sample::Key);
    const WRITTEN: Happened = Happened::Written(Wrote::Value(None));

    #[test]
    fn the_formula_is_the_one_of_the_design() {
        let of = |access_s: f64, change_s: Option<f64>| {
            Settings::default().advise(access_s * 1e3, change_s.map(|s| s * 1e3)) / 1_000
        };
        assert_eq!((of(200.0, None), of(200.0, Some(400.0)), of(1.0, None)), (500, 400, 300));
        assert_eq!(of(1e6, Some(1e9)), 86_400);
        let deaf = Settings { freshness: 0.0, ..SETTINGS };
        assert_eq!((deaf.advise(1e4, Some(1.0)), SETTINGS.advise(1e4, Some(1.0))), (25_000, 1_000));
    }

    #[test]
    fn advice_has_evidence_and_says_what_it_would_do() {
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
        // Of ten reads each ten seconds: all hit under 1,000 s; under 25 s every third misses.
        assert_eq!((advice.now.hit_rate, advice.then.hit_rate), (1.0, 0.7));
        assert!(advice.then.stale_share < advice.now.stale_share && advice.now.stale_share < 0.5);
        assert!(advice.then.held < 0.9 && advice.now.held > 0.99, "{advice:?}");
    }

    #[test]
    fn too_little_is_no_evidence() {
        let mut intervals = Intervals::default();
        (0..EVIDENCE_MIN).for_each(|number| note(&mut intervals, number, HIT, number));
        assert!(intervals.advice(&SETTINGS).is_empty(), "no key was read twice");
        // One key that is alone in its template tells as much as many.
        (100..99 + EVIDENCE_MIN).for_each(|second| note(&mut intervals, 0, HIT, second));
        assert!(intervals.advice(&SETTINGS).is_empty(), "one interval too few");
        note(&mut intervals, 0, HIT, 200);
        assert_eq!(intervals.advice(&SETTINGS).len(), 1);
    }

    /// Changes of one of three keys that are read each second for ten minutes, where each minute `what` happens to it.
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
    fn a_change_is_a_change_once_and_a_fill_is_none() {
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
