//! The learned state as keys: `assoc:<key>`, `template:<t>` and `ttl:<name>`, each with a JSON object as its value.
//!
//! RESP clients see them in database 2. Reading them changes nothing.

use serde_json::json;

use crate::{
    cache::{Cache, ScanPage, ttl::tuning::Advised},
    glob::Glob,
    learn::{
        prefetch::{RuleView, Successor},
        ttl::{Expected, Spread},
    },
    model::Key,
};

const ASSOCIATION: &[u8] = b"assoc:";
const TEMPLATE: &[u8] = b"template:";
/// Set in a cursor past the templates: the remaining bits are then an index among the known keys.
const KEYS_BIT: u64 = 1 << 48;

/// Prefix of the keys of TTL advice.
const TTL: &str = "ttl:";

impl Cache {
    /// Returns the learned state under this key.
    #[must_use]
    pub fn learned(&self, key: &[u8]) -> Option<String> {
        if let Some(key) = key.strip_prefix(ASSOCIATION) {
            return self.core.successors(key).map(|successors| association(&successors));
        }
        if let Some(name) = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(TTL)) {
            return self.ttl_advice().iter().find(|advised| *advised.advice.name == *name).map(ttl_json);
        }
        let name = key.strip_prefix(TEMPLATE)?;
        let known = self.core.template_rules().into_iter().filter(|(known, _)| known.as_bytes() == name);
        let rules: Vec<RuleView> = known.flat_map(|(_, rules)| rules).collect();
        (!rules.is_empty()).then(|| template(&rules))
    }

    /// Returns one page of the keys of the learned state. The first page has all templates and TTLs.
    #[must_use]
    pub fn scan_learned(&self, cursor: u64, pattern: Option<&Glob>, count: usize) -> ScanPage {
        let (keys, next) = if cursor & KEYS_BIT == 0 {
            let few: Vec<Vec<u8>> = self.templates().into_iter().chain(self.advised()).collect();
            (few, Some(0).filter(|_| self.core.prefetch().keys > 0))
        } else {
            let (keys, next) = self.core.known_keys((cursor & !KEYS_BIT) as usize, count.max(1));
            (keys.iter().map(|key| [ASSOCIATION, key].concat()).collect(), next)
        };
        let matching = keys.into_iter().filter(|key| pattern.is_none_or(|pattern| pattern.matches(key)));
        let keys = matching.filter_map(|key| Key::copied(&key).ok()).collect();
        ScanPage { cursor: next.map_or(0, |next| KEYS_BIT | next as u64), keys }
    }

    fn templates(&self) -> Vec<Vec<u8>> {
        let mut names: Vec<Vec<u8>> =
            self.core.template_rules().into_iter().map(|(name, _)| [TEMPLATE, name.as_bytes()].concat()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn count_learned(&self) -> u64 {
        if !self.principal.sees_all() {
            return 0;
        }
        self.core.prefetch().keys + self.templates().len() as u64 + self.ttl_advice().len() as u64
    }

    /// Returns a random key.
    #[must_use]
    pub fn random_learned(&self) -> Option<Key> {
        let few: Vec<Vec<u8>> = self.templates().into_iter().chain(self.advised()).collect();
        let keys = usize::try_from(self.core.prefetch().keys).unwrap_or(0);
        let at = (few.len() + keys > 0).then(|| fastrand::usize(..few.len() + keys))?;
        if let Some(key) = few.get(at) {
            return Key::copied(key).ok();
        }
        let (page, _) = self.core.known_keys(at - few.len(), 1);
        page.first().and_then(|key| Key::copied(&[ASSOCIATION, key].concat()).ok())
    }

    fn advised(&self) -> Vec<Vec<u8>> {
        self.ttl_advice().iter().map(|advised| format!("{TTL}{}", advised.advice.name).into_bytes()).collect()
    }
}

fn association(successors: &[Successor]) -> String {
    let each = successors.iter().map(|Successor { key, tried, right, lag, p }| {
        let key = String::from_utf8_lossy(key);
        json!({ "key": key, "probability": p, "right": right, "tried": tried, "lag": lag })
    });
    json!({ "followed_by": each.collect::<Vec<_>>() }).to_string()
}

fn template(rules: &[RuleView]) -> String {
    let each = rules.iter().map(|RuleView { makes, p, tried, right, support }| {
        json!({ "makes": makes, "probability": p, "right": right, "tried": tried, "support": support })
    });
    json!({ "rules": each.collect::<Vec<_>>() }).to_string()
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
