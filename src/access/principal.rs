//! The permissions of an authenticated client.
//!
//! Rules have literal prefixes, not patterns: a check compares a few bytes, and whether a rule covers all keys of a pattern
//! is decidable. A pattern is permitted if its literal prefix is within a permitted prefix.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::Verbs;
use crate::error::{CacheError, Kind, Result};

/// Maximum number of prefixes that an error message lists.
const SHOWN_PREFIXES_MAX: usize = 8;

/// Literal prefixes. The empty prefix covers everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes(Vec<Box<[u8]>>);

impl Prefixes {
    /// Covers everything.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![Box::default()])
    }

    /// Adds a prefix.
    pub(super) fn add(&mut self, prefix: &[u8]) {
        if !self.0.iter().any(|known| **known == *prefix) {
            self.0.push(prefix.into());
        }
    }

    /// Returns whether a prefix covers the name.
    #[must_use]
    pub fn cover(&self, name: &[u8]) -> bool {
        self.0.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// Number of rejected operations of a user, by verb.
#[derive(Debug, Default)]
pub struct Denials([AtomicU64; Verbs::COUNT]);

impl Denials {
    fn count(&self, verbs: Verbs) {
        for (at, (_, verb)) in Verbs::NAMED.iter().enumerate() {
            if verbs.contains(*verb) {
                self.0[at].fetch_add(1, Relaxed);
            }
        }
    }

    /// Returns the verbs with rejected operations, and their numbers.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = Verbs::NAMED.iter().zip(&self.0).map(|((name, _), count)| (*name, count.load(Relaxed)));
        all.filter(|(_, count)| *count > 0)
    }
}

/// The permissions of a client, merged from the roles of its user.
#[derive(Debug, Clone)]
pub struct Principal {
    pub(super) name: Arc<str>,
    /// Verbs on all keys and on the node.
    pub(super) everywhere: Verbs,
    /// Verbs on the keys with a prefix.
    pub(super) rules: Vec<(Box<[u8]>, Verbs)>,
    pub(super) channels: Prefixes,
    pub(super) tags: Prefixes,
    pub(super) denials: Arc<Denials>,
}

static NOBODY: LazyLock<Arc<Principal>> = LazyLock::new(|| Arc::new(Principal::nobody("nobody")));
static SYSTEM: LazyLock<Arc<Principal>> = LazyLock::new(|| Arc::new(Principal::admin("system")));

impl Principal {
    /// Creates a principal with all permissions.
    #[must_use]
    pub fn admin(name: &str) -> Self {
        Self {
            name: name.into(),
            everywhere: Verbs::ALL,
            rules: Vec::new(),
            channels: Prefixes::all(),
            tags: Prefixes::all(),
            denials: Arc::default(),
        }
    }

    /// Creates a principal without permissions.
    #[must_use]
    pub fn nobody(name: &str) -> Self {
        Self {
            name: name.into(),
            everywhere: Verbs::NONE,
            rules: Vec::new(),
            channels: Prefixes::default(),
            tags: Prefixes::default(),
            denials: Arc::default(),
        }
    }

    /// Creates a principal without permissions, to which a test adds some.
    #[cfg(test)]
    pub(crate) fn for_tests(name: &str) -> Self {
        Self::nobody(name)
    }

    #[cfg(test)]
    pub(crate) fn grant(&mut self, prefix: &[u8], verbs: Verbs) {
        self.add_rule(prefix, verbs);
    }

    #[cfg(test)]
    pub(crate) fn grant_channels(&mut self, prefix: &[u8]) {
        self.channels.add(prefix);
    }

