//! TTLs from what was learned: follows a sample of the keys, advises for each template, and, where a policy says `ttl =
//! "tune"`, gives writes that brought no TTL the tuned one.
//!
//! A tuned TTL begins at what its policy would have given, or at the advice where that is nothing, and moves towards the
//! advice by at most a doubling or a halving an hour. Each write gets it up to 10 % shorter or longer, so that what was
//! written together does not expire together. Advice that lacks evidence changes nothing: what was tuned stays. That TTL is
//! for the keys of its template that come back: [`Returns`] says which, and how long the others live. The bound of an hour
//! is on the template's TTL.

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

use super::{
    Cache, Core, Op, SetExpiry,
    policy::{Policy, Rules, Ttl},
};
use crate::{
    clock::{Tick, millis},
    learn::{
        hot_keys::HotKeys,
        intervals::Intervals,
        recorder::{Event, Happened, is_sampled},
        returns::{Returns, Terms},
    },
};

pub use crate::learn::{
    hot_keys::HotKey,
    intervals::{Advice, Expected, Spread},
};

/// How often advice is made anew.
const ADVISE_EVERY: Duration = Duration::from_secs(10);
/// In an hour a tuned TTL changes by this factor at most.
const HOURLY_FACTOR: f64 = 2.0;
/// How far a write's TTL lies from the tuned one at most, parts of it.
const JITTER: f64 = 0.1;

/// What is known of one template whose TTL is tuned.
#[derive(Debug, Clone, Copy)]
struct Tuned {
    ttl_ms: f64,
    /// What changes allow.
    fresh_ms: u64,
    at: Tick,
}

/// All that is learned of TTLs.
#[derive(Debug, Default)]
pub(crate) struct Tuning {
    intervals: Mutex<Intervals>,
    hot_keys: Mutex<HotKeys>,
    hottest: ArcSwap<Vec<HotKey>>,
    returns: Mutex<Returns>,
    /// By template.
    tuned: ArcSwap<HashMap<u64, Tuned>>,
    advice: ArcSwap<Vec<Advice>>,
    advised_at: AtomicU64,
}

impl Tuned {
    /// Moves towards the advice, as far as the time since allows.
    fn moved(self, advised_ms: f64, now: Tick) -> Self {
        let step = HOURLY_FACTOR.powf(now.since(self.at).as_secs_f64() / 3_600.0);
        Self { ttl_ms: advised_ms.clamp(self.ttl_ms / step, self.ttl_ms * step), at: now, ..self }
    }
}

/// The policy of a key, if it tunes.
fn tuning_policy<'r>(rules: &'r Rules, key: &[u8]) -> Option<&'r Policy> {
    rules.policy(key).filter(|policy| policy.ttl == Ttl::Tune)
}

/// Up to a tenth off.
fn jittered(mean: Duration) -> Duration {
    mean.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0))
}

/// What the learning of TTLs follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Followed {
    /// Keys of the sample.
    pub keys: u64,
    /// Templates that a TTL is advised for.
    pub templates: u64,
    /// Hot keys of which enough is known.
    pub hot_keys: u64,
}

impl Core {
    /// What the learning of TTLs follows.
    #[must_use]
    pub fn followed(&self) -> Followed {
        Followed {
            keys: self.tuning.intervals.lock().keys() as u64,
            templates: self.tuning.advice.load().len() as u64,
            hot_keys: self.tuning.hottest.load().len() as u64,
        }
    }

