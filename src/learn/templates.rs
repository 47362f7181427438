//! Rules between kinds of keys: whoever reads `user:{d}` reads `profile:{d}` next. They carry over to keys never seen.
//!
//! A key has up to three skeletons: with all its variables marked; with numbers of few values left literal, because they
//! may be types or versions; and its first word with all the rest as one variable. A rule stands at a skeleton and says
//! how the other key is made: literals, and references to the skeleton's variables, as they are or one step on.
//!
//! Rules are mined from any two recent events that share a value, whoever caused them: no caller need be known, because an
//! identifier says better than a connection what belongs together. What is mined by chance costs little: a rule predicts in
//! shadow from its second support on, and is believed as far as its own outcomes go.
//!
//! Bounded: [`SKELETONS`] with [`RULES`] each, [`RECENT`] events.

mod kept;

use std::{collections::VecDeque, ops::Range};

use hashbrown::HashMap;
use smallvec::SmallVec;

pub(super) use self::kept::KeptPlace;
use super::{
    proof::Tally,
    shape::{Class, Shape, Shapes, Token, hash_of},
    show::RuleView,
};

/// Skeletons that have rules, at most.
pub(super) const SKELETONS: usize = 1_024;
/// Rules of a skeleton.
const RULES: usize = 16;
/// Events that a rule may be mined from.
const RECENT: usize = 4_096;
/// Of those that share a value, how many are looked at.
const SHARING: usize = 4;
/// Values in each half of the index.
const VALUES: usize = 8_192;
/// Pairs of events that make a rule predict.
const SUPPORT: u16 = 2;
/// Trials before a rule is believed, and where its counts are halved.
const TRIALS_MIN: u16 = 8;
const TRIALS_MAX: u16 = 200;
/// Trials after which a bad rule is tried now and then only, what is bad, and how often it is tried.
const TRIALS_BAD: u16 = 24;
const BAD: f32 = 0.35;
const TRY_EVERY: u8 = 8;
/// Parts of a key that a rule makes, at most.
const PIECES: usize = 24;
/// Longest key that is looked at or made, bytes.
const KEY_MAX_BYTES: usize = 256;

/// A part of the key that a rule makes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Box<[u8]>),
    /// This variable of the skeleton.
    Same(u8),
    /// This variable, a number, one more or one less.
    Step(u8, i8),
}

/// A rule.
struct Rule {
    pieces: Vec<Piece>,
    hash: u64,
    support: u16,
    tally: Tally,
    skipped: u8,
}

impl Rule {
    /// How likely it is right; 0 while nobody knows.
    fn p(&self) -> f32 {
        if self.tally.trials < TRIALS_MIN { 0.0 } else { self.tally.cautious() }
    }

    fn is_bad(&self) -> bool {
        self.tally.trials >= TRIALS_BAD && self.p() < BAD
    }

    /// The rule of least worth is replaced first.
    fn worth(&self) -> f32 {
        self.p() * 100.0 + f32::from(self.support.min(16)) - if self.is_bad() { 10.0 } else { 0.0 }
    }

    /// The key it makes of these variables.
    fn make(&self, key: &[u8], variables: &Variables) -> Option<Vec<u8>> {
        let mut made = Vec::with_capacity(key.len() + 16);
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => made.extend_from_slice(text),
                Piece::Same(at) => made.extend_from_slice(key.get(variables.get(usize::from(*at))?.clone())?),
                Piece::Step(at, step) => {
                    let text = key.get(variables.get(usize::from(*at))?.clone())?;
                    made.extend_from_slice(stepped(text, *step)?.as_bytes());
                }
            }
        }
        (made.len() <= KEY_MAX_BYTES && made != key).then_some(made)
    }
}

/// A number one step on, as wide as before.
fn stepped(text: &[u8], step: i8) -> Option<String> {
    let number: u64 = std::str::from_utf8(text).ok().filter(|text| text.len() < 19)?.parse().ok()?;
    let next = number.checked_add_signed(i64::from(step))?;
    let width = if text.starts_with(b"0") { text.len() } else { 0 };
    Some(format!("{next:0width$}"))
}

type Variables = SmallVec<[Range<usize>; 8]>;

/// One of the skeletons of a key.
struct Skeleton {
    hash: u64,
    variables: Variables,
}

