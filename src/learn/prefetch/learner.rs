//! The learner: receives misses and first uses of prefetched keys, and returns the keys to prefetch.
//!
//! Each event settles the predictions of its key, teaches the predictors, collects their candidates (`collect`) and chooses
//! the most probable ones. No prediction is fetched before predictions like it were right (`proof`), and `budget` limits
//! the waste. Candidates that are not fetched are predictions in `shadow`. `explain` describes the learned state.

mod collect;
pub(super) mod explain;
#[cfg(test)]
mod tests;

use hashbrown::HashMap;

use super::{
    associations::{AssociationGraph, KEY_MAX_BYTES},
    budget::Budget,
    callers::Callers,
    candidate::{Candidate, FETCHES_MAX, PredictionSource},
    control::{Control, ControlSet, Evidence},
    counts::{FetchCounts, GroupedCounts, PrefixGroup},
    l1_view::L1View,
    l2_absent::AbsentKeys,
    lateness::Lateness,
    proof::Proof,
    shadow::{Shadow, horizon},
    shared_window::SharedWindow,
    template_rules::TemplateRules,
};
use crate::{
    learn::{
        key_class::{class_of, group_of, key_hash},
        recorder::Caller,
    },
    model::Key,
};

/// Maximum number of prefetched keys without a known outcome (about 3 MB).
const PENDING_MAX: usize = 65_536;
/// Events after which an outcome is no longer awaited: its report was dropped because a queue was full.
const PENDING_EVENTS: u64 = 1 << 20;
/// Events between two searches for such outcomes, because a search visits all of them.
const FORGET_EVERY: u64 = 4_096;
/// Entries of L1 below which nothing is prefetched: L1 then has no room to spare.
const ROOM_MIN: u64 = 16;
/// A rule with at least this probability explains a key, so that no other rule is mined for it.
const COVERED: f32 = 0.5;
/// Maximum memory in bytes of all parts but the association graph: shadow, rules, callers, fetched keys, shared window.
const FIXED_BYTES: usize = 15 << 20;

/// Settings of a learner.
#[derive(Debug, Clone, Copy)]
pub struct PrefetchSettings {
    /// Maximum memory in bytes.
    pub memory_bytes: usize,
    /// Wasted L2 reads for each read on demand.
    pub budget: f32,
    /// Does not prefetch 1 key in 16, to measure the gain.
    pub control: bool,
}

impl Default for PrefetchSettings {
    fn default() -> Self {
        Self { memory_bytes: 64 << 20, budget: 0.04, control: false }
    }
}

/// The kind of event that the learner receives. It receives no others, so that hits cost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A read that L1 could not answer.
    Miss,
    /// The first use of a prefetched key.
    FirstUse,
}

/// A fetched key whose outcome is awaited.
struct PendingFetch {
    p: f32,
    source: PredictionSource,
    group: u8,
    lag: u8,
    in_background: bool,
    /// Event at which the key was fetched.
    event: u64,
}

/// Learns which keys to prefetch.
pub struct Learner {
    pub(in crate::learn) graph: AssociationGraph,
    pub(in crate::learn) proof: Proof,
    pub(in crate::learn) rules: TemplateRules,
    pub(in crate::learn) budget: Budget,
    shadow: Shadow,
    callers: Callers,
    shared_window: SharedWindow,
    pending: HashMap<u64, PendingFetch, foldhash::fast::FixedState>,
    lateness: Lateness,
    absent_keys: AbsentKeys,
    control: Control,
    counts: GroupedCounts,
    /// Reads that L1 could not answer.
    missed: u64,
    /// Event from which on to search for outcomes that are no longer awaited.
    forget_from: u64,
    event: u64,
    displaced: u64,
    candidates: Vec<Candidate>,
}