    /// Returns a principal without permissions, for clients that are not authenticated yet.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::clone(&NOBODY)
    }

    /// Returns the principal of Terrace's own jobs, with all permissions.
    #[must_use]
    pub fn system() -> Arc<Self> {
        Arc::clone(&SYSTEM)
    }

    /// Returns the principal with these counters.
    pub(super) fn counted_by(&self, denials: Arc<Denials>) -> Self {
        Self { denials, ..self.clone() }
    }

    /// Adds the permissions of another principal.
    pub(super) fn add(&mut self, other: &Self) {
        self.everywhere = self.everywhere.with(other.everywhere);
        for (prefix, verbs) in &other.rules {
            self.add_rule(prefix, *verbs);
        }
        other.channels.0.iter().for_each(|prefix| self.channels.add(prefix));
        other.tags.0.iter().for_each(|prefix| self.tags.add(prefix));
    }

    /// Adds verbs for the keys with a prefix.
    pub(super) fn add_rule(&mut self, prefix: &[u8], verbs: Verbs) {
        if prefix.is_empty() {
            self.everywhere = self.everywhere.with(verbs);
            return;
        }
        match self.rules.iter_mut().find(|(known, _)| **known == *prefix) {
            Some((_, known)) => *known = known.with(verbs),
            None => self.rules.push((prefix.into(), verbs)),
        }
    }

    /// Returns the name of the user.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns whether the principal has the verbs on all keys and on the node.
    #[inline]
    #[must_use]
    pub fn may_everywhere(&self, verbs: Verbs) -> bool {
        self.everywhere.contains(verbs)
    }

    /// Returns whether the principal has the verbs on a key. For a pattern, pass its literal prefix.
    #[inline]
    #[must_use]
    pub fn may(&self, verbs: Verbs, key: &[u8]) -> bool {
        self.everywhere.contains(verbs) || self.may_by_rules(verbs, key)
    }

    fn may_by_rules(&self, verbs: Verbs, key: &[u8]) -> bool {
        let mut missing = verbs.without(self.everywhere);
        for (prefix, permitted) in &self.rules {
            if key.starts_with(prefix) {
                missing = missing.without(*permitted);
                if missing.is_empty() {
                    return true;
                }
            }
        }
        false
    }

    /// Returns whether the principal has the verbs on a key that starts with `prefix`.
    #[must_use]
    pub fn may_within(&self, verbs: Verbs, prefix: &[u8]) -> bool {
        self.may(verbs, prefix)
            || self.rules.iter().any(|(own, permitted)| own.starts_with(prefix) && permitted.contains(verbs))
    }

    /// Returns whether both principals have the same name and permissions.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { name, everywhere, rules, channels, tags, denials: _ } = self;
        (name, everywhere, rules, channels, tags)
            == (&other.name, &other.everywhere, &other.rules, &other.channels, &other.tags)
    }

    /// Returns whether the principal has the verbs on at least one prefix.
    #[must_use]
    pub fn may_somewhere(&self, verbs: Verbs) -> bool {
        let all = self.rules.iter().fold(self.everywhere, |all, (_, verbs)| all.with(*verbs));
        all.contains(verbs)
    }

    /// Returns whether the principal may know that the key exists: it may read or inspect the key.
    #[inline]
    #[must_use]
    pub fn sees(&self, key: &[u8]) -> bool {
        self.may(Verbs::READ, key) || self.may(Verbs::INSPECT, key)
    }

    /// Returns whether the principal may know about all keys.
    #[inline]
    #[must_use]
    pub fn sees_all(&self) -> bool {
        self.everywhere.contains(Verbs::READ) || self.everywhere.contains(Verbs::INSPECT)
    }

    /// Returns whether the principal may use a channel. For a pattern, pass its literal prefix.
    #[must_use]
    pub fn may_use_channel(&self, channel: &[u8]) -> bool {
        self.channels.cover(channel)
    }

    /// Returns whether the principal may use a tag.
    #[must_use]
    pub fn may_use_tag(&self, tag: &[u8]) -> bool {
        self.tags.cover(tag)
    }

    /// Returns whether the principal may change the key in some way.
    #[must_use]
    pub fn may_change(&self, key: &[u8]) -> bool {
        self.may(Verbs::WRITE, key) || self.may(Verbs::DELETE, key)
    }

    /// Checks the verbs on a key.
    ///
    /// # Errors
    /// `Denied`, with the verbs and the permitted prefixes, but never the key.
    #[inline]
    pub fn check(&self, verbs: Verbs, key: &[u8]) -> Result<()> {
        if self.may(verbs, key) { Ok(()) } else { Err(self.denied(verbs)) }
    }

    /// Checks that the principal may know about a key.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_sees(&self, key: &[u8]) -> Result<()> {
        if self.sees(key) { Ok(()) } else { Err(self.denied(Verbs::READ)) }
    }

    /// Checks that the principal may inspect at least some keys.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_inspects(&self) -> Result<()> {
        if self.may_somewhere(Verbs::INSPECT) { Ok(()) } else { Err(self.denied(Verbs::INSPECT)) }
    }

    /// Returns whether the principal may know about a key group: a policy's pattern or a key template.
    #[must_use]
    pub fn sees_group(&self, name: &str) -> bool {
        let literal = name.find(['*', '?', '[', '\\', '{']).unwrap_or(name.len());
        self.sees_all() || self.sees(&name.as_bytes()[..literal])
    }

    /// Returns the permissions in the notation of ACL LIST: `%R~` and `%W~` for keys, `&` for channels. Permissions without a
    /// counterpart in Redis are left out.
    #[must_use]
    pub fn in_redis_notation(&self) -> String {
        let mut words = Vec::new();
        let mut add_keys = |prefix: &str, verbs: Verbs| {
            let changes = !verbs.within(Verbs::WRITE.with(Verbs::DELETE)).is_empty();
            match (verbs.contains(Verbs::READ), changes) {
                (true, true) => words.push(format!("~{prefix}*")),
                (true, false) => words.push(format!("%R~{prefix}*")),
                (false, true) => words.push(format!("%W~{prefix}*")),
                (false, false) => {}
            }
        };
        add_keys("", self.everywhere);
        for (prefix, verbs) in &self.rules {
            add_keys(&String::from_utf8_lossy(prefix), *verbs);
        }
        words.extend(self.channels.0.iter().map(|prefix| format!("&{}*", String::from_utf8_lossy(prefix))));
        words.push("+@all".to_owned());
        if !self.everywhere.contains(Verbs::ADMIN) {
            words.push("-@admin -@dangerous".to_owned());
        }
        if !self.everywhere.contains(Verbs::SCRIPT) {
            words.push("-@scripting".to_owned());
        }
        words.join(" ")
    }

    /// Checks verbs on the node or on all keys.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_everywhere(&self, verbs: Verbs) -> Result<()> {
        if self.may_everywhere(verbs) {
            return Ok(());
        }
        self.denials.count(verbs.without(self.everywhere));
        let keys = if Verbs::OF_KEYS.contains(verbs) { " on all keys" } else { "" };
        Err(CacheError::new(Kind::Denied, format!("user {:?} does not have the permission {verbs}{keys}", self.name)))
    }

    /// Checks the use of a tag.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_tag(&self, tag: &[u8]) -> Result<()> {
        if self.may_use_tag(tag) {
            return Ok(());
        }
        let shown = shown(self.tags.0.iter().map(|prefix| &**prefix));
        Err(CacheError::new(
            Kind::Denied,
            format!("user {:?} may not use this tag; permitted prefixes: {shown}", self.name),
        ))
    }

    /// Returns the error for an operation on a key without permission.
    #[cold]
    #[must_use]
    pub fn denied(&self, verbs: Verbs) -> CacheError {
        let missing = verbs.without(self.everywhere);
        self.denials.count(missing);
        let permitted =
            self.rules.iter().filter(|(_, permitted)| permitted.contains(missing)).map(|(prefix, _)| &**prefix);
        let message = format!(
            "user {:?} does not have the permission {missing} on this key; permitted prefixes: {}",
            self.name,
            shown(permitted)
        );
        CacheError::new(Kind::Denied, message)
    }
}