/// The skeletons of a key.
fn skeletons(key: &[u8], shape: &Shape) -> SmallVec<[Skeleton; 3]> {
    let mut all = SmallVec::new();
    let variables = |of: &dyn Fn(&Token) -> bool| -> Variables {
        shape.tokens.iter().filter(|token| of(token)).map(|token| token.start..token.end).collect()
    };
    let marked = variables(&|token| token.is_variable);
    let last_only = marked.len() == 1 && shape.tokens.len() == 2 && shape.tokens.last().is_some_and(|t| t.is_variable);
    if !marked.is_empty() {
        all.push(Skeleton { hash: shape.hash, variables: marked });
    }
    if shape.tokens.iter().any(|token| token.is_few) {
        let kept = variables(&|token| token.is_variable && !token.is_few);
        if !kept.is_empty() {
            all.push(Skeleton { hash: hash_without(key, &kept), variables: kept });
        }
    }
    if let Some(rest) = rest_of(key, shape)
        && !last_only
    {
        let variables: Variables = SmallVec::from_iter([rest]);
        all.push(Skeleton { hash: hash_without(key, &variables), variables });
    }
    all
}

/// What stands behind the first word and what separates it.
fn rest_of(key: &[u8], shape: &Shape) -> Option<Range<usize>> {
    let [first, second, ..] = &shape.tokens[..] else { return None };
    (first.class == Class::Word && second.start > first.end).then_some(second.start..key.len())
}

/// Names the skeleton of these variables; never as [`Shape::hash`] does.
fn hash_without(key: &[u8], variables: &Variables) -> u64 {
    let (mut hash, mut at) = (hash_of(7, b""), 0);
    for variable in variables {
        hash = hash_of(hash_of(hash, &key[at..variable.start]), b"{}");
        at = variable.end;
    }
    hash_of(hash, &key[at..])
}

/// The rules of one skeleton.
struct Place {
    hash: u64,
    rules: Vec<Rule>,
    /// Template of the key that made it, to show.
    name: String,
    used: bool,
}

/// Names a rule; one that was replaced no longer answers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RuleRef {
    skeleton: u64,
    rule: u64,
}

/// A key that a rule makes.
pub(super) struct Made {
    pub(super) key: Vec<u8>,
    pub(super) p: f32,
    pub(super) rule: RuleRef,
}

/// All rules, and what they are mined from.
#[derive(Default)]
pub(super) struct Templates {
    shapes: Shapes,
    places: Vec<Place>,
    by_hash: HashMap<u64, usize, foldhash::fast::FixedState>,
    hand: usize,
    recent: VecDeque<Box<[u8]>>,
    /// Number of the oldest of the recent.
    first: u64,
    young: HashMap<u64, SmallVec<[u64; SHARING]>, foldhash::fast::FixedState>,
    old: HashMap<u64, SmallVec<[u64; SHARING]>, foldhash::fast::FixedState>,
}

impl Templates {
    /// Learns from an event, of this shape; with `mine` also how it might have been predicted. What follows from it is handed to
    /// `take`.
    pub(super) fn learn(&mut self, key: &[u8], shape: &Shape, mine: bool, mut take: impl FnMut(Made)) {
        if key.len() > KEY_MAX_BYTES {
            return;
        }
        let values = values_of(key, shape);
        if mine {
            self.mine(key, shape, &values);
        }
        self.remember(key, &values);
        self.predict(key, shape, &mut take);
    }

    fn predict(&mut self, key: &[u8], shape: &Shape, take: &mut impl FnMut(Made)) {
        for skeleton in skeletons(key, shape) {
            let Some(place) = self.by_hash.get(&skeleton.hash).and_then(|&at| self.places.get_mut(at)) else {
                continue;
            };
            place.used = true;
            for rule in place.rules.iter_mut().filter(|rule| rule.support >= SUPPORT) {
                if rule.is_bad() {
                    rule.skipped = rule.skipped.wrapping_add(1);
                    if !rule.skipped.is_multiple_of(TRY_EVERY) {
                        continue;
                    }
                }
                if let Some(made) = rule.make(key, &skeleton.variables) {
                    let named = RuleRef { skeleton: skeleton.hash, rule: rule.hash };
                    take(Made { key: made, p: rule.p(), rule: named });
                }
            }
        }
    }

    /// Which positions hold variables.
    pub(super) fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// The same, to learn or to be taken back.
    pub(super) fn shapes_mut(&mut self) -> &mut Shapes {
        &mut self.shapes
    }

    /// What came of a prediction.
    pub(super) fn note(&mut self, rule: RuleRef, right: bool) {
        let Some(place) = self.by_hash.get(&rule.skeleton).and_then(|&at| self.places.get_mut(at)) else { return };
        if let Some(rule) = place.rules.iter_mut().find(|known| known.hash == rule.rule) {
            rule.tally.note(right, TRIALS_MAX);
        }
    }

