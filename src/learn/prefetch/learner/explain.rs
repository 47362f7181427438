//! Describes the learned state, for display. Nothing here changes the learner.

use super::Learner;
use crate::learn::{
    key_class::{class_pair, key_hash},
    prefetch::{
        candidate::FETCHES_MAX,
        control::ControlSet,
        l1_view::{L1View, Presence},
        proof::{Opinion, ProofState},
        template_rules::RuleView,
    },
};

/// Reason for a probable key that is not fetched because of the control group.
const CONTROL: &str = "1 key in 16 is excluded, to measure the gain";

/// A successor of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Successor {
    /// The key.
    pub key: Vec<u8>,
    /// Number of trials, at most 16.
    pub tried: u8,
    /// Trials that were right, of the last eight.
    pub right: u8,
    /// Events from the key to its successor.
    pub lag: u8,
    /// Probability that a prediction in this state is right; 0 while too few outcomes are known.
    pub p: f32,
}

/// A key that is predicted after a miss.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The key.
    pub key: Vec<u8>,
    /// Probability that the key is requested soon.
    pub p: f32,
    /// The key would be fetched now.
    pub fetched: bool,
    /// Reason for the prediction, and for not fetching the key.
    pub why: String,
}

impl Learner {
    /// Returns the successors of a key; `None` if the key is not known.
    #[must_use]
    pub fn successors(&self, key: &[u8]) -> Option<Vec<Successor>> {
        let node = self.graph.find(key_hash(key), key)?;
        let class = self.graph.get(node)?.class;
        let all = self.graph.successors(node).map(|(_, edge, target)| {
            let (tried, history) = edge.record();
            let p = self.proof.probability(ProofState::new(
                class_pair(class, target.class),
                tried,
                history,
                [Opinion::Unknown; 2],
            ));
            let known = 1_u16.checked_shl(u32::from(tried.min(8))).unwrap_or(0).wrapping_sub(1) as u8;
            let right = (history & known).count_ones() as u8;
            Successor { key: target.key.to_vec(), tried, right, lag: edge.lag, p }
        });
        Some(all.collect())
    }

    /// Returns the keys that a miss of this key by an unknown caller would predict, with the reasons.
    #[must_use]
    pub fn predict(&self, key: &[u8], l1: &L1View<'_>) -> Vec<Prediction> {
        let mut all: Vec<Prediction> = Vec::new();
        for Successor { key, tried, right, p, .. } in self.successors(key).unwrap_or_default() {
            let why = match tried.min(8) {
                0 => "followed this key; no trials yet".to_owned(),
                tried => format!("followed this key: {right} of the last {tried} trials"),
            };
            all.push(Prediction { key, p, fetched: false, why });
        }
        for made in self.rules.explain(key) {
            if !all.iter().any(|known| known.key == made.key) {
                let why = format!("rule {} of {}", made.makes, made.template);
                all.push(Prediction { key: made.key, p: made.p, fetched: false, why });
            }
        }
        all.sort_by(|a, b| b.p.total_cmp(&a.p));
        let floor = self.floor();
        let mut room = FETCHES_MAX;
        for prediction in &mut all {
            let Prediction { key, p, fetched, why } = prediction;
            let obstacle = match (l1.presence)(key) {
                Presence::Resident => Some("already in L1"),
                Presence::Prefetched => Some("already prefetched"),
                Presence::ShadowOnly => Some("excluded by the policy"),
                Presence::Absent if *p < floor => Some("the probability is too low"),
                Presence::Absent if self.absent_keys.contains(key_hash(key), self.event) => {
                    Some("recently absent from L2")
                }
                Presence::Absent if self.control.set_of(key_hash(key)) == Some(ControlSet::Without) => Some(CONTROL),
                Presence::Absent if room == 0 => Some("other keys are more probable"),
                Presence::Absent => None,
            };
            match obstacle {
                Some(obstacle) => *why = format!("{why}; not prefetched: {obstacle}"),
                None => {
                    *fetched = true;
                    room -= 1;
                }
            }
        }
        all
    }

    /// Returns all key templates that have rules, with their rules.
    #[must_use]
    pub fn rules(&self) -> Vec<(String, Vec<RuleView>)> {
        self.rules.views().filter(|(_, rules)| !rules.is_empty()).collect()
    }

    /// Returns up to `count` known keys from place `from` on, and the place of the next page; `None` at the end.
    #[must_use]
    pub fn page(&self, from: usize, count: usize) -> (Vec<Vec<u8>>, Option<usize>) {
        self.graph.page(from, count)
    }
}