impl Learner {
    /// Returns a learner that knows nothing.
    #[must_use]
    pub fn new(settings: PrefetchSettings) -> Self {
        let graph_bytes = settings.memory_bytes.saturating_sub(FIXED_BYTES).max(settings.memory_bytes / 4);
        Self {
            graph: AssociationGraph::new(graph_bytes),
            proof: Proof::default(),
            rules: TemplateRules::default(),
            budget: Budget::new(settings.budget),
            shadow: Shadow::default(),
            callers: Callers::default(),
            shared_window: SharedWindow::default(),
            pending: HashMap::default(),
            lateness: Lateness::default(),
            absent_keys: AbsentKeys::default(),
            control: Control::new(settings.control),
            counts: GroupedCounts::default(),
            missed: 0,
            forget_from: 0,
            event: 0,
            displaced: 0,
            candidates: Vec::new(),
        }
    }

    /// Learns from an event and adds the keys to prefetch to `fetch`: with the L2 read of a miss, or in the background after
    /// a first use.
    pub fn learn(&mut self, key: &[u8], caller: Caller, trigger: Trigger, l1: &L1View<'_>, fetch: &mut Vec<Key>) {
        if key.len() > KEY_MAX_BYTES {
            return;
        }
        self.event += 1;
        self.budget.displaced(l1.displaced.saturating_sub(std::mem::replace(&mut self.displaced, l1.displaced)));
        let hash = key_hash(key);
        let is_miss = trigger == Trigger::Miss;
        self.missed += u64::from(is_miss);
        self.control.settle(hash, is_miss);
        let is_covered = self.settle(hash, is_miss, l1);
        let template = self.rules.templates_mut().learn(key);
        let node = self.graph.observe(hash, key, class_of(key, &template));
        let context = self.callers.context(caller);
        let mut is_explained = false;
        for (lag, before) in context.iter().enumerate() {
            if let Some(before) = *before {
                is_explained |= self.graph.note_succession(before, node, lag as u8 + 1);
            }
        }
        self.candidates.clear();
        self.collect_associations(node, context, l1);
        self.collect_shared_window(node, is_explained, l1);
        self.collect_rules(key, &template, is_miss && !is_covered, l1);
        self.choose(!is_miss, l1, fetch);
        if caller != Caller::UNKNOWN {
            self.callers.push(caller, context, node);
        }
    }

    /// Settles the predictions of a key that was read, and those that have expired. Returns whether a probable rule had
    /// predicted the key.
    fn settle(&mut self, hash: u64, is_miss: bool, l1: &L1View<'_>) -> bool {
        let Self { proof, rules, shadow, .. } = self;
        let mut is_covered = false;
        let is_probable_rule = |rules: &TemplateRules, source| match source {
            PredictionSource::Rule(rule) => rules.p(rule) >= COVERED,
            PredictionSource::KnownKey(_) => false,
        };
        let was_likely = shadow.settle(hash, |source| {
            is_covered |= is_probable_rule(rules, source);
            credit(proof, rules, source, true);
        });
        let horizon = horizon(l1.room);
        shadow.expire(self.event, horizon, |source| credit(proof, rules, source, false));
        self.control.expire(self.event, horizon);
        let pending = self.pending.remove(&hash);
        self.budget.event(was_likely || pending.is_some());
        let Some(pending) = pending else { return is_covered };
        credit(&mut self.proof, &mut self.rules, pending.source, true);
        self.budget.used(pending.p);
        self.counts.count(pending.group, |counts| *if is_miss { &mut counts.late } else { &mut counts.used } += 1);
        if pending.in_background {
            self.lateness.note(pending.lag, is_miss);
        }
        is_covered || is_probable_rule(&self.rules, pending.source)
    }

    /// Notes that a fetched key left L1 unused.
    pub fn unused(&mut self, key: &[u8]) {
        let Some(pending) = self.pending.remove(&key_hash(key)) else { return };
        credit(&mut self.proof, &mut self.rules, pending.source, false);
        self.budget.unused(pending.p);
        self.counts.count(pending.group, |counts| counts.wasted += 1);
    }

    /// Notes that L2 does not have a fetched key: the key is not fetched again for a while.
    pub fn absent(&mut self, key: &[u8]) {
        self.absent_keys.note(key_hash(key), self.event);
        self.unused(key);
    }

    /// Notes that a fetch had no result for a reason unrelated to its prediction: the key changed meanwhile, or L2 is
    /// unavailable.
    pub fn dropped(&mut self, key: &[u8]) {
        if let Some(pending) = self.pending.remove(&key_hash(key)) {
            self.budget.used(pending.p);
        }
    }