    /// How likely a rule is right today.
    pub(super) fn p(&self, rule: RuleRef) -> f32 {
        let place = self.by_hash.get(&rule.skeleton).and_then(|&at| self.places.get(at));
        place.and_then(|place| place.rules.iter().find(|known| known.hash == rule.rule)).map_or(0.0, Rule::p)
    }

    /// Finds how recent events that share a value would have said this key.
    fn mine(&mut self, key: &[u8], shape: &Shape, values: &[u64]) {
        let mut sharing: SmallVec<[u64; 2 * SHARING]> = SmallVec::new();
        for value in values {
            let known = [&self.young, &self.old].into_iter().filter_map(|half| half.get(value));
            for &event in known.flatten() {
                if event >= self.first && !sharing.contains(&event) && sharing.len() < 2 * SHARING {
                    sharing.push(event);
                }
            }
        }
        for event in sharing {
            let Some(before) = self.recent.get((event - self.first) as usize).cloned() else { continue };
            if *before == *key {
                continue;
            }
            let before_shape = self.shapes.look(&before);
            for skeleton in skeletons(&before, &before_shape) {
                if let Some(pieces) = bind(key, shape, &before, &skeleton.variables) {
                    self.support(skeleton.hash, &before_shape, &before, pieces);
                }
            }
        }
    }

    /// One more pair says so.
    fn support(&mut self, skeleton: u64, shape: &Shape, before: &[u8], pieces: Vec<Piece>) {
        let hash = hash_of_pieces(&pieces);
        let at = match self.by_hash.get(&skeleton) {
            Some(&at) => at,
            None => self.make_place(skeleton, shape.name(before)),
        };
        let rules = &mut self.places[at].rules;
        if let Some(rule) = rules.iter_mut().find(|rule| rule.hash == hash) {
            rule.support = rule.support.saturating_add(1);
            return;
        }
        let rule = Rule { pieces, hash, support: 1, tally: Tally::default(), skipped: 0 };
        if rules.len() < RULES {
            return rules.push(rule);
        }
        if let Some(weakest) = rules.iter_mut().min_by(|a, b| a.worth().total_cmp(&b.worth())) {
            *weakest = rule;
        }
    }

    /// A place for one more skeleton: a new one, or the next that was not used since the last look.
    fn make_place(&mut self, hash: u64, name: String) -> usize {
        let place = Place { hash, rules: Vec::new(), name, used: true };
        let at = if self.places.len() < SKELETONS {
            self.places.push(place);
            self.places.len() - 1
        } else {
            // Ends within two rounds: the first takes the marks away.
            while std::mem::take(&mut self.places[self.hand].used) {
                self.hand = (self.hand + 1) % SKELETONS;
            }
            let at = self.hand;
            self.hand = (at + 1) % SKELETONS;
            self.by_hash.remove(&self.places[at].hash);
            self.places[at] = place;
            at
        };
        self.by_hash.insert(hash, at);
        at
    }

