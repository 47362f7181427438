//! What was learned, for people: looking changes nothing.

use super::{FETCHES_MAX, Learner, Presence, World, control::Set, hash_of, pair_of, proof::Opinion, proof::State};

/// Why a key is not fetched that would be.
const CONTROL: &str = "one key in 16 is left out, to measure the gain";

/// A key that has followed another.
#[derive(Debug, Clone, PartialEq)]
pub struct Successor {
    /// The key.
    pub key: Vec<u8>,
    /// Trials that are remembered: at most 16.
    pub tried: u8,
    /// Of the last eight of them, how many were right.
    pub right: u8,
    /// Events from the one key to the other.
    pub lag: u8,
    /// How likely a prediction in its state is right; 0 while nobody knows.
    pub p: f32,
}

/// A rule between kinds of keys.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleView {
    /// What it makes: `profile:{1}`, where `{1}` is the first variable of the template.
    pub makes: String,
    /// How likely it is right; 0 while nobody knows.
    pub p: f32,
    /// Recent trials, and how many were right.
    pub tried: u16,
    /// Of these.
    pub right: u16,
    /// Pairs of requests that said so.
    pub support: u16,
}

/// What would be fetched with a miss.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The key.
    pub key: Vec<u8>,
    /// How likely it is asked for soon.
    pub p: f32,
    /// Whether it would be fetched now.
    pub fetched: bool,
    /// Why, or why not, in a phrase.
    pub why: String,
}

impl Learner {
    /// What followed a key; `None` if the key is not known.
    #[must_use]
    pub fn successors(&self, key: &[u8]) -> Option<Vec<Successor>> {
        let node = self.graph.find(hash_of(key), key)?;
        let form = self.graph.get(node)?.form;
        let all = self.graph.successors(node).map(|(_, edge, target)| {
            let (tried, history) = edge.record();
            let p = self.proof.of(State::new(pair_of(form, target.form), tried, history, [Opinion::Unknown; 2]));
            let known = 1_u16.checked_shl(u32::from(tried.min(8))).unwrap_or(0).wrapping_sub(1) as u8;
            let right = (history & known).count_ones() as u8;
            Successor { key: target.key.to_vec(), tried, right, lag: edge.lag, p }
        });
        Some(all.collect())
    }

    /// What would be fetched if this key were missed now, and why: by somebody of whom nothing is known.
    #[must_use]
    pub fn predict(&self, key: &[u8], world: &World<'_>) -> Vec<Prediction> {
        let mut all: Vec<Prediction> = Vec::new();
        for Successor { key, tried, right, p, .. } in self.successors(key).unwrap_or_default() {
            let why = match tried.min(8) {
                0 => "followed this key, not tried yet".to_owned(),
                tried => format!("followed this key: {right} of the last {tried} trials"),
            };
            all.push(Prediction { key, p, fetched: false, why });
        }
        for made in self.templates.said(key) {
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
            let obstacle = match (world.presence)(key) {
                Presence::Resident => Some("is in L1"),
                Presence::Coming => Some("is prefetched already"),
                Presence::Barred => Some("policy"),
                Presence::Absent if *p < floor => Some("not likely enough"),
                Presence::Absent if self.absent.is(hash_of(key), self.event) => Some("was not in L2"),
                Presence::Absent if self.control.set_of(hash_of(key)) == Some(Set::Without) => Some(CONTROL),
                Presence::Absent if room == 0 => Some("others are likelier"),
                Presence::Absent => None,
            };
            match obstacle {
                Some(obstacle) => *why = format!("{why}; not fetched: {obstacle}"),
                None => {
                    *fetched = true;
                    room -= 1;
                }
            }
        }
        all
    }

    /// All templates that have rules, with these.
    #[must_use]
    pub fn rules(&self) -> Vec<(String, Vec<RuleView>)> {
        self.templates.shown().filter(|(_, rules)| !rules.is_empty()).collect()
    }

    /// Up to `count` known keys from place `from` on, and the place to go on from; `None` at the end.
    #[must_use]
    pub fn page(&self, from: usize, count: usize) -> (Vec<Vec<u8>>, Option<usize>) {
        self.graph.page(from, count)
    }
}
