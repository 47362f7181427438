//! `[[policy]]`: settings of a group of keys.

use super::{
    coverage::{covers, unclosed_class},
    fault::{Fault, nearest},
    file::{Entry, PolicyTable},
    form::{Choice, Count, Factor, Flag, Form, Maybe, Raw, Size, Span},
};
use crate::{
    cache::{
        loads::limits,
        policy::{Policy, Prefetch, Ttl},
    },
    glob::Glob,
    node::Setting,
};

/// Maximum number of policies. A key without a matching policy is compared with the patterns of all policies.
const POLICIES_MAX: usize = 256;

/// One key of a policy.
#[derive(Debug, Clone, Copy)]
pub struct PolicyRow {
    /// Key in the file: `max_ttl`.
    pub key: &'static str,
    /// Description.
    pub doc: &'static str,
    /// Accepted values.
    pub form: fn() -> String,
    /// Value if the key is absent.
    pub default: &'static str,
    set: fn(&mut Policy, &Raw) -> Result<(), String>,
    show: fn(&Policy) -> String,
}

/// Range of TTLs in policies. The maximum keeps the millisecond arithmetic of Redis and Terrace far from overflow.
const TTL: Maybe<Span> = Maybe("none", Span(limits::TTL.min(), limits::TTL.max()));
/// Range of the factor of early refreshes.
const EARLY: Factor = Factor(0.0, 10.0);
/// Maximum random reduction of a TTL in percent.
const JITTER_MAX: u8 = 50;
const JITTER: Count = Count(0, JITTER_MAX as u64);
const LEASE: Maybe<Span> = Maybe("none", Span(limits::LEASE.min(), limits::LEASE.max()));
const MAX_VALUE: Maybe<Size> = Maybe("none", Size(1, 512 << 20));

const PREFETCH: Choice<Prefetch> =
    Choice(&[("off", Prefetch::Off), ("shadow", Prefetch::Shadow), ("auto", Prefetch::Auto)]);
/// Names of [`Ttl`].
const TTL_MODE: Choice<Ttl> = Choice(&[("fixed", Ttl::Fixed), ("advise", Ttl::Advise), ("tune", Ttl::Tune)]);

