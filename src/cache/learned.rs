//! What was learned, as keys: `assoc:<key>`, `template:<t>`, `ttl:<t>`, each with a JSON object as its value.
//!
//! The place where the learned state shows itself to inspection (RESP's db 2).
//! Looking at it changes nothing.

use serde_json::json;

use super::{Cache, Core, ScanPage, tuning::Advised};
use crate::{
    glob::Glob,
    learn::{
        intervals::{Expected, Spread},
        recorder::Event,
    },
    model::Key,
};

impl Core {
    /// Gives what workers told since the last call to all who learn from it. `events` is memory to use again.
    pub fn learn(&self, events: &mut Vec<Event>) {
        events.clear();
        self.recorder.drain(events);
        self.tell_ghosts(events);
        self.play_ghosts();
        self.learn_ttls(events);
    }

    /// Events that no learner saw, because they came faster than they were taken up.
    #[must_use]
    pub fn events_dropped(&self) -> u64 {
        self.recorder.dropped()
    }
}

/// How keys of TTL advice begin.
const TTL: &str = "ttl:";

impl Cache {
    /// What was learned under this key.
    #[must_use]
    pub fn learned(&self, key: &[u8]) -> Option<String> {
        let name = std::str::from_utf8(key).ok()?.strip_prefix(TTL)?;
        self.ttl_advice().iter().find(|advised| *advised.advice.name == *name).map(ttl_json)
    }

    /// One page of the keys under which something was learned: all of them at once, because they are few.
    #[must_use]
    pub fn scan_learned(&self, _cursor: u64, pattern: Option<&Glob>, _count: usize) -> ScanPage {
        let keys = self.learned_keys().into_iter();
        ScanPage { cursor: 0, keys: keys.filter(|key| pattern.is_none_or(|pattern| pattern.matches(key))).collect() }
    }

    /// How many keys there are.
    #[must_use]
    pub fn count_learned(&self) -> u64 {
        self.learned_keys().len() as u64
    }

    /// Any of them.
    #[must_use]
    pub fn random_learned(&self) -> Option<Key> {
        let keys = self.learned_keys();
        (!keys.is_empty()).then(|| keys[fastrand::usize(..keys.len())].clone())
    }

    fn learned_keys(&self) -> Vec<Key> {
        let advice = self.ttl_advice();
        advice
            .iter()
            .filter_map(|advised| Key::copied(format!("{TTL}{}", advised.advice.name).as_bytes()).ok())
            .collect()
    }
}

fn ttl_json(advised: &Advised) -> String {
    let advice = &advised.advice;
    let spread = |spread: Spread| json!({ "intervals": spread.count, "mean_ms": spread.mean_ms, "p50_ms": spread.p50_ms, "p90_ms": spread.p90_ms });
    let expected = |expected: Expected| json!({ "hit_rate": expected.hit_rate, "stale_share": expected.stale_share, "held": expected.held });
    json!({
        "ttl_ms": advice.ttl_ms,
        "tuned_ms": advised.tuned_ms,
        "current_ttl_ms": advice.current_ttl_ms,
        "keys": advice.keys,
        "access": spread(advice.access),
        "change": advice.change.map(spread),
        "value_bytes": advice.value_bytes,
        "now": expected(advice.now),
        "then": expected(advice.then),
    })
    .to_string()
}
