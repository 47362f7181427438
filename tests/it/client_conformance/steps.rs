//! Steps of conformance scenarios: execution by the Rust client, and comparison of results.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use serde_json::{Value, json};
use terrace_client::{
    Client, Entry, Error, Filled, Grant, Lease, NewEntry, Tier, WatchFeed,
    proto::{WatchEvent, watch_event::Subject, watch_response::News},
};
use tokio::time::timeout;

use crate::support::PATIENCE;

/// Grants and change feeds of a scenario, by the names under which its steps saved them.
#[derive(Default)]
pub(super) struct Saved {
    pub(super) grants: HashMap<String, Grant>,
    feeds: HashMap<String, Feed>,
}

/// A change feed, and its events that no step has taken.
struct Feed {
    feed: WatchFeed,
    events: VecDeque<WatchEvent>,
}

/// Fields that every step may have.
const COMMON: [&str; 4] = ["do", "expect", "error", "eventually"];
/// Fields of an entry of `set_many`.
const ENTRY: [&str; 4] = ["key", "value", "ttl_ms", "tags"];

/// Result of an operation, and the grant that came with it.
type Done = Result<(Value, Option<Grant>), Error>;

/// Executes a step. The outer error is a fault of the scenario.
pub(super) async fn execute(client: &Client, step: &Value, saved: &mut Saved) -> Result<Done, String> {
    let name = step["do"].as_str().ok_or("\"do\" is missing")?;
    let (fields, is_known) = fields_of(name);
    if !is_known {
        return Err(format!("unknown operation {name:?}"));
    }
    names(step, &[&COMMON[..], fields].concat())?;
    if name == "get_or_lease" {
        return Ok(get_or_lease(client, step).await?.map(shown));
    }
    let done = match name {
        "get" | "lookup" => read(client, name, step).await?,
        "set" => set(client, step).await?,
        "get_many" | "get_many_each" | "set_many" | "set_many_each" => many(client, name, step).await?,
        "invalidate_pattern" | "invalidate_prefix" => invalidate(client, name, step).await?,
        "invalidate_tags" => client.invalidate_tags(list(&step["tags"])?).await.map(Value::from),
        "fill" | "fill_absent" | "fail" | "release" => finish(name, step, &mut saved.grants).await?,
        "watch" => watch(client, step, &mut saved.feeds).await?,
        "next_event" => next_event(step, &mut saved.feeds).await?,
        "stats" => client.stats().await.map(|nodes| json!({ "nodes": nodes.len(), "reads": reads(&nodes) })),
        _ => change(client, name, step).await?,
    };
    Ok(done.map(|result| (result, None)))
}

/// Returns the arguments of an operation, and whether the operation exists.
fn fields_of(name: &str) -> (&'static [&'static str], bool) {
    let fields: &[&str] = match name {
        "get" => &["key"],
        "lookup" => &["key", "no_touch"],
        "set" => &["key", "value", "ttl_ms", "stale_ms", "tags", "if"],
        "delete" | "get_many" | "get_many_each" => &["keys"],
        "touch" => &["key", "ttl_ms", "only"],
        "increment" => &["key", "delta", "ttl_ms"],
        "set_many" | "set_many_each" => &["entries"],
        "invalidate_pattern" => &["pattern", "dry_run", "wait"],
        "invalidate_prefix" => &["prefix", "dry_run", "wait"],
        "invalidate_tags" => &["tags"],
        "get_or_lease" => &["key", "stale_ms", "lease_ms", "wait_ms", "tags", "refresh", "save"],
        "fill" => &["grant", "value", "ttl_ms", "stale_ms"],
        "fill_absent" => &["grant", "ttl_ms"],
        "fail" => &["grant", "message", "retry_after_ms"],
        "release" => &["grant"],
        "watch" => &["prefixes", "heartbeat_ms", "save"],
        "next_event" => &["watch"],
        "stats" => &[],
        _ => return (&[], false),
    };
    (fields, true)
}

