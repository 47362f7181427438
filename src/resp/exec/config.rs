//! CONFIG: parameters of Redis that tools read and set, and the settings of Terrace.
//!
//! Only parameters with an effect at run time can be set: the logs of slow commands, keyspace events, the reloadable
//! settings of Terrace (by key, until SIGHUP rereads the file) and, with Redis as L2, its encoding limits and the time
//! limit of its scripts. Settings that decide who may use the server are protected (`resp.protected_configs`). All other
//! parameters are rejected by name and never passed on; the current value of a parameter can always be set.

use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::oneshot;

use super::{DATABASES, integer};
use crate::{
    cache::{Flavor, Passing, elements, multi_key::passthrough::request, text},
    glob::Glob,
    resp::{
        SettingsChange,
        command::{Context, readable},
        frame::{Args, LINE_MAX_BYTES, REQUEST_MAX_BYTES, write_request},
        keyspace_events::EventSelection,
        reply::{Done, Refusal},
        slow::ENTRIES_MAX,
    },
};

/// CONFIG GET pattern [pattern ...]
pub(in crate::resp) async fn get(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let patterns = args.from(2).iter().map(Pattern::new).collect::<Result<Vec<_>, _>>()?;
    let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, value) in parameters(cx) {
        if let Some(pattern) = patterns.iter().find(|pattern| pattern.glob.matches(name.as_bytes())) {
            found.push((pattern.literal.clone().unwrap_or(name.into_bytes()), value.into_bytes()));
        }
    }
    if patterns.iter().any(|pattern| pattern.may_name_l2()) {
        for (name, value) in l2_parameters(cx).await {
            if let Some(pattern) = patterns.iter().find(|pattern| pattern.glob.matches(&name)) {
                found.push((pattern.literal.clone().unwrap_or(name), value));
            }
        }
    }
    cx.reply.map(found.len());
    for (name, value) in &found {
        cx.reply.bulk(name);
        cx.reply.bulk(value);
    }
    Ok(())
}

/// A case-insensitive pattern for parameter names. A name without a wildcard is returned as the client wrote it.
struct Pattern {
    glob: Glob,
    literal: Option<Vec<u8>>,
}

impl Pattern {
    fn new(text: &[u8]) -> Result<Self, Refusal> {
        let is_literal = !text.iter().any(|byte| b"[*?".contains(byte));
        Ok(Self { glob: Glob::new(&text.to_ascii_lowercase())?, literal: is_literal.then(|| text.to_vec()) })
    }

    /// Returns `true` if the pattern may match a parameter of the L2 Redis.
    fn may_name_l2(&self) -> bool {
        self.literal.as_ref().is_none_or(|name| is_of_l2(&name.to_ascii_lowercase()))
    }
}

/// Parameters of the L2 Redis that operators tune: the limits of compact encodings and the time limit of scripts.
const OF_L2: &[&[u8]] = &[
    b"busy-reply-threshold",
    b"hash-max-listpack-entries",
    b"hash-max-listpack-value",
    b"hash-max-ziplist-entries",
    b"hash-max-ziplist-value",
    b"hll-sparse-max-bytes",
    b"list-compress-depth",
    b"list-max-listpack-size",
    b"list-max-ziplist-size",
    b"lua-time-limit",
    b"set-max-intset-entries",
    b"set-max-listpack-entries",
    b"set-max-listpack-value",
    b"stream-node-max-bytes",
    b"stream-node-max-entries",
    b"zset-max-listpack-entries",
    b"zset-max-listpack-value",
    b"zset-max-ziplist-entries",
    b"zset-max-ziplist-value",
];

/// Returns `true` for a parameter that CONFIG passes to the L2 Redis.
fn is_of_l2(name: &[u8]) -> bool {
    OF_L2.contains(&name)
}

/// Reads the parameters of the L2 Redis that CONFIG passes on. Empty if L2 is not Redis or does not respond. Redis
/// receives no pattern of the client, because it could take long to compare it.
async fn l2_parameters(cx: &Context<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    if cx.edge.cache.flavor() != Flavor::Redis {
        return Vec::new();
    }
    let request = request(&[b"CONFIG", b"GET", b"*"]);
    let passing = Passing::question(None, false);
    let Ok(reply) = cx.edge.cache.pass(&request, passing).await else { return Vec::new() };
    let parts = elements(&reply).unwrap_or_default();
    let pairs = parts.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?.to_vec(), text(&pair[1])?.to_vec())));
    pairs.filter(|(name, _)| is_of_l2(&name.to_ascii_lowercase())).collect()
}