    /// Fetches the most probable candidates; the others become predictions in shadow.
    fn choose(&mut self, in_background: bool, l1: &L1View<'_>, fetch: &mut Vec<Key>) {
        let floor = if l1.room < ROOM_MIN { 2.0 } else { self.budget.floor() };
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_by(|a, b| b.p.total_cmp(&a.p));
        let mut room = FETCHES_MAX;
        for candidate in candidates.drain(..) {
            let set = self.control.set_of(candidate.hash);
            if set == Some(ControlSet::Without) && self.control.is_open(candidate.hash) {
                continue;
            }
            let may_fetch = room > 0
                && candidate.p >= floor
                && !self.absent_keys.contains(candidate.hash, self.event)
                && (!in_background || self.lateness.allows(candidate.lag));
            let is_left_out = may_fetch && set == Some(ControlSet::Without);
            let is_issued = may_fetch && !is_left_out && self.issue(&candidate, in_background, fetch);
            if is_left_out || is_issued {
                room -= 1;
            }
            if is_left_out || is_issued && set.is_some() {
                self.control.decide(candidate.hash, self.event);
            }
            if is_issued {
                continue;
            }
            let Self { proof, rules, shadow, event, .. } = self;
            let prediction = (candidate.source, candidate.p);
            shadow.add(candidate.hash, prediction, *event, |source| credit(proof, rules, source, false));
            self.counts.count_for(&candidate.key, |counts| counts.shadow += 1);
        }
        self.candidates = candidates;
    }

    fn issue(&mut self, candidate: &Candidate, in_background: bool, fetch: &mut Vec<Key>) -> bool {
        let Ok(key) = Key::copied(&candidate.key) else { return false };
        if self.pending.len() >= PENDING_MAX && self.event >= self.forget_from {
            self.forget_pending();
        }
        if self.pending.len() >= PENDING_MAX || self.pending.contains_key(&candidate.hash) {
            return false;
        }
        let Candidate { p, source, lag, .. } = *candidate;
        let (group, event) = (group_of(&key), self.event);
        self.pending.insert(candidate.hash, PendingFetch { p, source, group, lag, in_background, event });
        self.budget.fetched(p);
        self.counts.count_for(&key, |counts| counts.issued += 1);
        fetch.push(key);
        true
    }

    /// Forgets fetched keys whose outcome is no longer awaited.
    fn forget_pending(&mut self) {
        self.forget_from = self.event + FORGET_EVERY;
        let Self { pending, budget, event, .. } = self;
        pending.retain(|_, fetched| {
            let is_awaited = fetched.event + PENDING_EVENTS >= *event;
            if !is_awaited {
                budget.used(fetched.p);
            }
            is_awaited
        });
    }

    /// Returns the measured gain of prefetch.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        self.control.evidence(self.counts.total().issued, self.missed, self.displaced)
    }

    /// Returns the counts since start.
    #[must_use]
    pub fn counts(&self) -> FetchCounts {
        self.counts.total()
    }

    /// Returns the counts since start by prefix group: the groups with predicted keys.
    pub fn groups(&self) -> impl Iterator<Item = &PrefixGroup> {
        self.counts.groups()
    }

    /// Returns the minimum probability of a prediction; above 1, nothing is fetched.
    #[must_use]
    pub fn floor(&self) -> f32 {
        self.budget.floor()
    }

    /// Returns the memory in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let pending = self.pending.allocation_size();
        self.graph.bytes()
            + Proof::BYTES
            + self.shadow.bytes()
            + self.rules.bytes()
            + pending
            + self.callers.bytes()
            + self.shared_window.bytes()
            + self.control.bytes()
    }

    /// Returns the number of known keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.graph.len()
    }
}

/// Credits the outcome of a prediction to its source.
fn credit(proof: &mut Proof, rules: &mut TemplateRules, source: PredictionSource, right: bool) {
    match source {
        PredictionSource::KnownKey(state) => proof.note(state, right),
        PredictionSource::Rule(rule) => rules.note(rule, right),
    }
}