/// Checks that an object has only these fields.
pub(super) fn names(object: &Value, known: &[&str]) -> Result<(), String> {
    let fields = object.as_object().ok_or_else(|| format!("{object} is not an object"))?;
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("unknown field {name:?}; expected one of {}", known.join(", "))),
        None => Ok(()),
    }
}

/// Returns the bytes that a JSON value stands for.
pub(super) fn bytes(value: &Value) -> Result<Vec<u8>, String> {
    let wrong = || format!("{value} is not bytes");
    if let Some(text) = value.as_str() {
        return Ok(text.as_bytes().to_vec());
    }
    if let Some(digits) = value["hex"].as_str() {
        let pair = |at: usize| u8::from_str_radix(digits.get(at..at + 2).unwrap_or_default(), 16).map_err(|_| wrong());
        return (0..digits.len()).step_by(2).map(pair).collect();
    }
    let times = value["times"].as_u64().ok_or_else(wrong)?;
    Ok(value["repeat"].as_str().ok_or_else(wrong)?.repeat(times as usize).into_bytes())
}

fn list(value: &Value) -> Result<Vec<Vec<u8>>, String> {
    if let (Some(start), Some(count)) = (value["numbered"].as_str(), value["count"].as_u64()) {
        return Ok((0..count).map(|number| format!("{start}{number}").into_bytes()).collect());
    }
    value.as_array().ok_or_else(|| format!("{value} is not a list"))?.iter().map(bytes).collect()
}

fn ms(step: &Value, field: &str) -> Option<Duration> {
    step[field].as_u64().map(Duration::from_millis)
}

fn is_set(step: &Value, field: &str) -> bool {
    step[field] == true
}

