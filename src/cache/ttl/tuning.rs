//! Learned TTLs: tracks a sample of the keys, computes an advised TTL for each template, and applies a tuned TTL to
//! writes that specify none, if a policy sets `ttl = "tune"`.
//!
//! A tuned TTL starts at the policy's `default_ttl`, or at the advised TTL if the policy has none. It moves towards the
//! advised TTL by at most a factor of two per hour, up or down. Each write gets a TTL that is up to 10% shorter or
//! longer, so that keys written together do not expire together. Advice without enough evidence changes nothing: the
//! tuned TTL stays. The tuned TTL applies to the keys of the template that are read again; [`Reuse`] predicts which
//! keys are read again, and sets a shorter TTL for the others. The limit per hour applies to the template's TTL.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::{
    cache::{
        Cache, Core, Op, SetExpiry,
        policy::{Policy, Rules, Ttl},
    },
    clock::{Tick, millis},
    learn::{
        recorder::{Event, Happened, is_sampled},
        ttl::{HotKeyIntervals, Intervals, Reuse, TEMPLATES_MAX, TtlOffer},
    },
};

pub use crate::learn::ttl::{Advice, Expected, HotKeyAdvice, Spread};

/// Interval between updates of the advice.
const ADVISE_EVERY: Duration = Duration::from_secs(10);
/// Maximum factor by which a tuned TTL changes per hour.
const HOURLY_FACTOR: f64 = 2.0;
/// Maximum deviation of a write's TTL from the tuned TTL, as a fraction.
const JITTER: f64 = 0.1;

/// The state of one template whose TTL is tuned.
#[derive(Debug, Clone, Copy)]
struct Tuned {
    ttl_ms: f64,
    /// The maximum TTL that the change interval allows.
    fresh_ms: u64,
    at: Tick,
}

/// The learned state of TTLs.
#[derive(Debug, Default)]
pub(crate) struct Tuning {
    intervals: Mutex<Intervals>,
    hot_keys: Mutex<HotKeyIntervals>,
    hottest: ArcSwap<Vec<HotKeyAdvice>>,
    reuse: Mutex<Reuse>,
    /// Tuned TTLs by template.
    tuned: ArcSwap<HashMap<u64, Tuned>>,
    advice: ArcSwap<Vec<Advice>>,
    advised_at: AtomicU64,
}

impl Tuned {
    /// Moves the TTL towards the advice, as far as the elapsed time allows.
    fn moved(self, advised_ms: f64, now: Tick) -> Self {
        let step = HOURLY_FACTOR.powf(now.since(self.at).as_secs_f64() / 3_600.0);
        Self { ttl_ms: advised_ms.clamp(self.ttl_ms / step, self.ttl_ms * step), at: now, ..self }
    }
}

/// Returns the policy of a key, if it tunes TTLs.
fn tuning_policy<'r>(rules: &'r Rules, key: &[u8]) -> Option<&'r Policy> {
    rules.policy(key).filter(|policy| policy.ttl == Ttl::Tune)
}

/// Returns a TTL that deviates from `mean` by up to 10%.
fn jittered(mean: Duration) -> Duration {
    mean.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0))
}

/// Statistics of TTL learning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Followed {
    /// Sampled keys.
    pub keys: u64,
    /// Templates with an advised TTL.
    pub templates: u64,
    /// Hot keys with enough evidence.
    pub hot_keys: u64,
}

impl Core {
    /// Returns the statistics of TTL learning.
    #[must_use]
    pub fn followed(&self) -> Followed {
        Followed {
            keys: self.tuning.intervals.lock().keys() as u64,
            templates: self.tuning.advice.load().len() as u64,
            hot_keys: self.tuning.hottest.load().len() as u64,
        }
    }

