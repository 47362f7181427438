//! Learned state for the page: associations, prefetch results and TTL advice. The values equal those of
//! `GetAssociations` and `GetTtlAdvice`.
//!
//! The page shows a readable part: the most probable rules, the successors of the keys with the highest L2 time, and
//! the templates with the most sampled keys.

use std::cmp::Reverse;

use axum::{Extension, extract::State, http::HeaderMap, response::Response};
use serde_json::{Value, json};

use super::{
    HttpState,
    guard::Viewer,
    json::{answer, shown},
};
use crate::cache::{
    Cache,
    prefetch::{FetchCounts, PrefetchReport},
    stats::top::By,
    ttl::tuning::{Advised, Expected},
};

/// Number of rules on the page.
const RULES: usize = 16;
/// Number of keys whose successors are considered: the keys with the highest L2 time, because prefetch saves most
/// there.
const KEYS: usize = 64;
/// Number of key pairs on the page.
const PAIRS: usize = 24;
/// Number of key groups on the page, by issued prefetches.
const GROUPS: usize = 8;
/// Number of templates with TTL advice on the page, by sampled keys.
const TTLS: usize = 10;

pub(super) async fn show(State(shared): State<HttpState>, viewer: Extension<Viewer>, headers: HeaderMap) -> Response {
    let cache = viewer.cache(&shared.edge);
    answer(&headers, &shared.learned.recent(&cache, learned(&cache)).await)
}

async fn learned(cache: &Cache) -> Value {
    json!({
        "prefetch": prefetch(&cache.prefetch_report()),
        "rules": rules(cache),
        "pairs": pairs(cache),
        "ttls": ttls(cache),
    })
}

fn prefetch(report: &PrefetchReport) -> Value {
    let mut groups: Vec<_> = report.groups.iter().filter(|group| group.counts.issued > 0).collect();
    groups.sort_by_key(|group| Reverse(group.counts.issued));
    let groups = groups.iter().take(GROUPS);
    json!({
        "total": counts(&report.counts),
        "groups": groups.map(|group| json!({ "name": shown(group.name.as_bytes()), "counts": counts(&group.counts) })).collect::<Vec<_>>(),
        "gain": report.evidence.gain.map(|(gain, deviation)| json!({ "part": gain, "deviation": deviation })),
        "floor": report.floor,
        "known_keys": report.keys,
        "bytes": report.bytes,
    })
}

fn counts(counts: &FetchCounts) -> Value {
    json!({
        "issued": counts.issued,
        "used": counts.used,
        "late": counts.late,
        "wasted": counts.wasted,
        "shadow": counts.shadow,
    })
}

/// Returns the most probable rules between key templates that have been tried.
fn rules(cache: &Cache) -> Vec<Value> {
    let is_seen = |template: &str| cache.principal().sees_group(template);
    let all = cache.core().template_rules().into_iter().filter(|(name, _)| is_seen(name));
    let mut all: Vec<_> =
        all.flat_map(|(name, rules)| rules.into_iter().map(move |rule| (name.clone(), rule))).collect();
    all.retain(|(_, rule)| rule.p > 0.0 && is_seen(&rule.makes));
    all.sort_by(|(_, a), (_, b)| (b.p * f32::from(b.tried)).total_cmp(&(a.p * f32::from(a.tried))));
    all.truncate(RULES);
    let all = all.iter();
    all.map(|(name, rule)| pair(name.as_bytes(), rule.makes.as_bytes(), rule.p, [rule.right, rule.tried])).collect()
}

/// Returns the most probable successors of the keys with the highest L2 time.
fn pairs(cache: &Cache) -> Vec<Value> {
    let keys = cache.top(By::Time, KEYS).keys.into_iter().map(|(key, _)| key);
    let mut all: Vec<_> = keys
        .filter_map(|key| Some((cache.core().successors(&key)?, key)))
        .flat_map(|(successors, key)| successors.into_iter().map(move |successor| (key.clone(), successor)))
        .filter(|(_, successor)| successor.p > 0.0 && cache.principal().sees(&successor.key))
        .collect();
    all.sort_by(|(_, a), (_, b)| (b.p, b.right).partial_cmp(&(a.p, a.right)).unwrap_or(std::cmp::Ordering::Equal));
    all.truncate(PAIRS);
    all.iter().map(|(key, next)| pair(key, &next.key, next.p, [next.right.into(), next.tried.into()])).collect()
}

fn pair(from: &[u8], to: &[u8], probability: f32, [right, tried]: [u16; 2]) -> Value {
    json!({ "from": shown(from), "to": shown(to), "probability": probability, "right": right, "tried": tried })
}

fn ttls(cache: &Cache) -> Vec<Value> {
    let mut all = cache.ttl_advice();
    all.retain(|advised| cache.principal().sees_group(&advised.advice.name));
    all.sort_by_key(|advised| Reverse(advised.advice.keys));
    all.truncate(TTLS);
    all.iter().map(ttl).collect()
}

fn ttl(advised: &Advised) -> Value {
    let advice = &advised.advice;
    let expected = |of: &Expected| json!({ "hit_rate": of.hit_rate, "stale_share": of.stale_share, "held": of.held });
    json!({
        "template": shown(advice.name.as_bytes()),
        "ttl_ms": advice.ttl_ms,
        "tuned_ms": advised.tuned_ms,
        "current_ms": advice.current_ttl_ms,
        "keys": advice.keys,
        "value_bytes": advice.value_bytes,
        "now": expected(&advice.now),
        "then": expected(&advice.then),
    })
}