/// Shows bytes as a scenario writes them.
fn show(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

fn show_found(value: Option<impl AsRef<[u8]>>) -> Value {
    value.map_or(Value::Null, |value| show(value.as_ref()))
}

fn show_ms(duration: Option<Duration>) -> Value {
    duration.map_or(Value::Null, |duration| json!(duration.as_millis() as u64))
}

fn show_entry(entry: &Entry) -> Value {
    json!({
        "value": show(&entry.value),
        "tier": match entry.tier { Tier::L1 => "L1", Tier::L2 => "L2" },
        "is_stale": entry.is_stale,
        "expires_in_ms": show_ms(entry.expires_in),
        "age_ms": show_ms(Some(entry.age)),
        "tags": entry.tags.iter().map(|tag| show(tag)).collect::<Vec<_>>(),
    })
}

async fn read(client: &Client, name: &str, step: &Value) -> Result<Result<Value, Error>, String> {
    let key = bytes(&step["key"])?;
    if name == "get" {
        return Ok(client.get(key).await.map(show_found));
    }
    let mut lookup = client.lookup(key);
    if is_set(step, "no_touch") {
        lookup = lookup.no_touch();
    }
    Ok(lookup.await.map(|entry| entry.as_ref().map_or(Value::Null, show_entry)))
}

async fn set(client: &Client, step: &Value) -> Result<Result<Value, Error>, String> {
    let mut set = client.set(bytes(&step["key"])?, bytes(&step["value"])?);
    if let Some(ttl) = ms(step, "ttl_ms") {
        set = set.ttl(ttl);
    }
    if let Some(stale) = ms(step, "stale_ms") {
        set = set.stale(stale);
    }
    if let Some(tags) = step.get("tags") {
        set = set.tags(list(tags)?);
    }
    set = match step.get("if") {
        None => set,
        Some(condition) if condition == "absent" => set.if_absent(),
        Some(condition) if condition == "present" => set.if_present(),
        Some(condition) => set.if_equal(bytes(&condition["equal"])?),
    };
    Ok(set.await.map(Value::from))
}

async fn change(client: &Client, name: &str, step: &Value) -> Result<Result<Value, Error>, String> {
    if name == "delete" {
        return Ok(client.delete(list(&step["keys"])?).await.map(Value::from));
    }
    let key = bytes(&step["key"])?;
    if name == "increment" {
        let mut increment = client.increment(key, step["delta"].as_i64().ok_or("delta is not an integer")?);
        if let Some(ttl) = ms(step, "ttl_ms") {
            increment = increment.ttl(ttl);
        }
        return Ok(increment.await.map(Value::from));
    }
    let touch = client.touch(key, ms(step, "ttl_ms"));
    let touch = match step["only"].as_str() {
        None => touch,
        Some("longer") => touch.if_longer(),
        Some("shorter") => touch.if_shorter(),
        Some(other) => return Err(format!("unknown condition {other:?}; expected longer or shorter")),
    };
    Ok(touch.await.map(|touched| json!({ "found": touched.found, "applied": touched.applied })))
}

async fn many(client: &Client, name: &str, step: &Value) -> Result<Result<Value, Error>, String> {
    let failed = |error: Error| json!({ "error": format!("{:?}", error.kind()) });
    if name.starts_with("get") {
        let read = client.get_many(list(&step["keys"])?);
        return Ok(if name == "get_many" {
            read.await.map(|values| values.into_iter().map(show_found).collect())
        } else {
            let shown =
                |values: Vec<Result<_, _>>| values.into_iter().map(|v| v.map_or_else(failed, show_found)).collect();
            read.each().await.map(shown)
        });
    }
    let entries = step["entries"].as_array().ok_or("entries is not a list")?;
    let write = client.set_many(entries.iter().map(entry).collect::<Result<Vec<_>, _>>()?);
    Ok(if name == "set_many" {
        write.await.map(|()| Value::Null)
    } else {
        let shown =
            |all: Vec<Result<(), _>>| all.into_iter().map(|one| one.map_or_else(failed, |()| Value::Null)).collect();
        write.each().await.map(shown)
    })
}

fn entry(item: &Value) -> Result<NewEntry, String> {
    names(item, &ENTRY)?;
    let mut entry = NewEntry::new(bytes(&item["key"])?, bytes(&item["value"])?);
    if let Some(ttl) = ms(item, "ttl_ms") {
        entry = entry.ttl(ttl);
    }
    if let Some(tags) = item.get("tags") {
        entry = entry.tags(list(tags)?);
    }
    Ok(entry)
}

async fn invalidate(client: &Client, name: &str, step: &Value) -> Result<Result<Value, Error>, String> {
    let mut invalidation = if name == "invalidate_pattern" {
        client.invalidate_pattern(bytes(&step["pattern"])?)
    } else {
        client.invalidate_prefix(bytes(&step["prefix"])?)
    };
    if is_set(step, "dry_run") {
        invalidation = invalidation.dry_run();
    }
    if is_set(step, "wait") {
        invalidation = invalidation.wait();
    }
    Ok(invalidation.await.map(|done| json!({ "removed": done.removed, "is_done": done.is_done })))
}

async fn get_or_lease(client: &Client, step: &Value) -> Result<Result<Lease, Error>, String> {
    let mut read = client.get_or_lease(bytes(&step["key"])?);
    if let Some(stale) = ms(step, "stale_ms") {
        read = read.stale(stale);
    }
    if let Some(lease) = ms(step, "lease_ms") {
        read = read.lease(lease);
    }
    if let Some(wait) = ms(step, "wait_ms") {
        read = read.wait(wait);
    }
    if let Some(tags) = step.get("tags") {
        read = read.tags(list(tags)?);
    }
    if is_set(step, "refresh") {
        read = read.refresh();
    }
    Ok(read.await)
}

/// Returns the result of `get_or_lease` and its grant.
fn shown(lease: Lease) -> (Value, Option<Grant>) {
    match lease {
        Lease::Hit { entry, needs_refresh, grant, fresh_for } => {
            let shown = json!({ "kind": "hit", "value": show(&entry.value), "needs_refresh": needs_refresh,
                "has_grant": grant.is_some(), "fresh_for_ms": show_ms(fresh_for) });
            (shown, grant)
        }
        Lease::Load(grant) => (json!({ "kind": "load", "can_fill": grant.can_fill() }), Some(grant)),
        Lease::Busy { leader_age, .. } => (json!({ "kind": "busy", "leader_age_ms": show_ms(Some(leader_age)) }), None),
        Lease::Absent { ttl } => (json!({ "kind": "absent", "ttl_ms": show_ms(Some(ttl)) }), None),
        Lease::Failed { message, retry_after } => {
            let retry_after = show_ms(Some(retry_after));
            (json!({ "kind": "failed", "message": message, "retry_after_ms": retry_after }), None)
        }
        other => panic!("an unknown answer: {other:?}"),
    }
}

/// Opens a change feed, and waits for its first message: later changes are events.
async fn watch(
    client: &Client,
    step: &Value,
    feeds: &mut HashMap<String, Feed>,
) -> Result<Result<Value, Error>, String> {
    let mut watch = client.watch();
    if let Some(prefixes) = step.get("prefixes") {
        watch = watch.prefixes(list(prefixes)?);
    }
    if let Some(heartbeat) = ms(step, "heartbeat_ms") {
        watch = watch.heartbeat(heartbeat);
    }
    let opened = async {
        let mut feed = watch.open().await?;
        let first = feed.next().await?;
        Ok((feed, first))
    };
    let (feed, first) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(error)),
    };
    let Some(News::Started(started)) = first.and_then(|first| first.news) else {
        return Err("the first message is not a start".to_owned());
    };
    if let Some(name) = step["save"].as_str() {
        feeds.insert(name.to_owned(), Feed { feed, events: VecDeque::new() });
    }
    Ok(Ok(json!({ "resumed": started.resumed })))
}