    /// Processes events of the sampled keys, and updates the advice when it is due.
    pub(crate) fn learn_ttls(&self, events: &[Event]) {
        let mut intervals = self.tuning.intervals.lock();
        let rules = self.rules.load();
        // Another node may only have touched the key; Redis announces touches as well.
        let is_touch =
            |event: &&Event| event.happened == Happened::Invalidated && rules.touch_on_read_of(&event.key).is_some();
        let mut hot_keys = self.tuning.hot_keys.lock();
        for event in events.iter().filter(|event| !is_touch(event)) {
            hot_keys.note(&event.key, event.happened, event.at);
            if event.happened == Happened::HitL2 {
                self.tuning.reuse.lock().note_l2_hit(&event.key, event.at);
            }
            if !is_sampled(&event.key) {
                continue;
            }
            let (template, name) = self.stats.groups.template_of(&event.key);
            intervals.note(&event.key, (template, || name), event.happened, event.at);
        }
        let now = self.clock.now();
        if now.since(Tick(self.tuning.advised_at.load(Relaxed))) >= ADVISE_EVERY {
            self.tuning.advised_at.store(now.0, Relaxed);
            let advice = intervals.advice(&rules.ttl);
            drop(intervals);
            hot_keys.forget(now);
            self.tuning.hottest.store(Arc::new(hot_keys.hottest(&rules.ttl)));
            self.tune(&advice, &rules, now);
            self.tuning.advice.store(Arc::new(advice));
        }
    }

    /// Moves the tuned TTLs towards the advice. Templates that the interval statistics forgot are removed here too.
    fn tune(&self, advice: &[Advice], rules: &Rules, now: Tick) {
        let before = self.tuning.tuned.load();
        let tuned = advice.iter().map(|advice| {
            let advised_ms = advice.ttl_ms as f64;
            let fresh_ms = rules.ttl.fresh_ms(advice.change.map(|change| change.mean_ms));
            let first_ms = advice.current_ttl_ms.map_or(advised_ms, |ms| ms.max(1) as f64);
            let first = || Tuned { ttl_ms: first_ms, fresh_ms, at: now };
            let tuned = before.get(&advice.template).copied().unwrap_or_else(first);
            (advice.template, Tuned { fresh_ms, ..tuned.moved(advised_ms, now) })
        });
        let mut tuned: HashMap<u64, Tuned> = tuned.collect();
        for (template, kept) in before.iter() {
            if tuned.len() < TEMPLATES_MAX {
                tuned.entry(*template).or_insert(*kept);
            }
        }
        self.tuning.tuned.store(Arc::new(tuned));
    }

    /// Returns the TTL of this write if it specifies none, the policy of its key tunes, and there is enough evidence.
    /// The TTL deviates by up to 10%.
    pub(crate) fn tuned_ttl(&self, rules: &Rules, key: &[u8], op: &Op) -> Option<Duration> {
        let policy = tuning_policy(rules, key)?;
        let offer = self.offer(rules, policy, key)?;
        let now = self.clock.now();
        let mut reuse = self.tuning.reuse.lock();
        let mean_ms = reuse.ttl_ms(key, &offer, now);
        // Without evidence, the TTL of the policy applies unchanged.
        let is_default = !offer.is_advised && mean_ms == offer.ttl_ms;
        let mean = Duration::from_millis(mean_ms);
        let life = if is_default { mean } else { jittered(mean) };
        // Other operations only apply it to keys that they create.
        if matches!(op, Op::Set { expiry: SetExpiry::Never, .. }) {
            let capped = policy.max_ttl.map_or(life, |max| life.min(max));
            reuse.note_write(key, &offer, now, millis(capped));
        }
        Some(life)
    }

    /// Returns the tuned TTL before the deviation.
    pub(crate) fn tuned_mean(&self, rules: &Rules, key: &[u8]) -> Option<Duration> {
        let offer = self.offer(rules, tuning_policy(rules, key)?, key)?;
        let life_ms = self.tuning.reuse.lock().ttl_ms(key, &offer, self.clock.now());
        Some(Duration::from_millis(life_ms))
    }