    /// Takes up what happened to the keys that are followed, and advises when it is time.
    pub(crate) fn learn_ttls(&self, events: &[Event]) {
        let mut intervals = self.tuning.intervals.lock();
        let rules = self.rules.load();
        // Another node may only have touched it, which Redis announces alike.
        let is_touch = |event: &&Event| event.happened == Happened::Invalidated && rules.slide_of(&event.key).is_some();
        let mut hot_keys = self.tuning.hot_keys.lock();
        for event in events.iter().filter(|event| !is_touch(event)) {
            hot_keys.note(&event.key, event.happened, event.at);
            if event.happened == Happened::HitL2 {
                self.tuning.returns.lock().seen(&event.key, event.at);
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

    /// Moves the tuned TTLs. Templates are as few as intervals knows, and those that it forgot go here too.
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
            if tuned.len() < crate::learn::intervals::TEMPLATES_MAX {
                tuned.entry(*template).or_insert(*kept);
            }
        }
        self.tuning.tuned.store(Arc::new(tuned));
    }

    /// The TTL of this write, where it brought none, the policy of its key tunes and enough is known; up to a tenth off.
    pub(crate) fn tuned_ttl(&self, rules: &Rules, key: &[u8], op: &Op) -> Option<Duration> {
        let policy = tuning_policy(rules, key)?;
        let terms = self.terms(rules, policy, key)?;
        let now = self.clock.now();
        let mut returns = self.tuning.returns.lock();
        let mean_ms = returns.life_ms(key, &terms, now);
        // Nothing was learned that changes what its policy gives.
        let is_default = !terms.is_advised && mean_ms == terms.ttl_ms;
        let mean = Duration::from_millis(mean_ms);
        let life = if is_default { mean } else { jittered(mean) };
        // Other operations only give it to keys that they make.
        if matches!(op, Op::Set { expiry: SetExpiry::Never, .. }) {
            let capped = policy.max_ttl.map_or(life, |max| life.min(max));
            returns.wrote(key, &terms, now, millis(capped));
        }
        Some(life)
    }

    /// What that is off from.
    pub(crate) fn tuned_mean(&self, rules: &Rules, key: &[u8]) -> Option<Duration> {
        let terms = self.terms(rules, tuning_policy(rules, key)?, key)?;
        let life_ms = self.tuning.returns.lock().life_ms(key, &terms, self.clock.now());
        Some(Duration::from_millis(life_ms))
    }

    /// What a write of this key is offered by its policy, which tunes; `None` where nothing gives it a TTL.
    fn terms(&self, rules: &Rules, policy: &Policy, key: &[u8]) -> Option<Terms> {
        let (template, _) = self.stats.groups.template_of(key);
        let tuned = self.tuning.tuned.load().get(&template).copied();
        let ttl_ms = tuned.map(|tuned| tuned.ttl_ms as u64).or(policy.default_ttl.map(millis))?;
        let ttl_ms = policy.max_ttl.map_or(ttl_ms, |max| ttl_ms.min(millis(max)));
        let fresh_ms = tuned.map_or(u64::MAX, |tuned| tuned.fresh_ms);
        Some(Terms { template, ttl_ms, is_advised: tuned.is_some(), shortest_ms: millis(rules.ttl.min), fresh_ms })
    }

    /// Notes the length of a value that is about to be written, and the TTL it gets.
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

/// Advice and what became of it.
#[derive(Debug, Clone)]
pub struct Advised {
    /// The advice and its evidence.
    pub advice: Advice,
    /// The TTL that writes get where a policy tunes; `None` where none does.
    pub tuned_ms: Option<u64>,
}

impl Cache {
    /// The life of a write of this key that brings none, and the longest.
    #[must_use]
    pub fn lives_of(&self, key: &[u8]) -> (Option<Duration>, Option<Duration>) {
        let rules = self.core.rules.load();
        let (default, max) = rules.lives_of(key);
        let tuned = self.core.tuned_mean(&rules, key);
        (tuned.map(|mean| if Some(mean) == default { mean } else { jittered(mean) }).or(default), max)
    }

    /// The hottest keys, each with its own intervals, as of the last ten seconds.
    #[must_use]
    pub fn hottest(&self) -> Arc<Vec<HotKey>> {
        self.core.tuning.hottest.load_full()
    }

    /// What is advised for each template of which enough is known, as of the last ten seconds.
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
        // In many small steps as in one.
        let stepped = (1..=360).fold(tuned, |tuned, step| tuned.moved(1e9, Tick(1 + step * hour / 360)));
        assert!((stepped.ttl_ms - 2_000.0).abs() < 1.0, "{stepped:?}");
    }
}
