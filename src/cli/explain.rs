//! `terrace explain`: state of one key on a running server, and the reason for the result of its last read.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use serde_json::{Value, json};

use super::{
    Failure, Format, Result,
    connection::ServerArgs,
    figures::{bytes, key, micros, percent, span},
    say,
    stats::{connect, refused, text_of},
};
use crate::proto::{
    ExplainRequest, ExplainResponse, KeyLoad, KeyRead, KeyRule, KeyWrite, L1Copy, L2Entry, Why, key_load, key_read,
    key_write,
};

/// Maximum displayed length of a key, in characters.
const NAME: usize = 60;

/// Explain a key: the tiers that hold the key, TTLs, last writer, policy, and the reason for the last hit or miss.
///
/// The command does not count as a read: it changes no statistics, inserts nothing into L1 and teaches the learner
/// nothing. The result describes the queried node.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Key to explain.
    key: OsString,
    #[command(flatten)]
    server: ServerArgs,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Print JSON; short for --format json.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result {
    let name = args.key.into_vec();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
    let asked = async {
        let mut client = connect(&args.server).await?;
        client.explain(ExplainRequest { key: name.clone().into() }).await.map_err(refused)
    };
    let of = runtime.block_on(asked)?.into_inner();
    match args.json || args.format == Format::Json {
        true => say(fields(&name, &of)),
        false => say(lines(&name, &of)),
    }
    Ok(())
}