    /// Returns the TTL that the tuning policy of this key offers a write; `None` if there is no TTL to offer.
    fn offer(&self, rules: &Rules, policy: &Policy, key: &[u8]) -> Option<TtlOffer> {
        let (template, _) = self.stats.groups.template_of(key);
        let tuned = self.tuning.tuned.load().get(&template).copied();
        let ttl_ms = tuned.map(|tuned| tuned.ttl_ms as u64).or(policy.default_ttl.map(millis))?;
        let ttl_ms = policy.max_ttl.map_or(ttl_ms, |max| ttl_ms.min(millis(max)));
        let fresh_ms = tuned.map_or(u64::MAX, |tuned| tuned.fresh_ms);
        Some(TtlOffer { template, ttl_ms, is_advised: tuned.is_some(), shortest_ms: millis(rules.ttl.min), fresh_ms })
    }

    /// Records the length of a value that is about to be written, and its TTL.
    pub(crate) fn note_set(&self, key: &[u8], op: &Op) {
        if let Op::Set { value, expiry, .. } = op
            && is_sampled(key)
        {
            let ttl = match expiry {
                SetExpiry::In(life) => Some(*life),
                SetExpiry::At(at) => Some(Duration::from_millis(at.0.saturating_sub(self.clock.unix().0))),
                SetExpiry::Never | SetExpiry::Keep { .. } => None,
            };
            self.tuning.intervals.lock().note_value(key, value.len() as u64, ttl);
        }
    }
}

/// Advice, and the TTL that resulted from it.
#[derive(Debug, Clone)]
pub struct Advised {
    /// The advice and its evidence.
    pub advice: Advice,
    /// TTL of writes if a policy tunes; `None` if no policy does.
    pub tuned_ms: Option<u64>,
}

impl Cache {
    /// Returns the TTL of a write of this key that specifies none, and the maximum TTL.
    #[must_use]
    pub fn lives_of(&self, key: &[u8]) -> (Option<Duration>, Option<Duration>) {
        let rules = self.core.rules.load();
        let (default, max) = rules.lives_of(key);
        let tuned = self.core.tuned_mean(&rules, key);
        (tuned.map(|mean| if Some(mean) == default { mean } else { jittered(mean) }).or(default), max)
    }

    /// Returns the hottest keys with their intervals, as of the last ten seconds.
    #[must_use]
    pub fn hottest(&self) -> Arc<Vec<HotKeyAdvice>> {
        self.core.tuning.hottest.load_full()
    }

    /// Returns the advice for each template with enough evidence, as of the last ten seconds.
    #[must_use]
    pub fn ttl_advice(&self) -> Vec<Advised> {
        let tuned = self.core.tuning.tuned.load();
        let advice = self.core.tuning.advice.load();
        let is_tuned = self.core.rules.load().policies.iter().any(|policy| policy.ttl == Ttl::Tune);
        let with_tuned = advice.iter().map(|advice| {
            let tuned = tuned.get(&advice.template).filter(|_| is_tuned);
            Advised { advice: advice.clone(), tuned_ms: tuned.map(|tuned| tuned.ttl_ms as u64) }
        });
        with_tuned.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuned_ttl_moves_by_a_doubling_an_hour_at_most() {
        let hour = millis(Duration::from_secs(3_600));
        let tuned = Tuned { ttl_ms: 1_000.0, fresh_ms: u64::MAX, at: Tick(1) };
        assert_eq!(tuned.moved(1e9, Tick(1 + hour)).ttl_ms, 2_000.0);
        assert_eq!(tuned.moved(1.0, Tick(1 + hour)).ttl_ms, 500.0);
        assert_eq!(tuned.moved(1_500.0, Tick(1 + hour)).ttl_ms, 1_500.0);
        // Many small steps give the result of one large step.
        let stepped = (1..=360).fold(tuned, |tuned, step| tuned.moved(1e9, Tick(1 + step * hour / 360)));
        assert!((stepped.ttl_ms - 2_000.0).abs() < 1.0, "{stepped:?}");
    }
}
