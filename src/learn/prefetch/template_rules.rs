//! Rules between key templates: a client that reads `user:{d}` reads `profile:{d}` next. Rules also apply to keys that were
//! never seen.
//!
//! A rule belongs to a skeleton of a key (see `skeleton`). It builds another key from literals and from the variables of the
//! skeleton, unchanged or one step on.
//!
//! Rules are mined from any two recent events whose keys share a value, whatever their callers: an identifier shows better
//! than a connection which keys belong together. A rule that was mined by chance costs little: a rule predicts in shadow
//! from its second support on, and its probability depends on its own outcomes.
//!
//! Bounded: [`SKELETONS`] with [`RULES`] each, and the recent events.

mod recent_events;
mod rule;
mod skeleton;
mod snapshot_rows;

use hashbrown::HashMap;

pub use self::rule::RuleView;
pub(in crate::learn) use self::snapshot_rows::SkeletonRow;
use self::{
    recent_events::RecentEvents,
    rule::{KEY_MAX_BYTES, Piece, Rule, TRIALS_MAX, bind},
    skeleton::{skeletons, values_of},
};
use crate::learn::key_template::{KeyTemplate, KeyTemplates};

/// Maximum number of skeletons that have rules.
pub(super) const SKELETONS: usize = 1_024;
/// Maximum number of rules of a skeleton.
const RULES: usize = 16;
/// Pairs of events that must support a rule before it predicts.
const SUPPORT: u16 = 2;

/// The rules of one skeleton.
struct SkeletonRules {
    hash: u64,
    rules: Vec<Rule>,
    /// Template of the key that created the skeleton, for display.
    template: String,
    used: bool,
}

impl SkeletonRules {
    /// Rules with enough support to predict.
    fn predicting(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.support >= SUPPORT)
    }
}

/// Reference to a rule; it becomes invalid when the rule is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RuleRef {
    skeleton: u64,
    rule: u64,
}

/// A key that a rule predicts.
pub(super) struct RulePrediction {
    pub(super) key: Vec<u8>,
    pub(super) p: f32,
    pub(super) rule: RuleRef,
}

/// A key that a rule predicts, and the rule, for display.
pub(super) struct ExplainedPrediction {
    pub(super) key: Vec<u8>,
    pub(super) p: f32,
    pub(super) template: String,
    pub(super) makes: String,
}

/// All rules, the key templates, and the events from which rules are mined.
#[derive(Default)]
pub(in crate::learn) struct TemplateRules {
    templates: KeyTemplates,
    skeletons: Vec<SkeletonRules>,
    by_hash: HashMap<u64, usize, foldhash::fast::FixedState>,
    hand: usize,
    recent: RecentEvents,
}

impl TemplateRules {
    /// Learns from an event and calls `take` with each prediction. With `mine`, also mines rules that would have predicted the key.
    pub(super) fn learn(
        &mut self,
        key: &[u8],
        template: &KeyTemplate,
        mine: bool,
        mut take: impl FnMut(RulePrediction),
    ) {
        if key.len() > KEY_MAX_BYTES {
            return;
        }
        let values = values_of(key, template);
        if mine {
            self.mine(key, template, &values);
        }
        self.recent.push(key, &values);
        self.predict(key, template, &mut take);
    }

    fn predict(&mut self, key: &[u8], template: &KeyTemplate, take: &mut impl FnMut(RulePrediction)) {
        for skeleton in skeletons(key, template) {
            let Some(known) = self.by_hash.get(&skeleton.hash).and_then(|&at| self.skeletons.get_mut(at)) else {
                continue;
            };
            known.used = true;
            for rule in known.rules.iter_mut().filter(|rule| rule.support >= SUPPORT) {
                if !rule.is_tried_now() {
                    continue;
                }
                if let Some(key) = rule.make(key, &skeleton.variables) {
                    let reference = RuleRef { skeleton: skeleton.hash, rule: rule.hash };
                    take(RulePrediction { key, p: rule.p(), rule: reference });
                }
            }
        }
    }

    /// Returns the key templates.
    pub(in crate::learn) fn templates(&self) -> &KeyTemplates {
        &self.templates
    }

    /// Returns the key templates, to learn or to restore them.
    pub(in crate::learn) fn templates_mut(&mut self) -> &mut KeyTemplates {
        &mut self.templates
    }

