//! What this node learns from its traffic: which keys follow which, and what keys look like.
//!
//! Synchronous and without a clock, but for the [`recorder`]: everything is told what happened and when, and is tested with
//! values.
//!
//! * [`Learner`]: told of misses and of first uses of prefetched keys, it says what to fetch. `associations` (which key
//!   follows which) and `shadow` (predictions that were not fetched) feed `proof`: no prediction is acted upon before
//!   predictions like it were right, and `budget` bounds what may be wasted.
//! * [`control`]: whether it pays, by keys that are left out.
//! * `wide`: what belongs together among callers that nobody tells apart.
//! * `templates`: rules between kinds of keys, which carry over to keys never seen.
//! * [`intervals`]: how often keys are read and change, and which TTL that asks for.
//! * [`hot_keys`]: the same of the hottest keys, each by itself.
//! * [`returns`]: which keys come back once their life is over, and so which of them the TTL of their template is for.
//! * [`shape`]: splits keys into tokens and learns which of them vary.
//! * [`snapshot`]: what was learned, as bytes.
//! * [`recorder`]: how workers tell what happens, without ever waiting.

mod absent;
mod associations;
mod budget;
mod callers;
pub mod control;
mod forms;
pub mod hot_keys;
pub mod intervals;
mod lateness;
mod proof;
pub mod recorder;
pub mod returns;
mod shadow;
pub mod shape;
mod show;
pub mod snapshot;
mod templates;
mod wide;

#[cfg(test)]
mod tests;

use hashbrown::HashMap;

pub use self::show::{Prediction, RuleView, Successor};
use self::{
    absent::Absent,
    associations::{Graph, NodeRef},
    budget::Budget,
    callers::{Callers, Context},
    control::{Control, Evidence, Set},
    forms::{GROUPS, form_of, group_of, hash_of, head_of, pair_of},
    lateness::Lateness,
    proof::{Proof, State},
    recorder::Caller,
    shadow::Shadow,
    shape::Shape,
    templates::{RuleRef, Templates},
    wide::Wide,
};
use crate::model::Key;

/// Keys fetched for one event at most.
pub const FETCHES_MAX: usize = 4;
/// Fetched keys whose outcome is awaited at most: about 3 MB.
const PENDING_MAX: usize = 65_536;
/// Events after which nobody awaits an outcome any more: it was told to somebody who had no room to note it.
const PENDING_EVENTS: u64 = 1 << 20;
/// Events between two looks for such, because a look goes through all.
const FORGET_EVERY: u64 = 4_096;
/// Entries of L1 below which nothing is fetched: there is no room that could be spared.
const ROOM_MIN: u64 = 16;
/// How long a prediction waits to come true, as a part of L1's entries, and its bounds, in events.
const HORIZON_PART: u64 = 5;
const HORIZON_MIN: u64 = 64;
const HORIZON_MAX: u64 = 8_192;

/// How a learner works.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bound on its memory, bytes.
    pub memory_bytes: usize,
    /// Reads below that may be wasted, per read on demand.
    pub budget: f32,
    /// One key in 16 is not fetched, so that the gain is known.
    pub control: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { memory_bytes: 64 << 20, budget: 0.04, control: false }
    }
}

/// What taught something. Nothing else does, so that hits cost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A read that L1 could not answer.
    Missed,
    /// The first use of a prefetched key.
    Used,
}

/// Where a key is that might be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Neither in L1 nor on its way.
    Absent,
    /// On its way, or there and not used yet.
    Coming,
    /// In L1.
    Resident,
    /// Absent, and not to be fetched: what would have come of it is measured.
    Barred,
}

/// What the learner has to know of L1.
pub struct World<'a> {
    /// Where a key is.
    pub presence: &'a dyn Fn(&[u8]) -> Presence,
    /// Entries that L1 has room for.
    pub room: u64,
    /// Misses since start of entries that had to make room for prefetched ones.
    pub displaced: u64,
}