    /// The event may be what a later one follows from.
    fn remember(&mut self, key: &[u8], values: &[u64]) {
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
            self.first += 1;
        }
        let number = self.first + self.recent.len() as u64;
        self.recent.push_back(key.into());
        if self.young.len() >= VALUES {
            self.old = std::mem::take(&mut self.young);
        }
        for &value in values {
            let events = self.young.entry(value).or_default();
            if events.len() >= SHARING {
                events.remove(0);
            }
            events.push(number);
        }
    }

    /// What follows from a key; learns nothing.
    pub(super) fn said(&self, key: &[u8]) -> Vec<Said> {
        let shape = self.shapes.look(key);
        let mut all = Vec::new();
        for skeleton in skeletons(key, &shape) {
            let Some(place) = self.by_hash.get(&skeleton.hash).and_then(|&at| self.places.get(at)) else { continue };
            for rule in place.rules.iter().filter(|rule| rule.support >= SUPPORT) {
                if let Some(key) = rule.make(key, &skeleton.variables) {
                    let (template, makes) = (place.name.clone(), rule.shown().makes);
                    all.push(Said { key, p: rule.p(), template, makes });
                }
            }
        }
        all
    }

    /// Rules that predict, by the template they stand at.
    pub(super) fn shown(&self) -> impl Iterator<Item = (String, Vec<RuleView>)> {
        self.places.iter().map(|place| {
            let predicting = place.rules.iter().filter(|rule| rule.support >= SUPPORT);
            (place.name.clone(), predicting.map(Rule::shown).collect())
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let rules: usize = self.places.iter().map(|place| place.rules.capacity() * (size_of::<Rule>() + 160)).sum();
        let values = (self.young.len() + self.old.len()) * 64;
        rules + values + self.recent.len() * 64 + self.shapes.positions() * 48 + self.places.len() * 120
    }
}

/// What a rule says of one key, for people.
pub(super) struct Said {
    pub(super) key: Vec<u8>,
    pub(super) p: f32,
    pub(super) template: String,
    pub(super) makes: String,
}

impl Rule {
    fn shown(&self) -> RuleView {
        let piece = |piece: &Piece| match piece {
            Piece::Literal(text) => String::from_utf8_lossy(text).into_owned(),
            Piece::Same(at) => format!("{{{}}}", at + 1),
            Piece::Step(at, step) => format!("{{{}{step:+}}}", at + 1),
        };
        let makes = self.pieces.iter().map(piece).collect();
        let Tally { right, trials } = self.tally;
        RuleView { makes, p: self.p(), tried: trials, right, support: self.support }
    }
}

/// The values of a key that say what belongs together: all but single digits and short words.
fn values_of(key: &[u8], shape: &Shape) -> SmallVec<[u64; 8]> {
    let is_strong = |token: &&Token| match token.class {
        Class::Digits => token.end - token.start >= 2 && !token.is_few,
        Class::Word => token.is_variable && token.end - token.start >= 3,
        Class::Hex | Class::Uuid | Class::Mixed => true,
    };
    let mut values: SmallVec<[u64; 8]> =
        shape.tokens.iter().filter(is_strong).map(|token| hash_of(3, token.of(key))).collect();
    if let Some(rest) = rest_of(key, shape) {
        let value = hash_of(3, &key[rest]);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values.truncate(8);
    values
}

/// How a key is made of the variables of another; `None` if any of its own variables is not among them.
fn bind(key: &[u8], shape: &Shape, before: &[u8], variables: &Variables) -> Option<Vec<Piece>> {
    let texts: SmallVec<[&[u8]; 8]> = variables.iter().map(|range| &before[range.clone()]).collect();
    let (mut pieces, mut literal, mut at, mut bound) = (Vec::new(), Vec::new(), 0, false);
    // A rest as a whole comes before its parts.
    if let Some(rest) = rest_of(key, shape)
        && let Some(same) = texts.iter().position(|text| *text == &key[rest.clone()])
    {
        return Some(vec![Piece::Literal(key[..rest.start].into()), Piece::Same(same as u8)]);
    }
    for token in &shape.tokens {
        let text = token.of(key);
        let piece = match texts.iter().position(|known| *known == text) {
            Some(same) if token.is_variable || text.len() >= 3 => Some(Piece::Same(same as u8)),
            _ if !token.is_variable => None,
            _ => Some(step_of(text, &texts, token)?).filter(|piece| *piece != Piece::Literal(Box::default())),
        };
        literal.extend_from_slice(&key[at..token.start]);
        at = token.end;
        match piece {
            None => literal.extend_from_slice(text),
            Some(piece) => {
                bound |= matches!(piece, Piece::Same(_)) || variables.len() == 1;
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                }
                pieces.push(piece);
            }
        }
    }
    literal.extend_from_slice(&key[at..]);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    (bound && pieces.len() <= PIECES).then_some(pieces)
}

/// A number that is one more or one less than a variable; a number of few values may stand for itself (an empty literal
/// says so); `None` if neither.
fn step_of(text: &[u8], texts: &[&[u8]], token: &Token) -> Option<Piece> {
    let is = |known: &[u8], step| stepped(known, step).is_some_and(|next| next.as_bytes() == text);
    if token.class == Class::Digits {
        for step in [1, -1] {
            if let Some(at) = texts.iter().position(|known| is(known, step)) {
                return Some(Piece::Step(at as u8, step));
            }
        }
        if token.is_few {
            return Some(Piece::Literal(Box::default()));
        }
    }
    None
}

fn hash_of_pieces(pieces: &[Piece]) -> u64 {
    pieces.iter().fold(11, |hash, piece| match piece {
        Piece::Literal(text) => hash_of(hash, text),
        Piece::Same(at) => hash_of(hash ^ 1, &[*at]),
        Piece::Step(at, step) => hash_of(hash ^ 2, &[*at, step.unsigned_abs(), u8::from(*step > 0)]),
    })
}