    /// Adds the outcome of a prediction.
    pub(super) fn note(&mut self, rule: RuleRef, right: bool) {
        let known = self.by_hash.get(&rule.skeleton).and_then(|&at| self.skeletons.get_mut(at));
        let Some(known) = known else { return };
        if let Some(rule) = known.rules.iter_mut().find(|known| known.hash == rule.rule) {
            rule.tally.note(right, TRIALS_MAX);
        }
    }

    /// Returns the probability that a rule is right.
    pub(super) fn p(&self, rule: RuleRef) -> f32 {
        let known = self.by_hash.get(&rule.skeleton).and_then(|&at| self.skeletons.get(at));
        known.and_then(|known| known.rules.iter().find(|known| known.hash == rule.rule)).map_or(0.0, Rule::p)
    }

    /// Finds the rules by which recent events that share a value would have predicted this key.
    fn mine(&mut self, key: &[u8], template: &KeyTemplate, values: &[u64]) {
        for event in self.recent.sharing(values) {
            let Some(before) = self.recent.key(event).filter(|before| *before != key).map(Box::<[u8]>::from) else {
                continue;
            };
            let before_template = self.templates.look(&before);
            for skeleton in skeletons(&before, &before_template) {
                if let Some(pieces) = bind(key, template, &before, &skeleton.variables) {
                    self.support(skeleton.hash, &before_template, &before, pieces);
                }
            }
        }
    }

    /// Adds one pair of events that supports a rule; creates the rule if there is none.
    fn support(&mut self, skeleton: u64, template: &KeyTemplate, before: &[u8], pieces: Vec<Piece>) {
        let rule = Rule::new(pieces);
        let at = match self.by_hash.get(&skeleton) {
            Some(&at) => at,
            None => self.add_skeleton(skeleton, template.name(before)),
        };
        let rules = &mut self.skeletons[at].rules;
        if let Some(known) = rules.iter_mut().find(|known| known.hash == rule.hash) {
            known.support = known.support.saturating_add(1);
            return;
        }
        if rules.len() < RULES {
            return rules.push(rule);
        }
        if let Some(weakest) = rules.iter_mut().min_by(|a, b| a.worth().total_cmp(&b.worth())) {
            *weakest = rule;
        }
    }

    /// Adds a skeleton and returns its place: a new place, or the place of the next skeleton that was not used since
    /// the last round.
    fn add_skeleton(&mut self, hash: u64, template: String) -> usize {
        let skeleton = SkeletonRules { hash, rules: Vec::new(), template, used: true };
        let at = if self.skeletons.len() < SKELETONS {
            self.skeletons.push(skeleton);
            self.skeletons.len() - 1
        } else {
            // Ends within two rounds: the first clears the marks.
            while std::mem::take(&mut self.skeletons[self.hand].used) {
                self.hand = (self.hand + 1) % SKELETONS;
            }
            let at = self.hand;
            self.hand = (at + 1) % SKELETONS;
            self.by_hash.remove(&self.skeletons[at].hash);
            self.skeletons[at] = skeleton;
            at
        };
        self.by_hash.insert(hash, at);
        at
    }

    /// Returns the predictions for a key, for display; learns nothing.
    pub(super) fn explain(&self, key: &[u8]) -> Vec<ExplainedPrediction> {
        let template = self.templates.look(key);
        let mut all = Vec::new();
        for skeleton in skeletons(key, &template) {
            let Some(known) = self.by_hash.get(&skeleton.hash).and_then(|&at| self.skeletons.get(at)) else { continue };
            for rule in known.predicting() {
                if let Some(key) = rule.make(key, &skeleton.variables) {
                    let (template, makes) = (known.template.clone(), rule.view().makes);
                    all.push(ExplainedPrediction { key, p: rule.p(), template, makes });
                }
            }
        }
        all
    }

    /// Returns the rules that predict, by the template of their skeleton.
    pub(super) fn views(&self) -> impl Iterator<Item = (String, Vec<RuleView>)> {
        self.skeletons.iter().map(|known| (known.template.clone(), known.predicting().map(Rule::view).collect()))
    }

    /// Returns an estimate of the memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        let rules: usize = self.skeletons.iter().map(|known| known.rules.capacity() * (size_of::<Rule>() + 160)).sum();
        rules + self.recent.bytes() + self.templates.positions() * 48 + self.skeletons.len() * 120
    }
}
