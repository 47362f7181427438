//! The group that a key is counted in: the first policy that matches it, otherwise its template, otherwise `other`.
//!
//! An L1 entry stores its group as a small number, so a hit needs no lookup; only fills, misses and writes run this
//! code. A template with a variable becomes a group after [`SIGHTINGS`] keys. A template without a variable is a single
//! key, and never becomes a group. An entry keeps the group that it was inserted with.
//!
//! The module is bounded. The first at most [`GROUPS_MAX`] templates become groups, and are kept until the restart,
//! because counters must only grow. At most [`CANDIDATES_MAX`] templates are candidates. All other keys are counted in
//! `other`.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::{
    access::Principal,
    cache::{Core, policy::Rules},
    learn::key_template::{KeyTemplate, KeyTemplates},
};

/// Maximum number of key groups in statistics, group `other` included. An L1 entry stores its group in one byte.
pub const GROUPS_MAX: usize = 256;
/// Number of the group `other`.
pub const OTHER: u8 = 0;
/// Name of the group `other`.
pub const OTHER_NAME: &str = "other";
/// Number of keys of a template before it becomes a group.
const SIGHTINGS: u32 = 16;
/// Maximum number of key templates that are counted before they become key groups.
const CANDIDATES_MAX: usize = 4_096;
/// Among keys whose template already has a group, one in this many still teaches which words vary.
const TEACH_EVERY: u32 = 16;
/// Maximum length of a key group name in characters.
const NAME_MAX: usize = 80;

/// All groups of a server.
#[derive(Debug)]
pub struct Groups {
    known: RwLock<Known>,
    turn: AtomicU32,
}

#[derive(Debug)]
struct Known {
    names: Vec<Arc<str>>,
    policies: HashMap<Box<[u8]>, u8>,
    shapes: KeyTemplates,
    templates: HashMap<u64, u8>,
    candidates: HashMap<u64, u32>,
}

impl Default for Groups {
    fn default() -> Self {
        let known = Known {
            names: vec![OTHER_NAME.into()],
            policies: HashMap::new(),
            shapes: KeyTemplates::default(),
            templates: HashMap::new(),
            candidates: HashMap::new(),
        };
        Self { known: RwLock::new(known), turn: AtomicU32::new(0) }
    }
}

impl Groups {
    /// Returns the number of the group that a key is counted in. Learns from the key.
    pub fn of(&self, key: &[u8], rules: &Rules) -> u8 {
        match rules.policy(key) {
            Some(policy) => self.of_policy(policy.matches.pattern()),
            None => self.of_template(key),
        }
    }

    /// Returns the number of the group that a key would be counted in now. Learns nothing.
    #[must_use]
    pub fn look(&self, key: &[u8], rules: &Rules) -> u8 {
        self.known.read().look(key, rules)
    }

    /// Returns number and name of the group that a key would be counted in now. Learns nothing.
    #[must_use]
    pub fn look_with_name(&self, key: &[u8], rules: &Rules) -> (u8, Arc<str>) {
        let known = self.known.read();
        let number = known.look(key, rules);
        (number, Arc::clone(&known.names[usize::from(number)]))
    }

    /// Returns the names of all groups, by number.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.known.read().names.clone()
    }

    /// Returns the number and name of a key's template, which need not be a group.
    #[must_use]
    pub fn template_of(&self, key: &[u8]) -> (u64, String) {
        let shape = self.known.read().shapes.look(key);
        (shape.hash, shown(&shape.name(key)))
    }

    fn of_policy(&self, pattern: &[u8]) -> u8 {
        let number = self.known.read().policies.get(pattern).copied();
        number.unwrap_or_else(|| self.known.write().add_policy(pattern))
    }

    fn of_template(&self, key: &[u8]) -> u8 {
        let known = self.known.read();
        let number = known.templates.get(&known.shapes.look(key).hash).copied();
        drop(known);
        let teaches = number.is_none() || self.turn.fetch_add(1, Relaxed).is_multiple_of(TEACH_EVERY);
        // If the lock is taken, the key is skipped: other keys of the template are learned from.
        match self.known.try_write().filter(|_| teaches) {
            Some(mut known) => known.learn(key),
            None => number.unwrap_or(OTHER),
        }
    }
}

impl Known {
    fn look(&self, key: &[u8], rules: &Rules) -> u8 {
        let number = match rules.policy(key) {
            Some(policy) => self.policies.get(policy.matches.pattern().as_ref()).copied(),
            None => self.templates.get(&self.shapes.look(key).hash).copied(),
        };
        number.unwrap_or(OTHER)
    }

    fn add(&mut self, name: &str) -> u8 {
        let Some(number) = u8::try_from(self.names.len()).ok().filter(|_| self.names.len() < GROUPS_MAX) else {
            return OTHER;
        };
        self.names.push(shown(name).into());
        number
    }