/// Counts since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys fetched.
    pub issued: u64,
    /// Of these, used while they waited.
    pub used: u64,
    /// Asked for before they came.
    pub late: u64,
    /// Left unused, or not there below.
    pub wasted: u64,
    /// Predicted and not fetched.
    pub shadow: u64,
}

impl Counts {
    /// Those since `before`, an earlier count of the same.
    #[must_use]
    pub fn less(&self, before: &Self) -> Self {
        Self {
            issued: self.issued.saturating_sub(before.issued),
            used: self.used.saturating_sub(before.used),
            late: self.late.saturating_sub(before.late),
            wasted: self.wasted.saturating_sub(before.wasted),
            shadow: self.shadow.saturating_sub(before.shadow),
        }
    }
}

/// What said that a key would follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Edge(State),
    Rule(RuleRef),
}

/// A key that was fetched and what will be learned from what becomes of it.
struct Pending {
    p: f32,
    source: Source,
    group: u8,
    lag: u8,
    in_background: bool,
    /// Event at which it was fetched.
    event: u64,
}

/// A key that may be fetched.
struct Candidate {
    p: f32,
    hash: u64,
    key: Box<[u8]>,
    source: Source,
    lag: u8,
}

/// The lag under which the lateness of rules is kept.
const RULE_LAG: u8 = 0;
/// A rule speaks for a key that has come so often at most: then the key's own history says more.
const RULE_SEEN_MAX: u8 = 2;
/// A rule that says a key with this probability makes looking for another superfluous.
const COVERED: f32 = 0.5;

/// The whole of it.
pub struct Learner {
    graph: Graph,
    proof: Proof,
    templates: Templates,
    budget: Budget,
    shadow: Shadow,
    callers: Callers,
    wide: Wide,
    pending: HashMap<u64, Pending, foldhash::fast::FixedState>,
    lateness: Lateness,
    absent: Absent,
    control: Control,
    counts: Counts,
    /// Reads that L1 could not answer.
    missed: u64,
    /// Event from which on it is worth looking for outcomes that will not come.
    forget_from: u64,
    groups: Vec<Group>,
    event: u64,
    displaced: u64,
    candidates: Vec<Candidate>,
}

/// Counts of one group of keys.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// What its keys begin with; empty while none was met.
    pub name: String,
    /// Its counts.
    pub counts: Counts,
}