/// All keys of a policy.
pub const POLICY_ROWS: [PolicyRow; 13] = [
    PolicyRow {
        key: "match",
        doc: "Redis glob pattern that is matched against the whole key. The first matching policy applies.",
        form: || Pattern.describe(),
        default: "",
        set: |policy, raw| Pattern.read(raw).map(|glob| policy.matches = glob),
        show: |policy| Pattern.show(&policy.matches),
    },
    PolicyRow {
        key: "default_ttl",
        doc: "TTL applied to writes that specify none.",
        form: || TTL.describe(),
        default: "none",
        set: |policy, raw| TTL.read(raw).map(|ttl| policy.default_ttl = ttl),
        show: |policy| TTL.show(&policy.default_ttl),
    },
    PolicyRow {
        key: "max_ttl",
        doc: "Maximum TTL of a write. Writes without a TTL receive this TTL, unless default_ttl is set.",
        form: || TTL.describe(),
        default: "none",
        set: |policy, raw| TTL.read(raw).map(|ttl| policy.max_ttl = ttl),
        show: |policy| TTL.show(&policy.max_ttl),
    },
    PolicyRow {
        key: "touch_on_read",
        doc: "Sliding TTL: a read extends a shorter remaining TTL to this duration; none = reads do not change TTLs.",
        form: || TTL.describe(),
        default: "none",
        set: |policy, raw| TTL.read(raw).map(|ttl| policy.touch_on_read = ttl),
        show: |policy| TTL.show(&policy.touch_on_read),
    },
    PolicyRow {
        key: "stale",
        doc: "Last part of a key's life, in which get-or-load returns the value and one client refreshes it.",
        form: || TTL.describe(),
        default: "none",
        set: |policy, raw| TTL.read(raw).map(|ttl| policy.stale = ttl),
        show: |policy| TTL.show(&policy.stale),
    },
    PolicyRow {
        key: "negative_ttl",
        doc: "TTL of the answer that the origin does not have a key.",
        form: || TTL.describe(),
        default: "none",
        set: |policy, raw| TTL.read(raw).map(|ttl| policy.negative_ttl = ttl),
        show: |policy| TTL.show(&policy.negative_ttl),
    },
    PolicyRow {
        key: "early",
        doc: "Early refresh by get-or-load: factor of the mean load time in the exponential distribution of the refresh before the end of the fresh time; 0 = no early refresh.",
        form: || EARLY.describe(),
        default: "1.0",
        set: |policy, raw| EARLY.read(raw).map(|early| policy.early = early),
        show: |policy| EARLY.show(&policy.early),
    },
    PolicyRow {
        key: "jitter",
        doc: "Maximum random reduction of the TTL of a write in percent, so that keys that were written together do not expire together.",
        form: || <Count as Form<u64>>::describe(&JITTER),
        default: "0",
        set: |policy, raw| {
            JITTER.read(raw).map(|percent: u64| policy.jitter = u8::try_from(percent).unwrap_or(JITTER_MAX))
        },
        show: |policy| JITTER.show(&u64::from(policy.jitter)),
    },
    PolicyRow {
        key: "lease",
        doc: "Exclusive time of a load lease; none = 4 times the 99th percentile of the load time of the key group, within 2 to 30 s (10 s while it is unknown).",
        form: || LEASE.describe(),
        default: "none",
        set: |policy, raw| LEASE.read(raw).map(|lease| policy.lease = lease),
        show: |policy| LEASE.show(&policy.lease),
    },
    PolicyRow {
        key: "max_value",
        doc: "Maximum value size in bytes, in addition to server.max_value.",
        form: || MAX_VALUE.describe(),
        default: "none",
        set: |policy, raw| MAX_VALUE.read(raw).map(|size| policy.max_value = size),
        show: |policy| MAX_VALUE.show(&policy.max_value),
    },
    PolicyRow {
        key: "l1",
        doc: "Permission to cache matching keys in L1.",
        form: || Flag.describe(),
        default: "true",
        set: |policy, raw| Flag.read(raw).map(|l1| policy.l1 = l1),
        show: |policy| Flag.show(&policy.l1),
    },
    PolicyRow {
        key: "ttl",
        doc: "TTL of writes that specify none: fixed (default_ttl), tune (a learned TTL), or advise (default_ttl; the learned TTL is only reported).",
        form: || TTL_MODE.describe(),
        default: "fixed",
        set: |policy, raw| TTL_MODE.read(raw).map(|ttl| policy.ttl = ttl),
        show: |policy| TTL_MODE.show(&policy.ttl),
    },
    PolicyRow {
        key: "prefetch",
        doc: "Prefetch mode: off, shadow (predictions are measured but nothing is prefetched), or auto (predictions with measured precision are prefetched).",
        form: || PREFETCH.describe(),
        default: "auto",
        set: |policy, raw| PREFETCH.read(raw).map(|prefetch| policy.prefetch = prefetch),
        show: |policy| PREFETCH.show(&policy.prefetch),
    },
];

/// A glob pattern.
struct Pattern;

impl Form<Glob> for Pattern {
    fn read(&self, raw: &Raw) -> Result<Glob, String> {
        let wanted = "a pattern such as \"session:*\"";
        match raw.text(wanted)? {
            "" => Err(raw.not(wanted)),
            text => match unclosed_class(text.as_bytes()) {
                Some(at) => {
                    Err(format!("{text:?}: the class [ at byte {} has no ]; write \\\\[ for a bracket", at + 1))
                }
                None => Glob::new(text.as_bytes()).map_err(|error| error.to_string()),
            },
        }
    }

    fn show(&self, value: &Glob) -> String {
        toml::Value::from(String::from_utf8_lossy(value.pattern()).as_ref()).to_string()
    }