/// Returns the next change of a feed; heartbeats are skipped.
async fn next_event(step: &Value, feeds: &mut HashMap<String, Feed>) -> Result<Result<Value, Error>, String> {
    let saved = step["watch"].as_str().ok_or("watch is not a name")?;
    let Feed { feed, events } = feeds.get_mut(saved).ok_or_else(|| format!("no watch {saved:?} is saved"))?;
    while events.is_empty() {
        let message = timeout(PATIENCE, feed.next()).await.map_err(|_elapsed| "no event arrived")?;
        match message.map(|message| message.and_then(|message| message.news)) {
            Ok(Some(News::Events(batch))) => events.extend(batch.events),
            Ok(Some(News::Heartbeat(_) | News::Started(_))) => {}
            Ok(Some(News::Discontinuity(_))) => return Ok(Ok(json!({ "kind": "discontinuity" }))),
            Ok(None) => return Ok(Ok(json!({ "kind": "end" }))),
            Err(error) => return Ok(Err(error)),
        }
    }
    let shown = |kind: &str, name: &[u8]| json!({ "kind": kind, "name": show(name) });
    Ok(Ok(match events.pop_front().and_then(|event| event.subject) {
        Some(Subject::Key(key)) => shown("key", &key),
        Some(Subject::Pattern(pattern)) => shown("pattern", &pattern),
        Some(Subject::Tag(tag)) => shown("tag", &tag),
        Some(Subject::Everything(_)) => json!({ "kind": "everything" }),
        None => json!({ "kind": "unknown" }),
    }))
}

/// Returns the number of reads of all nodes since their start.
fn reads(nodes: &[(String, terrace_client::proto::GetStatsResponse)]) -> u64 {
    let count = |stats: &terrace_client::proto::GetStatsResponse| {
        stats.reads.as_ref().map_or(0, |reads| reads.hit_l1 + reads.hit_l2 + reads.miss)
    };
    nodes.iter().map(|(_, stats)| count(stats)).sum()
}

