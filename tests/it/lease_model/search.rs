//! The search: visits every state that events can reach from the initial state, breadth first.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// A model: a state, its possible events, and the violations.
pub(super) trait World: Clone + Eq + Hash {
    /// The behavior of Terrace in this world.
    type Rules: Copy;

    /// Adds a step for each event that is possible in this state.
    fn steps(&self, rules: &Self::Rules, steps: &mut Vec<Step<Self>>);

    /// Returns the violation in this state, if there is one.
    fn violation(&self, rules: &Self::Rules) -> Option<&'static str>;

    /// Returns true for a state in which a value of a load is stored and no invalidation hides it. The search must
    /// reach one: rules are not safe merely because they store nothing.
    fn shows_load(&self) -> bool;
}

/// One event and the state after it.
pub(super) struct Step<S> {
    /// Description; `{}` is replaced by `who`.
    text: &'static str,
    who: usize,
    state: S,
}

impl<S> Step<S> {
    pub(super) fn new(text: &'static str, who: usize, state: S) -> Self {
        Self { text, who, state }
    }
}

/// Hashes the small fields of a state. In an unoptimized build, most of the time of a search is spent on hashing.
#[derive(Default)]
struct FieldHasher(u64);

impl Hasher for FieldHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, field: u8) {
        self.write_u64(u64::from(field));
    }

    fn write_u64(&mut self, field: u64) {
        self.0 = (self.0.rotate_left(5) ^ field).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, field: usize) {
        self.write_u64(field as u64);
    }

    fn write_isize(&mut self, field: isize) {
        self.write_u64(field as u64);
    }
}

/// The result of a search.
#[derive(Debug, Clone)]
pub(super) struct Search {
    /// Number of states visited.
    pub(super) states: usize,
    pub(super) shows_load: bool,
    /// The shortest path to a violation, if one was found.
    pub(super) trace: Option<Vec<String>>,
}

impl Search {
    /// Searches until the first violation, which has the fewest steps, or until all states were visited.
    pub(super) fn run<S: World>(start: S, rules: &S::Rules) -> Self {
        let mut known: HashMap<S, (), BuildHasherDefault<FieldHasher>> = HashMap::default();
        known.insert(start.clone(), ());
        let mut states = vec![start];
        // Predecessor and event by which each state was first reached.
        let mut from: Vec<(u32, &'static str, u8)> = vec![(0, "", 0)];
        let (mut at, mut shows_load, mut steps) = (0, false, Vec::new());
        while let Some(state) = states.get(at) {
            shows_load |= state.shows_load();
            if let Some(violation) = state.violation(rules) {
                let trace = Some(trace(&from, at, violation));
                return Self { states: states.len(), shows_load, trace };
            }
            state.steps(rules, &mut steps);
            for Step { text, who, state } in steps.drain(..) {
                if let Entry::Vacant(place) = known.entry(state) {
                    states.push(place.key().clone());
                    place.insert(());
                    from.push((at as u32, text, who as u8));
                }
            }
            at += 1;
        }
        Self { states: states.len(), shows_load, trace: None }
    }
}

fn trace(from: &[(u32, &'static str, u8)], mut at: usize, violation: &str) -> Vec<String> {
    let mut lines = vec![format!("violation: {violation}")];
    while at > 0 {
        let (before, text, who) = from[at];
        lines.push(text.replace("{}", &who.to_string()));
        at = before as usize;
    }
    lines.reverse();
    lines
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states", self.states)?;
        for (step, line) in self.trace.iter().flatten().enumerate() {
            write!(f, "\n  {:>2}. {line}", step + 1)?;
        }
        Ok(())
    }
}