impl Learner {
    /// Knows nothing.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let graph_bytes = settings.memory_bytes.saturating_sub(FIXED_BYTES).max(settings.memory_bytes / 4);
        Self {
            graph: Graph::new(graph_bytes),
            proof: Proof::default(),
            templates: Templates::default(),
            budget: Budget::new(settings.budget),
            shadow: Shadow::default(),
            callers: Callers::default(),
            wide: Wide::default(),
            pending: HashMap::default(),
            lateness: Lateness::default(),
            absent: Absent::default(),
            control: Control::new(settings.control),
            missed: 0,
            forget_from: 0,
            counts: Counts::default(),
            groups: vec![Group::default(); GROUPS],
            event: 0,
            displaced: 0,
            candidates: Vec::new(),
        }
    }

    /// Learns from an event, and says what to fetch: with a miss in its own read, else in the background.
    pub fn learn(&mut self, key: &[u8], caller: Caller, moment: Moment, world: &World<'_>, fetch: &mut Vec<Key>) {
        if key.len() > associations::KEY_MAX_BYTES {
            return;
        }
        self.event += 1;
        self.budget.displaced(world.displaced.saturating_sub(std::mem::replace(&mut self.displaced, world.displaced)));
        let hash = hash_of(key);
        self.missed += u64::from(moment == Moment::Missed);
        self.control.asked(hash, moment == Moment::Missed);
        let covered = self.settle(hash, moment, world);
        let shape = self.templates.shapes_mut().learn(key);
        let node = self.graph.meet(hash, key, form_of(key, &shape));
        let context = self.callers.of(caller);
        let mut is_explained = false;
        for (lag, before) in context.iter().enumerate() {
            if let Some(before) = *before {
                is_explained |= self.graph.follow(before, node, lag as u8 + 1);
            }
        }
        self.candidates.clear();
        self.associate(node, context, world);
        self.look_wide(node, is_explained, world);
        self.apply_rules(key, &shape, moment == Moment::Missed && !covered, world);
        self.choose(moment, world, fetch);
        if caller != Caller::UNKNOWN {
            self.callers.push(caller, context, node);
        }
    }

    fn note(&mut self, source: Source, right: bool) {
        note(&mut self.proof, &mut self.templates, source, right);
    }

    /// Settles what was predicted of a key that came, and what has waited too long. Whether a rule said it.
    fn settle(&mut self, hash: u64, moment: Moment, world: &World<'_>) -> bool {
        let Self { proof, templates, shadow, .. } = self;
        let mut covered = false;
        let is_covering = |templates: &Templates, source| match source {
            Source::Rule(rule) => templates.p(rule) >= COVERED,
            Source::Edge(_) => false,
        };
        let was_likely = shadow.settle(hash, |source| {
            covered |= is_covering(templates, source);
            note(proof, templates, source, true);
        });
        let horizon = (world.room / HORIZON_PART).clamp(HORIZON_MIN, HORIZON_MAX);
        shadow.expire(self.event, horizon, |source| note(proof, templates, source, false));
        self.control.expire(self.event, horizon);
        let pending = self.pending.remove(&hash);
        self.budget.event(was_likely || pending.is_some());
        let Some(pending) = pending else { return covered };
        self.note(pending.source, true);
        self.budget.used(pending.p);
        let late = moment == Moment::Missed;
        self.count(pending.group, |counts| *if late { &mut counts.late } else { &mut counts.used } += 1);
        if pending.in_background {
            self.lateness.note(pending.lag, late);
        }
        covered || is_covering(&self.templates, pending.source)
    }

    /// Counts for the group of a key, which is named after the first key it is told of.
    fn count_for(&mut self, key: &[u8], add: impl Fn(&mut Counts)) {
        let group = group_of(key);
        if let Some(known) = self.groups.get_mut(usize::from(group)).filter(|known| known.name.is_empty()) {
            known.name = String::from_utf8_lossy(head_of(key)).into_owned();
        }
        self.count(group, add);
    }

    fn count(&mut self, group: u8, add: impl Fn(&mut Counts)) {
        add(&mut self.counts);
        if let Some(group) = self.groups.get_mut(usize::from(group)) {
            add(&mut group.counts);
        }
    }

    /// A fetched key left unused.
    pub fn unused(&mut self, key: &[u8]) {
        let Some(pending) = self.pending.remove(&hash_of(key)) else { return };
        self.note(pending.source, false);
        self.budget.unused(pending.p);
        self.count(pending.group, |counts| counts.wasted += 1);
    }

    /// A fetched key is not there below: for a while it is not asked for again.
    pub fn absent(&mut self, key: &[u8]) {
        self.absent.note(hash_of(key), self.event);
        self.unused(key);
    }

    /// A fetch that came to nothing through no fault of what said it: the key changed meanwhile, or L2 is away.
    pub fn dropped(&mut self, key: &[u8]) {
        if let Some(pending) = self.pending.remove(&hash_of(key)) {
            self.budget.used(pending.p);
        }
    }

    /// Collects what has followed this key, with its probability, and opens trials.
    fn associate(&mut self, node: NodeRef, context: Context, world: &World<'_>) {
        let mut tried = [false; associations::EDGES];
        let form = self.graph.get(node).map_or(0, |node| node.form);
        for (at, edge, target) in self.graph.successors(node) {
            let presence = (world.presence)(&target.key);
            if presence == Presence::Resident {
                continue;
            }
            tried[at] = true;
            if presence == Presence::Coming {
                continue;
            }
            let before = [context[0], context[1]].map(|before| self.graph.opinion(before, edge.target));
            let (trials, history) = edge.record();
            let state = State::new(pair_of(form, target.form), trials, history, before);
            let p = if presence == Presence::Barred { BARRED } else { self.proof.of(state) };
            let (hash, key) = (target.hash, target.key.clone());
            self.candidates.push(Candidate { p, hash, key, source: Source::Edge(state), lag: edge.lag });
        }
        for at in (0..tried.len()).filter(|&at| tried[at]) {
            self.graph.open(node, at);
        }
    }

    /// Collects what rules say of keys that have no history of their own.
    fn apply_rules(&mut self, key: &[u8], shape: &Shape, mine: bool, world: &World<'_>) {
        let Self { templates, graph, candidates, .. } = self;
        templates.learn(key, shape, mine, |made| {
            let hash = hash_of(&made.key);
            if candidates.iter().any(|known| known.hash == hash && matches!(known.source, Source::Edge(_))) {
                return;
            }
            let node = graph.find(hash, &made.key).and_then(|node| graph.get(node));
            if node.is_some_and(|node| node.seen > RULE_SEEN_MAX) {
                return;
            }
            let p = match (world.presence)(&made.key) {
                Presence::Absent => made.p,
                Presence::Barred => BARRED,
                Presence::Coming | Presence::Resident => return,
            };
            let source = Source::Rule(made.rule);
            candidates.push(Candidate { p, hash, key: made.key.into(), source, lag: RULE_LAG });
        });
    }

    /// Fetches the best of the candidates; the others are watched.
    fn choose(&mut self, moment: Moment, world: &World<'_>, fetch: &mut Vec<Key>) {
        let floor = if world.room < ROOM_MIN { 2.0 } else { self.budget.floor() };
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort_by(|a, b| b.p.total_cmp(&a.p));
        let mut room = FETCHES_MAX;
        for candidate in candidates.drain(..) {
            let set = self.control.set_of(candidate.hash);
            if set == Some(Set::Without) && self.control.is_open(candidate.hash) {
                continue;
            }
            let in_background = moment == Moment::Used;
            let may = room > 0
                && candidate.p >= floor
                && !self.absent.is(candidate.hash, self.event)
                && (!in_background || self.lateness.may(candidate.lag));
            let is_pretended = may && set == Some(Set::Without);
            let is_issued = may && !is_pretended && self.issue(&candidate, in_background, fetch);
            if is_pretended || is_issued {
                room -= 1;
            }
            if is_pretended || is_issued && set.is_some() {
                self.control.decide(candidate.hash, self.event);
            }
            if is_issued {
                continue;
            }
            let Self { proof, templates, shadow, event, .. } = self;
            let said = (candidate.source, candidate.p);
            shadow.add(candidate.hash, said, *event, |source| note(proof, templates, source, false));
            self.count_for(&candidate.key, |counts| counts.shadow += 1);
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
        self.pending.insert(candidate.hash, Pending { p, source, group, lag, in_background, event });
        self.budget.fetched(p);
        self.count_for(&key, |counts| counts.issued += 1);
        fetch.push(key);
        true
    }

    /// Lets go of outcomes that will not come any more.
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

    /// Whether prefetch pays.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        self.control.evidence(self.counts.issued, self.missed, self.displaced)
    }

    /// Counts since start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Counts since start by group of keys: those that were fetched from.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| !group.name.is_empty())
    }

    /// The probability that is asked of a prediction now; above 1 nothing is fetched.
    #[must_use]
    pub fn floor(&self) -> f32 {
        self.budget.floor()
    }

    /// Memory it takes now, bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let pending = self.pending.allocation_size();
        self.graph.bytes()
            + Proof::BYTES
            + self.shadow.bytes()
            + self.templates.bytes()
            + pending
            + self.callers.bytes()
            + self.wide.bytes()
            + self.control.bytes()
    }

    /// Keys it knows.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.graph.len()
    }
}

/// The probability of what must not be fetched.
const BARRED: f32 = -1.0;
/// What all but the graph takes at most: shadow, rules, callers, fetched keys, the ring of all callers' events.
const FIXED_BYTES: usize = 15 << 20;

fn note(proof: &mut Proof, templates: &mut Templates, source: Source, right: bool) {
    match source {
        Source::Edge(state) => proof.note(state, right),
        Source::Rule(rule) => templates.note(rule, right),
    }
}