fn shown<'p>(prefixes: impl Iterator<Item = &'p [u8]>) -> String {
    let mut shown: Vec<String> = prefixes.map(|prefix| String::from_utf8_lossy(prefix).into_owned()).collect();
    if shown.is_empty() {
        return "none".to_owned();
    }
    let more = shown.len().saturating_sub(SHOWN_PREFIXES_MAX);
    shown.truncate(SHOWN_PREFIXES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant() -> Principal {
        let mut tenant = Principal::nobody("orders");
        tenant.add_rule(b"orders:", Verbs::READ.with(Verbs::WRITE));
        tenant.add_rule(b"shared:", Verbs::READ);
        tenant.add_rule(b"orders:tmp:", Verbs::DELETE);
        tenant
    }

    #[test]
    fn verbs_are_limited_to_their_prefixes() {
        let tenant = tenant();
        for (verbs, key, may) in [
            (Verbs::READ, "orders:1", true),
            (Verbs::READ, "order", false),
            (Verbs::READ, "", false),
            (Verbs::READ, "shared:x", true),
            (Verbs::WRITE, "shared:x", false),
            (Verbs::DELETE, "orders:1", false),
            (Verbs::DELETE.with(Verbs::WRITE), "orders:tmp:1", true),
            (Verbs::ADMIN, "orders:1", false),
        ] {
            assert_eq!(tenant.may(verbs, key.as_bytes()), may, "{verbs} {key}");
        }
        assert!(!tenant.sees_all() && tenant.sees(b"shared:1") && !tenant.sees(b"users:1"));
        assert!(Principal::admin("a").may(Verbs::ALL, b"x"));
    }

    #[test]
    fn an_error_names_verb_and_prefixes_but_not_the_key() {
        let error = tenant().check(Verbs::WRITE, b"secret-key").unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert_eq!(
            error.message(),
            "user \"orders\" does not have the permission write on this key; permitted prefixes: orders:"
        );
    }
}