async fn finish(name: &str, step: &Value, grants: &mut HashMap<String, Grant>) -> Result<Result<Value, Error>, String> {
    let saved = step["grant"].as_str().ok_or("grant is not a name")?;
    let grant = grants.remove(saved).ok_or_else(|| format!("no grant {saved:?} is saved"))?;
    let filled = match name {
        "fill" => grant.fill(bytes(&step["value"])?, ms(step, "ttl_ms"), ms(step, "stale_ms")).await,
        "fill_absent" => grant.fill_absent(ms(step, "ttl_ms")).await,
        "fail" => {
            let message = step["message"].as_str().ok_or("message is not a text")?;
            return Ok(grant.fail(message, ms(step, "retry_after_ms")).await.map(|()| Value::Null));
        }
        _ => {
            drop(grant);
            return Ok(Ok(Value::Null));
        }
    };
    Ok(filled.map(|filled| match filled {
        Filled::Stored => "stored".into(),
        Filled::LeaseLost => "lease_lost".into(),
        Filled::Changed => "changed".into(),
        Filled::Invalidated => "invalidated".into(),
        other => panic!("an unknown answer: {other:?}"),
    }))
}

/// Returns whether a result is as a scenario expects.
pub(super) fn matches(expected: &Value, result: &Value) -> bool {
    match expected {
        Value::Array(items) => result.as_array().is_some_and(|results| {
            results.len() == items.len() && items.iter().zip(results).all(|(item, result)| matches(item, result))
        }),
        Value::Object(fields) => matches_object(expected, fields, result),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => expected == result,
    }
}

fn matches_object(expected: &Value, fields: &serde_json::Map<String, Value>, result: &Value) -> bool {
    let has = |name: &str| fields.contains_key(name);
    if has("hex") || has("repeat") {
        return bytes(expected).is_ok_and(|bytes| show(&bytes) == *result);
    }
    if has("min") || has("max") {
        let (min, max) = (expected["min"].as_f64().unwrap_or(f64::MIN), expected["max"].as_f64().unwrap_or(f64::MAX));
        return result.as_f64().is_some_and(|number| (min..=max).contains(&number));
    }
    if let Some(items) = expected["any_of"].as_array() {
        return items.iter().any(|item| matches(item, result));
    }
    if let (Some(length), Some(each)) = (expected["length"].as_u64(), fields.get("each")) {
        let results = result.as_array();
        return results.is_some_and(|all| all.len() as u64 == length && all.iter().all(|one| matches(each, one)));
    }
    result.is_object() && fields.iter().all(|(name, field)| result.get(name).is_some_and(|one| matches(field, one)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_compared_as_described() {
        for (expected, result, is_equal) in [
            (json!("a"), json!("a"), true),
            (json!({"hex": "61"}), json!("a"), true),
            (json!({"hex": "ff"}), json!({"hex": "ff"}), true),
            (json!({"repeat": "ab", "times": 2}), json!("abab"), true),
            (json!("a"), Value::Null, false),
            (json!({"min": 1, "max": 2}), json!(2), true),
            (json!({"min": 1}), json!(0), false),
            (json!({"max": 1}), Value::Null, false),
            (json!({"any_of": ["a", "b"]}), json!("b"), true),
            (json!({"any_of": ["a", "b"]}), json!("c"), false),
            (json!({"length": 2, "each": null}), json!([null, null]), true),
            (json!({"length": 2, "each": null}), json!([null, 1]), false),
            (json!({"length": 2, "each": null}), json!([null]), false),
            (json!([1, null]), json!([1, null]), true),
            (json!([1]), json!([1, null]), false),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), true),
            (json!({"a": null}), json!({"b": 2}), false),
            (json!({}), json!("a"), false),
        ] {
            assert_eq!(matches(&expected, &result), is_equal, "{expected} {result}");
        }
    }
}