    fn unit(&self) -> &'static str {
        "PATTERN"
    }

    fn describe(&self) -> String {
        format!("pattern, at most {} bytes", crate::glob::PATTERN_MAX_BYTES)
    }
}

/// Reads all policies and returns them with their printable settings.
///
/// A policy that an earlier one hides is a warning.
pub(super) fn read(
    tables: &[PolicyTable],
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<String>,
) -> (Vec<Policy>, Vec<Setting>) {
    let (mut policies, mut settings) = (Vec::new(), Vec::new());
    if let Some(extra) = tables.get(POLICIES_MAX) {
        let message = format!("{} policies are defined; expected at most {POLICIES_MAX}", tables.len());
        faults.push(extra.source.fault(message));
    }
    for table in tables {
        let policy = read_one(table, faults);
        let covering =
            policies.iter().position(|earlier: &Policy| covers(earlier.matches.pattern(), policy.matches.pattern()));
        if let Some(first) = covering.filter(|_| policies.len() < POLICIES_MAX) {
            warnings.push(hidden(table, &policy, &tables[first], &policies[first]));
        }
        settings.extend(shown(&policy, policies.len(), table));
        policies.push(policy);
    }
    (policies, settings)
}

/// Returns the warning for a policy without effect.
fn hidden(table: &PolicyTable, policy: &Policy, earlier_table: &PolicyTable, earlier: &Policy) -> String {
    let (pattern, earlier) = (Pattern.show(&policy.matches), Pattern.show(&earlier.matches));
    let place = earlier_table.source.place();
    let why = if pattern == earlier { "has the same pattern" } else { "matches all of its keys" };
    format!("{}: the policy {pattern} has no effect: the policy {earlier} at {place} {why}", table.source.place())
}

fn read_one(table: &PolicyTable, faults: &mut Vec<Fault>) -> Policy {
    let everything = Glob::new(b"*").unwrap_or_else(|_| unreachable!("one byte is a pattern"));
    let mut policy = Policy::of(everything);
    for entry in &table.entries {
        if let Err(message) = set(&mut policy, entry) {
            faults.push(entry.source.fault(message));
        }
    }
    if !table.entries.iter().any(|entry| entry.key == "match") {
        let message = "policy: match is missing; expected a pattern such as \"session:*\"";
        faults.push(table.source.fault(message));
    }
    for (key, ttl) in [
        ("default_ttl", policy.default_ttl),
        ("touch_on_read", policy.touch_on_read),
        ("stale", policy.stale),
        ("negative_ttl", policy.negative_ttl),
    ] {
        if let (Some(ttl), Some(most)) = (ttl, policy.max_ttl)
            && ttl > most
        {
            let message = format!("policy: {key} {} exceeds max_ttl {}", TTL.show(&Some(ttl)), TTL.show(&Some(most)));
            faults.push(table.source.fault(message));
        }
    }
    if policy.stale.is_some() && policy.touch_on_read.is_some() {
        let message = "policy: stale and touch_on_read are set; a sliding TTL has no stale part";
        faults.push(table.source.fault(message.to_owned()));
    }
    policy
}

fn set(policy: &mut Policy, entry: &Entry) -> Result<(), String> {
    let Some(row) = POLICY_ROWS.iter().find(|row| row.key == entry.key) else {
        let hint = nearest(&entry.key, POLICY_ROWS.iter().map(|row| row.key.to_owned()));
        return Err(format!("unknown policy key {}{hint}", entry.key));
    };
    (row.set)(policy, &entry.raw).map_err(|reason| format!("policy.{}: {reason}", row.key))
}

fn shown(policy: &Policy, index: usize, table: &PolicyTable) -> Vec<Setting> {
    let rows = POLICY_ROWS.iter();
    let setting = |row: &PolicyRow| {
        let entry = table.entries.iter().find(|entry| entry.key == row.key);
        Setting {
            key: format!("policy[{index}].{}", row.key),
            value: (row.show)(policy),
            source: entry.map_or_else(|| "default".into(), |entry| entry.source.to_string()),
            reloadable: true,
        }
    };
    rows.map(setting).collect()
}
