//! The search: visits every state that events can reach from the initial state.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use super::{
    Rules, Scope,
    world::{Event, State},
};

/// Extent of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// All reachable states.
    End,
    /// Until the first state with a violation, which has the fewest steps.
    Wrong,
}

/// The reachable states.
pub(super) struct Search {
    pub(super) states: Vec<State>,
    /// Predecessor and event by which each state was first reached.
    from: Vec<(usize, Option<Event>)>,
    pub(super) wrong: Vec<usize>,
}

impl Search {
    /// Searches breadth first.
    pub(super) fn run(scope: Scope, rules: &Rules, until: Until) -> Self {
        let start = State::start(scope);
        let mut known = HashMap::from([(start, 0)]);
        let mut search = Self { states: vec![start], from: vec![(0, None)], wrong: Vec::new() };
        let mut events = Vec::new();
        let mut at = 0;
        while let Some(state) = search.states.get(at).copied() {
            if state.is_wrong() {
                search.wrong.push(at);
                if until == Until::Wrong {
                    break;
                }
            }
            state.events(rules, &mut events);
            for event in &events {
                let next = state.after(*event, rules);
                if let Entry::Vacant(place) = known.entry(next) {
                    place.insert(search.states.len());
                    search.states.push(next);
                    search.from.push((at, Some(*event)));
                }
            }
            at += 1;
        }
        search
    }

    /// Returns the shortest path to a violation.
    fn trace(&self) -> Vec<String> {
        let Some(mut at) = self.wrong.first().copied() else { return Vec::new() };
        let mut told = vec![self.states[at].end()];
        while let (before, Some(event)) = self.from[at] {
            told.push(event.tell(&self.states[before], &self.states[at]));
            at = before;
        }
        told.reverse();
        told
    }
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states, {}",
            self.states.len(),
            if self.wrong.is_empty() { "none wrong" } else { "a wrong one" }
        )?;
        for (step, line) in self.trace().iter().enumerate() {
            write!(f, "\n  {:>2}. {line}", step + 1)?;
        }
        Ok(())
    }
}
