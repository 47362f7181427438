//! Collects candidates from the three predictors: associations, the shared window, and rules between key templates.

use super::Learner;
use crate::learn::{
    key_class::{class_pair, key_hash},
    key_template::KeyTemplate,
    prefetch::{
        associations::{EDGES, NodeRef},
        budget::FLOOR,
        callers::CallerContext,
        candidate::{Candidate, PredictionSource, SHADOW_ONLY},
        l1_view::{L1View, Presence},
        proof::ProofState,
    },
};

/// Lag under which the lateness of rules is measured.
const RULE_LAG: u8 = 0;
/// A rule predicts only keys that were seen at most this often: after that, the associations of the key say more.
const RULE_SEEN_MAX: u8 = 2;
/// Maximum number of predictions of the shared window for one event.
const SHARED_WINDOW_MAX: usize = 8;

impl Learner {
    /// Collects the successors of a key with their probabilities, and opens their trials.
    pub(super) fn collect_associations(&mut self, node: NodeRef, context: CallerContext, l1: &L1View<'_>) {
        let mut tried = [false; EDGES];
        let class = self.graph.get(node).map_or(0, |node| node.class);
        for (at, edge, target) in self.graph.successors(node) {
            let presence = (l1.presence)(&target.key);
            if presence == Presence::Resident {
                continue;
            }
            tried[at] = true;
            if presence == Presence::Prefetched {
                continue;
            }
            let before = [context[0], context[1]].map(|before| self.graph.opinion(before, edge.target));
            let (trials, history) = edge.record();
            let state = ProofState::new(class_pair(class, target.class), trials, history, before);
            let p = if presence == Presence::ShadowOnly { SHADOW_ONLY } else { self.proof.probability(state) };
            let (hash, key) = (target.hash, target.key.clone());
            self.candidates.push(Candidate { p, hash, key, source: PredictionSource::KnownKey(state), lag: edge.lag });
        }
        for at in (0..tried.len()).filter(|&at| tried[at]) {
            self.graph.open_trial(node, at);
        }
    }

    /// Collects the keys that came after both of the last two occurrences of a key, from any caller. `is_explained`: an
    /// association had predicted the key.
    pub(super) fn collect_shared_window(&mut self, node: NodeRef, is_explained: bool, l1: &L1View<'_>) {
        let Self { shared_window, graph, proof, candidates, .. } = self;
        let Some((class, own_seen)) = graph.get(node).map(|node| (node.class, node.seen)) else { return };
        if own_seen > 1 {
            shared_window.note_explained(is_explained);
        }
        let Some(last_two) = shared_window.note(node).filter(|_| shared_window.is_due()) else { return };
        let (mut predicted, mut is_likely) = (0, false);
        shared_window.common(last_two, |other, distance| {
            let target = graph.get(other).filter(|_| predicted < SHARED_WINDOW_MAX && other != node);
            let Some(target) = target else { return };
            if candidates.iter().any(|known| known.hash == target.hash) {
                return;
            }
            let presence = (l1.presence)(&target.key);
            if !matches!(presence, Presence::Absent | Presence::ShadowOnly) {
                return;
            }
            predicted += 1;
            let is_common = target.seen > own_seen.saturating_mul(2);
            let state = ProofState::shared(class_pair(class, target.class), distance.ilog2(), is_common);
            let probability = proof.probability(state);
            is_likely |= probability >= FLOOR;
            let p = if presence == Presence::ShadowOnly { SHADOW_ONLY } else { probability };
            let (hash, key) = (target.hash, target.key.clone());
            candidates.push(Candidate { p, hash, key, source: PredictionSource::KnownKey(state), lag: u8::MAX });
        });
        if is_likely {
            shared_window.note_likely();
        }
    }

    /// Collects the predictions of rules for keys without associations of their own.
    pub(super) fn collect_rules(&mut self, key: &[u8], template: &KeyTemplate, mine: bool, l1: &L1View<'_>) {
        let Self { rules, graph, candidates, .. } = self;
        rules.learn(key, template, mine, |predicted| {
            let hash = key_hash(&predicted.key);
            let is_known = |known: &Candidate| matches!(known.source, PredictionSource::KnownKey(_));
            if candidates.iter().any(|known| known.hash == hash && is_known(known)) {
                return;
            }
            let node = graph.find(hash, &predicted.key).and_then(|node| graph.get(node));
            if node.is_some_and(|node| node.seen > RULE_SEEN_MAX) {
                return;
            }
            let p = match (l1.presence)(&predicted.key) {
                Presence::Absent => predicted.p,
                Presence::ShadowOnly => SHADOW_ONLY,
                Presence::Prefetched | Presence::Resident => return,
            };
            let source = PredictionSource::Rule(predicted.rule);
            candidates.push(Candidate { p, hash, key: predicted.key.into(), source, lag: RULE_LAG });
        });
    }
}