    fn add_policy(&mut self, pattern: &[u8]) -> u8 {
        if let Some(&number) = self.policies.get(pattern) {
            return number;
        }
        let number = self.add(&String::from_utf8_lossy(pattern));
        if number != OTHER {
            self.policies.insert(pattern.into(), number);
        }
        number
    }

    fn learn(&mut self, key: &[u8]) -> u8 {
        let shape = self.shapes.learn(key);
        if let Some(&number) = self.templates.get(&shape.hash) {
            return number;
        }
        if self.names.len() >= GROUPS_MAX || !self.is_ripe(&shape) {
            return OTHER;
        }
        let number = self.add(&shape.name(key));
        self.templates.insert(shape.hash, number);
        number
    }

    /// Returns whether this template was seen often enough to become a group.
    fn is_ripe(&mut self, shape: &KeyTemplate) -> bool {
        if !shape.tokens.iter().any(|token| token.is_variable) {
            return false;
        }
        if self.candidates.len() >= CANDIDATES_MAX {
            self.candidates.clear();
        }
        let sightings = self.candidates.entry(shape.hash).or_default();
        *sightings += 1;
        let ripe = *sightings >= SIGHTINGS;
        if ripe {
            self.candidates.remove(&shape.hash);
        }
        ripe
    }
}

/// Returns whether a client may know about a group. The keys of `other` have no common prefix.
pub(in crate::cache) fn is_seen_by(principal: &Principal, name: &str) -> bool {
    principal.sees_all() || name != OTHER_NAME && principal.sees_group(name)
}

/// Returns a name that is safe in a label and on a terminal.
fn shown(name: &str) -> String {
    name.chars().take(NAME_MAX).map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

impl Core {
    /// Returns the number of the group that a key is counted in.
    pub(crate) fn group_of(&self, key: &[u8]) -> u8 {
        self.stats.groups.of(key, &self.rules.load())
    }

    /// Returns the number of the group that a predicted key is counted in. Nobody may have read such a key, and it may contain
    /// words of another client's keys: it must not become a group, whose name clients see.
    pub(crate) fn group_of_predicted(&self, key: &[u8]) -> u8 {
        self.stats.groups.look(key, &self.rules.load())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{cache::policy::Policy, glob::Glob};

    fn rules(patterns: &[&str]) -> Rules {
        let policy = |pattern: &&str| Policy::of(Glob::new(pattern.as_bytes()).expect("a pattern"));
        Rules { policies: patterns.iter().map(policy).collect(), ..Rules::new(1 << 20, Duration::from_secs(60)) }
    }

    #[test]
    fn policies_come_first_then_templates_then_the_rest() {
        let (groups, rules) = (Groups::default(), rules(&["session:*"]));
        let first = groups.of(b"session:1", &rules);
        for number in 0..100 {
            groups.of(format!("user:{number}:cart").as_bytes(), &rules);
            groups.of(b"config", &rules);
        }
        let (cart, config) = (groups.of(b"user:7000:cart", &rules), groups.of(b"config", &rules));
        let names = groups.names();
        assert_eq!(&*names[usize::from(first)], "session:*");
        assert_eq!(&*names[usize::from(cart)], "user:{d}:cart");
        assert_eq!((config, &*names[0]), (OTHER, "other"), "a single key is not a group");
        assert_eq!(groups.of(b"once:1", &rules), OTHER, "seen once");
    }

    #[test]
    fn the_number_of_groups_is_bounded_and_numbers_stay() {
        let (groups, rules) = (Groups::default(), rules(&[]));
        let word = |number: usize| {
            format!("{}{}", char::from(b'a' + (number / 26) as u8), char::from(b'a' + (number % 26) as u8))
        };
        for number in 0..600 {
            for id in 0..SIGHTINGS {
                groups.of(format!("{}-x-{id}", word(number)).as_bytes(), &rules);
            }
        }
        let names = groups.names();
        assert!(names.len() <= GROUPS_MAX, "{}", names.len());
        for id in 0..CANDIDATES_MAX * 3 {
            groups.of(format!("k{id}:{}:z", word(id % 600)).as_bytes(), &rules);
        }
        assert!(groups.known.read().candidates.len() <= CANDIDATES_MAX);
        assert_eq!(groups.names()[..names.len()], names);
    }

    #[test]
    fn a_look_creates_no_group() {
        let (groups, rules) = (Groups::default(), rules(&["session:*"]));
        for number in 0..100 {
            assert_eq!(groups.look(format!("user:{number}:cart").as_bytes(), &rules), OTHER);
            assert_eq!(groups.look(b"session:1", &rules), OTHER);
        }
        assert_eq!(groups.names().len(), 1);
        let session = groups.of(b"session:1", &rules);
        assert_eq!(groups.look(b"session:2", &rules), session);
    }

    #[test]
    fn a_name_fits_a_label() {
        assert_eq!(shown("a\nb\u{7}"), "a?b?");
        assert_eq!(shown(&"x".repeat(500)).len(), NAME_MAX);
    }
}