/// Formats the response as text, one line per field.
fn lines(name: &[u8], of: &ExplainResponse) -> String {
    let rule = of.rule.clone().unwrap_or_default();
    let mut lines = vec![("key", key(name, NAME)), ("L1", in_l1(of)), ("L2", in_l2(of))];
    lines.push(("last write", of.last_write.as_ref().map_or_else(|| "unknown".to_owned(), written)));
    lines.push(("last read", of.last_read.as_ref().map_or_else(|| "none recorded".to_owned(), read)));
    for tag in &of.tags {
        lines.push(("tag", format!("{}, {}", key(&tag.tag, NAME), if tag.valid { "valid" } else { "invalidated" })));
    }
    lines.extend(
        of.bans.iter().map(|ban| ("ban", format!("{} matches this key and is being invalidated", key(ban, NAME)))),
    );
    lines.push(("policy", policy(&rule)));
    lines.push(("group", format!("{}, template {}", rule.group, rule.template)));
    lines.extend(of.load.as_ref().and_then(load).map(|text| ("load", text)));
    for prediction in &of.predictions {
        let next = key(&prediction.key, NAME);
        let p = percent(Some(f64::from(prediction.probability)));
        lines.push(("next", format!("{next}, {p}: {}", prediction.why)));
    }
    let lines = lines.into_iter().map(|(name, text)| format!("{name:<10}  {text}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn ttl(ms: Option<i64>) -> String {
    ms.map_or_else(|| "no TTL".to_owned(), |ms| format!("TTL {}", span(ms)))
}

fn in_l1(of: &ExplainResponse) -> String {
    let Some(copy) = &of.l1 else {
        let closed = if of.l1_open { "" } else { "; L1 is bypassed" };
        return format!("no copy: {}{closed}", because(of.l1_absent()));
    };
    let L1Copy { age_ms, idle_ms, hits, size_bytes, .. } = *copy;
    let ends = match copy.copy_ttl_ms {
        ms if ms == copy.ttl_ms => String::new(),
        ms => format!(
            ", the copy {}",
            ms.map_or_else(|| "never expires".to_owned(), |ms| format!("expires in {}", span(ms)))
        ),
    };
    let staged = if copy.prefetched { ", prefetched and not read yet" } else { "" };
    format!(
        "{}, {}{ends}, filled {} ago, last used {} ago, {hits} hits{staged}",
        bytes(size_bytes),
        ttl(copy.ttl_ms),
        span(age_ms),
        span(idle_ms),
    )
}

fn in_l2(of: &ExplainResponse) -> String {
    match &of.l2 {
        _ if !of.l2_error.is_empty() => format!("unknown: {}", of.l2_error),
        None => "absent".to_owned(),
        Some(L2Entry { ttl_ms, size_bytes, r#type, hidden }) => {
            let hidden = if *hidden { ", hidden: a tag of the entry was invalidated" } else { "" };
            format!("{}, {}, {type}{hidden}", bytes(*size_bytes), ttl(*ttl_ms), r#type = r#type)
        }
    }
}

fn written(of: &KeyWrite) -> String {
    let what = match of.kind() {
        key_write::Kind::Unspecified => "a change",
        key_write::Kind::Value => "a value",
        key_write::Kind::Ttl => "its TTL",
        key_write::Kind::Deletion => "a deletion",
    };
    let by = match of.writer() {
        key_write::Writer::Unspecified => "by an unknown writer",
        key_write::Writer::ThisNode => "through this node",
        key_write::Writer::Elsewhere => "elsewhere: by another node or Redis client, or by expiry or eviction in Redis",
    };
    format!("{} ago, {what}, {by}", span(of.ago_ms))
}

fn read(of: &KeyRead) -> String {
    let ago = span(of.ago_ms);
    let l1 = || because(of.not_l1());
    match of.outcome() {
        key_read::Outcome::Unspecified => format!("{ago} ago"),
        key_read::Outcome::HitL1 => format!("{ago} ago, a hit in L1"),
        key_read::Outcome::Stale => format!("{ago} ago, a stale hit in L1"),
        key_read::Outcome::HitL2 => format!("{ago} ago, a hit in L2; not in L1: {}", l1()),
        key_read::Outcome::Miss => {
            format!("{ago} ago, a miss; not in L1: {}; not in L2: {}", l1(), because(of.not_l2()))
        }
        key_read::Outcome::Error => format!("{ago} ago, an L2 error; not in L1: {}", l1()),
    }
}

/// Formats the load of the key; `None` if neither the key nor its group has loads.
fn load(of: &KeyLoad) -> Option<String> {
    let ends = span(of.ends_ms.unwrap_or_default());
    let state = match of.state() {
        key_load::State::Unspecified => None,
        key_load::State::Loading => {
            let age = span(of.age_ms.unwrap_or_default());
            Some(format!("a client has loaded the key for {age}, exclusively for {ends} more"))
        }
        key_load::State::Failed => {
            Some(format!("failed: {}; no client may load for {ends}", key(of.message.as_bytes(), NAME)))
        }
        key_load::State::Absent => Some(format!("the origin does not have the key; known for {ends} more")),
    };
    let mean = of.group_mean_ms.map(|ms| format!("mean of the group {}", micros(Some((ms * 1e3).round() as u64))));
    let parts: Vec<String> = [state, mean].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn because(why: Why) -> &'static str {
    match why {
        Why::Unspecified | Why::Unknown => "unknown reason",
        Why::NeverSeen => "this node has no record of the key",
        Why::Evicted => "evicted to free space",
        Why::Expired => "expired",
        Why::TooOld => "the copy reached the maximum age",
        Why::Written => "written through this node; only reads insert into L1",
        Why::Deleted => "deleted through this node",
        Why::Announced => "Redis announced a change",
        Why::Banned => "a pattern that matches the key was invalidated",
        Why::Tag => "a tag of the entry was invalidated",
        Why::Ended => "all L1 copies were discarded: a flush, a failover or a lost connection",
        Why::Closed => "L1 was bypassed: the connection to Redis was lost or a heartbeat was late",
        Why::NotAllowed => "excluded from L1 by a policy or by l2.prefixes",
    }
}

fn policy(of: &KeyRule) -> String {
    let Some(pattern) = &of.policy else { return "none".to_owned() };
    let mut parts = vec![key(pattern, NAME)];
    parts.extend(of.write_ttl_ms.map(|ms| format!("default TTL {}", span(ms))));
    parts.extend(of.max_ttl_ms.map(|ms| format!("maximum TTL {}", span(ms))));
    parts.extend(of.touch_on_read_ms.map(|ms| format!("touch on read {}", span(ms))));
    if !of.l1 {
        parts.push("not in L1".to_owned());
    }
    parts.join(", ")
}

/// Formats the response as JSON, with the field names of `Insight.Explain`.
fn fields(name: &[u8], of: &ExplainResponse) -> Value {
    let l1 = of.l1.as_ref().map(|l1| {
        json!({
            "ttl_ms": l1.ttl_ms, "copy_ttl_ms": l1.copy_ttl_ms, "age_ms": l1.age_ms, "idle_ms": l1.idle_ms, "hits": l1.hits,
            "size_bytes": l1.size_bytes, "weight_bytes": l1.weight_bytes, "prefetched": l1.prefetched,
        })
    });
    let l2 = of
        .l2
        .as_ref()
        .map(|l2| json!({ "ttl_ms": l2.ttl_ms, "size_bytes": l2.size_bytes, "type": l2.r#type, "hidden": l2.hidden }));
    let write = of.last_write.as_ref().map(|write| {
        json!({ "writer": write.writer().as_str_name(), "kind": write.kind().as_str_name(), "ago_ms": write.ago_ms })
    });
    let read = of.last_read.as_ref().map(|read| {
        json!({
            "outcome": read.outcome().as_str_name(), "ago_ms": read.ago_ms, "not_l1": read.not_l1().as_str_name(),
            "not_l2": read.not_l2().as_str_name(),
        })
    });
    let rule = of.rule.as_ref().map(|rule| {
        json!({
            "policy": rule.policy.as_ref().map(|pattern| text_of(pattern)), "group": rule.group, "template": rule.template,
            "write_ttl_ms": rule.write_ttl_ms, "max_ttl_ms": rule.max_ttl_ms, "touch_on_read_ms": rule.touch_on_read_ms,
            "l1": rule.l1,
        })
    });
    let tags = of.tags.iter().map(|tag| json!({ "tag": text_of(&tag.tag), "valid": tag.valid }));
    let predictions = of.predictions.iter().map(|next| {
        json!({
            "key": text_of(&next.key), "probability": next.probability, "fetched": next.fetched, "why": next.why,
        })
    });
    let load = of.load.as_ref().map(|load| {
        json!({
            "state": load.state().as_str_name(), "age_ms": load.age_ms, "ends_ms": load.ends_ms, "message": load.message,
            "group_mean_ms": load.group_mean_ms,
        })
    });
    json!({
        "key": text_of(name),
        "l1": l1,
        "l1_absent": of.l1_absent().as_str_name(),
        "l1_open": of.l1_open,
        "l2": l2,
        "l2_error": of.l2_error,
        "tags": tags.collect::<Vec<_>>(),
        "bans": of.bans.iter().map(|ban| text_of(ban)).collect::<Vec<_>>(),
        "last_write": write,
        "last_read": read,
        "rule": rule,
        "load": load,
        "predictions": predictions.collect::<Vec<_>>(),
    })
}