fn parameters(cx: &Context<'_>) -> Vec<(String, String)> {
    let settings = cx.edge.settings.load();
    let resp = cx.edge.node.addresses.get().map(|addresses| addresses.resp.clone()).unwrap_or_default();
    let path = resp.strip_prefix("unix:");
    let (host, port) = if path.is_some() { ("", "0") } else { resp.rsplit_once(':').unwrap_or((&resp, "0")) };
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" };
    let slow = &cx.edge.shared.slow;
    let mut parameters: Vec<(String, String)> = [
        ("appendonly", "no".to_owned()),
        ("bind", host.trim_matches(['[', ']']).to_owned()),
        ("client-query-buffer-limit", REQUEST_MAX_BYTES.to_string()),
        ("databases", DATABASES.to_string()),
        ("latency-monitor-threshold", slow.latency_ms.load(Relaxed).to_string()),
        ("latency-tracking", "yes".to_owned()),
        ("maxclients", cx.edge.settings.load().clients_max.to_string()),
        ("maxmemory", cx.edge.cache.l1_usage().capacity_bytes.to_string()),
        ("maxmemory-policy", "allkeys-lru".to_owned()),
        ("notify-keyspace-events", cx.edge.shared.events.show()),
        ("port", port.to_owned()),
        ("proto-inline-max-size", LINE_MAX_BYTES.to_string()),
        ("proto-max-bulk-len", settings.value_max.to_string()),
        ("protected-mode", yes_or_no(settings.protected_mode).to_owned()),
        ("save", String::new()),
        ("slowlog-log-slower-than", slow.slower_than_us.load(Relaxed).to_string()),
        ("slowlog-max-len", slow.entries_max.load(Relaxed).to_string()),
        ("timeout", "0".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let own = cx.edge.node.settings.load();
    parameters.extend(own.iter().map(|setting| (setting.key.clone(), unquoted(&setting.value))));
    parameters
}

/// Returns a string value without the quotes of the file syntax, as CONFIG SET accepts it.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.map_or_else(|| value.to_owned(), |inner| inner.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// Returns the key of a Terrace setting by its key or its Redis name. Only keys contain a dot.
fn own_key(lower: &str) -> Option<&str> {
    match lower {
        "bind" | "port" => Some("resp.addr"),
        "maxclients" => Some("server.max_connections"),
        "maxmemory" => Some("l1.size"),
        "maxmemory-policy" => Some("l1.policy"),
        "proto-max-bulk-len" => Some("server.max_value"),
        "protected-mode" => Some("resp.protected_mode"),
        _ => lower.contains('.').then_some(lower),
    }
}

/// Returns the value of a Terrace setting, converted from the Redis syntax.
fn own_text(lower: &str, value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match (lower, text.to_ascii_lowercase().as_str()) {
        ("protected-mode", "yes") => "true".to_owned(),
        ("protected-mode", "no") => "false".to_owned(),
        ("maxmemory" | "proto-max-bulk-len", size) => {
            memory_bytes(size).map_or_else(|| text.into_owned(), |bytes| bytes.to_string())
        }
        _ => text.into_owned(),
    }
}

/// Parses a size in the syntax of Redis, in lower case: `100`, `100k` (thousand bytes), `100kb` (KiB).
fn memory_bytes(size: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 8] = [
        ("kb", 1 << 10),
        ("mb", 1 << 20),
        ("gb", 1 << 30),
        ("k", 1_000),
        ("m", 1_000_000),
        ("g", 1_000_000_000),
        ("b", 1),
        ("", 1),
    ];
    let (digits, unit) = size.split_at(size.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(size.len()));
    let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// Returns `true` if a parameter has this value. Redis reads yes and no, and the units of sizes, in any case.
fn is_current(current: &str, value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value);
    let word = text.to_ascii_lowercase();
    let is_size = memory_bytes(&word).is_some_and(|bytes| current.parse() == Ok(bytes));
    current == text || (["yes", "no"].contains(&current) && current == word) || is_size
}

/// CONFIG SET parameter value [parameter value ...]: sets all of them, or none.
pub(in crate::resp) async fn set(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    if !args.len().is_multiple_of(2) {
        return Err(Refusal::Arity("config|set"));
    }
    let mut changes = Vec::new();
    let mut passed: Vec<&[u8]> = vec![b"CONFIG", b"SET"];
    let mut own = Vec::new();
    let parameters = parameters(cx);
    for at in (2..args.len()).step_by(2) {
        let (name, value) = (args.at(at), args.at(at + 1));
        let lower = String::from_utf8_lossy(name).to_ascii_lowercase();
        if is_of_l2(lower.as_bytes()) {
            passed.extend([name, value]);
        } else if parameters.iter().any(|(known, current)| *known == lower && is_current(current, value)) {
            // The current value of any parameter can be set.
        } else if let Some(key) = own_key(&lower) {
            own.push((key.to_owned(), own_text(&lower, value)));
        } else {
            changes.push(Parameter::parse(&parameters, &lower, name, value)?);
        }
    }
    if passed.len() > 2 && !own.is_empty() {
        return Err(Refusal::text(
            "ERR CONFIG SET failed - settings of the L2 Redis and settings of Terrace cannot be set in one command",
        ));
    }
    if !own.is_empty() {
        set_own(cx, own).await?;
    }
    if passed.len() > 2 && !set_in_l2(cx, &passed).await? {
        return Ok(());
    }
    changes.into_iter().for_each(|change| change.apply(cx));
    cx.reply.ok();
    Ok(())
}

/// Changes settings of Terrace; they are in effect when this function returns.
async fn set_own(cx: &Context<'_>, settings: Vec<(String, String)>) -> Done {
    let stopping = || Refusal::text("ERR CONFIG SET failed - the server is stopping");
    let (done, is_done) = oneshot::channel();
    let is_local = cx.session.is_local;
    cx.edge.changes.send(SettingsChange { settings, is_local, done }).await.map_err(|_closed| stopping())?;
    is_done.await.map_err(|_closed| stopping())?.map_err(|(key, why)| failed(&key, &why))
}

/// Returns the error text of Redis for a rejected value.
fn failed(name: &str, why: &str) -> Refusal {
    Refusal::text(format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"))
}

/// Sets parameters of the L2 Redis. Returns `false` if Redis rejected them; its error is the reply then.
async fn set_in_l2(cx: &mut Context<'_>, words: &[&[u8]]) -> Result<bool, Refusal> {
    if let Some(flavor) = cx.edge.cache.refuses_other_types() {
        let name = String::from_utf8_lossy(words[2]);
        let why = format!("the parameter requires Redis as L2, but l2.url is \"{flavor}\"");
        return Err(failed(&name, &why));
    }
    let mut request = Vec::new();
    write_request(&mut request, words.iter().copied());
    let passing = Passing::question(None, cx.reply.resp3());
    let reply = cx.edge.cache.pass(&request, passing).await?;
    let is_error = reply.starts_with(b"-");
    if is_error {
        cx.reply.whole(&reply);
    }
    Ok(!is_error)
}

/// A validated change.
enum Parameter {
    SlowerThan(i64),
    EntriesMax(u64),
    Latency(u64),
    Events(Vec<u8>),
}

impl Parameter {
    fn parse(parameters: &[(String, String)], lower: &str, name: &[u8], value: &[u8]) -> Result<Self, Refusal> {
        let name = readable(name, 128);
        let failed = |why: &str| failed(&name, why);
        let number = |min: i64, max: i64| {
            let within = |number: &i64| (min..=max).contains(number);
            let why = || failed(&format!("argument must be between {min} and {max} inclusive"));
            let parsed = integer(value).map_err(|_| failed("argument couldn't be parsed into an integer"))?;
            Some(parsed).filter(within).ok_or_else(why)
        };
        let unsigned = |max: u64| number(0, i64::try_from(max).unwrap_or(i64::MAX)).map(i64::unsigned_abs);
        match lower {
            "slowlog-log-slower-than" => number(-1, i64::MAX).map(Self::SlowerThan),
            "slowlog-max-len" => unsigned(ENTRIES_MAX).map(Self::EntriesMax),
            "latency-monitor-threshold" => unsigned(u64::MAX).map(Self::Latency),
            "notify-keyspace-events" => {
                let known = EventSelection::default().set(value);
                known
                    .then(|| Self::Events(value.to_vec()))
                    .ok_or_else(|| failed("Invalid event class character. Use 'Ag$lshzxeKEtmdn'."))
            }
            _ if parameters.iter().any(|(known, _)| *known == lower) => Err(failed("can't set immutable config")),
            _ => Err(Refusal::text(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"))),
        }
    }

    fn apply(self, cx: &Context<'_>) {
        let slow = &cx.edge.shared.slow;
        match self {
            Self::SlowerThan(us) => slow.slower_than_us.store(us, Relaxed),
            Self::EntriesMax(most) => slow.set_entries_max(most),
            Self::Latency(ms) => slow.latency_ms.store(ms, Relaxed),
            Self::Events(letters) => drop(cx.edge.shared.events.set(&letters)),
        }
    }
}

/// CONFIG RESETSTAT: resets the counters of this port. The counters of the cache stay, because other ports show them
/// too.
pub(in crate::resp) fn resetstat(cx: &mut Context<'_>, _args: Args<'_>) -> Done {
    cx.edge.shared.statistics.reset();
    cx.reply.ok();
    Ok(())
}
